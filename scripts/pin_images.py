#!/usr/bin/env python3
"""Give each image that the project starts from its digest, so that a build takes the same bytes on every day.

  python3 scripts/pin_images.py              write name:tag@sha256:... into Dockerfile, compose.yaml and deploy/
  python3 scripts/pin_images.py --dry-run    say what would be written
  python3 scripts/pin_images.py --check      say what has a tag alone, without asking a registry; ends with 1 then

A tag is asked for in its registry, and its digest is that of all platforms. What has a digest already is left alone:
from then on Dependabot moves tag and digest together, a week after they are published. service.toml keeps the tag; the
digest of a backing service is compose.yaml's. Nothing is written unless everything was found.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import ROOT, Failure, parser, say, start
from lib.images import Reference, references
from lib.registry import digest_at


def by_tag(root: Path) -> list[Reference]:
    """Return the images that have no digest, in the order of the files."""
    return [each for each in references(root) if not each.digest]


def digests(found: Sequence[Reference]) -> dict[str, str]:
    """Return image -> digest, each asked for once; raise Failure if one is not in its registry."""
    known: dict[str, str] = {}
    for each in found:
        if each.image not in known:
            known[each.image] = digest_at(each.image)
            if not known[each.image]:
                raise Failure(f"there is no {each.image} in its registry, which {each.file} names; correct it there")
            say(f"{each.image} is {known[each.image]}")
    return known


def pinned(text: str, found: Sequence[Reference], known: Mapping[str, str]) -> str:
    """Return a file's text with the digests of what was found there."""
    for each in sorted(found, key=lambda each: each.end, reverse=True):
        text = f"{text[: each.end]}@{known[each.image]}{text[each.end :]}"
    return text


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--dry-run", action="store_true", help="write nothing")
    arguments.add_argument("--check", action="store_true", help="say what has no digest, and ask nobody")
    options = arguments.parse_args(argv)
    found = by_tag(ROOT)
    if options.check:
        for each in found:
            print(f"{each.file}:{each.line}: {each.image} has no digest")
        return 1 if found else 0
    known = digests(found)
    for file in dict.fromkeys(each.file for each in found):
        here = [each for each in found if each.file == file]
        if not options.dry_run:
            path = ROOT / file
            # Line endings are somebody's own.
            path.write_bytes(pinned(path.read_bytes().decode(), here, known).encode())
        for each in here:
            print(f"{file}:{each.line}: {each.image}@{known[each.image]}")
    if not found:
        say("every image has a digest; nothing to do")
    return 0


if __name__ == "__main__":
    start(main)
