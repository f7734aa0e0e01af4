"""Asking the page through the edge."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest

from lib.command import Failure, wait_until
from lib.visit import answer, visit_until


class Page(http.server.BaseHTTPRequestHandler):
    """A page whose answers come from a list; the last one is given for ever."""

    answers: ClassVar[list[tuple[int, str]]] = []

    def do_GET(self) -> None:
        """Answer."""
        status, revision = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.send_header("X-Revision", revision)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    """Where the page is."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_every_answer_has_to_carry_the_new_revision(page: str) -> None:
    """An old answer in between starts the row again."""
    Page.answers = [(200, "old"), (200, "new"), (200, "old"), (200, "new")]

    visit_until(page, "new", answers=3, seconds=300)

    assert len(Page.answers) == 1


def test_errors_of_the_release_itself_are_not_waited_out(page: str) -> None:
    """The version before may answer with errors, and one of the new version's may be chance."""
    Page.answers = [(500, "old"), (502, "old"), (500, "new"), (200, "new"), (503, "new"), (200, "new")]

    with pytest.raises(Failure, match="does not answer with revision new: status 503, revision new"):
        visit_until(page, "new", answers=3, seconds=3600)

    assert len(Page.answers) == 1


@pytest.mark.parametrize(("status", "revision"), [(200, "old"), (500, "new"), (200, "")])
def test_a_wrong_answer_fails_with_what_was_found(page: str, status: int, revision: str) -> None:
    """The address, the status and the revision are in the sentence."""
    Page.answers = [(status, revision)]

    with pytest.raises(Failure, match=f"does not answer with revision new: status {status}"):
        visit_until(page, "new", answers=3, seconds=0)


def test_nobody_at_the_edge_is_a_failure_with_a_reason() -> None:
    """No traceback for a refused connection."""
    with pytest.raises(Failure, match="Connection refused"):
        visit_until("http://127.0.0.1:1/", "new", answers=1, seconds=0)


@pytest.fixture
def talker() -> Iterator[Callable[[Sequence[bytes]], str]]:
    """A server that sends each visitor some bytes, and the last of them again and again until the visitor leaves."""
    servers: list[socket.socket] = []

    def talk(connection: socket.socket, said: Sequence[bytes]) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for part in said[:-1]:
                connection.sendall(part)
            while said[-1]:
                connection.sendall(said[-1])
            connection.recv(65536)  # silence, until the visitor leaves

    def listen(said: Sequence[bytes]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=talk, args=(server.accept()[0], said), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield listen
    for server in servers:
        server.close()


OK = b"HTTP/1.1 200 OK\r\nX-Revision: new\r\n"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ([b""], 0),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], 0),
        ([OK, b""], 0),
        ([OK + b"Content-Length: 9\r\n\r\npage", b""], 0),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npage\r\n", b""], 0),
        ([OK, b"X-More: 1\r\n"], 0),
        ([OK + b"\r\n", b"page" * 1000], 200),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\npage\r\n"], 200),
        ([OK + b"Content-Length: 99999999999\r\n\r\n", b"page" * 1000], 200),
    ],
    ids=["silent", "continues", "headers", "body", "chunks", "many-headers", "endless", "endless-chunks", "too-long"],
)
def test_a_page_that_never_ends(talker: Callable[[Sequence[bytes]], str], said: Sequence[bytes], status: int) -> None:
    """It is left after one deadline for the whole question, or as soon as there is enough of it."""
    address = talker(said)

    found = answer(address, seconds=300 if status else 1)

    assert found.status == status
    assert status or "no whole answer within 1 s" in str(found) or "got more than 100 headers" in str(found)
    threads = {thread for thread in threading.enumerate() if thread.name == address}
    wait_until(lambda: not any(thread.is_alive() for thread in threads), seconds=300, what="the question to end")


def test_a_question_has_one_deadline() -> None:
    """A page that sends a byte now and then does not get more time with each of them."""
    drip = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield OK + b"Content-Length: 1000000\r\n\r\n"
        while not drip.wait(0.05):
            yield b"x"

    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection = server.accept()[0]
        with connection, contextlib.suppress(OSError):
            for part in slowly():
                connection.sendall(part)

    threading.Thread(target=serve, daemon=True).start()
    try:
        found = answer(f"http://127.0.0.1:{server.getsockname()[1]}/", seconds=0.5)
        assert str(found) == "GET /: no whole answer within 0.5 s"
    finally:
        drip.set()
        server.close()
