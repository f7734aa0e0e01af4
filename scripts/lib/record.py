"""What served when, and who redeploys right now: the state that redeploying keeps in the Swarm.

Nothing is kept in files. Each version that was deployed and proved itself is a config object
(`STACK_deployed_NUMBER`), and so is the lock (`STACK_redeploying`): Swarm lets only one of a name exist.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lib.command import Failure, last_line, run, say
from lib.daemon import started_at
from lib.swarm import Release, docker

STACK_LABEL = "friendlyhello.stack"
KIND_LABEL = "friendlyhello.kind"
KEPT = 20  # records of deployed versions


@dataclass(frozen=True)
class Record:
    """A release that was deployed and proved itself, and how it was deployed. `before` is what `previous` means."""

    number: int
    release: Release
    at: str
    by: str
    domain: str = ""
    port: int = 4000
    before: int | None = None


def configs(stack: str, kind: str) -> list[str]:
    """Return the names of a stack's config objects of a kind, in order."""
    filters = ["--filter", f"label={STACK_LABEL}={stack}", "--filter", f"label={KIND_LABEL}={kind}"]
    return sorted(docker("config", "ls", *filters, "--format", "{{.Name}}").split())


def create_config(stack: str, kind: str, name: str, content: Mapping[str, Any]) -> bool:
    """Create a config object; return False where one of that name exists: of two, one succeeds."""
    labels = ["--label", f"{STACK_LABEL}={stack}", "--label", f"{KIND_LABEL}={kind}"]
    done = run(["docker", "config", "create", *labels, name, "-"], check=False, stdin=json.dumps(content), timeout=60)
    if done.returncode and "AlreadyExists" not in done.stderr and "already exists" not in done.stderr:
        raise Failure(f"cannot create {name} in the Swarm{last_line(done)}")
    return done.returncode == 0


def read_configs(names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the ID and the content of config objects; one that is gone is left out."""
    if not names:
        return []
    done = run(["docker", "config", "inspect", *names], check=False, timeout=60)
    if done.returncode and "no such config" not in done.stderr:
        raise Failure(f"cannot read {', '.join(names)} in the Swarm{last_line(done)}")
    return [
        (facts["ID"], json.loads(base64.b64decode(facts["Spec"]["Data"]))) for facts in json.loads(done.stdout or "[]")
    ]


def parse_record(content: Mapping[str, Any]) -> Record:
    """Return the record that `write_record` wrote."""
    return Record(**{**content, "release": Release(**content["release"])})


def history(stack: str) -> list[Record]:
    """Return the releases that were deployed and proved themselves, oldest first; the last one is proven to work."""
    return sorted(
        (parse_record(content) for _, content in read_configs(configs(stack, "deployed"))),
        key=lambda record: record.number,
    )


def previous(records: Sequence[Record]) -> Record | None:
    """Return the record that the version before the last one has, or None.

    Going back is not a step forward: `previous` twice goes back two versions, and not to where it started.
    """
    before = records[-1].before if records else None
    return next((record for record in records if record.number == before), None)


def write_record(stack: str, record: Record) -> None:
    """Keep a record in the Swarm, and no more than the last twenty."""
    create_config(stack, "deployed", f"{stack}_deployed_{record.number:06d}", asdict(record))
    old = configs(stack, "deployed")[:-KEPT]
    if old:
        docker("config", "rm", *old)


@dataclass(frozen=True)
class Holder:
    """Who redeploys right now. `until` (seconds since 1970) is when the lock may be taken from a dead one."""

    host: str
    pid: int
    started: int
    version: str
    since: float
    until: float

    def is_dead(self, now: float) -> bool:
        """Whether the holder is gone: its process, where it ran on this machine; else its time."""
        if self.host == socket.gethostname():
            return started_at(self.pid) != self.started
        return now > self.until


@contextlib.contextmanager
def locked(stack: str, version: str, *, lease: float, wait: float) -> Iterator[None]:
    """Hold the stack's lock, so that two redeploys are never mixed.

    Waits up to `wait` seconds for another redeploy to end, and takes over from one that was killed. `lease` is how
    many seconds this one can take at most: somebody on another machine cannot see that we died.
    """
    name = f"{stack}_redeploying"
    deadline = time.monotonic() + wait
    told = False
    while True:
        now = time.time()
        mine = Holder(socket.gethostname(), os.getpid(), started_at(os.getpid()) or 0, version, now, now + lease)
        if create_config(stack, "lock", name, asdict(mine)):
            break
        for identifier, content in read_configs([name]):
            holder = Holder(**content)
            who = f"process {holder.pid} on {holder.host}, which deploys {holder.version},"
            if holder.is_dead(now):
                say(f"{who} was killed half-way: going on from where it left the Swarm")
                # By its ID: somebody else may have done the same and hold a new lock of that name.
                run(["docker", "config", "rm", identifier], check=False)
                break
            if time.monotonic() > deadline:
                raise Failure(
                    f"{who} has the lock since {clock(holder.since)} and keeps it until {clock(holder.until)} at most;"
                    f" if you know that it is dead, run docker config rm {name}"
                )
            if not told:
                say(f"{who} is at it: waiting for it to end")
                told = True
            time.sleep(1)
    try:
        yield
    finally:
        run(["docker", "config", "rm", name], check=False)


def clock(seconds: float) -> str:
    """Return a time of day in UTC for people."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(seconds))
