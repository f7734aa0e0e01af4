"""What the stand-ins that answer over HTTP share: a server in threads of its own."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import TracebackType
from typing import Self, cast


class Serving:
    """Serves until the `with` block ends: on a port of its own, or on the Unix socket `unix`."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], unix: Path | None = None) -> None:
        self._server = (
            ThreadingUnixStreamServer(str(unix), handler) if unix else ThreadingHTTPServer(("127.0.0.1", 0), handler)
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        """The port that it answers on."""
        return cast("tuple[str, int]", self._server.server_address)[1]

    @property
    def host(self) -> str:
        """Its address, such as 127.0.0.1:5000."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Quiet:
    """What a handler is that says nothing: whom it answers for keeps what was asked."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
