"""What the tests run for real: a Redis server, the service under gunicorn, and a line between them that can be cut."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from conftest import need
from support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    """Return the path of a program; without it a test is skipped, or fails where nothing may be skipped."""
    path = shutil.which(name)
    need(path is not None, name)
    return str(path)


LIMIT = 300
"""Seconds after which something that should happen never will, however busy the machine is."""


def wait_until(ready: Callable[[], Any], *, what: str = "it") -> Any:
    """Poll until `ready` returns something true, and return that."""
    deadline = time.monotonic() + LIMIT
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"waited {LIMIT} s for {what}"
        time.sleep(0.02)
    return answer


class RedisServer:
    """A real Redis on a port of its own, which keeps its numbers over a restart. `more` is options of redis-server."""

    def __init__(self, folder: Path, **more: object) -> None:
        self._program = program("redis-server")
        self._folder = folder
        self._more = more
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "yes"}
        options.update(self._more)
        command = [self._program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, what="Redis")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        """Stop it for good, or until the next start."""
        self._process.terminate()
        self._process.wait()


def tls_redis(folder: Path) -> RedisServer:
    """Return a real Redis whose `url` is of TLS, with a certificate of its own for 127.0.0.1."""
    key, certificate, port = folder / "key.pem", folder / "certificate.pem", free_port()
    new = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*new, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = {"tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    server = RedisServer(folder, **options)
    server.url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    return server


@dataclass
class Answer:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def visits(self) -> int | None:
        """The number on the page, or None where it shows none."""
        found = re.search(r"<b>Visits:</b> ([0-9]+)$", self.text)
        return int(found[1]) if found else None


class Service:
    """The service under gunicorn on a loopback port that the system chose."""

    def __init__(self, folder: Path, options: tuple[str, ...] = (), **environment: str) -> None:
        self._folder = folder
        command = [sys.executable, "-m", "friendlyhello", "--bind", "127.0.0.1:0", *options]
        variables = {"PYTHONPATH": str(ROOT / "src"), "WEB_CONCURRENCY": "2", **environment}
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=out, stderr=err)
        try:
            (_, self.port), *self.more = wait_until(self._listening, what="the service")
            wait_until(self.every_worker_answers, what="an answer of every worker")
        except BaseException:
            self.stop()
            raise

    def _listening(self) -> list[tuple[str, int]]:
        assert self.process.poll() is None, (self._folder / "err").read_text()
        return [(host, int(port)) for host, port in re.findall(r"http://([0-9.]+):([0-9]+)", self.errors_text())]

    def every_worker_answers(self) -> bool:
        """Ask, and say whether every worker has answered by now."""
        with contextlib.suppress(OSError):
            assert self.get("/healthz").status == 200
        return {entry["process"] for entry in self.requests()} >= set(self.workers())

    def get(self, path: str = "/", method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        """Ask once, on a connection of its own."""
        return ask(self.port, path, method, headers)

    def errors_text(self) -> str:
        """Return what it wrote to standard error."""
        return (self._folder / "err").read_text(encoding="utf-8")

    def errors(self) -> list[dict[str, Any]]:
        """Return its log of all but requests."""
        return [json.loads(line) for line in self.errors_text().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        """Return its log of requests."""
        return [json.loads(line) for line in (self._folder / "out").read_text(encoding="utf-8").splitlines()]

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code. SIGINT does not wait for what is in flight."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def ask(
    port: int,
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    host: str = "127.0.0.1",
) -> Answer:
    """Send one HTTP request to a loopback port."""
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())


class Flood:
    """What listens as a Redis would, and sends the same again and again to whoever connects, as fast as it is read."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        self.sent: list[int] = []
        """The bytes that each connection took, once it is closed."""
        threading.Thread(target=self._accept, args=(start, more), daemon=True).start()

    def _accept(self, start: bytes, more: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._send, args=(client, start, more), daemon=True).start()

    def _send(self, client: socket.socket, start: bytes, more: bytes) -> None:
        sent = 0
        with client, contextlib.suppress(OSError):
            client.recv(100)
            sent = client.send(start)
            while more:
                sent += client.send(more)
            client.recv(100)
        self.sent.append(sent)

    def close(self) -> None:
        """Let go of the port."""
        self._server.close()


class Line:
    """A line to Redis: a proxy on a port of its own, whose answers can be held back, and whose connections dropped."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._dropped = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        self.answers = threading.Event()
        self.answers.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._last = near, far
                up = threading.Thread(target=self._pump, args=(near, far, None, self._dropped), daemon=True)
                down = threading.Thread(
                    target=self._pump, args=(far, near, self.answers, self._dropped, up), daemon=True
                )
                self._pumps = [up, down]
                for pump in self._pumps:
                    pump.start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        gate: threading.Event | None,
        dropped: threading.Event,
        other: threading.Thread | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if gate is not None:
                    gate.wait()
                if not dropped.is_set():
                    sink.sendall(data)
        for end in (source, sink):  # wakes the other pump: a socket that is closed while it is read from would not
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
        if other is not None:
            other.join()
            source.close()
            sink.close()

    def drop(self) -> None:
        """Lose whatever is sent over the connections that there are, without a word to either end, as a NAT does."""
        self._dropped.set()
        self._dropped = threading.Event()

    def reset(self) -> None:
        """End the last connection with a reset, as a firewall does, or a Redis that was killed: RFC 9293, 3.5.2."""
        near, far = self._last
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (far, near):  # ends the pumps, which then close both
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
        for pump in self._pumps:
            pump.join()

    def close(self) -> None:
        """Let go of the port."""
        self._server.close()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port where connecting neither succeeds nor fails: its queue is full, so the kernel drops every packet."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])
