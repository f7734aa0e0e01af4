"""A real engine, and one image built for all these tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import build_image
from conftest import need
from lib import engine, service
from lib.command import run
from lib.daemon import Daemon
from lib.names import PIPELINE, checked_out
from lib.registry import LocalImage
from lib.standin import start_registry
from support import images, ports
from support.projects import FIXTURE

PREFIX = f"{PIPELINE}-test-{os.getpid()}"


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    """There is an engine that can run the pipeline."""
    need(not engine.problems(engine.look(), service.PLATFORMS), "a Docker Engine that can run the pipeline")


@pytest.fixture(scope="session")
def image(_engine: None) -> Iterator[LocalImage]:
    """The fixture's image, for both platforms, under a name of the tests' own."""
    yield build_image.build(f"{PREFIX}:good", service.PLATFORMS, checked_out(), root=FIXTURE)
    run(["docker", "image", "rm", "--force", f"{PREFIX}:good"], check=False)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on; 4000 belongs to whoever runs the tests."""
    return ports.free_port()


@pytest.fixture
def broken(image: LocalImage) -> Iterator[Callable[[str], str]]:
    """Build the good image with some lines of a Dockerfile more, and return its name."""
    name = f"{PREFIX}:broken"

    def build(lines: str) -> str:
        images.build(name, f"FROM {image.reference}\n{lines}\n")
        return name

    yield build
    run(["docker", "image", "rm", "--force", name], check=False)


@pytest.fixture
def registry(tmp_path: Path, free_port: int) -> Iterator[int]:
    """The port of a real, empty registry on localhost."""
    daemon = Daemon("registry", tmp_path)
    start_registry(daemon, tmp_path, free_port)
    yield free_port
    daemon.stop()
