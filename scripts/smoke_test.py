#!/usr/bin/env python3
"""Run the image as users will, and check everything that it promises, on every platform.

Starts the image with a read-only root, no capabilities and no way to new privileges. What every image has to keep is
checked here: see CHECKS in scripts/lib/service.py, and [off] in service.toml for what does not hold. What a visitor of
this service is promised is checked by smoke.py at the top of the repository: `alone` with nothing beside the service,
then `complete` with the backing services of service.toml. Each command is printed as it is run, so that it can be
repeated by hand.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import containers, engine, service
from lib.client import Answer, ask
from lib.command import ROOT, Failure, parser, port_number, run, say, set_output, shown, stage, start, wait_until
from lib.names import PIPELINE
from lib.registry import LocalImage, check_same, local_image, run_pulling
from lib.service import Backing, Service
from lib.standin import host_platform

START_SECONDS = 300  # an emulated platform is slow, and a busy machine makes it slower
PROMISE_SECONDS = 60
STOP_SECONDS = 30
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ENDED = ("0", "143")  # by itself after SIGTERM, or as the signal's default is (128 + 15)


def variables(environment: Mapping[str, str]) -> list[str]:
    """Return the options of `docker run` that set variables."""
    return [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]


def run_command(
    this: Service, image: str, platform: str, *, publish: int, network: str, environment: Mapping[str, str]
) -> list[str]:
    """Return the command that starts the image; `publish` is a port of 127.0.0.1, or 0 for one that the engine chooses.

    IPv4 and IPv6 get different ports where the engine chooses, so one address is named and asked. A Python that starts
    under emulation takes longer than a health check may, so there are none there; on a busy machine one may take as
    long as Docker's own default, whatever the image allows.
    """
    health = ["--health-timeout", "30s"] if platform == host_platform() else ["--no-healthcheck"]
    return [
        *("docker", "run", "--detach", "--publish", f"127.0.0.1:{publish or ''}:{this.port}", "--platform", platform),
        *("--network", network, *HARDENED, *health, *variables(environment)),
        *(part for folder in this.volumes for part in ("--mount", f"type=volume,dst={folder}")),
        *("--label", containers.label(), image),
    ]


def backing_command(backing: Backing, network: str) -> list[str]:
    """Return the command that starts a backing service, which the service finds under its name."""
    return [
        *("docker", "run", "--detach", "--network", network, "--network-alias", backing.name),
        *(*variables(backing.environment), "--label", containers.label(), engine.here(backing.image)),
    ]


def published_port(container: str, port: int) -> int:
    """Return the port of this machine that a container's port is published on, 0 if the container has just ended."""
    done = run(["docker", "port", container, f"{port}/tcp"], check=False)
    return int(done.stdout.split()[0].rpartition(":")[2]) if done.returncode == 0 and done.stdout.split() else 0


