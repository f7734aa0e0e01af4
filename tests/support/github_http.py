"""The stand-in for GitHub over HTTP, for the real `gh`: on a Unix socket, so that nothing else can reach it."""

from __future__ import annotations

import base64
import json
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from support.github import Refusal, api
from support.serving import Quiet, Serving


class GitHubOverHTTP(Serving):
    """Serves a repository's state until the `with` block ends; `requests` are the method, path and body of each.

    `env` is what lets `gh` talk to it: https://cli.github.com/manual/gh_config_set, http_unix_socket.
    """

    HOST = "github.localhost"  # the only one that gh asks in plain HTTP

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.state = state
        self.requests: list[str] = []
        socket = folder / "socket"
        (folder / "config.yml").write_text(f"http_unix_socket: {socket}\n", "utf-8")
        (folder / "hosts.yml").write_text(f"{self.HOST}:\n    oauth_token: of-the-test\n    user: octo\n", "utf-8")
        (folder / "hosts.yml").chmod(0o600)
        self.env = {"GH_CONFIG_DIR": str(folder), "GH_NO_UPDATE_NOTIFIER": "1", "GH_PROMPT_DISABLED": "1"}
        super().__init__(handler(self), socket)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Answer one request, as GitHub's REST interface does."""
        if path == "graphql":
            return {"data": {"viewer": {"login": "octo"}}}
        if path.endswith("/secrets/public-key"):
            return {"key_id": "1", "key": base64.b64encode(os.urandom(32)).decode()}
        if "/secrets/" in path and method == "PUT":
            place = path.split("/environments/")[1].split("/")[0] if "/environments/" in path else ""
            self.state["secrets"].setdefault(place, {})[path.rpartition("/")[2]] = body["encrypted_value"]
            return {}
        slug = self.state["repository"]["full_name"]
        if path in self.state["apps"]:
            return self.state["apps"][path]
        if path in ("", "user"):
            return {"login": "octo"}
        return api(self.state, path.removeprefix(f"repos/{slug}").lstrip("/"), method, body)


def handler(github: GitHubOverHTTP) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for one repository."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.read_body()
            github.requests.append(f"{self.command} {self.path} {body.decode()}".rstrip())
            path = self.path.partition("?")[0].strip("/")
            try:
                status, answer = 200, github.answer(self.command, path, json.loads(body or b"{}"))
            except Refusal:
                status, answer = 404, {"message": "Not Found"}
            content = json.dumps(answer).encode()
            self.send_response_only(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                "X-OAuth-Scopes": "repo, read:org, workflow",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    return Handler
