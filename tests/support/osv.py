"""A stand-in for osv.dev: answers what it is told to know, in the form of https://google.github.io/osv.dev/."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Vulnerabilities:
    """Answers on a port of its own until the `with` block ends.

    `known` is (ecosystem, package, version) -> ids, of which each answer has one, and a token for the next.
    `errors` are statuses to answer the next requests with; `asked` is every question.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], list[str]] = {}
        self.errors: list[int] = []
        self.asked: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Vulnerabilities:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question."""
        self.asked.append(question)
        package = question["package"]
        ids = self.known.get((package["ecosystem"], package["name"], question["version"]), [])
        page = int(question.get("page_token", 0))
        found = {"vulns": [{"id": each, "modified": "2026-01-01T00:00:00Z"} for each in ids[page : page + 1]]}
        if not found["vulns"]:
            return {}
        return {**found, "next_page_token": str(page + 1)} if ids[page + 1 :] else found


def handler(service: Vulnerabilities) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            status = service.errors.pop(0) if service.errors else 200 if self.path == "/v1/querybatch" else 404
            body = json.dumps({"results": [service.answer(each) for each in queries]}).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing: the questions are kept."""

    return Handler
