"""What gunicorn and the service log: JSON, a line each, or plain lines if a person reads them on a terminal.

Requests go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache
from typing import Any

from gunicorn import glogging

from friendlyhello.config import from_environment

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered, for whatever is logged meanwhile."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with the request's id and, for an exception, its traceback."""

    def __init__(self, revision: str) -> None:
        super().__init__()
        self._revision = revision

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "process": record.process,
            "revision": self._revision,
        }
        if request_id.get():
            entry["request_id"] = request_id.get()
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Logger(glogging.Logger):
    """gunicorn's logger, which the service's own messages go through as well."""

    def setup(self, cfg: Any) -> None:
        """Choose the format by where the output goes."""
        super().setup(cfg)
        self._config = from_environment()
        self._plain = sys.stdout.isatty()
        if not sys.stderr.isatty():
            for handler in self.error_log.handlers:
                handler.setFormatter(JsonFormatter(self._config.revision))
        service = logging.getLogger("friendlyhello")
        service.handlers = self.error_log.handlers
        service.setLevel(self.error_log.level)
        service.propagate = False

    def access(self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: timedelta) -> None:
        """Log one request."""
        if self.cfg.accesslog != "-":  # a file, or nothing, as gunicorn's --access-logfile says
            super().access(resp, req, environ, request_time)
            return
        entry = {
            "time": _timestamp(time.time()),
            "client": self._config.client(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", "")),
            "method": environ.get("REQUEST_METHOD"),
            "target": environ.get("RAW_URI", "").partition("?")[0],  # a query can hold a secret
            "status": resp.status and int(resp.status[:3]),
            "bytes": resp.sent,
            "seconds": request_time.total_seconds(),
            "request_id": environ.get("friendlyhello.request_id"),
            "process": os.getpid(),
            "revision": self._config.revision,
        }
        if self._plain:
            line = "{time} {client} {method} {target!a} {status} {seconds:.4f} s {request_id}".format(**entry)
        else:
            line = json.dumps(entry)
        # Written straight to the stream: a LogRecord for each request would cost more than the line itself.
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def _timestamp(seconds: float) -> str:
    """Return a time since the epoch as RFC 3339 writes it, in UTC, to the millisecond."""
    return f"{_date(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    """Return all but the fraction: the same for every request of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
