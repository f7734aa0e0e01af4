"""Hosts of a Swarm that versions are redeployed to, and visitors that never stop: what its tests share."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.command import run, say, wait_until
from lib.daemon import Daemon
from lib.engine import builder
from lib.names import PIPELINE
from lib.registry import index_of
from lib.standin import start_registry
from lib.visit import answer
from prepare_host import may_encrypt
from support import images, projects
from support.locks import locked
from support.ports import free_port
from swarm.load import Seen
from swarm.own_engine import Network, OwnEngine

LOAD = Path(__file__).with_name("load.py")
IMAGE = f"onedigest-test-swarm-{os.getpid()}"
GREETING = "good morning"
"""The secret that the service needs; nobody else says it."""


# What makes the good image a bad one.
BAD = {
    "crashes": 'CMD ["python", "-c", "raise SystemExit(3)"]',
    "never-healthy": 'CMD ["python", "-c", "import time; time.sleep(9999)"]',
    "page-of-500": """COPY <<'EOF' /app/broken/broken.py
from fixture import __main__ as good
class Handler(good.Handler):
    def do_GET(self):
        if self.path != "/page":
            return super().do_GET()
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.send_header("X-Revision", good.os.environ["REVISION"])
        self.end_headers()
good.Handler = Handler
good.main()
EOF
ENV PYTHONPATH=/app/src
CMD ["python", "/app/broken/broken.py"]""",
}

COMMITS = 2 + len(BAD)
"""How many commits of the project the versions are made of."""


@dataclass
class Host:
    """A host of a Swarm with its registry, and the project that is deployed to it. `commits` are its, newest first."""

    own: OwnEngine
    port: int
    project: Path
    commits: list[str]

    @property
    def page(self) -> str:
        """Where visitors find the page."""
        return f"http://{self.own.address}:4000/page"

    def environment(self) -> dict[str, str]:
        """What a redeploy to this host is told."""
        return {
            **os.environ,
            **self.own.env,
            "DOCKERHUB_USERNAME": "me",
            "IMAGE_REPOSITORY": "hello",
            "REGISTRY": f"localhost:{self.port}",
            "DEPLOY_URL": self.page,
            "SERVICE_SECRETS": f"GREETING={GREETING}",
            "GITHUB_ACTIONS": "",
        }

    def redeploy(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the script as a user does, with `more` in its environment."""
        env = {**self.environment(), **more}
        return subprocess.run(self.command(*arguments), env=env, capture_output=True, text=True)

    def command(self, *arguments: str) -> list[str]:
        """The script, as a user runs it."""
        return [sys.executable, str(self.project / "scripts/redeploy.py"), *arguments]

    def digest(self, tag: str) -> str:
        """The digest that a tag has in the registry."""
        index = index_of(f"localhost:{self.port}/me/hello:{tag}")
        assert index is not None
        return index.digest

    def publish(self, tag: str, commit: str, lines: str = "") -> None:
        """Publish the image as a commit's, with some lines of a Dockerfile more."""
        labels = f'LABEL org.opencontainers.image.revision="{commit}"\nENV REVISION="{commit}"\n'
        name = f"localhost:{self.port}/me/hello:{tag}"
        images.build(name, f"FROM {IMAGE}:good\n{labels}{lines}\n", "--provenance", "mode=max")
        run(["docker", "push", "--quiet", name])
        run(["docker", "image", "rm", "--force", name])

    def serving(self) -> str:
        """The revision that answers, or "" if nothing does."""
        found = answer(self.page)
        return found.revision if found.status == 200 else ""

    def visits(self) -> int:
        """Visit the page and return the number it shows, or 0 if it shows none."""
        text = run(["curl", "--fail", "--silent", self.page]).stdout
        assert text.startswith(GREETING)
        found = re.search(r"count (\d+)", text)
        return int(found[1]) if found else 0

    def specs(self) -> dict[str, Any]:
        """Every service of the stack as it is meant to be, by name."""
        names = self.own.docker("service", "ls", "--format", "{{.Name}}").split()
        services = json.loads(self.own.docker("service", "inspect", *names))
        return {service["Spec"]["Name"]: service["Spec"] for service in services}

    def configs(self, kind: str) -> list[str]:
        """The names of the config objects of a kind, such as `deployed`."""
        names = self.own.docker("config", "ls", "--format", "{{.Name}}").split()
        return sorted(name for name in names if name.startswith(f"hello_{kind}"))

    def containers(self, service: str) -> list[str]:
        """The containers of a service that run."""
        label = f"label=com.docker.swarm.service.name=hello_{service}"
        return self.own.docker("ps", "--quiet", "--filter", label).split()

    def replicas(self, service: str) -> str:
        """How many tasks of a service run and should, such as 2/2."""
        ask = ("service", "ls", "--filter", f"name=hello_{service}", "--format", "{{.Replicas}}")
        return self.own.docker(*ask).split(" ")[0].strip()


