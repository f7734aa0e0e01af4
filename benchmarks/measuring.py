"""What the benchmarks share: wrk and what it reports, tables, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Load:
    """What came of a load: requests a second, milliseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


def load_command(port: int, connections: int, seconds: float, host: str = "127.0.0.1", page: str = "/") -> list[str]:
    """Return the command that loads a page on a port."""
    return [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "10s",
        "--latency",
        f"http://{host}:{port}{page}",
    ]


def parse(output: str) -> Load:
    """Return what wrk reports."""

    def percentile(share: str) -> float:
        found = re.search(rf"^\s+{share}%\s+([0-9.]+)(us|ms|s|m)\s*$", output, re.MULTILINE)
        return float(found[1]) * UNITS[found[2]] if found else 0.0

    rate = re.search(r"^Requests/sec:\s+([0-9.]+)$", output, re.MULTILINE)
    failures = re.findall(r"(?:connect|read|write|timeout|responses:) ([0-9]+)", output)
    return Load(float(rate[1]) if rate else 0.0, percentile("50"), percentile("99"), sum(map(int, failures)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, the first column to the left and the numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Return what the figures were measured on."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu[1] if cpu else platform.machine()}, Linux {platform.release().split('-')[0]}"
