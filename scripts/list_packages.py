#!/usr/bin/env python3
"""List the packages of the image, for each platform, in a bill of materials: Debian's, Python's, and Python itself.

  python3 scripts/list_packages.py
  python3 scripts/list_packages.py --compare hello:before

Writes build/packages-linux-amd64.cdx.json and the like: CycloneDX 1.6, which scanners read. The image's files are read
and nothing of it is run, so a platform that this machine cannot run is listed, too. The same image always has the same
bill. With --compare, prints what is in the image and was not in another one of this engine, or in another version, and
writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import containers, engine, packages, service
from lib.command import STATE, parser, stage, start
from lib.registry import check_same, local_image


def bill_file(platform: str) -> Path:
    """Return the file that a platform's bill is written to."""
    return STATE / f"packages-{platform.replace('/', '-')}.cdx.json"


def read(image: str, platforms: Sequence[str]) -> dict[str, packages.Contents]:
    """Return platform -> what is in an image of this engine."""
    with containers.cleaned_up():
        return {platform: packages.contents_of(image, platform) for platform in platforms}


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=this.image, help="the image on this engine (default: %(default)s)")
    arguments.add_argument("--digest", help="the digest that the image must have")
    arguments.add_argument("--platform", action="append", choices=this.platforms, help="default: every one")
    arguments.add_argument("--compare", metavar="IMAGE", help="print what differs from this image, and write nothing")
    options = arguments.parse_args(argv)
    platforms = options.platform or this.platforms
    engine.find(())  # nothing is run
    with stage("List packages"):
        image = local_image(options.image)
        if options.digest:
            check_same(f"{options.image} on this engine", options.digest, image.digest)
        before = read(options.compare, platforms) if options.compare else {}
        found = read(options.image, platforms)
        packages.say_counts(found)
        if options.compare:
            print(packages.described(before, found))
            return 0
        STATE.mkdir(exist_ok=True)
        for platform, contents in found.items():
            file = bill_file(platform)
            file.write_text(packages.bill(contents, this.name, image.revision, platform), "utf-8")
            print(file)
    return 0


if __name__ == "__main__":
    start(main)
