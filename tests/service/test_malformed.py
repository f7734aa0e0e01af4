"""Ten thousand malformed requests, or a hundred thousand: none brings the service down.

They are made from a seed, so that a failure can be repeated: the assertion shows the request.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from service.running import LIMIT, Service

MEANT = {501, 505}
"""Server errors that are right: an unknown transfer coding, an unknown version of HTTP (RFC 9110, 15.6)."""

METHODS = [
    b"GET", b"HEAD", b"POST", b"OPTIONS", b"get", b"G\x00T", b"", b"GET GET", b"PRI", b"CONNECT", b"A" * 300,
]  # fmt: skip
TARGETS = [
    b"/", b"/healthz", b"//", b"/../../etc/passwd", b"/%", b"/%00", b"/%ff%fe", b"/\xff", b"/?" + b"a" * 5000, b"*",
    b"", b"http://[", b"http://x/", b"x:99999", b"/\t/", b"/ /", b"/#", b"/;a=b", b"/" + b"x/" * 3000, b"/healthz//",
    b"@",
]  # fmt: skip
VERSIONS = [
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.", b"http/1.1", b"HTTP/11", b"", b"\x00",
]  # fmt: skip
HEADERS = [
    b"Host: x", b"Host: x\r\nHost: y", b"Host: a b", b"Host", b": empty", b"Space : x", b" folded: x", b"X: a\r\n b",
    b"X: \x00", b"X\x7f: 1", b"X: " + b"v" * 9000, b"N" * 9000 + b": 1", b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: h2c", b"Expect: 100-continue", b"Expect: x", b"Cookie: " + b"a=b; " * 500,
    b"X-Request-Id: \x1b[31m", b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: http",
    b"SCRIPT_NAME: /x", b"PATH-INFO: /x", b"Range: bytes=0-0,1-1", b"Content-Type: multipart/form-data; boundary=",
    b"\r\n".join(b"H%d: 1" % number for number in range(120)),
]  # fmt: skip
SMUGGLING = [
    b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Content-Length: 1\r\nContent-Length: 2",
    b"Content-Length: -1", b"Content-Length: +4", b"Content-Length: 4,4", b"Content-Length: 0x4",
    b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", b"Transfer_Encoding: chunked", b"Content_Length: 4",
    b"Transfer-Encoding: chunked",
]  # fmt: skip
BODIES = [
    b"", b"body", b"0\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffff\r\nx",
    b"4;ext\r\nbodyGET / HTTP/1.1\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"g\r\n", b"4\nbody\n0\n\n", b"\x00" * 100,
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"x" * 70000,
]  # fmt: skip


def malformed(random: Random) -> bytes:
    """Return a request that is wrong in one or more ways; now and then a right one."""
    if random.random() < 0.05:
        return random.randbytes(random.randrange(2000))

    def choose(right: bytes, wrong: list[bytes]) -> bytes:
        return right if random.random() < 0.8 else random.choice(wrong)

    separator = choose(b" ", [b"  ", b"\t", b""])
    line_break = choose(b"\r\n", [b"\n", b"\r", b"\r\r\n"])
    start = separator.join([choose(b"GET", METHODS), choose(b"/", TARGETS), choose(b"HTTP/1.1", VERSIONS)])
    headers = random.choices(HEADERS, k=random.randrange(3)) + random.choices(SMUGGLING, k=random.choice([0, 0, 1, 2]))
    request = bytearray(line_break.join([start, *headers, b"", random.choice(BODIES)]))
    for _ in range(random.choice([0, 0, 0, 1, 5])):
        request[random.randrange(len(request))] = random.randrange(256)
    return bytes(request[: random.choice([len(request), len(request), random.randrange(len(request) + 1)])])


def answers(port: int, request: bytes) -> list[int]:
    """Send a request, say that no more comes, and return the statuses of what is answered."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        with contextlib.suppress(OSError):  # the answer is sent, and the connection ended, before all is read
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                received += data
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", received)]


def memory(pid: int) -> int:
    """Return the bytes of memory that are a process's own."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def send_all(service: Service, seeds: range) -> Counter[int]:
    """Send a malformed request for each seed, several at a time, and return how often each status was answered."""
    found: Counter[int] = Counter()

    def attempt(seed: int) -> list[int]:
        request = malformed(Random(seed))  # noqa: S311
        statuses = answers(service.port, request)
        wrong = [status for status in statuses if status >= 500 and status not in MEANT]
        assert not wrong, f"seed {seed}: {wrong} for {request[:500]!r}"
        return statuses

    with ThreadPoolExecutor(8) as senders:
        for statuses in senders.map(attempt, seeds):
            found.update(statuses)
    return found


@pytest.mark.parametrize("requests", [10_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_malformed_requests_do_no_harm(serve: Callable[..., Service], requests: int) -> None:
    """No server error that is not meant, no worker lost, no memory that grows, and nothing logged as an error."""
    service = serve(WEB_CONCURRENCY="2", REDIS_URL="unix:///nowhere.sock")
    before = service.workers()
    send_all(service, range(requests // 5))
    settled = sum(map(memory, before))
    found = send_all(service, range(requests // 5, requests))

    assert service.workers() == before
    assert sum(map(memory, before)) - settled < 16 * 2**20
    assert found[200] > requests / 100, "hardly any request was right: nothing but the parser was tested"
    assert found[400] > requests / 10
    assert service.get("/healthz").status == 200
    assert [entry for entry in service.errors() if entry["level"] in ("error", "critical")] == []
