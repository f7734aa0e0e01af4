"""What the service tells those who run it: its logs and its numbers."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from gunicorn.config import Config as GunicornConfig

from friendlyhello.log import JsonFormatter, Logger, request_id
from service.running import RedisServer, Service, ask, wait_until
from support.ports import free_port


def test_a_request_is_one_line_of_json(serve: Callable[..., Service], redis_server: RedisServer) -> None:
    """With the id that the answer carries, its duration in seconds and the revision, and without query and headers."""
    service = serve(REDIS_URL=redis_server.url, REVISION="0123abc", FORWARDED_ALLOW_IPS="127.0.0.1")
    start = time.monotonic()
    answer = service.get("/?token=hunter2", headers={"X-Forwarded-For": "203.0.113.9", "X-Api-Key": "hunter2"})
    entry = wait_until(lambda: [line for line in service.requests() if line["target"] == "/"], what="the line")[0]

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert 0 < entry.pop("seconds") < time.monotonic() - start
    assert entry.pop("process") in service.workers()
    assert entry == {
        "client": "203.0.113.9",
        "method": "GET",
        "target": "/",
        "status": 200,
        "bytes": len(answer.text),
        "request_id": answer.headers["X-Request-Id"],
        "revision": "0123abc",
    }


def test_everything_else_is_json_as_well(service: Service) -> None:
    """gunicorn's own lines and the service's have the same shape."""
    for entry in service.errors():
        assert entry.keys() >= {"time", "level", "message", "process", "revision"}


def test_an_exception_is_one_line_with_the_requests_id() -> None:
    """The traceback is in the line, and the line can be found by the id that the client was given."""
    token = request_id.set("abc-1")
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("friendlyhello", logging.ERROR, __file__, 1, "broken\n%s", ("x",), sys.exc_info())
    line = JsonFormatter("0123abc").format(record)
    request_id.reset(token)

    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["message"], entry["request_id"], entry["level"]) == ("broken\nx", "abc-1", "error")
    assert "ValueError: no" in entry["error"]


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn's and the service's loggers, as they were again after the test."""
    for name in ("gunicorn.error", "gunicorn.access", "friendlyhello"):
        for attribute, value in (("handlers", []), ("propagate", True), ("level", logging.NOTSET)):
            monkeypatch.setattr(logging.getLogger(name), attribute, value)


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_on_a_terminal_gets_plain_lines(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """JSON is for machines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    settings = GunicornConfig()
    settings.set("accesslog", "-")
    logger = Logger(settings)
    logger.error("something\x1b happened")
    response = SimpleNamespace(status="200 OK", sent=61)
    environ = {"REMOTE_ADDR": "127.0.0.1", "REQUEST_METHOD": "GET", "RAW_URI": "/\x1b", "friendlyhello.request_id": "i"}
    logger.access(response, None, environ, SimpleNamespace(total_seconds=lambda: 0.0012))  # type: ignore[arg-type]
    out, err = capfd.readouterr()

    if terminal:
        assert out.endswith(" 127.0.0.1 GET '/\\x1b' 200 0.0012 s i\n")
        assert "[ERROR] something" in err
    else:
        assert json.loads(out)["target"] == "/\x1b"
        assert json.loads(err)["message"] == "something\x1b happened"


@pytest.mark.usefixtures("loggers")
def test_requests_are_not_logged_where_that_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    """gunicorn's own --access-logfile, naming a file, takes them away from standard output."""
    logger = Logger(GunicornConfig())
    logger.access(None, None, {}, None)  # type: ignore[arg-type]

    assert capsys.readouterr().out == ""


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Two ports that nobody listens on: metrics have to know theirs beforehand."""
    return free_port(), free_port()


def numbers(text: str) -> dict[str, float]:
    """Return the samples of a page of metrics."""
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    }


def test_metrics_are_off_unless_asked_for(service: Service) -> None:
    """There is no such page."""
    assert service.get("/metrics").status == 404


def test_metrics_add_up_over_workers_and_survive_them(
    redis_server: RedisServer, serve: Callable[..., Service], free_ports: tuple[int, int]
) -> None:
    """Whichever worker is asked, and also after one was killed, every request is in the numbers once."""
    port, metrics_port = free_ports
    service = serve(
        "--bind", f"127.0.0.1:{port}", "--bind", f"127.0.0.1:{metrics_port}",
        REDIS_URL=redis_server.url, METRICS_PORT=str(metrics_port),
    )  # fmt: skip
    for _ in range(20):
        ask(port)
    ask(port, "/made-up")
    ask(port, method="BREW")
    killed, _ = service.workers()
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: killed not in service.workers() and len(service.workers()) == 2 and service.every_worker_answers(),
        what="the new worker",
    )
    samples = wait_until(
        lambda: (found := numbers(ask(metrics_port).text))["friendlyhello_redis_up"] == 1 and found, what="Redis"
    )

    assert samples["friendlyhello_visits_total"] == 20
    assert samples['friendlyhello_requests_total{method="GET",path="/",status="200"}'] == 20
    assert samples['friendlyhello_requests_total{method="GET",path="other",status="404"}'] == 1
    assert samples['friendlyhello_requests_total{method="other",path="/",status="405"}'] == 1
    assert samples['friendlyhello_request_seconds_count{path="/"}'] == 21
    assert ask(port, "/metrics").status == 404
    assert ask(port, "/metrics", headers={"Host": f"127.0.0.1:{metrics_port}"}).status == 404


def test_metrics_tell_that_redis_is_down(
    redis_server: RedisServer, serve: Callable[..., Service], free_ports: tuple[int, int]
) -> None:
    """The number is 1 while it counts and 0 while it does not."""
    port, metrics_port = free_ports
    serve(
        "--bind", f"127.0.0.1:{port}", "--bind", f"127.0.0.1:{metrics_port}",
        REDIS_URL=redis_server.url, METRICS_PORT=str(metrics_port), WEB_CONCURRENCY="1",
    )  # fmt: skip
    redis_server.stop()
    ask(port)

    assert numbers(ask(metrics_port).text)["friendlyhello_redis_up"] == 0
    redis_server.start()
