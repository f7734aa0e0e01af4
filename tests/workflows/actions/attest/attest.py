"""Stands in for what signs: a line of attestations.jsonl is a statement of this run about a digest."""

import json
import os
import pathlib
import sys

folder = pathlib.Path(os.environ["SCENARIO_FOLDER"])
if (folder / "attest-fails").exists():
    sys.exit("Error: failed to fetch a signing certificate: 503")
file = os.environ["FILE"]
statement = {
    "name": os.environ["NAME"],
    "digest": os.environ["DIGEST"],
    "type": os.environ["TYPE"],
    "ref": os.environ["GITHUB_REF"],
    "commit": os.environ["GITHUB_SHA"],
    "predicate": json.loads(pathlib.Path(file).read_text("utf-8")) if file else {},
}
with (folder / "attestations.jsonl").open("a", encoding="utf-8") as lines:
    lines.write(json.dumps(statement) + "\n")
