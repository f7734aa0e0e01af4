"""What the tests of the scripts share: programs that answer from a table, and a place for what a run leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import check
import pipeline
from conftest import need
from lib import command, distribution, registry
from support.hub import Hub
from support.programs import Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A folder of programs that answer from a table, first on PATH."""
    made = Programs(tmp_path / "programs")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    return made


@pytest.fixture
def ssh_keygen() -> None:
    """OpenSSH's client, which a bare machine lacks."""
    need(bool(shutil.which("ssh-keygen")), "ssh-keygen")


@pytest.fixture
def docker(programs: Programs) -> Programs:
    """A `docker` that answers from a table."""
    return programs.add("docker")


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker keeps its logins: a folder of the test's own, with none."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setattr(distribution, "_authorizations", {})
    return folder


@pytest.fixture
def hub(docker_config: Path) -> Iterator[Hub]:
    """A registry in memory, and nobody who is logged in there."""
    with Hub() as made:
        yield made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run leaves its files: not in the project's own build folder."""
    folder = tmp_path / "build"
    for module in (command, check, pipeline):
        monkeypatch.setattr(module, "STATE", folder)
    return folder


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Trying again without waiting; the seconds that it would have waited."""
    pauses: list[float] = []
    # Not time.sleep itself: subprocess sleeps, too.
    monkeypatch.setattr(registry, "time", SimpleNamespace(sleep=pauses.append))
    return pauses
