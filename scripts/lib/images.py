"""Which images a project starts from: what its Dockerfile, compose.yaml and deploy/ name, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.names import parse_reference

PINNED = re.compile(r"@sha256:[0-9a-f]{64}")
FROM = re.compile(r"^FROM[ \t]+(?:--\S+[ \t]+)*(\S+)(?:[ \t]+AS[ \t]+(\S+))?", re.M | re.I)
IMAGE = re.compile(r"^[ \t]*(?:-[ \t]+)?image:[ \t]*[\"']?([^\s\"'#]+)", re.M)


@dataclass(frozen=True)
class Reference:
    """An image's name in a file. `image` is it without its digest, `end` where it ends in the text."""

    file: str
    line: int
    image: str
    digest: str
    end: int


def stage_bases(dockerfile: str, filled: Callable[[str], str] = str) -> Iterator[re.Match[str]]:
    """Yield where a Dockerfile names an image that a stage starts from: neither another stage nor scratch.

    `filled` gives a name without variables: https://docs.docker.com/reference/dockerfile/#from
    """
    stages = {"scratch"}
    for match in FROM.finditer(dockerfile):
        if filled(match[1]).lower() not in stages:
            yield match
        stages.add((match[2] or "").lower())


def named(name: str, text: str) -> Iterator[re.Match[str]]:
    """Yield where a file names an image of somebody else's; what has a variable in it is the service's own."""
    for match in stage_bases(text) if name == "Dockerfile" else IMAGE.finditer(text):
        if "$" not in match[1]:
            yield match


def references(root: Path) -> list[Reference]:
    """Return the images that a project names; raise UsageError for a name that cannot be one.

    deploy/kubernetes.yaml names the service's own image only.
    """
    found = []
    files = [root / "Dockerfile", *sorted(root.glob("compose*.y*ml")), *sorted(root.glob("deploy/compose.*.y*ml"))]
    for file in filter(Path.is_file, files):
        text = file.read_bytes().decode("utf-8")
        for match in named(file.name, text):
            parse_reference(match[1])
            image, _, digest = match[1].partition("@")
            name = file.relative_to(root).as_posix()
            found.append(Reference(name, text.count("\n", 0, match.start(1)) + 1, image, digest, match.end(1)))
    return found


def without_digest(reference: str) -> str:
    """Return a reference by its tag alone."""
    return PINNED.sub("", reference)