def make_project(folder: Path, *, hosts: int = 1) -> list[str]:
    """Make a repository of the tests' own service, and return its commits, newest first.

    Where the kernel cannot encrypt what several hosts send each other, it does without: else nothing would arrive.
    """
    folder.mkdir()
    projects.fill(folder)
    if hosts > 1 and not may_encrypt():
        say("this kernel cannot encrypt (CONFIG_INET_ESP): the hosts send each other plain text")
        for file in (folder / "deploy").glob("compose.*.yaml"):
            text = file.read_text("utf-8")
            file.write_text(re.sub(r"(?m)^    driver_opts: .*\n", "", text), "utf-8")
    projects.commit(folder)
    for number in range(1, COMMITS):
        projects.git(folder, "commit", "--quiet", "--allow-empty", "--message", f"Change {number}")
    return projects.git(folder, "rev-list", "HEAD").split()


@contextlib.contextmanager
def turn(hosts: int) -> Iterator[None]:
    """Wait until there is room: no more hosts at once than processors, or their health checks starve each other."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.gettempdir())
        places = [folder / f"{PIPELINE}-place-for-a-host-{number}" for number in range(os.cpu_count() or 1)]
        files = [stack.enter_context(place.open("w")) for place in places]

        def taken() -> bool:
            needed = min(hosts, len(files))
            mine = list(itertools.islice(filter(locked, files), needed))
            if len(mine) < needed:
                for file in mine:
                    fcntl.flock(file, fcntl.LOCK_UN)
            return len(mine) == needed

        wait_until(taken, seconds=7200, what="the other Swarms to end", every=0.5)
        yield


@contextlib.contextmanager
def started(folder: Path, *names: str, bad: Mapping[str, str] | None = None) -> Iterator[list[Host]]:
    """Engines of those names on one network, in no Swarm yet; 1.0.0, 1.1.0 and the bad versions are published."""
    project = folder / "project"
    commits = make_project(project, hosts=len(names))
    with turn(len(names)), contextlib.ExitStack() as stack:
        build = ["docker", "buildx", "build", "--builder", builder(), "--load"]
        run([*build, "--tag", f"{IMAGE}:good", str(project)])
        stack.callback(run, ["docker", "image", "rm", "--force", f"{IMAGE}:good"], check=False)
        here, port = Daemon("registry-here", folder), free_port()
        start_registry(here, folder, port)
        stack.callback(here.stop)
        # A socket's path has at most 107 characters.
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fh")))
        network = Network()
        stack.callback(network.stop)
        engines = [OwnEngine(short / name, folder / "data", port, name, network) for name in names]
        hosts = [Host(own, port, project, commits) for own in engines]
        hosts[0].publish("1.0.0", commits[1])
        hosts[0].publish("1.1.0", commits[0])
        for number, (name, lines) in enumerate((bad or {}).items(), start=2):
            hosts[0].publish(name, commits[number], lines)
        for host in hosts:
            host.own.folder.mkdir()
            stack.callback(host.own.stop)
            host.own.start()
        yield hosts


@contextlib.contextmanager
def one_host(folder: Path) -> Iterator[Host]:
    """A Swarm on an engine of its own, with a bad version of each kind published; 1.0.0 serves."""
    with started(folder, "node", bad=BAD) as (host,):
        host.own.docker("swarm", "init", "--advertise-addr", host.own.address)
        done = host.redeploy("1.0.0")
        assert done.returncode == 0, done.stderr
        assert host.serving() == host.commits[1]
        yield host


class Load:
    """Visitors at a constant rate, until the `with` block ends and they have asked at least so many times."""

    def __init__(self, host: Host, rate: int = 50, at_least: int = 0) -> None:
        command = [sys.executable, str(LOAD), host.own.address, "4000", "--connections", "8", "--rate", str(rate)]
        command += ["--at-least", str(at_least)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen: Seen | None = None

    def __enter__(self) -> Load:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        if raised and not issubclass(raised, Exception):  # Ctrl-C: no test continues, nor do the visitors
            self.process.kill()
            self.process.communicate()
            return
        output = json.loads(self.process.communicate("\n", timeout=300)[0])
        self.seen = Seen(**output)
        say(f"visitors saw {self.seen}")

    def check(self) -> None:
        """Nobody noticed anything."""
        assert self.seen is not None
        assert self.seen.requests > 0
        assert (self.seen.failed, self.seen.reasons) == (0, [])
        assert (self.seen.went_down, self.seen.repeated) == (0, 0)
