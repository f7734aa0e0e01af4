"""A stand-in for Docker Hub that knows who may do what, and counts pulls."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from support.serving import Quiet, Serving


def jwt(claims: object) -> str:
    """Return an unsigned token with these claims: RFC 7519."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "signature"])


class RightsStandIn(Serving):
    """Serves on a port of its own until the `with` block ends.

    `users` is user:token -> what it may do with every repository; `public` and `private` are the repositories there
    are; `left` is what Docker Hub says of its limit, None for nothing.
    """

    def __init__(self) -> None:
        self.users: dict[str, list[str]] = {}
        self.public: set[str] = set()
        self.private: set[str] = set()
        self.left: tuple[int, int] | None = (95, 100)
        self.opaque = False
        """Whether its tokens say nothing."""
        self.basic = False
        """Whether it takes a name and a password each time."""
        self.broken = 0
        """A status to answer everything with."""
        self.requests: list[str] = []
        super().__init__(handler(self))

    def allows(self, user: str, repository: str) -> list[str]:
        """Return what somebody may do; "" is nobody."""
        if user:
            return self.users[user]
        return ["pull"] if repository in self.public else []


def handler(hub: RightsStandIn) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for one registry."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            login = self.headers.get("Authorization", "")
            hub.requests.append(f"{self.command} {self.path}")
            user = base64.b64decode(login[6:]).decode() if login.startswith("Basic ") else ""
            if hub.broken:
                self.answer(hub.broken)
            elif user and user not in hub.users:
                self.answer(401)
            elif url.path == "/token":
                name = parse_qs(url.query)["scope"][0].split(":")[1]
                claims = {
                    "access": [{"type": "repository", "name": name, "actions": hub.allows(user, name)}],
                    "sub": user,
                }
                self.answer(200, {"token": f"{user}|opaque" if hub.opaque else jwt(claims)})
            elif not login:
                scheme = "Basic" if hub.basic else f'Bearer realm="http://{self.headers["Host"]}/token",service="hub"'
                self.answer(401, headers={"WWW-Authenticate": scheme})
            elif url.path.endswith("/manifests/latest"):
                remaining, limit = hub.left or (0, 0)
                numbers = {"RateLimit-Remaining": f"{remaining};w=21600", "RateLimit-Limit": f"{limit};w=21600"}
                self.answer(200, headers=numbers if hub.left else {})
            elif url.path.endswith("/tags/list"):
                name = url.path.removeprefix("/v2/").removesuffix("/tags/list")
                shown = hub.public | (hub.private if self.is_somebody(login) else set())
                self.answer(200, {"tags": []}) if name in shown else self.answer(
                    404 if self.is_somebody(login) else 401
                )
            else:
                self.answer(200)

        def is_somebody(self, login: str) -> bool:
            if login.startswith("Basic "):
                return True
            token = login.removeprefix("Bearer ")
            if token.endswith("|opaque"):
                return not token.startswith("|")
            body = token.split(".")[1]
            return bool(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"])

        def answer(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content or {}).encode()
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    return Handler
