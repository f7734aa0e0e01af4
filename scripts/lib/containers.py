"""Everything that a run creates in the engine carries its label, and goes when the run ends.

A run that was killed cannot clean up; the next one does it, and touches nothing without the label
and nothing of a run that is still alive.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator

from lib.command import Failure, last_line, run
from lib.daemon import started_at

LABEL = "friendlyhello.run"
PATIENCE = 120  # seconds for the engine to remove something, or to say that it is there


def run_id() -> str:
    """Return this process's id: its PID and its start time, so that no other process has the same."""
    return f"{os.getpid()}-{started_at(os.getpid()) or 0}"


def label() -> str:
    """Return the label that everything that this run creates carries."""
    return f"{LABEL}={run_id()}"


def is_alive(run: str) -> bool:
    """Whether the process behind a run's id still runs; unknown counts as alive."""
    pid, _, start = run.partition("-")
    return not (pid.isdigit() and start.isdigit() and start != "0") or str(started_at(int(pid))) == start


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
    """Remove what killed runs left behind."""
    names = [
        "docker",
        "container",
        "ls",
        "--all",
        "--filter",
        f"label={LABEL}",
        "--format",
        f'{{{{.Label "{LABEL}"}}}}',
    ]
    networks = ["docker", "network", "ls", "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}']
    found = run(names, check=False).stdout.split() + run(networks, check=False).stdout.split()
    for run_ in sorted(set(found)):
        if not is_alive(run_):
            remove(f"{LABEL}={run_}")


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
    # As Docker says it: "0.0.0.0:4000 failed: port is already allocated", "0.0.0.0:4000: bind: address already in use".
    port = re.search(r":(\d+)(?: failed|: bind): (?:port is already allocated|address already in use)", done.stderr)
    if not port:
        raise Failure(f"the container does not start{last_line(done)}")
    holder = run(["docker", "container", "ls", "--filter", f"publish={port[1]}", "--format", "{{.Names}}"], check=False)
    names = holder.stdout.split()
    who = f"by the container {names[0]}; run docker rm --force {names[0]}" if names else "by another program; end it"
    raise Failure(f"port {port[1]} is taken {who}, or give another one with --port")
