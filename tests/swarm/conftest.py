"""What engines of the tests' own need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from conftest import need, need_root
from lib import engine, standin
from swarm.host import Host, one_host


@pytest.fixture(scope="session", autouse=True)
def _engines() -> None:
    """There is all that they are made of, and an engine here that builds what they run."""
    need_root("engines in network namespaces")
    need(all(map(shutil.which, ("dockerd", "docker-registry", "ip"))), "dockerd and a registry")
    here = engine.look()
    need(
        not engine.problems(here, [standin.host_platform()]) and here.stands_in,
        "an engine that stands in for Docker Hub",
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Swarm on an engine of its own, with 1.0.0 and 1.1.0 published, and a bad version of each kind."""
    with one_host(tmp_path_factory.mktemp("swarm")) as host:
        yield host


@pytest.fixture
def at_first(host: Host) -> Host:
    """The host, with 1.0.0 serving and recorded."""
    done = host.redeploy("1.0.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[1]
    return host
