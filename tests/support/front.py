"""A front for a real registry: lets anybody read, as Docker Hub does, and fails when it is told to."""

from __future__ import annotations

import base64
import http.client
import io
from http.server import BaseHTTPRequestHandler
from typing import cast

from support.serving import Quiet, Serving

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
TLS_HANDSHAKE = b"\x16"  # a record's content type, RFC 8446, 5.1


class Front(Serving):
    """Serves a registry on a port of its own until the `with` block ends.

    `writes_to_fail` is how many writes are still answered with 503; `down` answers everything so. `denies` answers
    writes as Docker Hub does if there is no such repository, or not for this user. `private` answers
    nobody without a login.
    `reader` is the user:password that reads without a login are made with.
    """

    def __init__(self, registry_port: int, reader: str) -> None:
        self.registry_port = registry_port
        self.reader = "Basic " + base64.b64encode(reader.encode()).decode()
        self.writes_to_fail = 0
        self.down = False
        self.denies = False
        self.private = False
        self.requests: list[str] = []
        """Method and path of each request, and whether it carried a login."""
        super().__init__(handler(self))

    @property
    def logins(self) -> list[str]:
        """The requests that carried credentials."""
        return [request for request in self.requests if request.endswith("with a login")]

    def fails(self, method: str) -> bool:
        """Whether this request is to fail; counts writes down."""
        if self.down:
            return True
        if method not in ("GET", "HEAD") and self.writes_to_fail > 0:
            self.writes_to_fail -= 1
            return True
        return False


def handler(front: Front) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for one front."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            # Clients try TLS first, and continue without it when they are answered in plain HTTP.
            if cast(io.BufferedReader, self.rfile).peek(1)[:1] == TLS_HANDSHAKE:
                self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                self.close_connection = True
                return
            super().handle_one_request()

        def forward(self) -> None:
            login = self.headers.get("Authorization")
            front.requests.append(f"{self.command} {self.path}{' with a login' if login else ''}")
            if front.fails(self.command):
                self.read_body()
                self.answer(503, [], b'{"errors":[{"code":"UNAVAILABLE","message":"try again later"}]}')
                return
            if front.denies and self.command not in ("GET", "HEAD"):
                self.read_body()
                denied = "requested access to the resource is denied"
                self.answer(403, [], f'{{"errors":[{{"code":"DENIED","message":"{denied}"}}]}}'.encode())
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            if not login and not front.private and self.command in ("GET", "HEAD") and self.path != "/v2/":
                headers["Authorization"] = front.reader
            body = self.read_body()
            if body or self.command in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body))
            registry = http.client.HTTPConnection("127.0.0.1", front.registry_port, timeout=60)
            try:
                registry.request(self.command, self.path, body=body or None, headers=headers)
                response = registry.getresponse()
                kept = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
                length = response.getheader("Content-Length")
                content = b"" if self.command == "HEAD" else response.read()
                self.answer(response.status, kept, content, length if self.command == "HEAD" else None)
            finally:
                registry.close()

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

    return Handler
