#!/usr/bin/env python3
"""What a redeploy costs visitors: requests that failed, the longest gap without an answer, and seconds.

Runs a real Docker Swarm on an engine of its own in a network namespace (as root), and sends it visitors at a
constant rate while good and bad versions are deployed with scripts/redeploy.py: each kind of version at two
replicas, a good and a bad one at one, four and eight. Then loads the edge with wrk. Takes about fifteen minutes.
Prints tables in Markdown; exits with 1 when a request failed, or a number of visits was repeated or went down.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from lib import engine, standin  # noqa: E402
from lib.command import Failure, parser, run, say, start  # noqa: E402
from measuring import load_command, machine, parse, table  # noqa: E402
from swarm.host import BAD, Host, Load, one_host  # noqa: E402
from swarm.load import Seen  # noqa: E402

GOOD = "1.1.0"
REPLICAS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Update:
    """One redeploy under load. `seconds` are the whole command's, until the version or the one before serves."""

    replicas: int
    version: str
    seconds: float
    seen: Seen

    @property
    def flawless(self) -> bool:
        """Whether no visitor noticed."""
        return not (self.seen.failed or self.seen.repeated or self.seen.went_down)


def update(host: Host, replicas: int, version: str, rate: int, requests: int) -> Update:
    """Deploy a version under load, with the first one serving before and afterwards."""
    say(f"{replicas} replicas, {version}")
    first(host, replicas)
    with Load(host, rate, requests) as load:
        begin = time.monotonic()
        done = host.redeploy(version)
        seconds = time.monotonic() - begin
    if (done.returncode == 0) != (version == GOOD) or host.serving() != host.commits[0 if version == GOOD else 1]:
        raise Failure(f"redeploying {version} did not end as it should:\n{done.stderr}")
    assert load.seen is not None
    return Update(replicas, version, seconds, load.seen)


def first(host: Host, replicas: int) -> None:
    """Have the first version serve with so many replicas."""
    done = host.redeploy("1.0.0", REPLICAS=str(replicas))
    if done.returncode != 0:
        raise Failure(f"the first version cannot be deployed:\n{done.stderr}")


def updates(found: Sequence[Update]) -> str:
    """Return the table of all redeploys."""
    rows = [
        [
            *(str(one.replicas), one.version, f"{one.seconds:.1f}"),
            *(f"{one.seen.requests:,}", str(one.seen.failed), f"{one.seen.longest_gap:.2f}"),
            *(str(one.seen.repeated), str(one.seen.went_down), str(one.seen.uncounted)),
        ]
        for one in found
    ]
    head = ["replicas", "version", "seconds", "requests", "failed", "longest gap s", "repeated", "down", "uncounted"]
    return table(head, rows)


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rate", type=int, default=500, help="requests a second (default: %(default)s)")
    arguments.add_argument("--requests", type=int, default=30_000, help="for each redeploy (default: %(default)s)")
    options = arguments.parse_args(argv)
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "docker-registry", "ip", "wrk"))):
        raise Failure("needs root, dockerd, docker-registry, ip and wrk; run scripts/check.py --setup, install wrk")
    if engine.problems(found := engine.look(), [standin.host_platform()]) or not found.stands_in:
        raise Failure("needs an engine with base images here; run python3 scripts/engine.py --setup --offline")
    measured, through = [], []
    with TemporaryDirectory() as folder, one_host(Path(folder)) as host:
        for replicas in REPLICAS:
            for version in (GOOD, *BAD) if replicas == 2 else (GOOD, "crashes"):
                measured.append(update(host, replicas, version, options.rate, options.requests))
            if replicas <= 4:
                first(host, replicas)
                say(f"{replicas} replicas, as fast as the edge can")
                through.append((replicas, parse(run(load_command(4000, 32, 5, host.own.address, "/page")).stdout)))
    print(f"Measured on {machine()}, {options.rate} requests/s during each redeploy.\n")
    print(updates(measured) + "\n")
    rows = [[str(replicas), f"{load.rate:,.0f}", f"{load.p99:.1f}", str(load.failed)] for replicas, load in through]
    print(table(["replicas", "requests/s through the edge", "p99 ms", "failed"], rows))
    return 0 if all(one.flawless for one in measured) else 1


if __name__ == "__main__":
    start(main)
