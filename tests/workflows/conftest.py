"""What the scenarios share: a registry, a repository to clone, and act."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from build_image import IMAGE
from conftest import need
from engine import look, problems
from front import Front
from lib.command import run
from lib.daemon import Daemon
from ports import free_port
from workflows.act import ACT, PASSWORDS, TOKEN, USERNAME, Scenario, make_project

REGISTRY = """version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: scenarios, path: {folder}/passwords}}}}
"""


@pytest.fixture(scope="session")
def registry_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a registry that wants a login for everything."""
    need(shutil.which("docker-registry") is not None, "docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    (folder / "passwords").write_text(PASSWORDS, "utf-8")
    (folder / "config.yml").write_text(REGISTRY.format(folder=folder, port=port), "utf-8")
    daemon = Daemon("registry", folder)
    # It ends with the tests, also where they are killed: prctl(2), PR_SET_PDEATHSIG.
    command = ["setpriv", "--pdeathsig", "TERM", "docker-registry", "serve", str(folder / "config.yml")]
    daemon.start(command, ready=lambda: is_open(port), seconds=20)
    yield port
    daemon.stop()
    shutil.rmtree(folder)


def is_open(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
    with Front(registry_port, f"{USERNAME}:{TOKEN}") as front:
        scenario = Scenario(tmp_path, project, front, engine, name)
        yield scenario
        listing = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", scenario.image]
        tags = run(listing, env=engine).stdout.split()
        if tags:
            run(["docker", "image", "rm", "--force", *tags], env=engine)
