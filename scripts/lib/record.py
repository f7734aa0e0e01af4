"""What served when, and who redeploys right now: the state that redeploying keeps in the Swarm.

Nothing is kept in files. Each version that was deployed and proved itself is a config object
(`STACK_deployed_NUMBER`); so are the lock (`STACK_redeploying`) and, from the first change of a redeploy until its
end, what ran before it (`STACK_unfinished`). Swarm lets only one of a name exist. They are found by their names, so
that records count, whatever an earlier version of this project called its labels.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from lib.command import Failure, last_line, run, say
from lib.daemon import started_at
from lib.names import PIPELINE
from lib.swarm import Release, docker

STACK_LABEL = f"{PIPELINE}.stack"
KIND_LABEL = f"{PIPELINE}.kind"
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


@dataclass(frozen=True)
class Unfinished:
    """A redeploy that has changed something and has not come to an end: what it wanted, and what ran before it.

    `services` are the stack's, as lib.swarm.inspected returned them; none if nothing ran.
    """

    version: str
    at: str
    by: str
    services: Sequence[Mapping[str, Any]] = ()


def configs(stack: str) -> list[str]:
    """Return the names of the config objects that this keeps for a stack, in order."""
    ours = re.compile(rf"{re.escape(stack)}_(deployed_\d{{6,}}|unfinished|redeploying)")
    names = docker("config", "ls", "--filter", f"name={stack}_", "--format", "{{.Name}}").split()
    return sorted(name for name in names if ours.fullmatch(name))


def create_config(stack: str, kind: str, name: str, content: Mapping[str, Any]) -> bool:
    """Create a config object; return False if that name is taken: of two, one succeeds."""
    labels = ["--label", f"{STACK_LABEL}={stack}", "--label", f"{KIND_LABEL}={kind}"]
    done = run(["docker", "config", "create", *labels, name, "-"], check=False, stdin=json.dumps(content), timeout=60)
    if done.returncode and "AlreadyExists" not in done.stderr and "already exists" not in done.stderr:
        raise Failure(f"cannot create {name} in the Swarm{last_line(done)}")
    return done.returncode == 0


def read_configs(names: Sequence[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the name, the ID and the content of config objects; one that is gone is left out."""
    if not names:
        return []
    done = run(["docker", "config", "inspect", *names], check=False, timeout=60)
    if done.returncode and "no such config" not in done.stderr:
        raise Failure(f"cannot read {', '.join(names)} in the Swarm{last_line(done)}")
    found = []
    for facts in json.loads(done.stdout or "[]"):
        name = facts["Spec"]["Name"]
        try:
            found.append((name, facts["ID"], json.loads(base64.b64decode(facts["Spec"]["Data"]))))
        except ValueError as error:
            raise not_ours(name) from error
    return found


def not_ours(name: str) -> Failure:
    """Return the sentence for a config object whose content this did not write."""
    return Failure(f"the config {name} in the Swarm is not from a redeploy; run docker config rm {name}")


def parse_record(name: str, content: Mapping[str, Any]) -> Record:
    """Return the record that `write_record` wrote; raise Failure if it is not one."""
    try:
        known = {field.name for field in fields(Record)}
        kept = {field.name for field in fields(Release)}
        release = Release(**{key: value for key, value in content["release"].items() if key in kept})
        return Record(**{**{key: value for key, value in content.items() if key in known}, "release": release})
    except (KeyError, TypeError, AttributeError) as error:
        raise not_ours(name) from error


def history(stack: str) -> list[Record]:
    """Return the releases that were deployed and proved themselves, oldest first; the last one is proven to work."""
    names = [name for name in configs(stack) if name.startswith(f"{stack}_deployed_")]
    found = [parse_record(name, content) for name, _, content in read_configs(names)]
    return sorted(found, key=lambda record: record.number)


def previous(records: Sequence[Record]) -> Record | None:
    """Return the record that the version before the last one has, or None.

    Going back is not a step forward: `previous` twice goes back two versions, and not to where it started.
    """
    before = records[-1].before if records else None
    return next((record for record in records if record.number == before), None)


def write_record(stack: str, record: Record) -> None:
    """Keep a record in the Swarm, and no more than the last twenty; raise Failure if it cannot be kept."""
    name = f"{stack}_deployed_{record.number:06d}"
    if not create_config(stack, "deployed", name, asdict(record)):
        raise Failure(f"cannot keep the record of {record.release}: the Swarm has another {name}")
    old = [name for name in configs(stack) if name.startswith(f"{stack}_deployed_")][:-KEPT]
    if old:
        run(["docker", "config", "rm", *old], check=False, timeout=60)


def unfinished(stack: str) -> Unfinished | None:
    """Return the redeploy that was cut off, or is still running; None if the last one came to its end."""
    for name, _, content in read_configs([name for name in configs(stack) if name == f"{stack}_unfinished"]):
        try:
            return Unfinished(**content)
        except TypeError as error:
            raise not_ours(name) from error
    return None


def begin(stack: str, change: Unfinished) -> None:
    """Keep what runs before the first change is made."""
    if not create_config(stack, "unfinished", f"{stack}_unfinished", asdict(change)):
        raise Failure(f"the Swarm has another {stack}_unfinished; run this again")


def end(stack: str) -> None:
    """Note that what runs and what is recorded are the same again."""
    run(["docker", "config", "rm", f"{stack}_unfinished"], check=False, timeout=60)


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
        for _, identifier, content in read_configs([name]):
            holder = Holder(**content)
            who = f"process {holder.pid} on {holder.host}, which deploys {holder.version},"
            if holder.is_dead(now):
                say(f"{who} was killed half-way: taking over")
                # By its ID: somebody else may have done the same and hold a new lock of that name.
                run(["docker", "config", "rm", identifier], check=False)
                break
            if time.monotonic() > deadline:
                raise Failure(
                    f"{who} has held the lock since {clock(holder.since)} (expires {clock(holder.until)});"
                    f" if you know that it is dead, run docker config rm {name}"
                )
            if not told:
                say(f"{who} is redeploying; waiting for it to finish")
                told = True
            time.sleep(1)
    try:
        yield
    finally:
        run(["docker", "config", "rm", name], check=False)


def clock(seconds: float) -> str:
    """Return a time of day in UTC for people."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(seconds))
