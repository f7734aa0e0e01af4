"""Asking one question of servers that answer, fail, hang and never end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from lib import client
from lib.client import Answer, ask
from lib.command import Failure


@contextlib.contextmanager
def serving(*pieces: bytes, forever: bytes = b"") -> Iterator[str]:
    """A server that answers one request with some bytes, then with others without end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as link:
                while b"\r\n\r\n" not in link.recv(65536):
                    pass
                for piece in pieces:
                    link.sendall(piece)
                while forever:
                    link.sendall(forever)
                    if asked.wait(0.01):
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/page?x=1"
        asked.set()
        thread.join()


def test_an_answer() -> None:
    """Status, headers in lower case, and the text."""
    with serving(b"HTTP/1.1 404 No\r\nX-Revision: a:b\r\nContent-Length: 3\r\n\r\n\xc3\xa4\n") as address:
        answer = ask(address, headers={"X-Asked": "1"})
    assert answer == Answer(404, {"x-revision": "a:b", "content-length": "3"}, "ä\n")


def test_json() -> None:
    """What is JSON is read as such."""
    assert Answer(200, {}, '{"a": 1}').json() == {"a": 1}
    with pytest.raises(ValueError, match="Expecting value"):
        Answer(200, {}, "no").json()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"SSH-2.0\r\n", "GET /page failed: not an HTTP response: SSH-2.0"),
        (b"", "GET /page failed: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "GET /page failed: "),
    ],
)
def test_what_is_not_an_answer(text: bytes, sentence: str) -> None:
    """It is said in one sentence."""
    with serving(text) as address, pytest.raises(Failure, match=sentence):
        ask(address)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("http://[::1]/", "::1", 80),
        ("http://[::1]", "::1", 80),
        ("https://[::ffff:10.0.0.2]/", "::ffff:10.0.0.2", 443),
        ("http://[fd00::2]:4000/", "fd00::2", 4000),
        ("http://hello.example.org/", "hello.example.org", 80),
        ("https://hello.example.org", "hello.example.org", 443),
    ],
)
def test_who_is_asked(monkeypatch: pytest.MonkeyPatch, address: str, host: str, port: int) -> None:
    """The host and the port of the address; without one, the scheme's, whatever the host looks like."""
    asked = []

    def connect(where: tuple[str, int], *_: object) -> socket.socket:
        asked.append(where)
        raise OSError("not now")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Failure, match="not now"):
        ask(address)
    assert asked == [(host, port)]


@pytest.mark.parametrize("address", ["http://[::1/", "http://localhost:99999/", "http://localhost:x/"])
def test_what_is_not_an_address(address: str) -> None:
    """It is quoted, and nobody is asked."""
    with pytest.raises(Failure, match="is not an address"):
        ask(address)


def test_nobody_listens() -> None:
    """Neither is there an answer."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Failure, match=r"GET / failed: .*refused"):
        ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",
    ],
    ids=["headers", "body", "until the end", "status"],
)
def test_an_answer_that_never_ends(begin: bytes) -> None:
    """One deadline holds for the whole question, however slowly the bytes come."""
    with serving(begin, forever=b"a") as address, pytest.raises(Failure, match=r"no whole answer within 0\.3 s"):
        ask(address, seconds=0.3)


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much of it is read and no more."""
    monkeypatch.setattr(client, "LIMIT", 1000)
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", forever=b"a" * 999) as address:
        assert ask(address) == Answer(200, {}, "a" * 1000)


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says: the server is asked itself."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as address:
        assert ask(address).status == 200
