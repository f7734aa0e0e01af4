"""gunicorn's settings: `gunicorn --config python:friendlyhello.gunicorn_conf "friendlyhello:create_app()"`."""

from __future__ import annotations

import os
import sys

from friendlyhello.config import ConfigError, from_environment

try:
    _config = from_environment()
except ConfigError as error:
    sys.exit(f"error: {error}")

# A name server that does not answer is given up after a second, so that its return is noticed soon (resolv.conf(5)).
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

bind = ["0.0.0.0:80"]  # noqa: S104  a container's port is opened by whoever runs it
worker_class = "gevent"
workers = _config.workers or len(os.sched_getaffinity(0))
worker_tmp_dir = "/dev/shm"  # noqa: S108  the heartbeat must not wait for a disk, and the root may be read-only
control_socket_disable = True

keepalive = 5  # seconds; a client that takes longer to send its headers is let go as well
graceful_timeout = 8  # seconds; below the 10 that `docker stop` waits
forwarded_allow_ips = ",".join(_config.trusted_proxies)
forwarder_headers = ""
