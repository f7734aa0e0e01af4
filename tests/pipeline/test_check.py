"""What check.py runs, and how it says what is wrong."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

import check
from lib.command import Failure, UsageError
from support.projects import FIXTURE, ROOT, replace

UV = str(Path(shutil.which("uv") or ROOT / ".venv/bin/uv"))


def test_compile_command() -> None:
    """The line that a user repeats, and that Dependabot reads from the file."""
    assert " ".join(check.compile_command("uv", "requirements")) == (
        "uv pip compile --quiet --universal --python-version 3.11 --no-strip-extras --generate-hashes"
        " requirements.in -o requirements.txt"
    )


def test_pins() -> None:
    """Comments do not count, so that whoever compiles may say so."""
    assert check.pins("# by uv\na==1 \\\n    --hash=sha256:x\n    # via b\n\n") == ["a==1", "    --hash=sha256:x"]


def test_requirements_are_in_step() -> None:
    """They are."""
    check.check_requirements(UV)


def test_requirements_out_of_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that was added and not pinned is found, and the sentence has the command."""
    for name in ("requirements.in", "requirements.txt", "requirements-dev.in", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "requirements.in").open("a", encoding="utf-8") as file:
        file.write("six\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    with pytest.raises(Failure, match=r"requirements\.txt is out of step .* run uv pip compile"):
        check.check_requirements(UV)


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_requirements_are_pinned_by_hash_and_have_no_address(name: str) -> None:
    """Each package has its hashes; where it is downloaded from is each machine's own affair."""
    text = (ROOT / f"{name}.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in lines)
    assert "://" not in text


def test_pytest_command() -> None:
    """Several files at once; coverage is held to the mark only where nothing is skipped."""
    python = Path("/v/bin/python")
    pytest_ = ["/v/bin/python", "-m", "pytest", "--numprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    files = ["tests/workflows", "tests/container", "tests/pipeline", "tests/service"]
    full = ["tests/swarm", "tests/transplant", *files]
    everything, mark = ["-m", "full or not full", "--cov"], f"--cov-fail-under={check.COVERAGE}"
    for pipeline, with_full, required, expected in (
        (False, False, False, ["tests/service"]),
        (True, False, True, files),
        (True, True, False, [*everything, *full]),
        (True, True, True, [*everything, mark, *full]),
    ):
        command = check.pytest_command(python, pipeline=pipeline, full=with_full, required=required)
        assert command == [*pytest_, *expected]


def test_every_linter_runs() -> None:
    """One command for each, from the environment's own programs."""
    commands = check.lint_commands(Path("/v/bin"))
    assert list(commands) == ["ruff", "ruff format", "mypy", "hadolint", "shellcheck", "actionlint", "zizmor"]
    assert all(command[0].startswith("/v/bin/") for command in commands.values())
    assert [part for part in commands["actionlint"] if part.endswith(".yml")] == [
        ".github/workflows/ci.yml",
        ".github/workflows/redeploy.yml",
        ".github/workflows/release.yml",
        ".github/workflows/weekly.yml",
    ]


def test_a_copy_that_deleted_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are checked in the folders that are there, as without benchmarks/."""
    for folder in ("src", "scripts", "tests"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.lint_commands(Path("/v/bin"))["mypy"] == ["/v/bin/mypy", "src", "scripts", "tests"]


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    """One that was made from today's requirements is used as it is."""
    requirements = ROOT / "requirements-dev.txt"
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "made-from").write_text(hashlib.sha256(requirements.read_bytes()).hexdigest(), "utf-8")
    assert check.make_environment(folder) == folder / "bin"
    assert list(folder.iterdir()) == [folder / "made-from"]


def test_a_check_that_fails_is_noted(capfd: pytest.CaptureFixture[str]) -> None:
    """The other checks still run, and at the end all that failed are named."""
    failed: list[str] = []
    check.check("good", ["true"], failed)
    check.check("bad", ["false"], failed)
    assert failed == ["bad"]
    assert "error: exit 1 from false" in capfd.readouterr().err


@pytest.mark.parametrize("version", ["3", "2.7", "3.13; rm", "latest"])
def test_a_python_is_a_version(version: str) -> None:
    """Anything else is a usage mistake."""
    with pytest.raises(UsageError, match=r"expected a version such as 3\.13"):
        check.main(["--python", version])


def test_what_differs_from_service_toml(tmp_path: Path) -> None:
    """All of it is said at once."""
    for name in ("service.toml", "Dockerfile", "compose.yaml"):
        (tmp_path / name).write_text((FIXTURE / name).read_text("utf-8"), "utf-8")
    check.check_service(tmp_path)
    replace(tmp_path / "service.toml", {"port = 8080": "port = 9000"})
    with pytest.raises(Failure, match=r"Dockerfile: EXPOSE is 8080.*; compose.yaml: web does not publish"):
        check.check_service(tmp_path)
