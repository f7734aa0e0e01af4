"""A whole run of the checks, with tools that answer from a table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import check
import engine
from lib.command import Failure
from programs import Programs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with requirements, and nothing else."""
    root = tmp_path / "project"
    root.mkdir()
    for name in check.REQUIREMENTS:
        (root / f"{name}.in").write_text("flask\n", "utf-8")
        (root / f"{name}.txt").write_text("flask==1\n", "utf-8")
    monkeypatch.setattr(check, "ROOT", root)
    return root


def test_requirements_that_contradict_each_other(project: Path, programs: Programs) -> None:
    """What the compiler says is quoted."""
    programs.add("uv").answer("^uv", err="No solution found\n", status=1)
    with pytest.raises(Failure, match=r"cannot compile requirements.in: No solution found"):
        check.check_requirements("uv")


def test_a_python_without_venv(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's Python comes in parts: the missing one is named."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ensurepip is not available'\nexit 1\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(Failure, match=r"environment: ensurepip is not available; on Debian, install python3-venv"):
        check.make_environment(tmp_path / "venv")


@pytest.fixture
def tools(project: Path, state: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Every tool of the checks, answering from a table."""
    programs.add("uv", "ruff", "mypy", "hadolint", "shellcheck", "actionlint", "zizmor", "python")
    monkeypatch.setattr(check, "make_environment", lambda _folder, _python="": programs.bin)
    return programs


def test_all_checks_pass(tools: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    """Each runs once, the tests last."""
    assert check.main([]) == 0
    assert [call[0] for call in tools.calls] == [
        *("uv", "uv", "ruff", "ruff", "mypy", "hadolint", "shellcheck", "actionlint", "zizmor", "python"),
    ]
    assert tools.calls[-1][1:] == ["-m", "pytest", "--cov", "--cov-report=term"]
    assert "all checks passed" in capfd.readouterr().err


def test_every_check_that_fails_is_named(tools: Programs) -> None:
    """One that fails does not hide the next."""
    tools.answer("^ruff check", status=1).answer("^python", status=1).answer("^uv", err="no solution", status=1)
    with pytest.raises(Failure, match=r"^requirements, ruff, pytest found something: see above$"):
        check.main([])
    assert tools.called("zizmor")


def test_nothing_may_be_skipped(tools: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """--require-engine and --full reach the tests; --setup installs first."""
    (tools.bin / "python").write_text(f'#!/bin/sh\necho "$REQUIRE_ENGINE $FULL $*" > {tools.folder}/asked\n', "utf-8")
    done: list[object] = []
    monkeypatch.setattr(engine, "setup", lambda offline: done.append(offline))
    monkeypatch.setattr(engine, "apt_install", done.append)
    assert check.main(["--setup", "--require-engine", "--full"]) == 0
    assert done == [False, check.TEST_PACKAGES]
    asked = (tools.folder / "asked").read_text("utf-8")
    assert asked == "1 1 -m pytest --cov --cov-report=term --cov-fail-under=95\n"


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1)])
def test_another_python(tools: Programs, status: int, expected: int) -> None:
    """--python runs the service's tests there, and nothing else."""
    tools.answer("^python", status=status)
    assert check.main(["--python", "3.13"]) == expected
    assert tools.calls == [["python", "-m", "pytest", "tests/service"]]
