"""The page and what stands beside it: /, /healthz, /readyz."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Callable
from random import getrandbits
from typing import Any

import redis
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from friendlyhello.config import Config
from friendlyhello.counter import Counter, CounterError, connect
from friendlyhello.log import request_id

NO_COUNT = "<i>cannot connect to Redis, counter disabled</i>"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def build_app(config: Config, client: redis.Redis | None = None) -> Flask:
    """Return the WSGI application, counting with `client` or, when none is given, in the Redis that `config` names."""
    app = Flask("friendlyhello", static_folder=None)
    app.url_map.merge_slashes = False  # no redirects: their target would be taken from the request's Host
    visits = Counter(client or connect(config.redis_url))
    greeting = f"<h3>Hello {html.escape(config.name)}!</h3><b>Hostname:</b> {html.escape(socket.gethostname())}<br/>"

    @app.get("/")
    def page() -> str:
        try:
            # HEAD is safe by definition (RFC 9110, 9.2.1): it asks for the number, it does not count.
            number = str(visits.add(0 if request.method == "HEAD" else 1))
        except CounterError:
            number = NO_COUNT
        return f"{greeting}<b>Visits:</b> {number}"

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> tuple[dict[str, str], int]:
        try:
            visits.add(0)
        except CounterError:  # the log has the reason
            return {"status": "degraded", "redis": "unavailable"}, 503
        return {"status": "ok", "redis": "ok"}, 200

    @app.errorhandler(HTTPException)
    def plain(error: HTTPException) -> Response:
        response = Response(f"{error.code} {error.name}\n", error.code, mimetype="text/plain")
        response.headers.extend((name, value) for name, value in error.get_headers() if name.lower() == "allow")
        return response

    if config.metrics_port:
        from friendlyhello import metrics  # makes files, so only if it is wanted

        visits.on_count = metrics.visits.inc
        visits.on_change = metrics.redis_up.set
        measured = metrics.measured(app.wsgi_app, config.metrics_port)
        app.wsgi_app = measured  # type: ignore[method-assign, assignment]
    app.wsgi_app = _stamped(app.wsgi_app, config)  # type: ignore[method-assign]
    visits.start()
    return app


def _stamped(app: Callable[..., Any], config: Config) -> Callable[..., Any]:
    """Give every request an id, and every answer, errors included, the headers that all of them carry."""
    headers = [
        ("X-Revision", config.revision),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]

    def stamped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        if given and REQUEST_ID.fullmatch(given) and config.trusts(environ.get("REMOTE_ADDR", "")):
            identity = given
        else:
            identity = f"{getrandbits(64):016x}"
        environ["friendlyhello.request_id"] = identity
        request_id.set(identity)

        def start(status: str, own: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*own, *headers, ("X-Request-Id", identity)], exc_info)

        return app(environ, start)

    return stamped
