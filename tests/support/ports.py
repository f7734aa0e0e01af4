"""Ports for the tests: none that somebody has, and none that somebody will be given meanwhile."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that the system hands out itself (32768 and up, ip(7)), to programs, to containers and to every
# connection; each process of the tests has some of its own, as several run at once.
_NUMBERS = itertools.count(10_000 + os.getpid() % 20 * 1_000)


def free_port() -> int:
    """Return a port of localhost that nobody listens on, and each time another one."""
    for port in _NUMBERS:
        try:
            with socket.create_server(("", port)):
                return port
        except OSError:
            continue  # somebody has it
    raise AssertionError("not reached")
