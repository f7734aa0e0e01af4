#!/usr/bin/env python3
"""Run the image as users will, and check everything that it promises, on every platform.

Starts the image with a read-only root, no capabilities and no way to new privileges, first without
a Redis and then with one beside it. Checks the exact page, the headers, /healthz and /readyz, that
visits count up, that it is not root, and that SIGTERM finishes the request in flight and ends it
within seconds. Each command is printed as it is run, so that it can be repeated by hand.
"""

from __future__ import annotations

import html
import http.client
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib import containers, engine
from lib.command import Failure, last_line, parser, run, say, shown, stage, start, wait_until
from lib.registry import LocalImage, check_same, local_image, run_pulling
from lib.standin import host_platform

IMAGE = "friendlyhello:ci"
REDIS = "redis:8"
PORT = 4000
START_SECONDS = 90  # an emulated platform takes its time
COUNT_SECONDS = 20
STOP_SECONDS = 15
NAME = """<b>"World" & 'friends'</b>"""  # what must not reach the page as it is
NO_REDIS = "<i>cannot connect to Redis, counter disabled</i>"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@dataclass(frozen=True)
class Response:
    """An HTTP response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: str


def run_command(image: str, platform: str, publish: str, network: str) -> list[str]:
    """Return the command that starts the image; `publish` is 4000:80, or 80 for a port that the engine chooses.

    A Python that starts under emulation takes longer than a health check may, so there are none there.
    """
    health = [] if platform == host_platform() else ["--no-healthcheck"]
    return [
        *("docker", "run", "--detach", "--publish", publish, "--platform", platform, "--network", network),
        *(*HARDENED, *health, "--env", f"NAME={NAME}", "--label", containers.label(), image),
    ]


def redis_command(network: str) -> list[str]:
    """Return the command that starts a Redis that the service finds under the name `redis`."""
    return [
        *("docker", "run", "--detach", "--network", network, "--network-alias", "redis", "--label", containers.label()),
        REDIS,
    ]


def curl_command(port: int, path: str, *, fail: bool = True) -> list[str]:
    """Return the command that asks for a path; with `fail`, a status of 400 or more is an error."""
    return [
        *("curl", *(["--fail"] if fail else []), "--silent", "--show-error", "--include", "--max-time", "20"),
        f"http://localhost:{port}{path}",
    ]


def parse_response(text: str) -> Response:
    """Return what `curl --include` printed, or raise Failure where that is no HTTP response."""
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.split("\n")
    match = re.fullmatch(r"HTTP/[\d.]+ (\d{3}).*", status)
    if not match:
        raise Failure(f"not an HTTP response: {status!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Response(int(match[1]), headers, body)


def page(name: str, hostname: str, visits: str) -> str:
    """Return the page, exactly as the service must give it."""
    return f"<h3>Hello {name}!</h3><b>Hostname:</b> {hostname}<br/><b>Visits:</b> {visits}"


def escaped(body: str) -> str:
    """Return a page with its character references in one spelling: &#34; and &quot; are the same."""
    return body.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


def check_page(response: Response, hostname: str, visits: str) -> None:
    """Raise Failure unless this is the page, with NAME escaped."""
    expected = page(html.escape(NAME), hostname, visits)
    if response.status != 200:
        raise Failure(f"GET / answered {response.status}, expected 200")
    if escaped(response.body) != expected:
        raise Failure(f"the page is {response.body!r}, expected {expected!r}")
    if response.headers.get("content-type") != "text/html; charset=utf-8":
        raise Failure(
            f"the page's Content-Type is {response.headers.get('content-type')!r}, expected 'text/html; charset=utf-8'"
        )


def check_headers(response: Response, revision: str) -> None:
    """Raise Failure unless the headers say which revision answered, and no more than they should."""
    found = response.headers.get("x-revision")
    if found != revision:
        raise Failure(f"the page's X-Revision is {found!r}, and the image was built from {revision!r}")
    server = response.headers.get("server", "")
    if re.search(r"\d", server):
        raise Failure(f"the Server header tells a version: {server!r}")
    if response.headers.get("x-content-type-options") != "nosniff":
        raise Failure("the page has no X-Content-Type-Options: nosniff")


def check_health(response: Response) -> None:
    """Raise Failure unless the service says that it is up."""
    if response.status != 200:
        raise Failure(f"/healthz answered {response.status}, expected 200")


def check_ready(response: Response, expected: int) -> None:
    """Raise Failure unless /readyz answers `expected`, as JSON."""
    if response.status != expected:
        raise Failure(f"/readyz answered {response.status}, expected {expected}")
    try:
        json.loads(response.body)
    except ValueError as error:
        raise Failure(f"/readyz answered {response.body!r}, which is not JSON") from error


def visits_in(response: Response) -> int | None:
    """Return the count on the page, or None where the counter is off."""
    match = re.search(r"<b>Visits:</b> (\d+)$", response.body)
    return int(match[1]) if match else None


