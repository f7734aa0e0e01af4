"""Prometheus metrics, on a port of their own when METRICS_PORT is set.

Every worker writes its numbers to files in PROMETHEUS_MULTIPROC_DIR, which gunicorn_conf.py makes, and whichever
worker is asked adds up the files of all of them: https://prometheus.github.io/client_python/multiprocess/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app, multiprocess

PATHS = frozenset({"/", "/healthz", "/readyz"})
METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

requests = Counter("friendlyhello_requests", "Requests answered.", ("method", "path", "status"))
seconds = Histogram("friendlyhello_request_seconds", "Time to answer a request.", ("path",), buckets=SECONDS)
visits = Counter("friendlyhello_visits", "Visits counted in Redis by this service.")
redis_up = Gauge("friendlyhello_redis_up", "1 when Redis counts for every worker.", multiprocess_mode="livemin")

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def measured(app: App, port: int) -> App:
    """Return `app` with its requests measured, and the metrics answered on `port` alone."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    exposition: App = make_wsgi_app(registry)

    def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["SERVER_PORT"] == str(port):  # the port that the client connected to, not one it names
            return exposition(environ, start_response)
        # What a client can make up must not become a label of its own.
        path = environ["PATH_INFO"] if environ["PATH_INFO"] in PATHS else "other"
        method = environ["REQUEST_METHOD"] if environ["REQUEST_METHOD"] in METHODS else "other"
        start = time.perf_counter()

        def observe(status: str, *given: Any) -> Any:
            requests.labels(method, path, status[:3]).inc()
            seconds.labels(path).observe(time.perf_counter() - start)
            return start_response(status, *given)

        return app(environ, observe)

    return middleware
