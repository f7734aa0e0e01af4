"""What all tests share: when a test may be skipped, and when not."""

from __future__ import annotations

import os

import pytest

REQUIRED = os.environ.get("REQUIRE_ENGINE") == "1"
FULL = os.environ.get("FULL") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need minutes, unless they are asked for: scripts/check.py --full."""
    left_out = [item for item in items if item.get_closest_marker("full") and not FULL]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def need(present: bool, what: str) -> None:
    """Skip the test where `what` is missing; where nothing may be skipped, fail."""
    if not present:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what}; scripts/check.py --setup installs it")
