"""What all tests share: when a test may be skipped, and when not."""

from __future__ import annotations

import os

import pytest

REQUIRED = os.environ.get("REQUIRE_ENGINE") == "1"


def need(present: bool, what: str) -> None:
    """Skip the test where `what` is missing; where nothing may be skipped, fail."""
    if not present:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what}; scripts/check.py --setup installs it")
