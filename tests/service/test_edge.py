"""The edge of the stack, Caddy with deploy/Caddyfile and the stack's own limits, in front of the image."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib import containers, engine
from lib.command import run, wait_until
from lib.registry import LocalImage

ROOT = Path(__file__).resolve().parents[2]
STACK: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.stack.yaml").read_text("utf-8"))["services"]
PREFIX = f"friendlyhello-test-edge-{os.getpid()}"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Edge:
    """A running edge, reached without docker's own proxy, which takes fewer connections; the service is behind it."""

    host: str = ""
    port: int = 4000
    name: str = f"{PREFIX}-edge"
    web: str = f"{PREFIX}-web"

    def ask(self, path: str = "/", headers: dict[str, str] | None = None, body: bytes | None = None) -> int:
        """Ask as a visitor does and return the status; 0 if there is no answer."""
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", body, headers or {})
        try:
            with DIRECT.open(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def lines(self, container: str) -> list[dict[str, Any]]:
        """Return the requests that a container logged."""
        logged = run(["docker", "logs", container]).stdout.splitlines()
        return [json.loads(line) for line in logged if '"status"' in line]

    def state(self) -> tuple[bool, bool, str]:
        """Return whether the edge runs, whether it ran out of memory, and since when it runs."""
        found = json.loads(run(["docker", "inspect", "--format", "{{json .State}}", self.name]).stdout)
        return found["Running"], found["OOMKilled"], found["StartedAt"]


def command() -> list[str]:
    """The edge's command, as the Swarm reads it."""
    return [word.replace("$$", "$") for word in STACK["edge"]["command"]]


@pytest.mark.parametrize(("known", "expected"), [("true", "read_body_idle -1s"), ("false", "")])
def test_an_option_that_only_a_newer_caddy_knows(tmp_path: Path, known: str, expected: str) -> None:
    """It is set if Caddy takes it, and the edge starts without it if not.

    The option is of https://github.com/caddyserver/caddy/pull/7913. Without it, Caddy 2.11.7 still held a POST whose
    body never came after 90 seconds; with it, that was ended after 5, as it is by 2.6.2.
    """
    caddy = tmp_path / "caddy"
    caddy.write_text(f'#!/bin/sh\nif [ "$1" = adapt ]; then exec {known}; fi\necho "$*: $BODY_IDLE"\n', "utf-8")
    caddy.chmod(0o755)
    assert "{$BODY_IDLE}" in (ROOT / "deploy/Caddyfile").read_text("utf-8")
    said = run(command(), env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).stdout
    assert said == f"run --config /etc/caddy/Caddyfile --adapter caddyfile: {expected}\n"


@pytest.fixture(scope="module")
def edge(image: LocalImage) -> Iterator[Edge]:
    """The stack's edge with one replica behind it, as a Swarm would start them."""
    edge, stack = Edge(), STACK["edge"]
    limits = stack["deploy"]["resources"]["limits"]
    room = ["--memory", limits["memory"], "--memory-swap", limits["memory"], "--pids-limit", str(limits["pids"])]
    rights = ["--read-only", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--tmpfs", "/data"]
    variables = {**stack["environment"], "SITE": ":4000", "UPSTREAM_PORT": "80", "HEALTH": "/healthz"}
    trusted = STACK["web"]["environment"]["FORWARDED_ALLOW_IPS"]
    start = ["docker", "run", "--detach", "--label", containers.label(), "--network", PREFIX]
    run(["docker", "network", "create", "--label", containers.label(), PREFIX])
    try:
        web = ["--name", edge.web, "--network-alias", "web", "--env", f"FORWARDED_ALLOW_IPS={trusted}"]
        run([*start, *web, image.reference])
        environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        rights += ["--tmpfs", "/config", "--volume", f"{ROOT / 'deploy/Caddyfile'}:/etc/caddy/Caddyfile:ro"]
        options = ["--name", edge.name, "--cpus", limits["cpus"], *room, *rights, *environment]
        run([*start, *options, engine.here(stack["image"]), *command()])
        networks = run(["docker", "inspect", "--format", "{{json .NetworkSettings.Networks}}", edge.name]).stdout
        edge.host = json.loads(networks)[PREFIX]["IPAddress"]
        wait_until(lambda: edge.ask() == 200, what="the page through the edge")
        yield edge
    finally:
        run(["docker", "rm", "--force", edge.name, edge.web], check=False)
        run(["docker", "network", "rm", PREFIX], check=False)


@contextlib.contextmanager
def clients(edge: Edge, count: int, data: bytes, more: bytes = b"", size: int = 0) -> Iterator[None]:
    """Have `count` clients connected that have sent `data` and then `size` bytes, or as many as are taken."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            try:
                client = stack.enter_context(socket.create_connection((edge.host, edge.port), timeout=5))
            except OSError:
                break
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(data)
                for _ in range(size // len(more or b"-")):
                    client.send(more)
        yield


ATTACKS = {
    "bodies that never come": (5000, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"", 0),
    "headers that never end": (300, b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: " + b"y" * 4000 + b"\r\n", 900_000),
    "slow headers": (5000, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"", 0),
    "slow bodies": (2000, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"z", 1),
    "idle connections": (5000, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"", 0),
}


@pytest.mark.full
@pytest.mark.parametrize(("count", "data", "more", "size"), ATTACKS.values(), ids=ATTACKS)
def test_visitors_are_answered_while_clients_never_finish(
    edge: Edge, count: int, data: bytes, more: bytes, size: int
) -> None:
    """From one machine, and twice over: what a client holds is small and given back, so the edge's memory suffices."""
    before = edge.state()
    for _ in range(2):
        with clients(edge, count, data, more, size):
            wait_until(lambda: edge.ask() == 200, what="the first clients to be let go")
            answers = [edge.ask() for _ in range(20)]
            assert answers == [200] * 20

    assert before == edge.state() == (True, False, before[2])


def test_the_log_holds_no_headers_and_no_query_and_the_clients_own_address(edge: Edge) -> None:
    """The client is believed about nothing; the service believes the edge, and nobody else."""
    secret = {"X-Api-Key": "hunter2", "Authorization": "hunter2", "Cookie": "hunter2", "X-Forwarded-For": "203.0.113.9"}
    assert edge.ask("/?token=hunter2", secret) == 200
    assert edge.ask("/nothing?token=hunter2", {"X-Large": "x" * 7000, **secret}) == 404

    for container in (edge.name, edge.web):
        logged = run(["docker", "logs", container])
        assert "hunter2" not in logged.stdout + logged.stderr
        assert max(map(len, logged.stdout.splitlines())) < 1000
    at_the_edge = {line["request"]["remote_ip"] for line in edge.lines(edge.name)}
    at_the_service = {line["client"] for line in edge.lines(edge.web) if line["client"] != "127.0.0.1"}
    assert at_the_service == at_the_edge
    assert "203.0.113.9" not in at_the_edge


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "//readyz", "/%72eadyz", "/READYZ", "/readyz?x"])
def test_the_probes_are_not_for_visitors(edge: Edge, path: str) -> None:
    """How the service is doing is asked inside the stack."""
    assert edge.ask(path) == 404
