"""What engines of the tests' own need."""

from __future__ import annotations

import shutil

import pytest

from conftest import need, need_root
from lib import engine, standin


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
