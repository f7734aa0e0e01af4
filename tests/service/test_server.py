"""Does gunicorn run the service as it should: start, stop, limits, and what happens to workers."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import need_root
from friendlyhello import __main__ as command
from friendlyhello.resources import addresses
from friendlyhello.worker import Corked
from service.running import LIMIT, ROOT, Flood, Line, RedisServer, Service, ask, wait_until
from support.ports import free_port

UNFORCED = ("--graceful-timeout", str(10 * LIMIT))
"""With these options gunicorn does not end by force, within a test, what does not end by itself."""
GUNICORN = ["gunicorn", "--config", "python:friendlyhello.gunicorn_conf", "friendlyhello:create_app()"]


def test_the_service_counts_over_all_its_workers(service: Service) -> None:
    """Two workers, one count."""
    assert [service.get().visits for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("module", [["friendlyhello"], GUNICORN], ids=["python -m friendlyhello", "gunicorn"])
@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("NAME", "two\nlines", "error: NAME must be UTF-8 text without control characters, not 'two\\nlines'\n"),
        (
            "REDIS_URL",
            "redis://:hunter2@redis:port",
            "error: REDIS_URL must be a URL with a host and a port from 1 to 65535, not 'redis://***@redis:port'\n",
        ),
        ("METRICS_PORT", "x", "error: METRICS_PORT must be a number from 1 to 65535, not 'x'\n"),
        ("METRICS_PORT", "80", "error: METRICS_PORT must be another port than the service's own, not '80'\n"),
        ("REDIS_URL_FILE", "/dev/zero", "error: REDIS_URL_FILE must name a regular file, not '/dev/zero'\n"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_sentence(
    module: list[str], variable: str, value: str, sentence: str
) -> None:
    """No traceback, no worker that starts again and again, no password."""
    done = start_wrongly(module, {variable: value})

    errors = "".join(line for line in done.stderr.splitlines(keepends=True) if '"level": "info"' not in line)
    assert (done.returncode, done.stdout, errors) == (1, "", sentence)


def test_a_bad_number_of_workers_stops_the_start_with_one_sentence() -> None:
    """gunicorn by itself would answer with a traceback."""
    done = start_wrongly(["friendlyhello"], {"WEB_CONCURRENCY": "many"})

    assert (done.returncode, done.stderr) == (1, "error: WEB_CONCURRENCY must be a number from 1 to 256, not 'many'\n")


def settings_of_gunicorn() -> dict[str, Any]:
    """Return gunicorn's settings, read again from the environment."""
    sys.modules.pop("friendlyhello.gunicorn_conf", None)
    return runpy.run_module("friendlyhello.gunicorn_conf")


def start_wrongly(module: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the service with settings that cannot work, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *module],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_a_server_that_is_told_to_stop_finishes_what_is_in_flight(
    redis_server: RedisServer, serve: Callable[..., Service]
) -> None:
    """SIGTERM while a page waits for its number: the page comes, with its number, and the server is gone in seconds."""
    line = Line(redis_server.port)
    service = serve(REDIS_URL=line.url, WEB_CONCURRENCY="1")
    service.get()
    line.answers.clear()
    pages: list[int | None] = []
    visitor = threading.Thread(target=lambda: pages.append(service.get().visits))
    visitor.start()
    wait_until(lambda: redis_server.client.get("counter") == b"2", what="the visit")
    service.process.send_signal(signal.SIGTERM)
    line.answers.set()
    visitor.join()

    assert service.stop() == 0
    assert pages == [2]


def test_a_server_that_is_told_to_stop_while_a_worker_starts_does_not_wait_for_it(
    redis_server: RedisServer, serve: Callable[..., Service]
) -> None:
    """A worker that was killed has just been replaced; the new one, which knows no signals yet, ends all the same."""
    service = serve(*UNFORCED, REDIS_URL=redis_server.url)
    killed, _ = service.workers()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in service.workers() and len(service.workers()) == 2, what="a new worker")

    assert service.stop() == 0