def promises(root: Path = ROOT) -> ModuleType | None:
    """Return smoke.py, or None if there is none; raise Failure if it cannot be read."""
    path = root / "smoke.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("smoke", path)
    if spec is None or spec.loader is None:
        raise Failure(f"cannot read {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Failure(f"cannot read {path}: {type(error).__name__}: {error}") from error
    return module


@dataclass(frozen=True)
class Visitor:
    """What smoke.py asks the running service with; its own docstring describes each part."""

    port: int
    hostname: str
    environment: Mapping[str, str]
    quiet: bool = False

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a path."""
        return self._ask(path, headers=headers)

    def post(self, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a body to a path."""
        return self._ask(path, method="POST", body=body, headers=headers)

    def until(self, path: str, good: Callable[[Answer], bool]) -> list[Answer]:
        """Ask until an answer is good, and return all of them; raise Failure after PROMISE_SECONDS."""
        say(f"$ {shown(curl_command(self.port, path))}  # until it is as it has to be")
        answers: list[Answer] = []

        def asked() -> bool:
            answers.append(ask(f"http://127.0.0.1:{self.port}{path}"))
            return good(answers[-1])

        try:
            wait_until(asked, seconds=PROMISE_SECONDS, what=f"the right answer from {path}")
        except Failure as failure:
            last = f"; the last one was {answers[-1].status}: {answers[-1].text[:300]!r}" if answers else ""
            raise Failure(f"{failure}{last}") from failure
        return answers

    def _ask(self, path: str, **how: Any) -> Answer:
        say(f"$ {shown(curl_command(self.port, path, how.get('method', 'GET'), how.get('headers'), how.get('body')))}")
        return ask(f"http://127.0.0.1:{self.port}{path}", **how)


def curl_command(
    port: int,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
) -> list[str]:
    """Return the line that asks the same by hand."""
    given = [part for name, value in (headers or {}).items() for part in ("--header", f"{name}: {value}")]
    sent = ["--data-binary", body] if body is not None else []
    other = ["--request", method] if method not in ("GET", "POST") else []
    return ["curl", "--include", *other, *given, *sent, f"http://127.0.0.1:{port}{path}"]


def keep(promise: Callable[[Visitor], None], visitor: Visitor) -> None:
    """Call a function of smoke.py; raise Failure, a sentence, if what it asserts does not hold."""
    try:
        promise(visitor)
    except Failure:
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise Failure(f"{what or line.line} (smoke.py, line {line.lineno})") from error


def check_headers(this: Service, answer: Answer, revision: str) -> None:
    """Raise Failure unless the page's headers say which revision answered, and no more than they should."""
    if answer.status >= 500:
        raise Failure(f"GET {this.page} answered {answer.status}")
    found = answer.headers.get("x-revision")
    if this.has("revision") and found != revision:
        raise Failure(f"the page's X-Revision is {found!r}, and the image was built from {revision!r}")
    server = answer.headers.get("server", "")
    if this.has("server") and re.search(r"\d", server):
        raise Failure(f"the Server header reveals a version: {server!r}")
    if this.has("nosniff") and answer.headers.get("x-content-type-options") != "nosniff":
        raise Failure("the page has no X-Content-Type-Options: nosniff")


def check_privileges(status: str) -> None:
    """Raise Failure unless proc_pid_status(5) of the first process shows an ordinary user with no powers."""
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
    if fields.get("Uid", "0").split()[0] == "0":
        raise Failure("the service runs as root")
    if int(fields.get("CapEff", "1"), 16) or int(fields.get("CapBnd", "1"), 16):
        raise Failure(f"the service has capabilities: {fields.get('CapEff')}")
    if fields.get("NoNewPrivs") != "1":
        raise Failure("the service can gain new privileges")


def check_image(this: Service, config: Mapping[str, Any]) -> None:
    """Raise Failure unless the image's configuration is what service.toml and the README say."""
    user = config.get("User") or ""
    if this.has("user") and not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user):
        raise Failure(f"the image's user is {user!r}, expected a number that is not root's")
    if f"{this.port}/tcp" not in (config.get("ExposedPorts") or {}):
        raise Failure(f"the image does not expose port {this.port}, which service.toml names; see EXPOSE in Dockerfile")
    if this.has("healthcheck") and (config.get("Healthcheck") or {}).get("Test", ["NONE"]) == ["NONE"]:
        raise Failure("the image has no HEALTHCHECK")


