"""Ports for the tests: no fixed one where the system can choose."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of localhost that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