def test_a_client_that_stays_connected_does_not_hold_up_the_stop(
    redis_server: RedisServer, serve: Callable[..., Service]
) -> None:
    """An idle connection is given as long as any other, which is well below the ten seconds of `docker stop`."""
    service = serve(*UNFORCED, REDIS_URL=redis_server.url)
    with socket.create_connection(("127.0.0.1", service.port)) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        assert service.stop() == 0

    assert settings_of_gunicorn()["keepalive"] <= 5


def test_a_killed_worker_is_replaced_and_no_visit_is_counted_twice(service: Service, redis_server: RedisServer) -> None:
    """Under load, with every worker killed in turn: the numbers shown are all different, and the service stays."""
    shown: list[int] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, ValueError):  # a request that a killed worker had
                if (visits := service.get().visits) is not None:
                    shown.append(visits)

    visitors = [threading.Thread(target=visit) for _ in range(8)]
    for visitor in visitors:
        visitor.start()
    for worker in service.workers():
        seen = len(shown)
        wait_until(lambda seen=seen: len(shown) > seen + 50, what="visits")  # type: ignore[misc]
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(service.workers()) == 2, what="new workers")
    seen = len(shown)
    wait_until(lambda: len(shown) > seen + 50, what="visits after that")
    stop.set()
    for visitor in visitors:
        visitor.join()

    assert len(set(shown)) == len(shown)
    assert int(redis_server.client.get("counter") or 0) >= max(shown)


@pytest.mark.parametrize("clients", [200, pytest.param(1000, marks=pytest.mark.full)])
def test_slow_clients_do_not_slow_the_others(
    redis_server: RedisServer, serve: Callable[..., Service], clients: int
) -> None:
    """While many clients send their headers a byte at a time, a normal one is served at once; they are let go."""
    service = serve("--keep-alive", "2", REDIS_URL=redis_server.url)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port))) for _ in range(clients)]
        for client in slow:
            client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert all(service.get().status == 200 for _ in range(200))
        for client in slow:
            with contextlib.suppress(OSError):
                client.sendall(b"z")
        for client in slow:
            client.settimeout(LIMIT)
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b"", "a slow client was answered"


@pytest.mark.parametrize("outage", ["refused", "mute", "flood"])
def test_pages_come_through_an_outage(serve: Callable[..., Service], outage: str) -> None:
    """With Redis refused, mute or flooding, the page comes and says so, the log does not fill up, and a stop works."""
    flood = Flood(b":", b"1" * 65536)
    with socket.create_server(("127.0.0.1", 0)) as mute, contextlib.closing(flood):
        urls = {"mute": f"redis://127.0.0.1:{mute.getsockname()[1]}", "flood": flood.url}
        service = serve(REDIS_URL=urls.get(outage, f"redis://127.0.0.1:{free_port()}"), WEB_CONCURRENCY="1")
        pages = [service.get() for _ in range(50)]
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.workers()[0]}/status").read_text())
        status = service.stop()

    assert status == 0
    assert peak is not None
    assert int(peak[1]) < 128 * 1024
    assert all("counter disabled" in page.text for page in pages)
    assert len([entry for entry in service.errors() if "Redis is unavailable" in entry["message"]]) == 1


