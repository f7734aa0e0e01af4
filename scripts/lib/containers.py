"""Everything that a run creates in the engine carries its label, and goes when the run ends.

A run that was killed cannot clean up; the next one does it, and touches nothing without the label
and nothing of a run that is still alive.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from lib.command import Failure, last_line, run
from lib.daemon import started_at
from lib.names import FORMER, PIPELINE

LABEL = f"{PIPELINE}.run"
LABELS = (LABEL, f"{FORMER}.run")
PATIENCE = 120  # seconds for the engine to remove something, or to say that it is there

# No run lasts longer: a job on a runner of one's own may take five days.
# https://docs.github.com/actions/reference/limits#existing-system-limits
LONGEST = 5 * 24 * 60 * 60

NOWHERE = "0-0"


@functools.cache
def run_id() -> str:
    """Return this process's id: where it runs, its PID, when it started, and the date in seconds since 1970."""
    return f"{here()}-{os.getpid()}-{started_at('self') or 0}-{int(time.time())}"


def here() -> str:
    """Return which processes this one can see: those of one boot of one machine, in one PID namespace.

    The same PID is another process in each of two job containers on one engine: pid_namespaces(7). Returns NOWHERE if
    this is not Linux, or if its /proc is another namespace's.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return NOWHERE
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8")[:8]
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return NOWHERE


def label() -> str:
    """Return the label that everything that this run creates carries."""
    return f"{LABEL}={run_id()}"


def is_alive(run: str) -> bool:
    """Whether the process behind a run's id may still run.

    One that cannot be seen from here counts as alive until it is older than any run, and always if its id does not
    say how old it is. An id of an earlier version is a PID and its start, and nothing more.
    """
    match = re.fullmatch(r"(?:(\w+-\d+)-)?(\d+)-(\d+)(?:-(\d+))?", run)
    if not match:
        return True
    where, pid, started, date = match.groups()
    if started != "0" and (where or here()) == here() != NOWHERE:
        return str(started_at(int(pid))) == started
    return not date or time.time() < int(date) + LONGEST


def remove(filter_: str) -> None:
    """Remove the containers, networks and volumes that carry a label."""
    for kind, remove_command in (
        ("container", ["docker", "container", "rm", "--force", "--volumes"]),
        ("network", ["docker", "network", "rm"]),
        ("volume", ["docker", "volume", "rm"]),
    ):
        every = ["--all"] if kind == "container" else []
        list_command = ["docker", kind, "ls", "--quiet", *every, "--filter", f"label={filter_}"]
        found = run(list_command, check=False, timeout=PATIENCE)
        if found.stdout.split():
            run([*remove_command, *found.stdout.split()], check=False, timeout=PATIENCE)


def remove_leftovers() -> None:
    """Remove what killed runs left behind, also those of an earlier version."""
    for name in LABELS:
        runs = set()
        for kind in (["container", "ls", "--all"], ["network", "ls"]):
            command = ["docker", *kind, "--filter", f"label={name}", "--format", f'{{{{.Label "{name}"}}}}']
            runs |= set(run(command, check=False).stdout.split())
        for run_ in sorted(runs):
            if not is_alive(run_):
                remove(f"{name}={run_}")


def server_version() -> str:
    """Return the version of the engine that `docker` talks to, or "" if none answers."""
    try:
        return run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=PATIENCE).stdout.strip()
    except Failure:
        return ""


@contextlib.contextmanager
def cleaned_up() -> Iterator[None]:
    """Remove what killed runs left; at the end, also after Ctrl-C, what this one created.

    A Failure that comes from an engine that has stopped says so: it is not the image's.
    """
    remove_leftovers()
    try:
        yield
    except Failure as failure:
        if server_version():
            raise
        raise Failure(
            f"the Docker Engine stopped half-way ({failure}); start it and run this again, which removes what is left"
        ) from failure
    finally:
        # A second Ctrl-C must not stop the cleaning up half-way.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            remove(label())
        finally:
            signal.signal(signal.SIGINT, before)


def logs(container: str, lines: int = 30) -> str:
    """Return the last lines that a container wrote."""
    done = run(["docker", "logs", "--tail", str(lines), container], check=False)
    return (done.stdout + done.stderr).strip()


def start(command: list[str]) -> str:
    """Start a container in the background and return its id; Failure that names who has its port."""
    done = run(command, show=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    port = taken_port(done.stderr)
    if not port:
        raise Failure(f"the container does not start{last_line(done)}")
    holder = run(["docker", "container", "ls", "--filter", f"publish={port}", "--format", "{{.Names}}"], check=False)
    names = holder.stdout.split()
    who = f"by the container {names[0]}; run docker rm --force {names[0]}" if names else "by another program; end it"
    raise Failure(f"port {port} is taken {who}, or give another one with --port")


def taken_port(said: str) -> str:
    """Return the port of this machine that `docker run` could not have because it is taken, or "".

    Each engine words it differently; the first address with a port in it is always this machine's.
    """
    if not re.search(r"port is already allocated|address already in use|EADDRINUSE|usage of each socket", said):
        return ""
    port = re.search(r"(?:\d+\.\d+\.\d+\.\d+|\]|::|localhost|\*):(\d+)", said)
    return port[1] if port else ""
