"""gunicorn's settings: `gunicorn --config python:friendlyhello.gunicorn_conf "friendlyhello:create_app()"`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from friendlyhello import resources
from friendlyhello.config import ConfigError, from_environment

try:
    _config = from_environment()
except ConfigError as error:
    sys.exit(f"error: {error}")

# A name server that does not answer is given up after a second, so that its return is noticed soon (resolv.conf(5)).
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

bind = resources.addresses(80)  # a container's port is opened by whoever runs the container
worker_class = "friendlyhello.worker.Worker"
workers = _config.workers or resources.workers()
worker_connections = 2000
_memory = Path("/dev/shm")  # noqa: S108
# Where the heartbeat's file is: in memory, because a disk can stall and the root can be read-only.
worker_tmp_dir = str(_memory) if _memory.is_dir() else None
control_socket_disable = True  # it wants to write to the home directory

keepalive = 5  # seconds; a client that takes longer to send a request's headers is let go as well
graceful_timeout = 8  # seconds; below the 10 that `docker stop` waits
limit_request_fields = 50
limit_request_field_size = 8192  # bytes; other applications of the same domain have cookies, too

forwarded_allow_ips = ",".join(_config.trusted_proxies)
forwarder_headers = ""  # no proxy sets SCRIPT_NAME or PATH_INFO for this service

logger_class = "friendlyhello.log.Logger"
accesslog = "-"


def post_fork(server: Any, worker: Any) -> None:
    """Let a worker stop while it starts: until gunicorn handles these signals in it, a copy of the master would."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


if _config.metrics_port:
    bind += resources.addresses(_config.metrics_port)
    _metrics = tempfile.mkdtemp(prefix="friendlyhello-metrics-", dir=worker_tmp_dir)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics

    def on_starting(server: Any) -> None:
        """Stop if the page would have no port left."""
        if {address[1] for address in server.cfg.address} == {_config.metrics_port}:
            sys.exit(f"error: METRICS_PORT must be another port than the service's own, not '{_config.metrics_port}'")

    def child_exit(server: Any, worker: Any) -> None:
        """Take the state of a worker that is gone out of the metrics; what it counted stays in."""
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    def on_exit(server: Any) -> None:
        """Leave nothing behind."""
        shutil.rmtree(_metrics, ignore_errors=True)
