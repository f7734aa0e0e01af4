"""What all tests share: when a test may be skipped, and when not."""

from __future__ import annotations

import os

import pytest

REQUIRED = os.environ.get("REQUIRE_ENGINE") == "1"


def need(present: bool, what: str, hint: str = "scripts/check.py --setup installs it") -> None:
    """Skip the test where `what` is missing; where nothing may be skipped, fail. `hint` says where to get it."""
    if not present:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what}; {hint}")


def need_root(what_for: str) -> None:
    """Skip the test for an ordinary user; where nothing may be skipped, fail."""
    need(os.geteuid() == 0, f"root, for {what_for}", "run scripts/check.py as root")