def check_privileges(status: str) -> None:
    """Raise Failure unless proc_pid_status(5) of the first process shows an ordinary user with no powers."""
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
    if fields.get("Uid", "0").split()[0] == "0":
        raise Failure("the service runs as root")
    if int(fields.get("CapEff", "1"), 16) or int(fields.get("CapBnd", "1"), 16):
        raise Failure(f"the service has capabilities: {fields.get('CapEff')}")
    if fields.get("NoNewPrivs") != "1":
        raise Failure("the service can gain new privileges")


def check_image(config: Mapping[str, Any]) -> None:
    """Raise Failure unless the image's configuration is what the README promises."""
    user = config.get("User") or ""
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user):
        raise Failure(f"the image's user is {user!r}, expected a number that is not root's")
    if "NAME=World" not in (config.get("Env") or []):
        raise Failure("the image does not set NAME=World")
    if "80/tcp" not in (config.get("ExposedPorts") or {}):
        raise Failure("the image does not expose port 80")
    if (config.get("Healthcheck") or {}).get("Test", ["NONE"]) == ["NONE"]:
        raise Failure("the image has no HEALTHCHECK")


class SmokeTest:
    """One image on one platform, from its start to its end. `publish` is as in run_command."""

    def __init__(self, image: LocalImage, platform: str, publish: str) -> None:
        self.image = image
        self.platform = platform
        self.publish = publish
        self.network = f"friendlyhello-smoke-{containers.run_id()}-{platform.rpartition('/')[2]}"
        self.container = ""
        self.port = 0

    def get(self, path: str, *, fail: bool = True, show: bool = True) -> Response:
        """Ask the running service for a path with curl."""
        done = run(curl_command(self.port, path, fail=fail), show=show, check=False)
        if done.returncode != 0:
            raise Failure(f"GET {path} failed{last_line(done)}")
        return parse_response(done.stdout)

    def start(self) -> None:
        """Start the image; it may take its time to answer."""
        run(["docker", "network", "create", "--label", containers.label(), self.network])
        self.container = containers.start(run_command(self.image.reference, self.platform, self.publish, self.network))

    def wait_for_answer(self) -> str:
        """Wait for the first answer, and return the container's host name."""
        wait_until(self.is_up, seconds=START_SECONDS, what="an answer from /healthz")
        return self.inspect("{{.Config.Hostname}}")

    def inspect(self, template: str) -> str:
        """Return what `docker inspect` says of the running container."""
        return run(["docker", "container", "inspect", "--format", template, self.container]).stdout.strip()

    def is_up(self) -> bool:
        """Whether the service answers at all; raises Failure where it has already ended."""
        if self.inspect("{{.State.Running}}") != "true":
            raise Failure(f"the service ended at its start, with exit code {self.inspect('{{.State.ExitCode}}')}")
        if not self.port:
            published = run(["docker", "port", self.container, "80/tcp"], check=False)
            if published.returncode != 0:
                return False  # it has just ended: the next look says how
            self.port = int(published.stdout.split()[0].rpartition(":")[2])
        return run(curl_command(self.port, "/healthz", fail=False), check=False).returncode == 0

    def check_without_redis(self, hostname: str) -> None:
        """Check the page, the probes and the headers with no Redis anywhere."""
        response = self.get("/")
        check_page(response, hostname, NO_REDIS)
        check_headers(response, self.image.revision)
        check_health(self.get("/healthz"))
        check_ready(self.get("/readyz", fail=False), 503)
        say("ok: the page at once without Redis, its headers, /healthz and /readyz")

    def check_process(self) -> None:
        """Check the running process from inside its container."""
        status = run(["docker", "exec", self.container, "cat", "/proc/1/status"], show=True).stdout
        check_privileges(status)
        touch = run(["docker", "exec", self.container, "touch", "/app/written"], show=True, check=False)
        if touch.returncode == 0:
            raise Failure("the service's own files can be written to")
        say("ok: not root, no capabilities, no new privileges, a read-only root")

    def check_with_redis(self, hostname: str) -> None:
        """Start a Redis beside the running service, and see it count."""
        run_pulling(redis_command(self.network), show=True)
        say(f"$ {shown(curl_command(self.port, '/'))}  # until each worker has found its Redis")
        visits: int | None = None
        for _ in range(3):
            response = self.next_visit(visits)
            visits = visits_in(response)
            check_page(response, hostname, str(visits))
        say(f"$ {shown(curl_command(self.port, '/readyz'))}  # the same")
        answers = self.ask_until(
            "/readyz", lambda answer: answer.status == 200, what="/readyz to answer 200", fail=False
        )
        check_ready(answers[-1], 200)
        say("ok: visits count up, one at a time, as soon as there is a Redis")

    def next_visit(self, last: int | None) -> Response:
        """Return the next page that counts; raise Failure where visits are not counted one at a time.

        Each worker finds the Redis by itself, so pages without a count may come in between; such a visit
        may have been counted.
        """
        pages = self.ask_until("/", lambda page: visits_in(page) is not None, what="the page to count visits")
        visits = visits_in(pages[-1]) or 0
        if last is not None and (visits <= last or (len(pages) == 1 and visits != last + 1)):
            raise Failure(f"the page counted {visits} after {last}")
        return pages[-1]

    def ask_until(self, path: str, good: Callable[[Response], bool], *, what: str, fail: bool = True) -> list[Response]:
        """Ask until an answer is good, and return all of them; raise Failure after COUNT_SECONDS."""
        answers: list[Response] = []

        def asked() -> bool:
            answers.append(self.get(path, fail=fail, show=False))
            return good(answers[-1])

        wait_until(asked, seconds=COUNT_SECONDS, what=what)
        return answers

    def check_healthy(self) -> None:
        """Check that the image's own HEALTHCHECK finds the service healthy."""
        if self.platform != host_platform():
            return
        wait_until(
            lambda: self.inspect("{{.State.Health.Status}}") == "healthy",
            seconds=45,
            what="the container to be healthy",
        )
        say("ok: healthy by its own HEALTHCHECK")

    def check_stop(self) -> None:
        """Send SIGTERM with a request in flight: nothing more is taken, it is answered, and the exit code is 0."""
        request = socket.create_connection(("localhost", self.port), timeout=STOP_SECONDS)
        with request:
            request.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            wait_until(self.has_read_a_request, seconds=20, what="the service to read a request", every=0.05)
            run(["docker", "kill", "--signal", "TERM", self.container], show=True)
            wait_until(
                lambda: not self.is_listening(), seconds=STOP_SECONDS, what="the service to heed SIGTERM", every=0.05
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
        wait_until(
            lambda: self.inspect("{{.State.Running}}") == "false",
            seconds=STOP_SECONDS,
            what="the service to leave after SIGTERM",
        )
        code = self.inspect("{{.State.ExitCode}}")
        if code != "0":
            raise Failure(f"the service left with exit code {code} after SIGTERM, expected 0")
        say("ok: SIGTERM finishes the request in flight and ends the service")

    def sockets(self, state: str) -> list[str]:
        """Return the service's sockets on port 80 in a state, as proc_net_tcp(5) lists them."""
        show = ["docker", "exec", self.container, "cat", "/proc/net/tcp", "/proc/net/tcp6"]
        table = run(show, check=False).stdout  # nothing, where the service has ended
        return re.findall(rf"^\s*\d+: [0-9A-F]+:0050 [0-9A-F]+:[0-9A-F]{{4}} {state} .*$", table, re.M)

    def has_read_a_request(self) -> bool:
        """Whether the service holds an open connection of which it has read every byte."""
        return any(re.search(r" 01 [0-9A-F]{8}:00000000 ", line) for line in self.sockets("01"))

    def is_listening(self) -> bool:
        """Whether the service takes new connections."""
        return bool(self.sockets("0A"))

    def check_all(self) -> None:
        """Run every check; on failure show what the service wrote."""
        try:
            hostname = self.wait_for_answer()
            self.check_without_redis(hostname)
            self.check_process()
            self.check_with_redis(hostname)
            self.check_healthy()
            self.check_stop()
        except Failure as failure:
            say(f"the service wrote:\n{containers.logs(self.container)}")
            raise Failure(f"smoke test on {self.platform}: {failure}") from failure


def config_of(image: LocalImage) -> Mapping[str, Any]:
    """Return an image's configuration."""
    found = json.loads(run(["docker", "image", "inspect", image.reference]).stdout)
    return dict(found[0]["Config"])


def smoke_test(image: LocalImage, platforms: Sequence[str], port: int) -> None:
    """Check an image on every platform, or raise Failure for the first promise that it breaks."""
    check_image(config_of(image))
    first, *others = platforms
    tests = [SmokeTest(image, first, f"{port}:80"), *(SmokeTest(image, platform, "80") for platform in others)]
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
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=IMAGE, help="the image to test (default: %(default)s)")
    arguments.add_argument("--digest", help="the digest that the image must have")
    arguments.add_argument("--platform", action="append", choices=engine.PLATFORMS, help="default: every one")
    arguments.add_argument("--port", type=int, default=PORT, help="the port to publish (default: %(default)s)")
    options = arguments.parse_args(argv)
    engine.find()
    image = local_image(options.image)
    if options.digest:
        check_same(f"{options.image} on this engine", options.digest, image.digest)
    with containers.cleaned_up():
        smoke_test(image, options.platform or engine.PLATFORMS, options.port)
    print(image.digest)
    return 0


if __name__ == "__main__":
    start(main)
