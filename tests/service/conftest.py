"""What the tests of the service share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import build_image
from conftest import need
from friendlyhello import counter
from lib import engine
from lib import service as service_of
from lib.command import run
from lib.names import checked_out
from lib.registry import LocalImage
from service.running import LIMIT, ROOT, RedisServer, Service
from support import ports


@pytest.fixture(scope="session")
def image() -> Iterator[LocalImage]:
    """The image of this work tree, for every platform, under a name of the tests' own."""
    this = service_of.load(ROOT)
    need(not engine.problems(engine.look(), this.platforms), "a Docker Engine that can run the pipeline")
    name = f"{this.name}-test-{os.getpid()}:good"
    yield build_image.build(name, this.platforms, checked_out())
    run(["docker", "image", "rm", "--force", name], check=False)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis server, empty, with a port of its own."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start the service under gunicorn, any number of times, and stop it after the test."""
    services: list[Service] = []

    def start(*options: str, **environment: str) -> Service:
        folder = tmp_path / f"service-{len(services)}"
        folder.mkdir()
        services.append(Service(folder, options, **environment))
        return services[-1]

    yield start
    for service in services:
        service.stop(signal.SIGINT)


@pytest.fixture
def service(redis_server: RedisServer, serve: Callable[..., Any]) -> Service:
    """The service under gunicorn, with a real Redis."""
    started: Service = serve(REDIS_URL=redis_server.url)
    return started


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give Redis and the page more time than a busy machine needs; call it with other seconds for Redis' answers."""

    def give(seconds: float) -> None:
        monkeypatch.setattr(counter, "TIMEOUT", seconds)

    give(LIMIT)
    monkeypatch.setattr(counter, "PATIENCE", LIMIT)
    return give


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """What the service logs, while it runs in the test's own process."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logger = logging.getLogger("friendlyhello")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield records
    logger.setLevel(level)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on; the service's own belongs to whoever runs the tests."""
    return ports.free_port()
