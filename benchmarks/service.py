#!/usr/bin/env python3
"""How fast is the service: against the usual ways to serve its page, in one run, as ratios.

Needs wrk and redis-server (Debian: apt-get install wrk redis-server). Takes about five minutes, and loads nothing but
this machine's loopback. Everything is measured in turn, round after round, and the medians are shown, so that a busy
machine disturbs all of it alike. Prints tables in Markdown, and draws the first one as an SVG.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import check  # noqa: E402
from lib import service  # noqa: E402
from lib.command import Failure, parser, run, say, start, wait_until  # noqa: E402
from measuring import Load, load_command, machine, parse, table  # noqa: E402

VISITORS = ROOT / "tests/swarm/load.py"
IMAGE = service.load().image
SLOW = 1000
CONNECTIONS = (1, 32, 256, 1000)
SERVICE = "friendlyhello"
PLAIN = "gunicorn, 4 sync workers"
ORIGINAL = "python app.py"
LIMIT = "no page, same server"
RIVALS = {
    SERVICE: ["-m", "friendlyhello", "--bind", "127.0.0.1:{port}"],
    PLAIN: ["-m", "gunicorn", "--no-control-socket", "-w", "4", "--bind", "127.0.0.1:{port}", "service_rivals:app"],
    ORIGINAL: ["benchmarks/service_rivals.py", "{port}"],
    LIMIT: [
        *("-m", "gunicorn", "--config", "python:friendlyhello.gunicorn_conf"),
        *("--bind", "127.0.0.1:{port}", "service_rivals:bare"),
    ],
}


def median(loads: Sequence[Load]) -> Load:
    """Return the middle of several measurements; failures are added up."""
    rate, p50, p99 = (statistics.median(getattr(load, name) for load in loads) for name in ("rate", "p50", "p99"))
    return Load(rate, p50, p99, sum(load.failed for load in loads))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether the page is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)  # whatever proxies are set
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def running(command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[int]:
    """Run a server until the end of the block, and yield its process id once it answers."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'benchmarks'}", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or answers(port), what=f"port {port}")
        if process.poll() is not None:
            raise Failure(f"a server ended with {process.returncode}: {' '.join(command)}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextlib.contextmanager
def rivals(python: str, names: Sequence[str], redis_url: str) -> Iterator[dict[str, tuple[int, int]]]:
    """Run several servers at once, and yield the port and the process id of each."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name in names:
            port = free_port()
            command = [python, *(word.format(port=port) for word in RIVALS[name])]
            started[name] = (port, stack.enter_context(running(command, port, {"REDIS_URL": redis_url})))
        yield started


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis that keeps nothing, and yield its address."""
    port = free_port()
    with TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: accepts(port), what="Redis")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield the address of a Redis whose packets are all dropped: the kernel does that when a queue is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def measure(servers: dict[str, tuple[int, int]], connections: int, rounds: int, seconds: float) -> dict[str, Load]:
    """Load the servers in turn, several rounds, and return the middle of each."""
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for number in range(rounds):
        say(f"{connections} connections, round {number + 1} of {rounds}")
        for name, (port, _) in servers.items():
            loads[name].append(parse(run(load_command(port, connections, seconds)).stdout))
    return {name: median(found) for name, found in loads.items()}


def offered(servers: dict[str, tuple[int, int]], rate: int, rounds: int, seconds: float) -> dict[str, Load]:
    """Ask the servers at the same rate, below what any of them can do, and return the middle of each."""
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for number in range(rounds):
        say(f"{rate} requests/s, round {number + 1} of {rounds}")
        for name, (port, _) in servers.items():
            command = [sys.executable, str(VISITORS), "127.0.0.1", str(port), "--connections", "32"]
            seen = json.loads(run([*command, "--rate", str(rate), "--seconds", f"{seconds:g}"]).stdout)
            loads[name].append(Load(seen["requests"] / seen["seconds"], seen["p50"], seen["p99"], seen["failed"]))
    return {name: median(found) for name, found in loads.items()}


