"""Somebody else's service in a fresh copy of the template: only its own files change, and everything works.

`notes` is an API: FastAPI on uvicorn, another port, SQLite on a volume, no Redis, no X-Revision. `gallery` has pages:
Flask with templates, static files, a login with a secret, a wheel and a Debian package with native code, and a worker
over Redis. `hello` is the one file of Docker's first tutorial, taken by adopt.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import adopt
import check
from conftest import need, need_root
from lib import service
from lib.command import run
from lib.engine import look, problems
from lib.project import Project
from lib.standin import host_platform
from lib.template import RECORD, is_yours
from support.ports import free_port
from support.projects import commit, files, git
from swarm.own_engine import OwnEngine
from workflows.act import ACT, opened, start_registry

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.full
SERVICES = Path(__file__).with_name("services")
BIN = Path(sys.executable).parent
NEED_MORE = ("browser", "compose", "edge", "image", "malformed", "same_numbers", "server", "counter")
"""The example's tests that need an engine, a browser, or minutes."""


@dataclass
class Copy:
    """A copy of the template with a service in it, and what that took."""

    root: Path
    base: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def service(self) -> service.Service:
        """What its service.toml says."""
        return service.load(self.root, {})

    def timed(self, what: str, command: list[str], env: Mapping[str, str] | None = None) -> str:
        """Run a command in the copy and note its seconds; return what it said."""
        start = time.monotonic()
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        self.seconds[what] = time.monotonic() - start
        print(done.stdout, done.stderr)  # pytest shows it if the test fails
        assert done.returncode == 0, f"{what}: {(done.stderr.strip().splitlines() or [''])[-1]}"
        return done.stdout + done.stderr

    def changed(self) -> dict[str, int]:
        """Return path -> lines that were added or removed, since the copy was made."""
        listed = git(self.root, "diff", "--numstat", "--no-renames", self.base, "HEAD").splitlines()
        lines = (line.split("\t") for line in listed)
        return {path: sum(int(count) for count in counts if count.isdigit()) for *counts, path in lines}


def by_hand(root: Path, name: str) -> None:
    """Put one of the services in place of the example, as its author would: file by file."""
    this = service.parse((SERVICES / name / "service.toml").read_text("utf-8"), {})
    for folder in ("src", "tests/service"):
        shutil.rmtree(root / folder)
    for file in root.glob("benchmarks/service*"):
        file.unlink()
    shutil.copytree(SERVICES / name, root, dirs_exist_ok=True)
    facts = Project({}, (), "", port=this.port, page=this.page, health=this.health)
    edits: dict[str, Callable[[str], str]] = {
        "Dockerfile": lambda text: adopt.dockerfile(text, this.start, facts),
        "deploy/kubernetes.yaml": lambda text: adopt.kubernetes(text, facts),
    }
    for path, edit in edits.items():
        (root / path).write_text(edit((root / path).read_text("utf-8")), "utf-8")
    requirements = {path.name: path.read_bytes() for path in root.glob("requirements*")}
    for path, content in adopt.pinned(requirements, BIN).items():
        (root / path).write_bytes(content)


def make_environment(root: Path) -> None:
    """Make the copy's virtual environment with uv, which has every package at hand: pip takes a minute."""
    folder, requirements = root / ".venv", root / "requirements-dev.txt"
    uv = str(BIN / "uv")
    run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)])
    run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), "--requirements", str(requirements)])
    (folder / "made-from").write_text(hashlib.sha256(requirements.read_bytes()).hexdigest(), "utf-8")


def fresh(folder: Path) -> Copy:
    """Return a fresh copy of the template, as it is in the work tree."""
    template = folder / "template"
    for file in files():
        (template / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, template / file)
    commit(template)
    copy = Copy(folder / "copy", git(template, "rev-parse", "HEAD"))
    git(folder, "clone", "--quiet", str(template), str(copy.root))
    (copy.root / ".venv").mkdir()
    (copy.root / ".venv/bin").symlink_to(BIN)  # uv and ruff, until it has an environment of its own
    (copy.root / ".venv/made-from").write_text(
        hashlib.sha256((copy.root / "requirements-dev.txt").read_bytes()).hexdigest(), "utf-8"
    )
    git(copy.root, "config", "user.name", "Ada Example")
    return copy


def transplant(folder: Path, name: str) -> Copy:
    """Return a fresh copy of the template with a service in it."""
    copy = fresh(folder)
    project = ["--from", str(SERVICES / name)] if (SERVICES / name / "app.py").exists() else []
    copy.timed("adopt", [sys.executable, "scripts/adopt.py", f"{name}-web" if project else name, *project])
    if not project:
        by_hand(copy.root, name)
    git(copy.root, "add", "--all")
    git(copy.root, "commit", "--quiet", "--message", "Adopt")
    shutil.rmtree(copy.root / ".venv")
    make_environment(copy.root)
    return copy


def test_a_copy_that_is_only_renamed(tmp_path: Path) -> None:
    """The example's own tests pass under its new name, in which a package has another spelling."""
    need(not (ROOT / RECORD).exists(), "the template itself", "in a copy, what is yours is in its place")
    copy = fresh(tmp_path)
    copy.timed("adopt", [sys.executable, "scripts/adopt.py", "shop-api"])
    tests = sorted(path.stem for path in (copy.root / "tests/service").glob("test_*.py"))
    alone = [name for name in tests if name.removeprefix("test_") not in NEED_MORE]
    assert len(alone) > 5
    copy.timed("tests", [sys.executable, "-m", "pytest", "-q", *(f"tests/service/{name}.py" for name in alone)])


