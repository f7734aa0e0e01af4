"""How many workers there are in a container with limits, and what they listen on."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import pytest

from friendlyhello import resources

UNLIMITED = "9223372036854771712"  # what version 1 says if there is no limit


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("files", "workers"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000", "memory.max": "max"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"memory.max": str(256 * 2**20)}, 4),
        ({"memory.max": str(2**20)}, 1),
        ({"cpu.max": "200000 100000", "memory.max": str(2**30)}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"memory/memory.limit_in_bytes": UNLIMITED}, 8),
        ({"memory/memory.limit_in_bytes": str(192 * 2**20)}, 3),
    ],
)
def test_workers_fit_the_containers_cores_and_memory(tmp_path: Path, files: dict[str, str], workers: int) -> None:
    """One for each core, fewer where memory is short, in control groups of version 2 and 1."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")

    assert resources.workers(tmp_path) == workers


def test_a_system_that_cannot_say_has_the_cores_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system knows which cores a process may use."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)

    assert resources.cores(tmp_path) == 1
    assert resources.memory(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("has_ipv6", "v6only", "bound"),
    [
        (True, "0\n", ["[::]:80"]),
        (True, "1\n", ["0.0.0.0:80", "[::]:80"]),
        (True, None, ["[::]:80"]),
        (False, None, ["0.0.0.0:80"]),
    ],
)
def test_what_is_bound_follows_the_kernel(
    has_ipv6: bool, v6only: str | None, bound: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One socket takes both where it can; a kernel without IPv6 has a page as well."""
    setting = tmp_path / "bindv6only"
    if v6only is not None:
        setting.write_text(v6only, "ascii")
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: has_ipv6)

    assert resources.addresses(80, setting) == bound
