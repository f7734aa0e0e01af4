"""Stands in for what signs: a line of attestations.jsonl is a statement of this run about a digest."""

import json
import os
import pathlib
import sys

folder = pathlib.Path(os.environ["SCENARIO_FOLDER"])
if (folder / "attest-fails").exists():
    sys.exit("Error: failed to fetch a signing certificate: 503")
kind, file = os.environ["TYPE"], os.environ["FILE"]
if bill := os.environ["BILL"]:
    # As the action looks at it: https://github.com/actions/attest/blob/main/src/sbom.ts
    content = json.loads(pathlib.Path(bill).read_text("utf-8"))
    if file or not all(content.get(key) for key in ("bomFormat", "serialNumber", "specVersion")):
        sys.exit("Error: Unsupported SBOM format. Must be valid SPDX or CycloneDX JSON.")
    kind, file = "https://cyclonedx.org/bom", bill
statement = {
    "name": os.environ["NAME"],
    "digest": os.environ["DIGEST"],
    "type": kind,
    "ref": os.environ["GITHUB_REF"],
    "commit": os.environ["GITHUB_SHA"],
    "predicate": json.loads(pathlib.Path(file).read_text("utf-8")) if file else {},
}
with (folder / "attestations.jsonl").open("a", encoding="utf-8") as lines:
    lines.write(json.dumps(statement) + "\n")
