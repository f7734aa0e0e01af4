"""Whatever a registry answers, to whatever question: an answer that can be believed, or one sentence."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable

import pytest

from lib import access, distribution, registry
from lib.command import Failure
from lib.distribution import Login
from lib.names import ImageName

DIGEST = f"sha256:{'0' * 64}"
TAGS = "/v2/octo/hello/tags/list"


class Registry:
    """Answers every request with the same bytes, and then with `drip` for ever, on a port of its own."""

    def __init__(self, answer: bytes, drip: bytes = b"") -> None:
        self.answer = answer
        self.drip = drip
        self.requests = 0
        self._ended = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.image = ImageName(f"127.0.0.1:{self._server.getsockname()[1]}", "octo", "hello")

    def __enter__(self) -> Registry:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                link = self._server.accept()[0]
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(link,), daemon=True))
            self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += link.recv(65536) or b"\r\n\r\n"
            self.requests += 1
            link.sendall(self.answer.replace(b"HOST", self.image.registry.encode()))
            while self.drip and not self._ended.wait(0.01):
                link.sendall(self.drip)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return an HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def index(**entry: object) -> bytes:
    """Return an index with one entry, of which some is not as it should be."""
    right = {"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}
    return http("200 OK", json.dumps({"manifests": [{**right, **entry}]}).encode())


QUESTIONS: dict[str, Callable[[ImageName], object]] = {
    "index": lambda image: registry.index_of(image.tagged("1")),
    "digest": lambda image: registry.digest_at(image.tagged("1")),
    "blob": lambda image: registry.blob(image, DIGEST),
    "tags": lambda image: registry.tags_of(image, known=["1"]),
    "sizes": lambda image: registry.layer_sizes(image.tagged("1")),
    "shown": registry.is_shown,
    "public": lambda image: distribution.is_public(image, "manifests/1", accept=registry.MANIFESTS[0]),
    "access": lambda image: access.access(image, Login()),
    "rights": lambda image: access.access(image, Login("Basic b2N0bzp0")),
}

STATUSES = (
    *("201 Created", "202 Accepted", "204 No Content", "206 Partial Content", "300 Choices", "304 Not Modified"),
    *("400 Bad Request", "402 Payment Required", "407 Proxy", "408 Timeout", "429 Too Many Requests", "500 Error"),
    *("502 Bad Gateway", "503 Unavailable", "504 Gateway Timeout", "599 X", "999 X", "600"),
)
CHALLENGES = (
    *(
        "",
        "Negotiate",
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="https://[bad"',
        'Bearer realm="http://example.com/"',
    ),
    *('Bearer realm="http://localhost:99999/"', 'Bearer realm="http://HOST/token"', 'Digest realm="x"', "Basic"),
)
BODIES = (b"", b"<html>", b"[]", b"null", b"1", b'"x"', b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"\x1f\x8b")
ANSWERS = {
    **{status: http(status) for status in STATUSES},
    **{f"401 {asked}": http("401 No", b"{}", f"WWW-Authenticate: {asked}") for asked in CHALLENGES},
    **{f"403 {asked}": http("403 No", b"{}", f"WWW-Authenticate: {asked}") for asked in CHALLENGES[:2]},
    **{f"200 {body[:10]!r}": http("200 OK", body) for body in BODIES},
    **{
        f"307 {place}": http("307 There", b"", f"Location: {place}")
        for place in ("http://HOST/again", "http://[bad/", "file:///etc/passwd", "http://localhost:99999/", "\xe9", "")
    },
    "cut off": http("200 OK", b"{}").replace(b"Content-Length: 2", b"Content-Length: 9"),
    "cut off in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
    "many headers": http("200 OK", b"{}", *(f"X-{number}: x" for number in range(200))),
    "long header": http("200 OK", b"{}", f"X: {'x' * 70_000}"),
    "not HTTP": b"SSH-2.0\r\n",
    "nothing": b"",
}
INDEXES = {
    "manifests are text": http("200 OK", b'{"manifests": "x"}'),
    "manifests are a number": http("200 OK", b'{"manifests": 5}'),
    "an entry is nothing": http("200 OK", b'{"manifests": [null]}'),
    "a platform is text": index(platform="linux/amd64"),
    "an architecture is a list": index(platform={"os": "linux", "architecture": []}),
    "a digest is a number": index(digest=5),
    "a digest is a path": index(digest="../../other"),
    "annotations are text": index(annotations="x"),
}
LINKS = (
    *('<{}?last=1>; rel="next"', "<{}?last=1>;rel=next", '<{}?last=1>; title="a, b"; rel="prev NEXT"'),
    *(
        "<list?last=1>; rel=next",
        '<{}?last=0>; rel="first", <{}?last=1>; rel="next"',
        "<http://HOST{}?last=1>; REL = next",
    ),
)
BAD_LINKS = (
    *("<https://[bad>; rel=next", "rel=next; <{}>", "{}; rel=next", '<http://example.com{}>; rel="next"'),
    "<x y>; rel=next",
)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch, docker_config: object, no_pause: list[float]) -> None:
    """No login, no token of an earlier question, and no pauses between tries."""
    monkeypatch.setattr(distribution, "_authorizations", {})


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_not_an_answer(question: str, answer: bytes) -> None:
    """It is one sentence, and never a traceback; who asks only whether something is so may be told no."""
    with Registry(answer) as here:
        try:
            found = QUESTIONS[question](here.image)
        except Failure as failure:
            found = str(failure)
    if isinstance(found, str):
        assert re.search(r"127\.0\.0\.1:\d+|localhost:99999", found)
        assert found.isprintable()
    else:
        refused = answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 403"))
        assert found is False or (refused and found == access.Access(frozenset(), exists=False))
    assert here.requests < 60


@pytest.mark.parametrize("answer", INDEXES.values(), ids=INDEXES)
def test_an_index_that_is_not_made_as_one_is(answer: bytes) -> None:
    """What it says of sizes is one sentence, too, or there are none; release.py judges everything else about it."""
    with Registry(answer) as here:
        try:
            said = f"{registry.layer_sizes(here.image.tagged('1'))}"
        except Failure as failure:
            said = str(failure)
    assert re.search("^{}$|is not made as an image index is|is not a digest", said)


@pytest.mark.parametrize("link", LINKS)
def test_where_the_next_page_is(link: str) -> None:
    """Every way to write it is followed: RFC 8288."""
    header = f"Link: {link.replace('{}', TAGS)}"
    with Registry(http("200 OK", b'{"tags": ["1"]}', header)) as here:
        with pytest.raises(Failure, match="next pages lead in a circle"):
            registry.tags_of(here.image, known=["1"])
        assert here.requests == 10


@pytest.mark.parametrize("link", BAD_LINKS)
def test_where_no_page_can_be(link: str) -> None:
    """A link that cannot be followed is a failure: what follows it is not known."""
    header = f"Link: {link.replace('{}', TAGS)}"
    with (
        Registry(http("200 OK", b'{"tags": ["1"]}', header)) as here,
        pytest.raises(Failure, match=f"cannot list the tags of {here.image}: (the next page is|cannot read where)"),
    ):
        registry.tags_of(here.image, known=["1"])


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        (["Negotiate", 'Basic realm="x"'], "it wants a login"),
        (["NTLM", "Negotiate", 'Bearer realm="https://[bad"'], "cannot answer the challenge 'Bearer"),
        (["Negotiate", "NTLM"], "cannot answer the challenge 'Negotiate'"),
    ],
)
def test_a_registry_that_offers_several_logins(headers: list[str], asked: str) -> None:
    """The first of a known kind is taken."""
    answer = http("401 No", b"", *(f"WWW-Authenticate: {header}" for header in headers))
    with Registry(answer) as here, pytest.raises(Failure, match=asked):
        registry.index_of(here.image.tagged("1"))


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_an_answer_that_never_ends(monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    """However slowly its bytes come, in whatever part of it, one deadline holds for it."""
    monkeypatch.setattr(distribution, "LONGEST", 0.3)
    with Registry(begin, drip=b"a") as here, pytest.raises(Failure, match=r"no whole answer within 0\.3 s"):
        distribution.ask(here.image, "manifests/1")


def test_a_page_to_log_in_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not make an image public; a manifest that everybody gets does."""
    accept = ", ".join(registry.MANIFESTS)
    for kind, public in (("text/html", False), (f"{registry.MANIFESTS[0]}; charset=utf-8", True)):
        with Registry(http("200 OK", b"", f"Content-Type: {kind}")) as here:
            assert distribution.is_public(here.image, "manifests/1", accept=accept) is public
