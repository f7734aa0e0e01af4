"""What the scenarios share: a registry, a repository to clone, and act."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from build_image import IMAGE
from conftest import need
from engine import look, problems
from lib.command import run
from ports import free_port
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
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this project in it, as it is in the work tree."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    return folder


@pytest.fixture(scope="session")
def engine() -> Iterator[Mapping[str, str]]:
    """The environment that leads to the engine under the scenarios: the one that `docker` talks to.

    It belongs to its user: the image that was last built there is in its place again afterwards.
    """
    need(Path(ACT).is_file(), "act")
    need(not problems(look()), "a Docker Engine that can run the pipeline")
    kept = "friendlyhello:kept-by-tests"
    there = run(["docker", "tag", IMAGE, kept], check=False).returncode == 0
    yield {}
    run(["docker", "image", "rm", "--force", IMAGE], check=False)
    if there:
        run(["docker", "tag", kept, IMAGE])
        run(["docker", "image", "rm", kept])


@pytest.fixture
def scenario(
    tmp_path: Path, project: Path, registry_port: int, engine: Mapping[str, str], request: pytest.FixtureRequest
) -> Iterator[Scenario]:
    """A repository and an image of one test's own."""
    name = "".join(part for part in request.node.name.lower() if part.isascii() and part.isalnum())
    with opened(tmp_path, project, registry_port, engine, name) as scenario:
        yield scenario
