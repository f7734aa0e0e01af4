"""A friendly hello: one page that greets and counts its visits in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from friendlyhello.config import Config


def create_app(config: Config | None = None) -> Flask:
    """Return the service as a WSGI application, configured from the environment unless told otherwise.

    Raises friendlyhello.config.ConfigError, a sentence, when a variable has a bad value.
    """
    # Flask and redis-py are imported here, in the worker, after gevent has patched the standard library.
    from friendlyhello.config import from_environment
    from friendlyhello.views import build_app

    return build_app(config or from_environment())
