"""Ports for the tests: none that somebody has, and none that somebody will be given meanwhile."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lib.names import PIPELINE
from support.locks import locked

_held = contextlib.ExitStack()  # until this process ends


@cache
def numbers() -> Iterator[int]:
    """Return the ports of this process, a thousand of which no other process of the tests has any while it lives.

    They are below those that the system hands out itself (32768 and up, ip(7)), to programs, to containers and to
    every connection.
    """
    for first in range(10_000, 30_000, 1_000):
        with contextlib.ExitStack() as stack, contextlib.suppress(PermissionError):  # another user's
            file = stack.enter_context((Path(tempfile.gettempdir()) / f"{PIPELINE}-ports-from-{first}").open("w"))
            if locked(file):
                _held.enter_context(stack.pop_all())
                return iter(range(first, first + 1_000))
    raise AssertionError("every port of the tests has been taken by another process of theirs")


def free_port() -> int:
    """Return a port of localhost that nobody listens on, and each time another one."""
    for port in numbers():
        with contextlib.suppress(OSError), socket.create_server(("", port)):  # somebody may have it
            return port
    raise AssertionError("this process has used all its ports")
