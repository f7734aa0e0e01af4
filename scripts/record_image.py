#!/usr/bin/env python3
"""Record an image as this commit's, in a check run on GitHub, before it is pushed.

  python3 scripts/record_image.py --digest sha256:…

GitHub keeps attestations for public repositories, and for private ones on Enterprise Cloud only. Elsewhere this check
run is what later says that an image is the one that was built from a commit and tested. Needs the `gh` command,
GITHUB_TOKEN with the right `checks: write`, and build/test-result.json, which report_tests.py leaves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import STATE, Failure, parser, say, start
from lib.github import record, repository
from lib.names import check_digest, checked_out


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--digest", required=True, help="the digest that was tested")
    options = arguments.parse_args(argv)
    commit, digest = checked_out(), check_digest(options.digest)
    found = repository(os.environ, commit.url)
    if found is None:
        raise Failure("this repository is not on GitHub, which keeps the record")
    result = STATE / "test-result.json"
    if not result.exists():
        raise Failure(f"there is no {result}; run python3 scripts/report_tests.py first")
    record(found, commit.sha, digest, result.read_text("utf-8"))
    say(f"recorded {digest} as the image of {commit.sha}")
    return 0


if __name__ == "__main__":
    start(main)
