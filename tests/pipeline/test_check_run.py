"""A whole run of the checks, with tools that answer from a table."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import check
import engine
from conftest import need, need_root
from lib import apt
from lib.command import Failure, run
from lib.service import PLATFORMS
from lib.template import RECORD, pipeline_state, write_record
from support.programs import Programs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with requirements, and nothing else."""
    root = tmp_path / "project"
    root.mkdir()
    for name in check.REQUIREMENTS:
        (root / f"{name}.in").write_text("flask\n", "utf-8")
        (root / f"{name}.txt").write_text("flask==1\n", "utf-8")
    (root / "service.toml").write_text('name = "shop"\n', "utf-8")
    lines = ("FROM python", 'LABEL org.opencontainers.image.title="shop"', "EXPOSE 80", 'CMD ["python", "-m", "shop"]')
    (root / "Dockerfile").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr(check, "ROOT", root)
    monkeypatch.delenv("PLATFORMS", raising=False)
    return root


def test_requirements_that_contradict_each_other(project: Path, programs: Programs) -> None:
    """What the compiler says is quoted."""
    programs.add("uv").answer("^uv", err="No solution found\n", status=1)
    with pytest.raises(Failure, match=r"cannot compile requirements.in: No solution found"):
        check.check_requirements("uv")


def test_an_environment_is_made_again(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the requirements change; with every package checked against its hash."""
    python, folder, calls = tmp_path / "python", tmp_path / "venv", tmp_path / "calls"
    made = 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi'
    python.write_text(f'#!/bin/sh\necho "$0 $*" >> {calls}\n{made}\n', "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    for text in ("flask==1\n", "flask==1\n", "flask==2\n"):
        (project / "requirements-dev.txt").write_text(text, "utf-8")
        check.make_environment(folder)
    pip = f"{folder}/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes"
    once = [f"{python} -m venv {folder}", f"{pip} -r {project}/requirements-dev.txt"]
    assert calls.read_text("utf-8").splitlines() == once * 2


def test_an_environment_whose_own_python_asks(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is removed before it is made again, and its Python with it: the one that it links to makes the new one."""
    python, folder, calls = tmp_path / "python", tmp_path / "venv", tmp_path / "calls"
    made = 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi'
    python.write_text(f'#!/bin/sh\necho "$0" >> {calls}\n{made}\n', "utf-8")
    python.chmod(0o755)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(python)
    monkeypatch.setattr(sys, "executable", str(folder / "bin/python"))
    check.make_environment(folder)
    assert calls.read_text("utf-8").splitlines() == [str(python), str(folder / "bin/python")]


def test_an_environment_of_another_python(project: Path, tmp_path: Path, programs: Programs) -> None:
    """uv, from the checks' own environment, finds that Python or downloads it."""
    requirements = project / "requirements-dev.txt"
    own, other = project / ".venv", tmp_path / "other"
    (own / "bin").mkdir(parents=True)
    (own / "made-from").write_text(hashlib.sha256(requirements.read_bytes()).hexdigest(), "utf-8")
    uv = own / "bin/uv"
    uv.write_text(f'#!/bin/sh\nmkdir -p {other}; echo "$@" >> {tmp_path}/asked\n', "utf-8")
    uv.chmod(0o755)
    assert check.make_environment(other, "3.13") == other / "bin"
    assert (tmp_path / "asked").read_text("utf-8").splitlines() == [
        f"venv --no-project --python 3.13 {other}",
        f"pip install --python {other}/bin/python --require-hashes -r {requirements}",
    ]


def test_a_python_without_venv(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's Python comes in parts: the missing one is named."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ensurepip is not available'\nexit 1\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(Failure, match=r"environment: ensurepip is not available; on Debian, install python3-venv"):
        check.make_environment(tmp_path / "venv")


@pytest.mark.parametrize("arguments", [["--setup"], ["--setup", "--python", "3.13"]])
def test_set_up_brings_what_a_virtual_environment_needs(
    arguments: list[str], tools: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Python leaves it out; a bare machine is to need nothing beyond Python and Git."""
    done: list[Sequence[str]] = []
    monkeypatch.setitem(sys.modules, "ensurepip", None)  # cannot be imported
    monkeypatch.setattr(engine, "setup", lambda **_: None)
    monkeypatch.setattr(apt, "install", lambda names, **_: done.append(names))
    assert check.main(arguments) == 0
    assert [names[-1] for names in done] == [f"python3.{sys.version_info.minor}-venv"]


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
    assert folders(tools) == [*check.PIPELINE, "tests/service"]
    assert "all checks passed" in capfd.readouterr().err


def test_every_check_that_fails_is_named(tools: Programs) -> None:
    """One that fails does not hide the next."""
    tools.answer("^ruff check", status=1).answer("^python", status=1).answer("^uv", err="no solution", status=1)
    with pytest.raises(Failure, match=r"^requirements, ruff, pytest failed; see above$"):
        check.main([])
    assert tools.called("zizmor")


def test_nothing_may_be_skipped(tools: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """--require-engine and --full reach the tests; --setup installs first."""
    (tools.bin / "python").write_text(f'#!/bin/sh\necho "$REQUIRE_ENGINE $*" >> {tools.folder}/asked\n', "utf-8")
    done: list[object] = []
    monkeypatch.setattr(engine, "setup", lambda offline, platforms: done.append((offline, platforms)))
    monkeypatch.setattr(apt, "install", lambda *names, **more: done.append((*names, more)))
    assert check.main(["--setup", "--require-engine", "--full"]) == 0
    assert done == [(False, PLATFORMS), (check.TEST_PACKAGES, {"if_available": check.BROWSER_PACKAGES})]
    asked = (tools.folder / "asked").read_text("utf-8").splitlines()
    command = check.pytest_command(Path("python"), pipeline=True, full=True, required=True)
    assert asked == [" ".join(["1", *command[1:]])]


def test_only_what_needs_root_may_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user cannot help it; a missing program can be installed."""
    monkeypatch.setattr("conftest.REQUIRED", True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.fail.Exception, match="needs gh"):
        need(False, "gh")
    with pytest.raises(pytest.skip.Exception, match="needs root, for a mount"):
        need_root("a mount")


@pytest.fixture
def copy(tools: Programs, project: Path) -> Path:
    """A copy of the template as its repository has it: yours beside the pipeline's, and a record of the latter."""
    files = {
        "src/shop/__init__.py": "",
        "tests/service/test_page.py": "",
        "service.toml": 'name = "shop"\n',
        "scripts/plan.py": "print(1)\n",
        "tests/pipeline/test_plan.py": "",
        ".github/workflows/ci.yml": "on: push\n",
        "CONTRIBUTING.md": "",
        ".gitignore": "*.log\n",
    }
    for path, text in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text, "utf-8")
    run(["git", "init", "--quiet", str(project)])
    run(["git", "-C", str(project), "add", "--all"])
    listed = run(["git", "-C", str(project), "ls-files", "--stage", "-z"]).stdout.split("\0")[:-1]
    state = pipeline_state({line.partition("\t")[2]: line.split()[1] for line in listed})
    (project / RECORD).write_text(write_record("", origin="https://example.com/t", pipeline=state), "utf-8")
    return project


def folders(tools: Programs) -> list[str]:
    """Which folders the tests ran from; pytest ran once."""
    (call,) = tools.called("python", "-m", "pytest")
    return [argument for argument in call if argument.startswith("tests/")]


def test_a_copy_runs_its_own_tests(copy: Path, tools: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    """The pipeline's files are the template's, where their tests have run: the copy's CI is fast."""
    assert check.main([]) == 0
    assert folders(tools) == ["tests/service"]
    assert tools.called("mypy")
    assert "its own tests do not run here; --pipeline runs them" in capfd.readouterr().err


def test_a_copy_needs_no_engine(copy: Path, tools: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """--setup installs what the tests that run need, and nothing more."""
    done: list[object] = []
    monkeypatch.setattr(engine, "setup", lambda **_: pytest.fail("an engine was set up"))
    monkeypatch.setattr(apt, "install", lambda *names, **more: done.append((*names, more)))
    assert check.main(["--setup"]) == 0
    assert done == [(check.SERVICE_PACKAGES, {"if_available": check.BROWSER_PACKAGES})]


@pytest.mark.parametrize("option", ["--pipeline", "--full"])
def test_a_copy_runs_the_pipelines_tests_if_asked(copy: Path, tools: Programs, option: str) -> None:
    """Whoever asks gets them."""
    assert check.main([option]) == 0
    assert {*check.PIPELINE, "tests/service"} <= set(folders(tools))


@pytest.mark.parametrize(
    ("path", "text", "changed"),
    [
        ("scripts/plan.py", "print(2)\n", True),
        ("scripts/new.py", "", True),
        ("tests/pipeline/test_plan.py", "import plan\n", True),
        (".github/workflows/mine.yml", "on: push\n", True),
        ("scripts/plan.py", None, True),
        ("src/shop/__init__.py", "print(2)\n", False),
        ("src/shop/new.py", "", False),
        ("tests/service/test_page.py", "import shop\n", False),
        ("service.toml", 'name = "store"\n', False),
        ("requirements.in", "django\n", False),
        ("migrations/0001.sql", "", False),
        ("scripts/run.log", "", False),  # ignored by Git
        ("CONTRIBUTING.md", "Come in.\n", False),
        (RECORD, None, True),  # the template itself has no record
        (RECORD, '{"origin": "https://example.com/t"}', True),
    ],
)
def test_the_pipelines_tests_run_if_it_changed(copy: Path, path: str, text: str | None, changed: bool) -> None:
    """Committed or not, a change to the pipeline is tested; one to the service is the service's."""
    assert not check.pipeline_changed(copy)
    (copy / path).parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        (copy / path).unlink()
    else:
        (copy / path).write_text(text, "utf-8")
    assert check.pipeline_changed(copy) is changed


def test_without_git_everything_runs(copy: Path) -> None:
    """What nobody can compare counts as changed."""
    shutil.rmtree(copy / ".git")
    assert check.pipeline_changed(copy)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1)])
def test_another_python(tools: Programs, status: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """--python runs the service's tests there, with a real Redis, and nothing else."""
    tools.answer("^python", status=status)
    done: list[object] = []
    monkeypatch.setattr(apt, "install", lambda *names, **more: done.append((*names, more)))
    assert check.main(["--setup", "--python", "3.13"]) == expected
    assert done == [(check.SERVICE_PACKAGES, {})]
    assert len(tools.calls) == 1
    assert folders(tools) == ["tests/service"]
