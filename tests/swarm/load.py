#!/usr/bin/env python3
"""Ask a page for visits at a constant rate, and say what a visitor would have noticed.

Each connection is one visitor that asks again as soon as it was answered and its turn has come. Runs until its
standard input closes and --at-least requests were made, or for --seconds; then prints what it saw as JSON, one line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

VISITS = re.compile(rb"(?:no count|count (\d+))$")  # tests/fixtures/service
LONGEST_WAIT = 20.0  # seconds for one answer; the edge tries for 15


@dataclass
class Seen:
    """What the visitors saw. Seconds are wall-clock; a gap is a time in which nobody was answered; p50, p99 in ms."""

    requests: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    uncounted: int = 0
    went_down: int = 0
    repeated: int = 0
    highest: int = 0
    seconds: float = 0.0
    longest_gap: float = 0.0
    slowest: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    revisions: dict[str, int] = field(default_factory=dict)


class Visitors:
    """All the visitors of one address."""

    def __init__(self, host: str, port: int, connections: int, rate: float, at_least: int) -> None:
        self.host, self.port = host, port
        self.connections, self.rate, self.at_least = connections, rate, at_least
        self.request = f"GET /page HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: load\r\n\r\n".encode()
        self.seen = Seen()
        self.numbers: set[int] = set()
        self.revisions: Counter[str] = Counter()
        self.waits: list[float] = []
        self.running = True
        self.last_answer = 0.0

    async def run(self) -> Seen:
        """Visit until `running` is False and there were enough requests; return what was seen."""
        start = self.last_answer = time.monotonic()
        await asyncio.gather(*(self.visit(number) for number in range(self.connections)))
        self.seen.seconds = round(time.monotonic() - start, 3)
        if len(self.waits) > 1:
            hundredths = statistics.quantiles(self.waits, n=100)
            self.seen.p50, self.seen.p99 = (round(hundredths[place] * 1000, 2) for place in (49, 98))
        self.seen.revisions = dict(self.revisions)
        return self.seen

    async def visit(self, number: int) -> None:
        """Be one visitor: ask, wait for the turn, ask again, on one connection for as long as it lasts."""
        every = self.connections / self.rate
        turn = time.monotonic() + every * number / self.connections
        highest = 0
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self.running or self.seen.requests < self.at_least:
            now, due = time.monotonic(), turn
            if now < turn:
                await asyncio.sleep(turn - now)
            turn = max(turn + every, now - every)
            asked = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.wait_for(asyncio.open_connection(self.host, self.port), LONGEST_WAIT)
                status, headers, body = await asyncio.wait_for(self.ask(*streams), LONGEST_WAIT)
            except (TimeoutError, OSError, EOFError, ValueError) as error:
                self.fail(type(error).__name__ + (f": {error}" if str(error) else ""))
                if streams:
                    streams[1].close()
                streams = None
                await asyncio.sleep(0.05)  # a refused connection must not become a busy loop
                continue
            answered = time.monotonic()
            self.seen.requests += 1
            self.waits.append(answered - due)
            self.seen.slowest = round(max(self.seen.slowest, answered - asked), 3)
            if not 200 <= status < 300:
                self.fail(f"status {status}", asked=False)
            else:
                self.seen.longest_gap = round(max(self.seen.longest_gap, answered - self.last_answer), 3)
                self.last_answer = answered
                highest = self.count(body, highest)
                self.revisions[headers.get("x-revision", "none")] += 1
            if headers.get("connection", "").lower() == "close":
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request and return the answer's status, headers and body."""
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, body

    def count(self, body: bytes, highest: int) -> int:
        """Check the number of visits on a page against all that were seen; return the visitor's highest."""
        match = VISITS.search(body)
        if not match:
            self.fail(f"not the page: {body[:80]!r}", asked=False)
            return highest
        if match[1] is None:
            self.seen.uncounted += 1
            return highest
        visits = int(match[1])
        self.seen.went_down += visits < highest
        self.seen.repeated += visits in self.numbers
        self.numbers.add(visits)
        self.seen.highest = max(self.seen.highest, visits)
        return max(highest, visits)

    def fail(self, reason: str, *, asked: bool = True) -> None:
        """Note a request that a visitor would call failed."""
        self.seen.requests += asked
        self.seen.failed += 1
        if len(self.seen.reasons) < 10:
            self.seen.reasons.append(f"{time.strftime('%H:%M:%S')} {reason}")


async def visit(options: argparse.Namespace) -> Seen:
    """Run the visitors until standard input closes or the time is up."""
    visitors = Visitors(options.host, options.port, options.connections, options.rate, options.at_least)

    def stop() -> None:
        visitors.running = False

    def stop_at_once() -> None:
        visitors.running, visitors.at_least = False, 0

    loop = asyncio.get_running_loop()
    loop.call_later(options.seconds, stop_at_once)
    with contextlib.suppress(PermissionError):  # /dev/null cannot be waited for
        loop.add_reader(sys.stdin.fileno(), stop)
    return await visitors.run()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("--connections", type=int, default=8)
    arguments.add_argument("--rate", type=float, default=1000, help="requests a second, all connections together")
    arguments.add_argument(
        "--at-least", type=int, default=0, help="continue after that until so many requests were made"
    )
    arguments.add_argument("--seconds", type=float, default=300, help="stop by itself after this long")
    print(json.dumps(asdict(asyncio.run(visit(arguments.parse_args())))))


if __name__ == "__main__":
    main()