@contextlib.contextmanager
def slow_clients(port: int, count: int) -> Iterator[None]:
    """Have clients connected that never finish their request, for as long as the server bears with them."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: slow\r\n")
        yield


def container_seconds(rounds: int) -> tuple[float, float]:
    """Return the seconds from `docker run` to the first page, and of `docker run` importing Flask and redis-py."""
    service, imports = [], []
    for _ in range(rounds):
        port = free_port()
        begin = time.monotonic()
        container = run(
            ["docker", "run", "--rm", "--detach", "--publish", f"127.0.0.1:{port}:80", IMAGE]
        ).stdout.strip()
        try:
            while not answers(port):
                if time.monotonic() - begin > 60:
                    raise Failure("the container does not answer; see docker logs")
                time.sleep(0.005)
            service.append(time.monotonic() - begin)
        finally:
            run(["docker", "rm", "--force", container], check=False)
        begin = time.monotonic()
        run(["docker", "run", "--rm", IMAGE, "python", "-c", "import flask, redis"])
        imports.append(time.monotonic() - begin)
    return statistics.median(service), statistics.median(imports)


def memory(pid: int) -> list[int]:
    """Return the bytes that each worker of a server takes, what it shares being divided up."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{child}/smaps_rollup").read_text() for child in children]
    return [int(found[1]) * 1024 for text in texts if (found := re.search(r"^Pss:\s+([0-9]+)", text, re.MULTILINE))]


def start_seconds(python: str, redis_url: str, rounds: int) -> tuple[float, float]:
    """Return the seconds from starting the service to its first page, and those of importing Flask and redis-py."""
    service, imports = [], []
    for _ in range(rounds):
        port = free_port()
        begin = time.monotonic()
        command = [python, *(word.format(port=port) for word in RIVALS[SERVICE])]
        with running(command, port, {"REDIS_URL": redis_url}):
            service.append(time.monotonic() - begin)
        begin = time.monotonic()
        run([python, "-c", "import flask, redis"])
        imports.append(time.monotonic() - begin)
    return statistics.median(service), statistics.median(imports)


def comparison(results: dict[int, dict[str, Load]]) -> str:
    """Return the table of all servers at all numbers of connections."""
    rows = [
        [
            *(str(connections), name, f"{load.rate:,.0f}", f"{load.p50:.1f}", f"{load.p99:.1f}", str(load.failed)),
            *(f"{load.rate / loads[rival].rate:.2f}" for rival in (PLAIN, ORIGINAL)),
        ]
        for connections, loads in results.items()
        for name, load in loads.items()
    ]
    head = ["connections", "server", "requests/s", "p50 ms", "p99 ms", "failed"]
    return table([*head, f"times {PLAIN}", f"times {ORIGINAL}"], rows)


def plot(results: dict[int, dict[str, Load]], caption: str) -> str:
    """Return an SVG with the requests a second of each server, a group of bars for each number of connections."""
    colours = dict(zip(RIVALS, ("#2563eb", "#94a3b8", "#cbd5e1", "#e2e8f0"), strict=True))
    highest = max(load.rate for loads in results.values() for load in loads.values())
    left, base, height, bar = 60, 270, 220, 34
    parts = []
    for group, (connections, loads) in enumerate(results.items()):
        x = left + group * (len(RIVALS) * bar + 24)
        label = f"{connections} connection{'s' if connections > 1 else ''}"
        parts.append(f'<text x="{x + 2 * bar}" y="{base + 18}" text-anchor="middle">{label}</text>')
        for place, (name, load) in enumerate(loads.items()):
            size = load.rate / highest * height
            middle = x + place * bar + bar / 2
            parts.append(
                f'<rect x="{x + place * bar}" y="{base - size:.1f}" width="{bar - 4}" height="{size:.1f}" '
                f'fill="{colours[name]}"><title>{name}: {load.rate:,.0f} requests/s</title></rect>'
                f'<text x="{middle - 2}" y="{base - size - 4:.1f}" text-anchor="middle">{load.rate / 1000:.1f}k</text>'
            )
    for place, (name, colour) in enumerate(colours.items()):
        x = left + place * 165
        parts.append(
            f'<rect x="{x}" y="306" width="12" height="12" fill="{colour}"/><text x="{x + 17}" y="316">{name}</text>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 350" font-family="sans-serif" font-size="11">'
        '<rect width="760" height="350" fill="white"/><text x="60" y="24" font-size="15">Requests a second</text>'
        + "".join(parts)
        + f'<text x="60" y="340" fill="#64748b">{caption}</text></svg>\n'
    )


