"""What the scenarios share: a registry, a repository to clone, and act."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import need
from lib.command import run
from lib.engine import look, problems
from lib.service import PLATFORMS
from support.ports import free_port
from workflows.act import ACT, PASSWORDS, Scenario, make_project, opened, start_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a registry: its images, and who may log in."""
    need(shutil.which("docker-registry") is not None, "docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    (folder / "passwords").write_text(PASSWORDS, "utf-8")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def registry_port(registry: Path) -> Iterator[int]:
    """The port of a registry that wants a login for everything."""
    port = free_port()
    daemon = start_registry(registry, port)
    yield port
    daemon.stop()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, engine: Mapping[str, str]) -> Iterator[Path]:
    """A repository with this project in it, as it is in the work tree."""
    folder = tmp_path_factory.mktemp("project")
    name = f"onedigest-test-{os.getpid()}"
    make_project(folder, name, free_port())
    yield folder
    run(["docker", "image", "rm", "--force", f"{name}:ci"], check=False)


@pytest.fixture(scope="session")
def engine() -> Mapping[str, str]:
    """The environment that leads to the engine under the scenarios: the one that `docker` talks to."""
    need(Path(ACT).is_file(), "act")
    need(not problems(look(), PLATFORMS), "a Docker Engine that can run the pipeline")
    return {}


@pytest.fixture
def scenario(
    tmp_path: Path, project: Path, registry_port: int, engine: Mapping[str, str], request: pytest.FixtureRequest
) -> Iterator[Scenario]:
    """A repository and an image of one test's own."""
    name = "".join(part for part in request.node.name.lower() if part.isascii() and part.isalnum())
    with opened(tmp_path, project, registry_port, engine, name) as scenario:
        yield scenario
