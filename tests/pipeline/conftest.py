"""What the tests of the scripts share: programs that answer from a table, and a place for what a run leaves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import build_image
import check
import pipeline
from lib import command, registry
from programs import Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A folder of programs that answer from a table, first on PATH."""
    made = Programs(tmp_path / "programs")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    return made


@pytest.fixture
def docker(programs: Programs) -> Programs:
    """A `docker` that answers from a table."""
    return programs.add("docker")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run leaves its files: not in the project's own build folder."""
    folder = tmp_path / "build"
    for module in (command, build_image, check, pipeline):
        monkeypatch.setattr(module, "STATE", folder)
    return folder


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Trying again without waiting; the seconds that it would have waited."""
    pauses: list[float] = []
    # Not time.sleep itself: subprocess sleeps, too.
    monkeypatch.setattr(registry, "time", SimpleNamespace(sleep=pauses.append))
    return pauses
