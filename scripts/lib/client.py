"""Ask an HTTP server one question, bounded in time and size, and never through a proxy."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.command import Failure

LIMIT = 1024 * 1024
"""Bytes of an answer's body that are read; the rest is left."""
SECONDS = 20.0
"""Seconds that a question may take, from the look-up of the name to the last byte that is read."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        """Return the body as JSON; ValueError if it is not."""
        return json.loads(self.text)


def ask(
    address: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    seconds: float = SECONDS,
) -> Answer:
    """Return what the server at an http:// or https:// address answers, whatever its status.

    A redirection is an answer and is not followed. Raises Failure if there is no whole answer within `seconds`.

    The question has a thread of its own, because neither looking up a name nor reading the headers has a deadline: a
    socket's time-out begins again with every byte.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise Failure(f"{address!r} is not an address: {error}") from error
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # With a port, always: otherwise http.client takes the end of an IPv6 address for one.
    link = kind(parts.hostname or "localhost", port or kind.default_port)
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    found: list[Answer | Exception] = []
    sockets: list[socket.socket] = []
    late = threading.Event()

    def question() -> None:
        try:
            link.connect()
            sockets.append(link.sock)
            if late.is_set():  # so nobody ends this connection
                return
            link.request(method, path, body.encode() if body is not None else None, dict(headers or {}))
            with link.getresponse() as response:
                read = response.read(LIMIT)
                if response.length and len(read) < LIMIT:
                    raise http.client.IncompleteRead(read, response.length)
            named = {name.lower(): value for name, value in response.getheaders()}
            found.append(Answer(response.status, named, read.decode("utf-8", "replace")))
        except (OSError, http.client.HTTPException, ValueError) as error:
            found.append(error)
        finally:
            link.close()

    thread = threading.Thread(target=question, name=address, daemon=True)
    thread.start()
    thread.join(seconds)
    what = f"{method} {parts.path or '/'}"
    if not found:
        late.set()
        for connected in sockets:  # ends the thread, wherever it waits
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
        raise Failure(f"{what}: no whole answer within {seconds:g} s")
    if isinstance(found[0], Exception):
        raise Failure(f"{what} failed: {reason(found[0])}") from found[0]
    return found[0]


def reason(error: Exception) -> str:
    """Return an error in words."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server hung up"
    if isinstance(error, http.client.BadStatusLine):
        return f"not an HTTP response: {error}"
    return str(error) or type(error).__name__
