"""What all tests share: a run of GitHub's is left alone, no test has a deadline, and when a test may be skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

REQUIRED = os.environ.get("REQUIRE_ENGINE") == "1"
OF_A_RUN = ("ACTIONS_", "GITHUB_", "RUNNER_")
"""What the names of a runner's own variables begin with."""

# Hypothesis gives an example 200 ms, and making the examples a second; on a busy machine both take longer now and then.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def no_run() -> Iterator[None]:
    """The run of a workflow that runs the tests is not theirs: its summary and its outputs are not written to."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OF_A_RUN)]:
            patch.delenv(name)
        yield


def need(present: bool, what: str, hint: str = "scripts/check.py --setup installs it") -> None:
    """Skip the test if `what` is missing; if nothing may be skipped, fail. `hint` says how to get it."""
    if not present:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what}; {hint}")


def need_root(what_for: str) -> None:
    """Skip the test for an ordinary user, even if nothing else may be skipped: they cannot become root."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root, for {what_for}; run scripts/check.py as root")
