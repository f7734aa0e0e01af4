#!/usr/bin/env python3
"""Say of a published image whether this repository's CI built and tested it, check by check.

  python3 scripts/verify_image.py octo/hello:1.2.3
  python3 scripts/verify_image.py --json ghcr.io/octo/hello@sha256:…

Each check is answered yes, no, or not offered, with the reason and, for a no, what to do. It is the policy that a
release and a redeploy have to meet: an image index and nothing else; no platform twice; provenance for each platform's
digest; no stand-in for its base image; one revision for all platforms, in the history of main; signed by
.github/workflows/ci.yml of this repository on main or a version's tag, for that revision; and a signed test result for
each platform. Signatures are asked of GitHub, by the `gh` command; what cannot be asked is a no. Exits with 1 if any
check is answered no.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release
from lib.command import parser, start
from lib.names import parse_reference
from lib.release import NO, NOT_OFFERED, Line


def table(lines: Sequence[Line]) -> str:
    """Return the checks, a line each."""
    return "\n".join(f"{line.outcome:<12} {line.name:<14} {line.why}" for line in lines)


def verdict(reference: str, lines: Sequence[Line]) -> str:
    """Return the last sentence."""
    refused = [line.name for line in lines if line.outcome == NO]
    missing = [line.name for line in lines if line.outcome == NOT_OFFERED]
    if refused:
        return f"{reference} is not verified: {', '.join(refused)}"
    return f"{reference} is verified" + (f", but for what is not offered here: {', '.join(missing)}" if missing else "")


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("reference", metavar="REF", help="an image with a tag or a digest")
    arguments.add_argument("--json", action="store_true", help="print the checks for machines")
    options = arguments.parse_args(argv)
    lines = release.examined(*parse_reference(options.reference))
    good = all(line.outcome != NO for line in lines)
    if options.json:
        facts = {"reference": options.reference, "verified": good, "checks": [vars(line) for line in lines]}
        print(json.dumps(facts, indent=2))
    else:
        print(table(lines))
        print(verdict(options.reference, lines))
    return 0 if good else 1


if __name__ == "__main__":
    start(main)
