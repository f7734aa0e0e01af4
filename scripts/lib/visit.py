"""Ask the page as a visitor does: one deadline for each question, and no more of the answer than is needed."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass

from lib.command import Failure, say

SECONDS = 20.0  # for one question, from the look-up of the name to the last byte that is read
LONGEST = 64 * 1024  # bytes of a page that are read; what matters is in its status and its headers
ERRORS = 2
"""This many errors count against the release; a single one may be chance."""


@dataclass(frozen=True)
class Answer:
    """What a visitor got: a status and the revision in the header X-Revision, or status 0 and the reason."""

    status: int
    revision: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"status {self.status}, revision {self.revision or 'none'}" if self.status else self.reason

    @property
    def is_error(self) -> bool:
        """Whether the server says that it failed: RFC 9110, section 15.6."""
        return 500 <= self.status < 600


def answer(address: str, seconds: float = SECONDS) -> Answer:
    """Ask the page once, on a connection of its own, without any proxy.

    The question has a thread of its own, because neither looking up a name nor reading the headers has a deadline:
    a time-out of a socket begins again with every byte.
    """
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    link = kind(parts.hostname or "localhost", parts.port, timeout=seconds)
    found: list[Answer] = []
    sockets: list[socket.socket] = []
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def ask() -> None:
        try:
            link.connect()
            sockets.append(link.sock)
            link.request("GET", path)
            response = link.getresponse()
            response.read(LONGEST)
            found.append(Answer(response.status, response.getheader("X-Revision", "")))
        except (OSError, http.client.HTTPException, ValueError) as error:
            found.append(Answer(0, reason=f"{type(error).__name__}: {error}"))
        finally:
            link.close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    for connected in sockets:  # ends the thread, wherever it waits
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)
    return Answer(0, reason=f"no whole answer within {seconds:g} s")


def visit_until(address: str, revision: str, *, answers: int, seconds: float) -> None:
    """Ask until `answers` in a row carry the revision.

    Raises Failure after `seconds`, or as soon as the revision itself has answered with errors.
    """
    deadline = time.monotonic() + seconds
    row = errors = 0
    while row < answers:
        found = answer(address)
        row = row + 1 if (found.status, found.revision) == (200, revision) else 0
        errors += found.is_error and found.revision == revision
        if not row:
            if time.monotonic() > deadline or errors >= ERRORS:
                raise Failure(f"{address} does not answer with revision {revision}: {found}")
            time.sleep(0.2)
    say(f"{address} answers with revision {revision}: {answers} times in a row")
