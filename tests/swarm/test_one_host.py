"""Redeploying under constant load: visitors notice nothing, whatever the version is worth."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import build_image
import engine
from conftest import need
from lib.command import run, wait_until
from lib.daemon import Daemon
from lib.names import git, source
from lib.registry import index_of
from lib.standin import host_platform, start_registry
from ports import free_port
from prepare_host import authorized, make_key
from ssh_server import ssh_server
from swarm.own_engine import OwnEngine

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
LOAD = Path(__file__).with_name("load.py")
IMAGE = f"friendlyhello-test-swarm-{os.getpid()}"

# What makes the good image a bad one.
BAD = {
    "crashes": 'CMD ["python", "-c", "raise SystemExit(3)"]',
    "never-healthy": 'CMD ["python", "-c", "import time; time.sleep(9999)"]',
    "page-of-500": """COPY <<'EOF' /app/broken/broken.py
import os
from friendlyhello import create_app as good
def create_app():
    app = good()
    def broken(environ, start):
        if environ["PATH_INFO"] != "/":
            return app(environ, start)
        start("500 Internal Server Error", [("Content-Length", "0"), ("X-Revision", os.environ["REVISION"])])
        return [b""]
    return broken
EOF
ENV PYTHONPATH=/app/broken:/app/src:/app/lib
CMD ["python", "-m", "gunicorn", "--config", "python:friendlyhello.gunicorn_conf", "broken:create_app()"]""",
}


@dataclass
class Host:
    """A Swarm of one host with its registry. `commits` are this repository's, newest first."""

    own: OwnEngine
    port: int
    commits: list[str]

    def environment(self) -> dict[str, str]:
        """What a redeploy to this host is told."""
        return {
            **os.environ,
            **self.own.env,
            "DOCKERHUB_USERNAME": "me",
            "IMAGE_REPOSITORY": "hello",
            "REGISTRY": f"localhost:{self.port}",
            "DEPLOY_URL": f"http://{self.own.address}:4000/",
            "GITHUB_ACTIONS": "",
        }

    def redeploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script as a user does."""
        command = [sys.executable, str(ROOT / "scripts/redeploy.py"), *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True)

    def digest(self, tag: str) -> str:
        """The digest that a tag has in the registry."""
        index = index_of(f"localhost:{self.port}/me/hello:{tag}")
        assert index is not None
        return index.digest

    def publish(self, tag: str, commit: str, lines: str = "") -> None:
        """Publish the image as a commit's, with some lines of a Dockerfile more."""
        labels = f'LABEL org.opencontainers.image.revision="{commit}"\nENV REVISION="{commit}"\n'
        name = f"localhost:{self.port}/me/hello:{tag}"
        build = ["docker", "buildx", "build", "--builder", "default", "--load", "--provenance", "mode=max", "--tag"]
        run([*build, name, "-"], stdin=f"FROM {IMAGE}:good\n{labels}{lines}\n")
        run(["docker", "push", "--quiet", name])
        run(["docker", "image", "rm", "--force", name])

    def serving(self) -> str:
        """The revision that answers."""
        headers = run(["curl", "--fail", "--silent", "--head", f"http://{self.own.address}:4000/"]).stdout
        found = re.search(r"(?im)^x-revision: (\S+)", headers)
        assert found is not None
        return found[1]


@dataclass
class Seen:
    """What the visitors saw."""

    requests: int
    failed: int
    reasons: list[str]
    went_down: int
    repeated: int
    uncounted: int
    longest_gap: float


