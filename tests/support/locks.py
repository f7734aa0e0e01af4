"""What only one process of the tests may have at a time."""

from __future__ import annotations

import contextlib
import fcntl
from typing import IO


def locked(file: IO[str]) -> bool:
    """Take the file's lock, if nobody has it, until the file is closed; return whether that was so."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
