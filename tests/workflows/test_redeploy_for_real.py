"""One click on "Run workflow", up to the page that visitors get: a real Swarm, reached as a user's is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import need, need_root
from lib.engine import look
from lib.visit import answer
from prepare_host import make_key
from support.ports import free_port
from swarm.over_ssh import reached_over_ssh
from swarm.own_engine import OwnEngine
from workflows.act import Run, Scenario, opened, start_registry

PORT = 4080
DEPLOYED = {"redeploy": "success"}
RED = {"redeploy": "failure"}


@dataclass
class Target:
    """An engine to deploy to, and the commits of two versions: the first is 1.0.0, the second is edge."""

    scenario: Scenario
    own: OwnEngine
    first: str
    second: str

    def redeploy(self, version: str, dry_run: bool = False) -> Run:
        """Run the workflow by hand with these inputs."""
        inputs = {"environment": "production", "version": version, "dry-run": str(dry_run).lower()}
        self.scenario.front.private = True  # as the registry beside that engine is
        try:
            return self.scenario.run("redeploy.yml", "workflow_dispatch", inputs=inputs)
        finally:
            self.scenario.front.private = False

    def page(self) -> tuple[int, str]:
        """The status and the revision that visitors get."""
        found = answer(f"http://{self.own.address}:{PORT}/page")
        return found.status, found.revision

    def running(self) -> list[str]:
        """The image of each replica that the Swarm runs."""
        listing = ("service", "ps", "--no-trunc", "--filter", "desired-state=running", "--format", "{{.Image}}")
        return self.own.docker(*listing, "redeployed_web").split()

    def services(self) -> str:
        """Each service with the number of its last change."""
        names = self.own.docker("service", "ls", "--quiet").split()
        show = ("service", "inspect", "--format", "{{.Spec.Name}} {{.Version.Index}}")
        return self.own.docker(*show, *names) if names else ""

    def swarm(self) -> str:
        """Whether the engine is in a Swarm: active or inactive."""
        return self.own.docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip()


@pytest.fixture(scope="module")
def target(
    tmp_path_factory: pytest.TempPathFactory,
    project: Path,
    registry: Path,
    registry_port: int,
    engine: Mapping[str, str],
) -> Iterator[Target]:
    """An engine that is in no Swarm yet, and two versions that the project's own workflows published."""
    need_root("an engine in a network namespace")
    need(bool(shutil.which("dockerd") and shutil.which("ip")), "dockerd and ip")
    need(look().stands_in, "an engine that stands in for Docker Hub")
    folder = tmp_path_factory.mktemp("redeployed")
    with (
        tempfile.TemporaryDirectory(prefix="fh") as short,  # a socket's path has at most 107 characters
        opened(folder, project, registry_port, engine, "redeployed") as scenario,
    ):
        first = scenario.sha
        assert scenario.run("release.yml", ref=scenario.tag("v1.0.0")).exit == 0
        second = scenario.commit()
        assert scenario.run("ci.yml").exit == 0
        own = OwnEngine(Path(short) / "engine", registry / "images", free_port())
        own.folder.mkdir()
        try:
            own.start()
            # The same images under the same name as here, and nobody pulls them without the login.
            daemon = start_registry(registry, scenario.front.port, own.enter)
            scenario.variables |= {"EDGE_PORT": str(PORT), "REPLICAS": "1"}
            yield Target(scenario, own, first, second)
            daemon.stop()
        finally:
            own.stop()


@pytest.fixture(scope="module")
def host(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The engine as a Swarm that the repository's variables and secret lead to."""
    target.own.docker("swarm", "init", "--advertise-addr", target.own.address)
    with reached_over_ssh(target.own, tmp_path_factory.mktemp("ssh")) as access:
        target.scenario.variables |= {"DEPLOY_HOST": access.host, "DEPLOY_KNOWN_HOSTS": access.known_hosts}
        target.scenario.secrets |= {"DEPLOY_SSH_KEY": access.key, "SERVICE_SECRETS": "GREETING=good morning"}
        yield target


def test_rehearsal(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no host is set, the runner's own engine is a Swarm for a moment, and as it was before afterwards."""
    assert target.swarm() == "inactive"
    monkeypatch.setattr(target.scenario, "engine", target.own.env)
    monkeypatch.setattr(target.scenario, "enter", target.own.enter)
    run = target.redeploy("v1.0.0")
    assert (run.exit, run.jobs) == (0, DEPLOYED)
    assert "REHEARSAL: no host is configured" in run.output
    assert f"answers with revision {target.first}" in run.output
    assert "| from | nothing | | |" in run.summary
    assert target.swarm() == "inactive"
    assert target.own.docker("ps", "--all", "--quiet") == ""
    assert target.own.docker("volume", "ls", "--quiet") == ""


def test_redeploy(host: Target) -> None:
    """The Swarm runs the digest of the version that was asked for, visitors get it, and the summary says so.

    One after the other, as `previous` is what served before.
    """
    digest = {revision: host.scenario.digest(revision) for revision in (host.first, host.second)}
    serving = ""
    for version, revision in (
        ("v1.0.0", host.first),
        (host.second, host.second),
        ("previous", host.first),
        (digest[host.second], host.second),
    ):
        run = host.redeploy(version)
        assert (run.exit, run.jobs) == (0, DEPLOYED), version
        assert host.running() == [f"{host.scenario.image}@{digest[revision]}"], version
        assert host.page() == (200, revision), version
        was = f"`{serving}` | `{digest[serving]}` |" if serving else "| from | nothing | | |"
        assert was in run.summary, version
        assert f"`{revision}` | `{digest[revision]}` |" in run.summary, version
        serving = revision


@pytest.fixture
def serving(host: Target) -> Target:
    """The host, where visitors get the second version."""
    if not host.services() or host.page() != (200, host.second):
        assert host.redeploy(host.second).exit == 0
    return host


def test_dry_run(serving: Target) -> None:
    """It says what would change, and changes nothing."""
    before = serving.services(), serving.page()
    run = serving.redeploy("v1.0.0", dry_run=True)
    assert (run.exit, run.jobs) == (0, DEPLOYED)
    assert serving.second[:12] in run.output
    assert "would run: docker stack deploy" in run.output
    assert (serving.services(), serving.page()) == before


def test_another_host_key(serving: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose key is not the known one is sent nothing: red, in one sentence."""
    before = serving.services()
    known = serving.scenario.variables["DEPLOY_KNOWN_HOSTS"].split()[0]
    monkeypatch.setitem(serving.scenario.variables, "DEPLOY_KNOWN_HOSTS", f"{known} {make_key(tmp_path / 'other')}")
    run = serving.redeploy("v1.0.0")
    assert (run.exit, run.jobs) == (1, RED)
    assert len(run.errors) == 1
    assert "its host key is not the known one: nothing was sent" in run.errors[0]
    assert serving.services() == before


def test_what_is_not_there(serving: Target) -> None:
    """A version that was never published fails the run with one sentence; the one that serves keeps serving."""
    before = serving.services(), serving.page()
    run = serving.redeploy("v9.9.9")
    assert (run.exit, run.jobs) == (1, RED)
    assert run.errors == [
        f"there is no {serving.scenario.image}:9.9.9 in the registry; push it first, or see its tags in the registry"
    ]
    assert (serving.services(), serving.page()) == before
