"""The page and what stands beside it: /, /healthz, /readyz."""

from __future__ import annotations

import html
import socket
from collections.abc import Callable

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from friendlyhello.config import Config
from friendlyhello.counter import Counter, Unavailable, connect

NO_COUNT = "<i>cannot connect to Redis, counter disabled</i>"


def build_app(config: Config, counter: Counter | None = None) -> Flask:
    """Return the WSGI application; `counter` is for tests, and made from `config.redis_url` when not given."""
    app = Flask("friendlyhello", static_folder=None)
    app.url_map.merge_slashes = False  # no redirects: their target would be taken from the request's Host
    visits = counter or Counter(connect(config.redis_url))
    greeting = f"<h3>Hello {html.escape(config.name)}!</h3><b>Hostname:</b> {html.escape(socket.gethostname())}<br/>"

    @app.get("/")
    def page() -> str:
        try:
            # HEAD is safe by definition (RFC 9110, 9.2.1): it asks for the number, it does not count.
            number = str(visits.add(0 if request.method == "HEAD" else 1))
        except Unavailable:
            number = NO_COUNT
        return f"{greeting}<b>Visits:</b> {number}"

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> tuple[dict[str, str], int]:
        try:
            visits.add(0)
        except Unavailable as error:
            return {"status": "degraded", "redis": str(error)}, 503
        return {"status": "ok", "redis": "ok"}, 200

    @app.errorhandler(HTTPException)
    def plain(error: HTTPException) -> Response:
        response = Response(f"{error.code} {error.name}\n", error.code, mimetype="text/plain")
        response.headers.extend(
            (name, value) for name, value in error.get_headers() if name.lower() == "allow"
        )
        return response

    app.wsgi_app = _stamped(app.wsgi_app, config)  # type: ignore[method-assign]
    return app


def _stamped(app: Callable[..., object], config: Config) -> Callable[..., object]:
    """Put the headers that every answer carries on every answer, errors included."""
    headers = [
        ("X-Revision", config.revision),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]

    def stamped(environ: dict[str, object], start_response: Callable[..., object]) -> object:
        def start(status: str, given: list[tuple[str, str]], exc_info: object = None) -> object:
            return start_response(status, given + headers, exc_info)

        return app(environ, start)

    return stamped
