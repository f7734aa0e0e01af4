"""What GitHub says about a run and its repository; nothing is asked over the network here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.command import Failure


def payload(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the event that started the run; empty outside GitHub. Raises Failure if it cannot be read.

    https://docs.github.com/webhooks/webhook-events-and-payloads
    """
    path = env.get("GITHUB_EVENT_PATH", "")
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"cannot read the event that started this run, {path}: {error}") from error
    return found if isinstance(found, dict) else {}


def is_private(env: Mapping[str, str]) -> bool:
    """Whether the run's repository is not public; an internal one is private, too. False outside GitHub.

    A run on GitHub whose event does not say so counts as a private repository's.
    """
    repository = payload(env).get("repository")
    if isinstance(repository, dict) and isinstance(repository.get("private"), bool):
        return bool(repository["private"])
    return env.get("GITHUB_ACTIONS") == "true"