def test_forwarded_headers_from_just_anybody_change_nothing(service: Service) -> None:
    """Neither the scheme nor the path nor who asked."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "SCRIPT_NAME": "/x", "X-Request-Id": "a"}
    answer = service.get("/healthz", headers=headers)
    entry = wait_until(lambda: service.requests()[-1:], what="the log")[0]

    assert answer.status == 200
    assert answer.headers["X-Request-Id"] != "a"
    assert entry["client"] == "127.0.0.1"


def test_the_page_answers_over_ipv4_and_ipv6(redis_server: RedisServer, serve: Callable[..., Service]) -> None:
    """An address of IPv4 is logged and trusted as such, whichever socket it came in over."""
    port = free_port()
    binds = [word for address in addresses(port) for word in ("--bind", address)]
    service = serve(*binds, REDIS_URL=redis_server.url, FORWARDED_ALLOW_IPS="127.0.0.1")
    hosts = ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
    for host in hosts:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        assert ask(port, f"/healthz?{host}", headers=forwarded, host=host).status == 200
    clients = {"127.0.0.1": "203.0.113.9", "::1": "::1"}
    wait_until(
        lambda: {clients[host] for host in hosts} <= {entry["client"] for entry in service.requests()}, what="the log"
    )


def test_a_network_of_ipv6_alone() -> None:
    """Where there is no address of IPv4 at all, the page is answered as anywhere else."""
    need_root("a network of its own")
    commands = "ip link set lo up && ip -4 address flush dev lo && ip address add fd00::2/128 dev lo"
    start = ["unshare", "--net", "sh", "-c", f'{commands} && exec "$@"', "sh", sys.executable, "-m", "friendlyhello"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NAME": "you", "REDIS_URL": "redis://[::1]/0"}
    with subprocess.Popen(start, env=environment) as process:
        try:
            enter = ["nsenter", f"--net=/proc/{process.pid}/ns/net"]
            command = [*enter, "curl", "--silent", "--noproxy", "*", "http://[fd00::2]/"]
            page = wait_until(
                lambda: subprocess.run(command, capture_output=True, text=True, check=False).stdout, what="the page"
            )
        finally:
            process.terminate()
    assert page.startswith("<h3>Hello you!</h3>")


def test_cookies_of_other_applications_fit_in(service: Service) -> None:
    """A page that shares its domain gets all of the domain's cookies; 8 KiB are usual, and more is refused."""
    assert service.get("/healthz", headers={"Cookie": "a=" + "b" * 8170}).status == 200
    assert service.get("/healthz", headers={"Cookie": "a=" + "b" * 8192}).status == 431


def test_no_version_is_told(service: Service) -> None:
    """The Server header names the program and nothing that helps to look up its weaknesses."""
    assert service.get().headers["Server"] == "gunicorn"


def test_a_response_is_sent_in_one_piece() -> None:
    """Headers and body leave together, before the next request is read or the connection ends."""
    near, far = socket.socketpair()
    with near, far:
        corked = Corked(near)
        far.sendall(b"next")
        corked.sendall(b"headers ")
        corked.sendall(b"body")
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(100)
        assert corked.recv(100) == b"next"
        assert far.recv(100) == b"headers body"
        corked.sendall(b"last")
        corked.close()
        assert far.recv(100) == b"last"
        assert corked.fileno() == -1


def test_settings_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """WEB_CONCURRENCY is the number of workers, metrics have their port and folder, which goes in the end."""
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    monkeypatch.setenv("METRICS_PORT", "9100")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    settings = settings_of_gunicorn()
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    assert folder.is_dir()
    settings["on_exit"](None)

    assert settings["workers"] == 3
    assert settings["bind"] == [*addresses(80), *addresses(9100)]
    assert not folder.exists()
    shutil.rmtree(folder, ignore_errors=True)


def test_settings_stop_a_bad_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of starting read the same settings."""
    monkeypatch.setenv("WEB_CONCURRENCY", "0")
    for start in (command.main, settings_of_gunicorn):
        with pytest.raises(SystemExit, match=r"error: WEB_CONCURRENCY must be a number from 1 to 256, not '0'"):
            start()


def test_options_are_gunicorns(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m friendlyhello` takes whatever gunicorn takes."""
    monkeypatch.setattr(sys, "argv", ["friendlyhello", "--bind", "127.0.0.1:4000"])
    monkeypatch.setattr("gunicorn.app.wsgiapp.run", lambda prog: None)
    command.main()

    assert sys.argv == ["friendlyhello", *GUNICORN[1:3], "--bind", "127.0.0.1:4000", GUNICORN[3]]


TURNS = """
from gevent import monkey
monkey.patch_all()
import gevent
from friendlyhello.resources import addresses
from friendlyhello.worker import Corked

class Ready:
    def recv(self, size):
        return b"x"

def serve(name):
    connection = Corked(Ready())
    for _ in range(3):
        connection.recv(1)
        print(name, end="")

gevent.joinall([gevent.spawn(serve, name) for name in "ab"])
"""


def test_a_fast_client_is_not_served_alone() -> None:
    """Two clients that always have something to read are served by turns."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", TURNS], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("ababab", "")