class SmokeTest:
    """One image on one platform, from its start to its end. `publish` is as in run_command."""

    def __init__(self, this: Service, smoke: ModuleType | None, image: LocalImage, platform: str, publish: int) -> None:
        self.this = this
        self.alone: Callable[[Visitor], None] | None = getattr(smoke, "alone", None)
        self.complete: Callable[[Visitor], None] | None = getattr(smoke, "complete", None)
        self.environment = {**this.environment, **getattr(smoke, "ENVIRONMENT", {})}
        self.image = image
        self.platform = platform
        self.publish = publish
        self.network = f"{PIPELINE}-smoke-{containers.run_id()}-{platform.rpartition('/')[2]}"
        self.container = ""
        self.port = 0

    def start(self) -> None:
        """Start the image, after what it cannot be without; it may take its time to answer."""
        run(["docker", "network", "create", "--label", containers.label(), self.network])
        if self.complete and not self.alone:
            self.start_backing()
        command = run_command(
            self.this,
            self.image.reference,
            self.platform,
            publish=self.publish,
            network=self.network,
            environment=self.environment,
        )
        self.container = containers.start(command)

    def start_backing(self) -> None:
        """Start the backing services."""
        for backing in self.this.backing:
            run_pulling(backing_command(backing, self.network), show=True)

    def wait_for_answer(self) -> Visitor:
        """Wait for the first answer, and return who asks from then on."""
        wait_until(self.is_up, seconds=START_SECONDS, what=f"an answer from {self.this.health}")
        return Visitor(self.port, self.inspect("{{.Config.Hostname}}"), self.environment)

    def inspect(self, template: str) -> str:
        """Return what `docker inspect` says of the running container."""
        return run(["docker", "container", "inspect", "--format", template, self.container]).stdout.strip()

    def is_up(self) -> bool:
        """Whether the service answers at all; raises Failure if it has already ended."""
        if self.inspect("{{.State.Running}}") != "true":
            raise Failure(f"the service exited during startup with code {self.inspect('{{.State.ExitCode}}')}")
        self.port = self.port or published_port(self.container, self.this.port)
        if not self.port:
            return False  # it has just ended: the next look says how
        try:
            ask(f"http://127.0.0.1:{self.port}{self.this.health}")
        except Failure:
            return False
        return True

    def check_answers(self, visitor: Visitor) -> None:
        """Check the health path and the page's headers."""
        status = visitor.get(self.this.health).status
        if status != 200:
            raise Failure(f"GET {self.this.health} answered {status}, expected 200")
        check_headers(self.this, visitor.get(self.this.page), self.image.revision)
        say(f"ok: {self.this.health}, and the headers of {self.this.page}")

    def check_process(self) -> None:
        """Check the running process from inside its container."""
        if self.this.has("privileges"):
            check_privileges(run(["docker", "exec", self.container, "cat", "/proc/1/status"], show=True).stdout)
            say("ok: not root, no capabilities, no new privileges")
        if self.this.has("written"):
            touch = ["docker", "exec", self.container, "touch", "/app/written"]
            if run(touch, show=True, check=False).returncode == 0:
                raise Failure("the service's own files can be written to")
            say("ok: a read-only root")

    def check_promises(self, visitor: Visitor) -> None:
        """Check what smoke.py promises."""
        if self.alone:
            keep(self.alone, visitor)
            say("ok: smoke.py, alone")
            if self.complete:
                self.start_backing()
        if self.complete:
            keep(self.complete, visitor)
            say("ok: smoke.py, complete")
        if not (self.alone or self.complete):
            say("smoke.py promises nothing: add a function complete(service) that asserts what visitors are to see")

    def check_healthy(self) -> None:
        """Check that the image's own HEALTHCHECK finds the service healthy."""
        if self.platform != host_platform() or not self.this.has("healthcheck"):
            return
        wait_until(
            lambda: self.inspect("{{.State.Health.Status}}") == "healthy",
            seconds=START_SECONDS,
            what="the container to be healthy",
        )
        say("ok: healthy by its own HEALTHCHECK")

    def check_stop(self) -> None:
        """Send SIGTERM with a request in flight: nothing more is taken, it is answered, and the service ends."""
        if self.this.has("finish"):
            self.check_finish()
        else:
            run(["docker", "kill", "--signal", "TERM", self.container], show=True)
        if not self.this.has("stop"):
            return
        wait_until(
            lambda: self.inspect("{{.State.Running}}") == "false",
            seconds=STOP_SECONDS,
            what="the service to exit after SIGTERM",
        )
        code = self.inspect("{{.State.ExitCode}}")
        if code not in ENDED:
            raise Failure(f"the service exited with code {code} after SIGTERM, expected {' or '.join(ENDED)}")
        say("ok: SIGTERM ends the service")

    def check_finish(self) -> None:
        """Send SIGTERM with a request in flight: nothing more is taken, and it is answered."""
        request = socket.create_connection(("127.0.0.1", self.port), timeout=STOP_SECONDS)
        with request:
            request.sendall(f"GET {self.this.health} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
            wait_until(self.has_read_a_request, seconds=STOP_SECONDS, what="the service to read a request", every=0.05)
            run(["docker", "kill", "--signal", "TERM", self.container], show=True)
            wait_until(
                lambda: not self.is_listening(),
                seconds=STOP_SECONDS,
                what="the service to react to SIGTERM",
                every=0.05,
            )
            try:
                request.sendall(b"Connection: close\r\n\r\n")
                response = http.client.HTTPResponse(request)
                response.begin()
                status = response.status
            except (OSError, http.client.HTTPException) as error:
                raise Failure(f"SIGTERM cut off the request in flight: {error}") from error
        if status != 200:
            raise Failure(f"the request in flight at SIGTERM was answered {status}, expected 200")
        say("ok: SIGTERM finishes the request in flight")

    def sockets(self, state: str) -> list[str]:
        """Return the sockets on the service's port in a state, as proc_net_tcp(5) lists them."""
        show = ["docker", "exec", self.container, "cat", "/proc/net/tcp", "/proc/net/tcp6"]
        table = run(show, check=False).stdout  # nothing, if the service has ended
        return re.findall(rf"^\s*\d+: [0-9A-F]+:{self.this.port:04X} [0-9A-F]+:[0-9A-F]{{4}} {state} .*$", table, re.M)

    def has_read_a_request(self) -> bool:
        """Whether the service holds an open connection of which it has read every byte."""
        return any(re.search(r" 01 [0-9A-F]{8}:00000000 ", line) for line in self.sockets("01"))

    def is_listening(self) -> bool:
        """Whether the service takes new connections."""
        return bool(self.sockets("0A"))

    def check_all(self) -> None:
        """Run every check; on failure show what the service wrote."""
        try:
            visitor = self.wait_for_answer()
            self.check_answers(visitor)
            self.check_process()
            self.check_promises(visitor)
            self.check_healthy()
            self.check_stop()
        except Failure as failure:
            say(f"the service wrote:\n{containers.logs(self.container)}")
            raise Failure(f"smoke test on {self.platform}: {failure}") from failure


def config_of(image: LocalImage) -> Mapping[str, Any]:
    """Return an image's configuration."""
    found = json.loads(run(["docker", "image", "inspect", image.reference]).stdout)
    return dict(found[0]["Config"])


def smoke_test(image: LocalImage, platforms: Sequence[str], port: int = 0, *, root: Path = ROOT) -> None:
    """Check an image on every platform, or raise Failure for the first promise that it breaks.

    `port` is what the first platform is published on (service.toml's unless given); `root` is where service.toml and
    smoke.py are.
    """
    this, smoke = service.load(root), promises(root)
    check_image(this, config_of(image))
    for check, why in this.off.items():
        say(f"off: {service.CHECKS[check]} ({why})")
    first, *others = platforms
    tests = [
        SmokeTest(this, smoke, image, first, port or this.publish),
        *(SmokeTest(this, smoke, image, platform, 0) for platform in others),
    ]
    try:
        with stage("Start image"):
            # An emulated platform takes long to start: it does so while the first one is tested.
            for test in tests:
                test.start()
        for test in tests:
            with stage(f"Smoke-test {test.platform}"):
                test.check_all()
    finally:
        containers.remove(containers.label())
    check_same(f"{image.reference} after the smoke test", image.digest, local_image(image.reference).digest)


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=this.image, help="the image to test (default: %(default)s)")
    arguments.add_argument("--digest", help="the digest that the image must have")
    arguments.add_argument("--platform", action="append", choices=this.platforms, help="default: every one")
    arguments.add_argument(
        "--port", type=port_number, default=this.publish, help="the port to publish (default: %(default)s)"
    )
    options = arguments.parse_args(argv)
    engine.find(options.platform or this.platforms)
    image = local_image(options.image)
    if options.digest:
        check_same(f"{options.image} on this engine", options.digest, image.digest)
    with containers.cleaned_up():
        smoke_test(image, options.platform or this.platforms, options.port)
    set_output("digest", image.digest)
    print(image.digest)
    return 0


if __name__ == "__main__":
    start(main)
