"""Run the service: `python -m friendlyhello [gunicorn's options]`.

Checks the environment before gunicorn reads it: gunicorn would meet a bad WEB_CONCURRENCY with a traceback.
"""

from __future__ import annotations

import sys

from friendlyhello.config import ConfigError, from_environment


def main() -> None:
    """Become gunicorn."""
    try:
        from_environment()
    except ConfigError as error:
        sys.exit(f"error: {error}")
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["--config", "python:friendlyhello.gunicorn_conf"]
    sys.argv.append("friendlyhello:create_app()")
    run(prog="friendlyhello")


if __name__ == "__main__":
    main()
