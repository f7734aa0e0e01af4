"""Ask the page as a visitor does, and judge what it answers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lib import client
from lib.command import Failure, say

ERRORS = 2
"""This many errors count against the release; a single one may be chance."""


@dataclass(frozen=True)
class Answer:
    """What a visitor got: a status and the revision in the header X-Revision, or status 0 and the reason."""

    status: int
    revision: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"status {self.status}, revision {self.revision or 'none'}" if self.status else self.reason

    @property
    def is_error(self) -> bool:
        """Whether the server says that it failed: RFC 9110, section 15.6."""
        return 500 <= self.status < 600


def answer(address: str, seconds: float = client.SECONDS) -> Answer:
    """Ask the page once, on a connection of its own, without any proxy, within `seconds`."""
    try:
        found = client.ask(address, seconds=seconds)
    except Failure as failure:
        return Answer(0, reason=str(failure))
    return Answer(found.status, found.headers.get("x-revision", ""))


def visit_until(address: str, revision: str, *, answers: int, seconds: float) -> None:
    """Ask until `answers` in a row carry the revision; "" for any.

    Raises Failure after `seconds`, or as soon as the revision itself has answered with errors.
    """
    deadline = time.monotonic() + seconds
    row = errors = 0
    expected = f"revision {revision}" if revision else "status 200"
    while row < answers:
        found = answer(address)
        right = found.revision == revision or not revision
        row = row + 1 if found.status == 200 and right else 0
        errors += bool(revision) and right and found.is_error
        if not row:
            if time.monotonic() > deadline or errors >= ERRORS:
                raise Failure(f"{address} does not answer with {expected}: {found}")
            time.sleep(0.2)
    say(f"{address} answers with {expected}: {answers} times in a row")
