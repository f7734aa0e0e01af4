"""A stand-in for osv.dev: answers what it is told to know, in the form of https://google.github.io/osv.dev/."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from support.serving import Quiet, Serving


class Vulnerabilities(Serving):
    """Answers on a port of its own until the `with` block ends.

    `known` is (ecosystem, package, version) -> ids, of which each answer has one, and a token for the next.
    `errors` are statuses to answer the next requests with; `asked` is every question.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], list[str]] = {}
        self.errors: list[int] = []
        self.asked: list[dict[str, Any]] = []
        super().__init__(handler(self))
        self.address = f"http://{self.host}"

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

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            status = service.errors.pop(0) if service.errors else 200 if self.path == "/v1/querybatch" else 404
            body = json.dumps({"results": [service.answer(each) for each in queries]}).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
