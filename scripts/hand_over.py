#!/usr/bin/env python3
"""Hand the built image over to another machine, whole: every platform, its provenance, and the same digest.

  python3 scripts/hand_over.py save --digest sha256:...   the engine's image into build/image.tar
  python3 scripts/hand_over.py load --digest sha256:...   build/tested/image/image.tar into this engine

Between the two, the file is an artifact of the workflow's run. It is an OCI image layout, in which everything is named
by its digest; both refuse a file that lacks a part of the image or holds another one. Prints the digest.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import engine, service
from lib.command import STATE, Failure, parser, run, set_output, stage, start
from lib.names import check_digest
from lib.registry import Index, check_same, digest_of, local_image

SAVED = STATE / "image.tar"
TESTED = STATE / "tested"
"""What other jobs handed over, a folder each, as actions/download-artifact lays it out."""
SUBJECT = "io.containerd.manifest.subject"
"""What an engine of containerd 2.2 or newer names the subject by of what it keeps beside an image, such as the proof
of an earlier build of the same platform: https://github.com/containerd/containerd/pull/12311"""
NAME = "io.containerd.image.name"
"""What an engine calls an image by when it loads it."""
TAKEN = TESTED / "image/image.tar"


def save_command(image: str, file: Path) -> list[str]:
    """Return the command that writes an image of the engine into a file."""
    return ["docker", "save", "--output", str(file), image]


def load_command(file: Path) -> list[str]:
    """Return the command that takes an image from a file into the engine."""
    return ["docker", "load", "--input", str(file)]


def is_image(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of an image layout is an image, and not what an engine keeps beside one, without a name."""
    annotations = entry.get("annotations") or {}
    return SUBJECT not in annotations or NAME in annotations


class Archive:
    """An OCI image layout in a tar file: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:") as tar:
                self.names = set(tar.getnames())
                self.layout = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        except (OSError, KeyError, TypeError, ValueError, tarfile.TarError) as error:
            raise Failure(f"cannot read an image from {path}: {error}; run the job that saved it again") from error

    def has(self, digest: str) -> bool:
        """Whether the content of that digest is in the file."""
        return f"blobs/{digest.replace(':', '/')}" in self.names

    def read(self, digest: str) -> dict[str, Any]:
        """Return a manifest by its digest; raise Failure if the file has something else by that name."""
        with tarfile.open(self.path, "r:") as tar:
            member = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            content = member.read() if member else b""
        check_same(f"a manifest in {self.path}", digest, digest_of(content))
        return dict(json.loads(content))

    @property
    def index(self) -> Index:
        """The index of the one image in the file; raises Failure if there is another number of images."""
        listed = [entry for entry in self.layout.get("manifests") or [] if is_image(entry)]
        if len(listed) != 1 or not self.has(str(listed[0].get("digest"))):
            raise Failure(f"{self.path} holds {len(listed)} images, expected one; run the job that saved it again")
        return Index(listed[0]["digest"], self.read(listed[0]["digest"]))

    def missing(self) -> Iterator[str]:
        """Yield the digest of everything that the image refers to and the file lacks."""
        for entry in self.index.content.get("manifests") or []:
            if not self.has(entry["digest"]):
                yield entry["digest"]
                continue
            manifest = self.read(entry["digest"])
            parts = [manifest["config"], *manifest["layers"]]
            yield from (part["digest"] for part in parts if not self.has(part["digest"]))


def check_archive(path: Path, digest: str) -> Index:
    """Return the index of a saved image, or raise Failure if it is not that image, with all of its parts."""
    archive = Archive(path)
    index = archive.index
    check_same(f"the image in {path}", digest, index.digest)
    missing = sorted(archive.missing())
    if missing:
        raise Failure(
            f"{path} lacks {len(missing)} parts of the image, such as {missing[0]}; run python3 scripts/build_image.py,"
            " then save it again"
        )
    return index


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("save", "load"))
    arguments.add_argument("--digest", required=True, help="the digest that the image must have")
    options = arguments.parse_args(argv)
    image, digest = service.load().image, check_digest(options.digest)
    engine.find(())  # nothing is run here
    with stage(f"{options.what.capitalize()} image"):
        if options.what == "save":
            check_same(f"{image} on this engine", digest, local_image(image).digest)
            STATE.mkdir(exist_ok=True)
            run(save_command(image, SAVED), show=True)
            check_archive(SAVED, digest)
        else:
            check_archive(TAKEN, digest)
            run(load_command(TAKEN), show=True)
            check_same(f"{image} on this engine", digest, local_image(image).digest)
    set_output("digest", digest)
    print(digest)
    return 0


if __name__ == "__main__":
    start(main)
