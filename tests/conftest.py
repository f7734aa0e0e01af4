"""What all tests share: when a test may be skipped, and when not."""

from __future__ import annotations

import os

import pytest

REQUIRED = os.environ.get("REQUIRE_ENGINE") == "1"
FULL = os.environ.get("FULL") == "1"


# Two run at once: what needs the one engine here by turns, the Swarms (which have engines of their own), and the rest.
GROUPS = {"container": "1 engine", "workflows": "1 engine", "swarm": "2 swarm"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need minutes, unless scripts/check.py --full asks for them; begin with what takes long.

    A group is run by one process, in its order: pytest-xdist.readthedocs.io/en/stable/distribution.html.
    """
    left_out = [item for item in items if item.get_closest_marker("full") and not FULL]
    if left_out:
        config.hook.pytest_deselected(items=left_out)

    def group(item: pytest.Item) -> str:
        return GROUPS.get(item.path.parent.name, f"3 {item.path.stem}")

    items[:] = sorted((item for item in items if item not in left_out), key=group)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def need(present: bool, what: str) -> None:
    """Skip the test where `what` is missing; where nothing may be skipped, fail."""
    if not present:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what}; scripts/check.py --setup installs it")
