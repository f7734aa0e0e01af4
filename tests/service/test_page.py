"""What the service answers, with a Redis that lives in the test's own memory."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable

import fakeredis
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from friendlyhello import create_app
from friendlyhello.config import Config
from friendlyhello.views import build_app
from service.running import wait_until

pytestmark = pytest.mark.usefixtures("patient")

NO_COUNT = "<i>cannot connect to Redis, counter disabled</i>"


@pytest.fixture
def database() -> fakeredis.FakeServer:
    """A Redis in memory; `connected` can be switched off."""
    return fakeredis.FakeServer()


@pytest.fixture
def make(database: fakeredis.FakeServer) -> Callable[..., Flask]:
    """Make the application with the settings of a test."""
    return lambda **settings: build_app(Config(**settings), fakeredis.FakeRedis(server=database))


@pytest.fixture
def browser(make: Callable[..., Flask]) -> FlaskClient:
    """A client of the application with the default settings."""
    return make(revision="0123abc").test_client()


def expected(name: str, visits: str) -> str:
    """Return the page, written out."""
    return f"<h3>Hello {name}!</h3><b>Hostname:</b> {socket.gethostname()}<br/><b>Visits:</b> {visits}"


def test_the_page_greets_and_counts(browser: FlaskClient) -> None:
    """The first visit is number 1, the next one 2."""
    first, second = browser.get("/"), browser.get("/")

    assert (first.status_code, first.content_type) == (200, "text/html; charset=utf-8")
    assert (first.text, second.text) == (expected("world", "1"), expected("world", "2"))


def test_a_name_is_text_not_html(make: Callable[..., Flask]) -> None:
    """What NAME holds is shown as it is and never becomes part of the page's code."""
    page = make(name="<script>alert('x')</script> & \"co\"").test_client().get("/").text

    assert page == expected("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;co&quot;", "1")


@given(name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_no_name_adds_a_tag(name: str) -> None:
    """Whatever the name, the page has its own tags and no other."""
    page = build_app(Config(name=name), fakeredis.FakeRedis()).test_client().get("/").text

    assert re.findall(r"<[^>]*>", page) == ["<h3>", "</h3>", "<b>", "</b>", "<br/>", "<b>", "</b>"]


def test_the_page_without_redis_says_so(browser: FlaskClient, database: fakeredis.FakeServer) -> None:
    """A page without Redis is a page."""
    database.connected = False

    assert browser.get("/").text == expected("world", NO_COUNT)
    assert browser.get("/").status_code == 200


def test_counting_continues_when_redis_is_back(browser: FlaskClient, database: fakeredis.FakeServer) -> None:
    """Nothing has to be restarted, and no visit is missing from the count."""
    assert browser.get("/").text == expected("world", "1")
    database.connected = False
    assert browser.get("/").text == expected("world", NO_COUNT)
    database.connected = True

    page = wait_until(lambda: NO_COUNT not in (text := browser.get("/").text) and text, what="the count")

    assert page == expected("world", "2")


def test_looking_at_the_head_does_not_count(browser: FlaskClient) -> None:
    """HEAD has the headers that GET would have, and no body, and does not count as a visit."""
    browser.get("/")
    head = browser.head("/")

    assert (head.status_code, head.text) == (200, "")
    assert head.content_length == len(expected("world", "1"))
    assert browser.get("/").text == expected("world", "2")


def test_health_does_not_need_redis(browser: FlaskClient, database: fakeredis.FakeServer) -> None:
    """The process is up, whatever Redis does."""
    database.connected = False
    answer = browser.get("/healthz")

    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_readiness_is_redis(browser: FlaskClient, database: fakeredis.FakeServer) -> None:
    """Ready means that Redis counts; asking is not a visit. The reason is in the log, not in the answer."""
    ready = browser.get("/readyz")
    database.connected = False
    unready = browser.get("/readyz")

    assert (ready.status_code, ready.json) == (200, {"status": "ok", "redis": "ok"})
    assert (unready.status_code, unready.json) == (503, {"status": "degraded", "redis": "unavailable"})
    database.connected = True
    wait_until(lambda: browser.get("/readyz").status_code == 200, what="readiness")
    assert browser.get("/").text == expected("world", "1")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/nothing-here", 404, "404 Not Found\n"),
        ("GET", "/healthz/", 404, "404 Not Found\n"),
        ("POST", "/", 405, "405 Method Not Allowed\n"),
        ("DELETE", "/healthz", 405, "405 Method Not Allowed\n"),
    ],
)
def test_mistakes_are_answered_in_plain_text(
    browser: FlaskClient, method: str, path: str, status: int, text: str
) -> None:
    """No HTML, no redirect, no hint at what runs behind."""
    answer = browser.open(path, method=method)

    assert (answer.status_code, answer.text, answer.mimetype) == (status, text, "text/plain")


def test_the_methods_that_work_are_named(browser: FlaskClient) -> None:
    """OPTIONS lists them, and so does the answer to a method that does not work."""
    assert set(browser.options("/").allow) == set(browser.post("/").allow) == {"GET", "HEAD", "OPTIONS"}


def test_an_error_is_logged_once_with_the_requests_id_and_not_shown(
    make: Callable[..., Flask], log: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the page learns the id to ask about, and nothing of the error."""
    monkeypatch.setattr("friendlyhello.counter.Counter.add", lambda *_: 1 / 0)
    answer = make().test_client().get("/")

    assert (answer.status_code, answer.text) == (500, "500 Internal Server Error\n")
    assert answer.headers["X-Request-Id"]
    assert answer.headers["X-Revision"] == "unknown"
    (record,) = log
    assert "ZeroDivisionError" in str(record.exc_info)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/nothing-here"])
def test_every_answer_carries_the_revision_and_the_security_headers(browser: FlaskClient, path: str) -> None:
    """A redeploy sees which version answers; a browser is told to keep the page to itself."""
    headers = browser.get(path).headers

    assert headers["X-Revision"] == "0123abc"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("trusted", "given_id", "kept"),
    [
        ((), "abc-1", False),
        (("127.0.0.1",), "abc-1", True),
        (("127.0.0.1",), 'a"b', False),
        (("127.0.0.1",), "", False),
    ],
)
def test_a_request_keeps_the_id_that_a_trusted_proxy_gave_it(
    make: Callable[..., Flask], trusted: tuple[str, ...], given_id: str, kept: bool
) -> None:
    """Anybody else's request gets a new id, and so does one with an id that could not stand in a log."""
    client = make(trusted_proxies=trusted).test_client()
    answers = [client.get("/", headers={"X-Request-Id": given_id}).headers["X-Request-Id"] for _ in range(2)]

    assert (answers == [given_id, given_id]) == kept
    assert kept or answers[0] != answers[1]


def test_the_application_is_configured_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """create_app() is all that a WSGI server needs to know."""
    monkeypatch.setenv("NAME", "friend")
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere.sock")

    assert create_app().test_client().get("/").text == expected("friend", NO_COUNT)