@pytest.fixture(scope="module", params=["notes", "gallery", "hello"])
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the template with one of the services in it."""
    need(not (ROOT / RECORD).exists(), "the template itself", "in a copy, what is yours is in its place")
    made = transplant(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    run(["docker", "image", "rm", "--force", f"{made.service.name}:ci"], check=False)


@pytest.fixture
def _engine() -> None:
    """There is an engine that can run the pipeline."""
    need(not problems(look(), service.PLATFORMS), "a Docker Engine that can run the pipeline")


def test_only_its_own_files_change(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the pipeline is edited to carry another service; what was touched is counted."""
    changed = copy.changed()
    assert [path for path in changed if not is_yours(path) and path != RECORD] == []
    assert service.differences(copy.root, {}) == []
    kinds = git(copy.root, "diff", "--name-status", "--no-renames", copy.base, "HEAD")
    counts = [sum(line.startswith(kind) for line in kinds.splitlines()) for kind in "AMD"]
    compiled = sum(changed[f"{name}.txt"] for name in check.REQUIREMENTS)
    with capsys.disabled():
        print(f"\n{copy.service.name}: of its own files, {counts[0]} added, {counts[1]} changed, {counts[2]} removed;")
        print(f"{sum(changed.values())} lines, {compiled} of them written by uv; of the pipeline's files, 0")


def test_the_checks_pass(copy: Copy) -> None:
    """Lint, types, the requirements and the tests of the service; those of the pipeline are not run again."""
    out = copy.timed("check.py", [sys.executable, "scripts/check.py"])
    assert "all checks passed" in out
    assert "the pipeline's files are the template's" in out


@pytest.mark.usefixtures("_engine")
def test_the_pipeline_runs(copy: Copy, tmp_path: Path) -> None:
    """Built, tested, pushed to a registry, pulled back and run: one digest. Native code runs on both platforms."""
    platforms = "linux/amd64,linux/arm64" if copy.service.name == "gallery" else host_platform()
    command = [sys.executable, "scripts/pipeline.py", "--port", str(free_port())]
    command += ["--json", str(tmp_path / "result.json")]
    copy.timed("pipeline.py", command, {"PLATFORMS": platforms})
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["tested_digest"] == result["published_digest"]
    assert result["platforms"] == platforms.split(",")


def workflows_of(copy: Copy, folder: Path) -> Path:
    """Return a clone whose workflows act can run, beside others that run at the same time."""
    project = folder / "project"
    git(folder, "clone", "--quiet", str(copy.root), str(project))
    (project / "scripts/check.py").write_text("# The checks have just passed.\n", "utf-8")
    text = (project / "service.toml").read_text("utf-8")
    (project / "service.toml").write_text(f"publish = {free_port()}\n{text}", "utf-8")
    for workflow in (project / ".github/workflows").glob("*.yml"):  # act knows nothing of queues yet
        workflow.write_text(workflow.read_text("utf-8").replace("queue: max", "cancel-in-progress: false"), "utf-8")
    git(project, "commit", "--quiet", "--all", "--message", "Cut the checks short")
    return project


@pytest.fixture(scope="session")
def own(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that a rehearsal may make a Swarm of."""
    need_root("an engine in a network namespace")
    need(bool(shutil.which("dockerd") and shutil.which("ip")), "dockerd and ip")
    need(look().stands_in, "an engine that stands in for Docker Hub")
    with tempfile.TemporaryDirectory(prefix="od") as short:  # a socket's path has at most 107 characters
        engine = OwnEngine(Path(short) / "engine", registry / "images", free_port())
        engine.folder.mkdir()
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()


@pytest.mark.usefixtures("_engine")
def test_a_tag_becomes_a_release_that_can_be_deployed(
    copy: Copy, tmp_path: Path, registry: Path, registry_port: int, own: OwnEngine
) -> None:
    """On GitHub: the commit is checked, built, tested, published and attested, gets its version, and is rolled out."""
    need(Path(ACT).is_file(), "act")
    with opened(tmp_path, workflows_of(copy, tmp_path), registry_port, {}, copy.service.name) as scenario:
        start = time.monotonic()
        run = scenario.run("release.yml", ref=scenario.tag("v1.0.0"))
        copy.seconds["release.yml"] = time.monotonic() - start
        assert (run.exit, set(run.jobs.values())) == (0, {"success"})
        assert "release" in run.jobs
        digest = scenario.digest(scenario.sha)
        assert scenario.tags == {scenario.sha, "1.0.0", "1.0", "1", "latest"}
        assert set(scenario.attested) == {f"{scenario.image}@{digest}"}
        for reason in copy.service.off.values():
            assert reason in run.output

        start = time.monotonic()
        daemon = start_registry(registry, scenario.front.port, own.enter)
        scenario.engine, scenario.enter = own.env, own.enter
        scenario.variables["REPLICAS"] = "1"
        inputs = {"environment": "production", "version": "v1.0.0", "dry-run": "false"}
        run = scenario.run("redeploy.yml", "workflow_dispatch", inputs=inputs)
        copy.seconds["redeploy.yml"] = time.monotonic() - start
        daemon.stop()
        assert (run.exit, run.jobs) == (0, {"redeploy": "success"})
        assert "REHEARSAL: no host is configured" in run.output
        assert digest in run.summary
        assert own.docker("ps", "--all", "--quiet") == ""


def test_how_long_it_took(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of those that ran before."""
    with capsys.disabled():
        took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in copy.seconds.items())
        print(f"\n{copy.service.name}: {took}")
