"""What benchmarks/service.py measures the service against: the same page written the plain way, and no page at all."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import redis
from flask import Flask

counter = redis.Redis.from_url(os.environ["REDIS_URL"], socket_connect_timeout=2, socket_timeout=2)
app = Flask(__name__)


@app.route("/")
def page() -> str:
    """Count the visit with a command of its own, as the usual examples do."""
    try:
        visits = str(counter.incr("counter"))
    except redis.RedisError:
        visits = "<i>cannot connect to Redis, counter disabled</i>"
    name, host = os.environ.get("NAME", "world"), socket.gethostname()
    return f"<h3>Hello {name}!</h3><b>Hostname:</b> {host}<br/><b>Visits:</b> {visits}"


def bare(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer without Flask and without Redis: as fast as the server itself can be."""
    body = b"<h3>Hello world!</h3><b>Hostname:</b> localhost<br/><b>Visits:</b> 1"
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]))
