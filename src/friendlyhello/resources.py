"""What this process has of the machine: cores and memory, of which a container often has less, and IPv6.

Reads control groups of version 2 and 1: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files and
https://docs.kernel.org/scheduler/sched-bwc.html. A missing or unreadable file means no limit.
"""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
V6ONLY = Path("/proc/sys/net/ipv6/bindv6only")
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


def addresses(port: int, v6only: Path = V6ONLY) -> list[str]:
    """Return what to bind to reach `port` over IPv4 and IPv6, or over IPv4 alone if the kernel has no IPv6.

    Usually a socket of IPv6 takes IPv4 as well: https://docs.kernel.org/networking/ip-sysctl.html
    """
    four, six = f"0.0.0.0:{port}", f"[::]:{port}"
    if not socket.has_dualstack_ipv6():
        return [four]
    return [four, six] if _words(v6only, "0") == ["1"] else [six]


def _words(file: Path, otherwise: str) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return otherwise.split()