class Load:
    """Visitors at a constant rate, until the `with` block ends."""

    def __init__(self, host: Host) -> None:
        command = [sys.executable, str(LOAD), host.own.address, "4000", "--connections", "8", "--rate", "400"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen: Seen | None = None

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        output = json.loads(self.process.communicate("\n", timeout=60)[0])
        self.seen = Seen(**{name: output[name] for name in Seen.__dataclass_fields__})
        print(f"visitors saw {self.seen}")

    def check(self) -> None:
        """Nobody noticed anything."""
        assert self.seen is not None
        assert self.seen.requests > 0
        assert (self.seen.failed, self.seen.reasons) == (0, [])
        assert (self.seen.went_down, self.seen.repeated) == (0, 0)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Swarm on an engine of its own, with 1.0.0 and 1.1.0 published, and a bad version of each kind."""
    need(os.geteuid() == 0, "root, for an engine in a network namespace")
    need(
        bool(shutil.which("dockerd") and shutil.which("docker-registry") and shutil.which("ip")),
        "dockerd and a registry",
    )
    need(not engine.problems(engine.look()) and engine.look().stands_in, "an engine that stands in for Docker Hub")
    commits = git("rev-list", "--max-count=5", "HEAD").split()
    need(len(commits) == 5, "a clone with its history")
    folder = tmp_path_factory.mktemp("swarm")
    build_image.build(f"{IMAGE}:good", [host_platform()], source())
    here = Daemon("registry-here", folder)
    with tempfile.TemporaryDirectory(prefix="fh") as short:  # a socket's path has at most 107 characters
        port = free_port()
        start_registry(here, folder, port)
        own = OwnEngine(Path(short) / "engine", folder / "data", port)
        own.folder.mkdir()
        host = Host(own, port, commits)
        try:
            host.publish("1.0.0", commits[1])
            host.publish("1.1.0", commits[0])
            for number, (name, lines) in enumerate(BAD.items(), start=2):
                host.publish(name, commits[number], lines)
            own.start()
            own.docker("swarm", "init", "--advertise-addr", own.address)
            done = host.redeploy("1.0.0")
            assert done.returncode == 0, done.stderr
            assert host.serving() == commits[1]
            yield host
        finally:
            own.stop()
            here.stop()
            run(["docker", "image", "rm", "--force", f"{IMAGE}:good"], check=False)


@pytest.fixture
def at_first(host: Host) -> Host:
    """The host, with 1.0.0 serving."""
    if host.serving() != host.commits[1]:
        done = host.redeploy("1.0.0")
        assert done.returncode == 0, done.stderr
    return host


def test_a_good_version(at_first: Host) -> None:
    """It is rolled out without a failed request, `previous` goes back, and once more goes forth."""
    host = at_first
    dry = host.redeploy("--dry-run", "1.1.0")
    assert (dry.returncode, host.commits[0][:12] in dry.stdout + dry.stderr) == (0, True)
    assert host.serving() == host.commits[1]
    with Load(host) as load:
        done = host.redeploy("1.1.0")
        assert done.returncode == 0, done.stderr
        assert host.serving() == host.commits[0]
        back = host.redeploy("previous")
        assert back.returncode == 0, back.stderr
    load.check()
    assert host.serving() == host.commits[1]
    assert host.digest("1.0.0") in host.redeploy("--status").stdout


@pytest.mark.parametrize("name", BAD)
def test_a_bad_version(at_first: Host, name: str) -> None:
    """It is rolled back by itself, the run is red and says which version is serving; no request failed."""
    host = at_first
    with Load(host) as load:
        done = host.redeploy(name)
    assert done.returncode == 1, done.stderr
    assert "was not deployed" in done.stderr
    assert "Traceback" not in done.stderr
    assert host.serving() == host.commits[1]
    load.check()


def test_what_does_not_exist(at_first: Host) -> None:
    """A version that was never published changes nothing."""
    before = at_first.own.docker("service", "ls", "--format", "{{.Name}} {{.Image}}")
    for version in ("9.9.9", "sha256:" + "0" * 64, "f" * 40):
        done = at_first.redeploy(version)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert version in done.stderr
    assert at_first.own.docker("service", "ls", "--format", "{{.Name}} {{.Image}}") == before


def test_a_killed_container(at_first: Host) -> None:
    """A replica that is killed is replaced; visitors go to the other one."""
    host = at_first
    with Load(host) as load:
        web = host.own.docker("ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=hello_web").split()
        host.own.docker("kill", "--signal", "KILL", web[0])
        wait_until(
            lambda: (
                host.own.docker("service", "ls", "--filter", "name=hello_web", "--format", "{{.Replicas}}").strip()
                == "2/2"
                and web[0] not in host.own.docker("ps", "--quiet").split()
            ),
            seconds=60,
            what="the replica to be replaced",
        )
    load.check()


def test_over_ssh(at_first: Host, tmp_path: Path) -> None:
    """DEPLOY_HOST is reached by its known key only, with a key that can do nothing but deploy."""
    tmp_path.chmod(0o700)
    key, other = (make_key(tmp_path / name) for name in ("key", "other"))
    dial = f"docker --host {at_first.own.env['DOCKER_HOST']} system dial-stdio"
    (tmp_path / "authorized").write_text(authorized("", key).replace("docker system dial-stdio", dial), "utf-8")
    where = {
        "DEPLOY_HOST": f"root@{at_first.own.address}:2222",
        "DEPLOY_SSH_KEY": (tmp_path / "key").read_text("utf-8"),
    }
    known = f"[{at_first.own.address}]:2222 "

    def status(public_key: str) -> subprocess.CompletedProcess[str]:
        env = {**at_first.environment(), **where, "DEPLOY_KNOWN_HOSTS": known + public_key}
        del env["DOCKER_HOST"]
        command = [sys.executable, str(ROOT / "scripts/redeploy.py"), "--status"]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    def enter(command: list[str]) -> list[str]:
        return ["nsenter", f"--net=/var/run/netns/{at_first.own.namespace}", *command]

    options = f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no"
    with ssh_server(tmp_path, at_first.own.address, 2222, options, enter) as host_key:
        right, wrong = status(host_key), status(other)
    assert right.returncode == 0, right.stderr
    assert at_first.digest("1.0.0") in right.stdout
    assert wrong.returncode == 1
    assert "its host key is not the known one: nothing was sent" in wrong.stderr


def test_a_redeploy_that_is_killed_is_finished_by_the_next(at_first: Host) -> None:
    """SIGKILL in the middle leaves no mixture."""
    host = at_first
    command = [sys.executable, str(ROOT / "scripts/redeploy.py"), "1.1.0"]
    with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line:
                break
        process.kill()
    done = host.redeploy("--timeout", "40", "1.1.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[0]
