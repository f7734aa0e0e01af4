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

LIMIT = 4 * 1024 * 1024
"""Bytes that an answer's body may have."""
SECONDS = 20.0
"""Seconds that a question may take, from the connection to the last byte."""


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

    A redirection is an answer and is not followed. Raises Failure if there is no answer, if it does not end in
    `seconds`, and if it is larger than LIMIT.
    """
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    link = kind(parts.hostname or "", parts.port, timeout=seconds)
    what = f"{method} {parts.path or '/'}"
    late = threading.Event()
    try:
        link.connect()
        timer = threading.Timer(seconds, give_up, (link.sock, late))
        timer.start()
        try:
            path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            link.request(method, path, body.encode() if body is not None else None, dict(headers or {}))
            with link.getresponse() as response:
                read = response.read(LIMIT + 1)
                if response.length and len(read) <= LIMIT:
                    raise http.client.IncompleteRead(read, response.length)
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        ended = late.is_set() or isinstance(error, TimeoutError)
        raise Failure(
            f"{what} {f'did not end within {seconds:g} s' if ended else f'failed: {reason(error)}'}"
        ) from error
    finally:
        link.close()
    if len(read) > LIMIT:
        raise Failure(f"{what} answered with more than {LIMIT} bytes")
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, read.decode("utf-8", "replace"))


def give_up(link: socket.socket, late: threading.Event) -> None:
    """End a connection, whatever is being read: a socket's time-out is for each read alone, and bytes may drip."""
    late.set()
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def reason(error: Exception) -> str:
    """Return an error in words."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server hung up"
    if isinstance(error, http.client.BadStatusLine):
        return f"not an HTTP response: {error}"
    return str(error) or type(error).__name__
