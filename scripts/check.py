#!/usr/bin/env python3
"""Lint, types and tests: everything that has to hold before a commit goes to main.

Makes a virtual environment in .venv from requirements-dev.txt, then runs every check and reports
all that failed. Tests that need something which is not here are skipped with the reason; with
--setup what is missing is installed first (Debian and Ubuntu, as root or through sudo), and with
--require-engine nothing may be skipped, but for an ordinary user what needs root.

In a copy of the template the pipeline's own tests run only if the pipeline's files are not the
template's, which ran them; --pipeline runs them in any case.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import engine
from lib import apt, service
from lib.command import ROOT, STATE, Failure, UsageError, last_line, parser, run, say, stage, start
from lib.template import RECORD, parse_record, pipeline_state

SERVICE_PACKAGES = ("redis-server", "openssl", "curl")  # for the service's tests alone
TEST_PACKAGES = (*SERVICE_PACKAGES, "docker-registry", "iproute2", "openssh-server", "gh", "sudo", "nftables", "nmap")
BROWSER_PACKAGES = ("chromium", "chromium-driver")  # Ubuntu has only snaps, which hold no driver of theirs
REQUIREMENTS = ("requirements", "requirements-dev")
CODE = ("src", "scripts", "tests", "benchmarks")
LONG = ("tests/swarm", "tests/transplant")  # --full alone; before the others, which fill the gaps
PIPELINE = ("tests/workflows", "tests/container", "tests/pipeline")  # long ones first
AT_ONCE = 4  # test files; most of them wait for a container, a server or a runner most of the time
COVERAGE = 95  # percent of lines and branches, with nothing skipped


def compile_command(uv: str, name: str) -> list[str]:
    """Return the command that pins NAME.in in NAME.txt, for every Python and platform, with hashes.

    Extras are kept: pip refuses `coverage[toml]` if only `coverage` is pinned, once there is a newer one.
    """
    compile_ = [
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
        "--no-strip-extras",
        "--generate-hashes",
    ]
    return [uv, *compile_, f"{name}.in", "-o", f"{name}.txt"]


def pins(text: str) -> list[str]:
    """Return the lines of a requirements file that say something; comments do not."""
    return [line.rstrip(" \\") for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def check_requirements(uv: str) -> None:
    """Raise Failure if a requirements file is out of step with what it is compiled from."""
    with tempfile.TemporaryDirectory() as folder:
        for name in REQUIREMENTS:
            for suffix in (".in", ".txt"):
                shutil.copy(ROOT / f"{name}{suffix}", folder)
        for name in REQUIREMENTS:
            command = compile_command(uv, name)
            done = run(command, cwd=Path(folder), check=False)
            if done.returncode != 0:
                raise Failure(f"cannot compile {name}.in{last_line(done)}")
            if pins((Path(folder) / f"{name}.txt").read_text("utf-8")) != pins(
                (ROOT / f"{name}.txt").read_text("utf-8")
            ):
                raise Failure(f"{name}.txt is out of step with {name}.in; run {' '.join(compile_command('uv', name))}")


def check_service(root: Path) -> None:
    """Raise Failure with every way in which the Dockerfile, compose.yaml and deploy/ differ from service.toml."""
    found = service.differences(root)
    if found:
        raise Failure("; ".join(found))


def lint_commands(bin_: Path) -> dict[str, list[str]]:
    """Return the checks that read the code, by name. `bin_` is where the tools are."""
    workflows = sorted(str(file.relative_to(ROOT)) for file in (ROOT / ".github/workflows").glob("*.yml"))
    return {
        "ruff": [str(bin_ / "ruff"), "check", "."],
        "ruff format": [str(bin_ / "ruff"), "format", "--check", "--quiet", "."],
        "mypy": [str(bin_ / "mypy"), *(folder for folder in CODE if (ROOT / folder).is_dir())],
        "hadolint": [str(bin_ / "hadolint"), "Dockerfile"],
        "shellcheck": [str(bin_ / "shellcheck"), ".ci/run"],
        "actionlint": [str(bin_ / "actionlint"), "-shellcheck", str(bin_ / "shellcheck"), *workflows],
        "zizmor": [str(bin_ / "zizmor"), "--offline", "--quiet", "--persona=auditor", ".github"],
    }


def pipeline_changed(root: Path) -> bool:
    """Whether the pipeline's files are others than those of the template that this is a copy of.

    So they are if this is the template itself, or if the copy does not say.
    """
    record = root / RECORD
    if not record.is_file():
        return True
    git = ["git", "-C", str(root)]
    listed = run([*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=False)
    paths = [path for path in listed.stdout.split("\0") if path and "\n" not in path and (root / path).is_file()]
    hashed = run([*git, "hash-object", "--stdin-paths"], stdin="\n".join(paths), check=False)
    if listed.returncode or hashed.returncode:
        return True
    files = dict(zip(paths, hashed.stdout.split(), strict=True))
    return parse_record(record.read_text("utf-8")).pipeline != pipeline_state(files)


def pytest_command(python: Path, *, pipeline: bool, full: bool, required: bool) -> list[str]:
    """Return the command that runs the tests, several files at once: the service's, and with `pipeline` all.

    What `full` adds needs minutes: whole Swarms, other services. Coverage is measured with it, for then everything
    has run.
    """
    folders = ["tests/service"]
    options = ["--numprocesses", str(AT_ONCE), "--dist", "loadfile", "--no-loadscope-reorder"]
    if pipeline or full:
        folders = [*PIPELINE, *folders]
    if full:
        folders = [*LONG, *folders]
        options += ["-m", "full or not full", "--cov"]
        if required:
            options.append(f"--cov-fail-under={COVERAGE}")
    return [str(python), "-m", "pytest", *options, *folders]


def venv_package() -> tuple[str, ...]:
    """Return what a virtual environment needs on Debian and Ubuntu, whose Python leaves it out; () if it is here."""
    return () if importlib.util.find_spec("ensurepip") else (f"python3.{sys.version_info.minor}-venv",)


def make_environment(folder: Path, python: str = "") -> Path:
    """Return the folder of programs of an up-to-date virtual environment.

    It is made again when requirements-dev.txt changes. With `python`, a version such as 3.13, uv finds
    that Python or downloads it.
    """
    requirements = ROOT / "requirements-dev.txt"
    stamp = folder / "made-from"
    made_from = hashlib.sha256(requirements.read_bytes()).hexdigest() + python
    if stamp.exists() and stamp.read_text("utf-8") == made_from:
        return folder / "bin"
    interpreter = os.path.realpath(sys.executable)  # which may be this environment's own, a link
    shutil.rmtree(folder, ignore_errors=True)
    if python:
        uv = str(make_environment(ROOT / ".venv") / "uv")
        run([uv, "venv", "--no-project", "--python", python, str(folder)])
        run([uv, "pip", "install", "--python", str(folder / "bin/python"), "--require-hashes", "-r", str(requirements)])
    else:
        done = run([interpreter, "-m", "venv", str(folder)], check=False)
        if done.returncode != 0:
            raise Failure(f"cannot make a virtual environment{last_line(done)}; on Debian, install python3-venv")
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
        run([*pip, "--disable-pip-version-check", "--require-hashes", "-r", str(requirements)])
    stamp.write_text(made_from, "utf-8")
    return folder / "bin"


def check(name: str, command: Sequence[str], failed: list[str], env: dict[str, str] | None = None) -> None:
    """Run one check; note it in `failed` if it finds something, and continue."""
    try:
        with stage(f"Check with {name}"):
            run(command, passthrough=True, cwd=ROOT, env=env)
    except Failure as failure:
        say(f"error: {failure}")
        failed.append(name)


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--setup", action="store_true", help="install and start what the tests need")
    arguments.add_argument("--require-engine", action="store_true", help="fail if a test would be skipped")
    arguments.add_argument("--pipeline", action="store_true", help="run the pipeline's tests in any case")
    arguments.add_argument("--full", action="store_true", help="the same, with the tests that need minutes, too")
    arguments.add_argument("--python", default="", metavar="3.X", help="run the service's tests on this Python, only")
    options = arguments.parse_args(argv)
    if options.python and not re.fullmatch(r"3\.[0-9]{1,2}", options.python):
        raise UsageError(f"--python is {options.python!r}, expected a version such as 3.13")
    STATE.mkdir(exist_ok=True)
    (STATE / "stages.jsonl").unlink(missing_ok=True)
    if options.python:
        if options.setup:
            with stage("Set up test programs"):
                apt.install((*SERVICE_PACKAGES, *venv_package()))
        with stage(f"Make environment for Python {options.python}"):
            bin_ = make_environment(ROOT / f".venv-{options.python}", options.python)
        failed: list[str] = []
        check("pytest", pytest_command(bin_ / "python", pipeline=False, full=False, required=False), failed)
        return 1 if failed else 0
    pipeline = options.pipeline or options.full or pipeline_changed(ROOT)
    if options.setup:
        with stage(f"Set up {'engine and ' if pipeline else ''}test programs"):
            if pipeline:
                engine.setup(offline=False, platforms=service.load(ROOT).platforms)
            packages = TEST_PACKAGES if pipeline else SERVICE_PACKAGES
            apt.install((*packages, *venv_package()), if_available=BROWSER_PACKAGES)
    with stage("Make environment"):
        bin_ = make_environment(ROOT / ".venv")
    failed = []
    looks: dict[str, Callable[[], None]] = {
        "requirements": lambda: check_requirements(str(bin_ / "uv")),
        service.FILE: lambda: check_service(ROOT),
    }
    for name, look in looks.items():
        try:
            with stage(f"Check {name}"):
                look()
        except Failure as failure:
            say(f"error: {failure}")
            failed.append(name)
    for name, command in lint_commands(bin_).items():
        check(name, command, failed)
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "REQUIRE_ENGINE": "1" if options.require_engine else ""}
    if not pipeline:
        say("the pipeline's files are the template's, so its own tests do not run here; --pipeline runs them")
    tests = pytest_command(bin_ / "python", pipeline=pipeline, full=options.full, required=options.require_engine)
    check("pytest", tests, failed, env)
    if failed:
        raise Failure(f"{', '.join(failed)} failed; see above")
    say("all checks passed")
    return 0


if __name__ == "__main__":
    start(main)
