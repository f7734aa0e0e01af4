"""How many cores and how much memory this process may really use, which in a container is less than the machine has.

Reads control groups of version 2 and 1: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files and
https://docs.kernel.org/scheduler/sched-bwc.html. A missing or unreadable file means no limit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMORY_OF_A_WORKER = 64 * 1024 * 1024
"""Bytes to reckon with for each worker; benchmarks/service.py measures what one really takes."""


def workers(root: Path = CGROUP) -> int:
    """Return one worker for each core, or fewer when memory is short, and one at the least."""
    affordable = memory(root) // MEMORY_OF_A_WORKER
    return int(max(1, min(cores(root), affordable)))


def cores(root: Path = CGROUP) -> int:
    """Return the cores that the scheduler lets this process use, part of a core counting as one."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _words(root / "cpu.max", "max 100000")
    if quota == "max":
        (quota,) = _words(root / "cpu/cpu.cfs_quota_us", "-1")
        (period,) = _words(root / "cpu/cpu.cfs_period_us", "100000")
    limit = int(quota) / int(period) if quota.isdigit() else available
    return max(1, min(available, math.ceil(limit)))


def memory(root: Path = CGROUP) -> float:
    """Return the bytes that this process and its siblings may use together; infinity when there is no limit."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        (limit,) = _words(root / file, "max")
        if limit.isdigit():
            return int(limit)
    return math.inf


def _words(file: Path, otherwise: str) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return otherwise.split()
