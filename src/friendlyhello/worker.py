"""gunicorn's gevent worker, sending each response in one piece and giving every connection its turn."""

from __future__ import annotations

import time
from typing import Any

from gunicorn.workers.ggevent import GeventWorker


class Worker(GeventWorker):
    """A gevent worker that sends a response's headers and body together: one system call and one packet, not two."""

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        corked: Any = Corked(client)
        super().handle(listener, corked, plain(addr))


def plain(address: Any) -> Any:
    """Return a client's address, as plain IPv4 if it is that but came over a socket of IPv6 (RFC 4291, 2.5.5.2)."""
    if isinstance(address, tuple) and address[0].startswith("::ffff:"):
        return (address[0].removeprefix("::ffff:"), *address[1:])
    return address


class Corked:
    """A socket that holds back what is written until something is to be read, or the end."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        """Hold `data` back."""
        self._held.append(data)

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            sent = self._sock.send(data)  # nearly always all of it, and cheaper than gevent's sendall
            if sent < len(data):
                self._sock.sendall(data[sent:])

    def recv(self, *args: Any) -> Any:
        """Send what was held back, let the other connections have their turn, then read.

        Without the turn, a client that is fast enough is served alone for as long as nothing has to be waited for.
        """
        self._flush()
        time.sleep(0)
        return self._sock.recv(*args)

    def close(self) -> None:
        """Send what was held back, then close."""
        self._flush()
        self._sock.close()