def main(argv: Sequence[str]) -> int:
    """Measure, print, draw."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=3, help="how long each load lasts (default: %(default)s)")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is repeated (default: %(default)s)")
    arguments.add_argument("--svg", type=Path, default=ROOT / "benchmarks/service.svg", help="where to draw")
    options = arguments.parse_args(argv)
    for name in ("wrk", "redis-server"):
        if shutil.which(name) is None:
            raise Failure(f"no {name} on this machine; run apt-get install wrk redis-server")
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    python = str(check.make_environment(ROOT / ".venv") / "python")

    with redis_server() as redis_url:
        with rivals(python, list(RIVALS), redis_url) as servers:
            results = {
                connections: measure(servers, connections, options.rounds, options.seconds)
                for connections in CONNECTIONS
            }
            rate = int(results[32][PLAIN].rate / 200) * 100
            same = offered({name: servers[name] for name in (SERVICE, PLAIN)}, rate, options.rounds, options.seconds)
            with slow_clients(servers[SERVICE][0], SLOW):
                slow = parse(run(load_command(servers[SERVICE][0], 32, 3)).stdout)
            sizes = {name: memory(pid) for name, (_, pid) in servers.items() if name in (SERVICE, PLAIN)}
        service, imports = start_seconds(python, redis_url, options.rounds)
        with black_hole() as hole:
            addresses = {
                "up": redis_url,
                "refused": f"redis://127.0.0.1:{free_port()}/0",
                "unresolvable": "redis://redis.invalid:6379/0",
                "black-holed": hole,
            }
            with contextlib.ExitStack() as stack:
                servers = {
                    name: stack.enter_context(rivals(python, [SERVICE], address))[SERVICE]
                    for name, address in addresses.items()
                }
                outages = measure(servers, 32, options.rounds, options.seconds)

    print(f"Measured on {machine()}, {options.rounds} rounds of {options.seconds:g} s each; medians.\n")
    print(comparison(results) + "\n")
    rows = [
        [name, f"{load.rate:,.0f}", f"{load.p50:.1f}", f"{load.p99:.1f}", f"{load.rate / outages['up'].rate:.2f}"]
        for name, load in outages.items()
    ]
    print(table([f"{SERVICE}, 32 connections, Redis", "requests/s", "p50 ms", "p99 ms", "times up"], rows) + "\n")
    rows = [[name, f"{load.rate:,.0f}", f"{load.p50:.1f}", f"{load.p99:.1f}"] for name, load in same.items()]
    print(table(["the same rate for both, 32 connections", "requests/s", "p50 ms", "p99 ms"], rows) + "\n")
    print(f"Beside {SLOW} clients that never finish: {slow.rate:,.0f} requests/s, p99 {slow.p99:.1f} ms")
    for name, found in sizes.items():
        print(f"Memory of a worker, {name}: {statistics.mean(found) / 2**20:.0f} MiB")
    print(f"From start to the first page: {service:.2f} s, {service / imports:.2f} times importing Flask and redis-py")
    if run(["docker", "image", "inspect", IMAGE], check=False).returncode == 0:
        service, imports = container_seconds(options.rounds)
        print(f"From docker run to the first page: {service:.2f} s, {service / imports:.2f} times importing the same")
        size = int(run(["docker", "image", "inspect", "--format", "{{.Size}}", IMAGE]).stdout)
        print(f"Image: {size / 1e6:.1f} MB compressed, all platforms and the base")
    else:
        say(f"no {IMAGE} in an engine here: run scripts/build_image.py to have its start measured, too")
    options.svg.write_text(plot(results, f"wrk on loopback, {machine()}"), encoding="utf-8")
    say(f"drew {options.svg}")
    return 0


if __name__ == "__main__":
    start(main)
