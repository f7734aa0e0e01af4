"""Images that the tests make of other images."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lib.command import run
from lib.engine import builder


def build(name: str, dockerfile: str, *options: str) -> None:
    """Build an image of a Dockerfile and no other file, into this engine.

    Through a folder: for a Dockerfile on standard input, buildx 0.13 leaves two folders behind in /tmp.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(dockerfile, "utf-8")
        run(["docker", "buildx", "build", "--builder", builder(), "--load", *options, "--tag", name, folder])
