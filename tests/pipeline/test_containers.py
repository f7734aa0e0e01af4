"""What a run creates in the engine goes when it ends, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import need_root
from lib import containers
from lib.command import Failure
from lib.daemon import started_at
from lib.names import FORMER
from support.programs import Programs

ROOT = Path(__file__).resolve().parents[2]
NOW = int(time.time())
PID, STARTED = os.getpid(), started_at(os.getpid())
ALIVE = containers.run_id()
DEAD = f"{containers.here()}-4194305-7-{NOW}"  # no PID is that high: proc(5), pid_max
ELSEWHERE = f"0123abcd-4026531836-4194305-7-{NOW}"
OLD = NOW - containers.LONGEST - 1


RUNS = {
    "this one": (ALIVE, True),
    "ended": (DEAD, False),
    "a PID that belongs to somebody else by now": (f"{containers.here()}-{PID}-1-{NOW}", False),
    "old, and it runs": (f"{containers.here()}-{PID}-{STARTED}-{OLD}", True),
    "nobody knows when it started": (f"{containers.here()}-{PID}-0-{NOW}", True),
    "nobody knows when it started, and old": (f"{containers.here()}-{PID}-0-{OLD}", False),
    "elsewhere": (ELSEWHERE, True),
    "elsewhere, and old": (ELSEWHERE.replace(str(NOW), str(OLD)), False),
    "not on Linux": (f"{containers.NOWHERE}-{PID}-1-{NOW}", True),
    "not on Linux, and old": (f"{containers.NOWHERE}-{PID}-1-{OLD}", False),
    "an earlier version's": (f"{PID}-{STARTED}", True),
    "an earlier version's, ended": ("4194305-7", False),
    "an earlier version's, a PID that belongs to somebody else": (f"{PID}-1", False),
    "an earlier version's, nobody knows when it started": ("1234-0", True),
    "by hand": ("by-hand", True),
    "none": ("", True),
}


@pytest.mark.parametrize("run", RUNS)
def test_is_alive(run: str) -> None:
    """A run counts as alive unless its process is known to have ended, or it is older than any run."""
    name, alive = RUNS[run]
    assert containers.is_alive(name) is alive


def test_a_run_with_a_proc_of_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """If /proc shows other processes than ours, nothing is said to be dead by it."""
    dead = DEAD
    monkeypatch.setattr(os, "readlink", lambda _path: "1")
    assert containers.here() == containers.NOWHERE
    assert containers.is_alive(dead)
    assert containers.is_alive("4194305-7")


# Prints its id, then says of each id that it is told whether that run is alive.
JUDGE = f"""import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from lib import containers
print(containers.run_id(), flush=True)
for line in sys.stdin:
    print(containers.is_alive(line.strip()), flush=True)
"""


class Judge:
    """A run in a PID namespace of its own, as in a job's container."""

    def __init__(self) -> None:
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.process = subprocess.Popen(
            [*unshare, sys.executable, "-c", JUDGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin
        assert self.process.stdout
        self.asked, self.said = self.process.stdin, self.process.stdout
        self.run = self.said.readline().strip()

    def says_alive(self, run: str) -> bool:
        """Return what it says of a run."""
        self.asked.write(f"{run}\n")
        self.asked.flush()
        return self.said.readline().strip() == "True"

    def end(self) -> None:
        """End the run, and its namespace with it."""
        self.process.communicate()


def test_runs_in_two_pid_namespaces() -> None:
    """Two jobs' containers on one engine have the same PIDs: neither takes the other's run for a dead one's."""
    need_root("PID namespaces")
    one, other = Judge(), Judge()
    try:
        assert one.run != other.run
        assert one.says_alive(other.run)
        assert other.says_alive(one.run)
        assert one.says_alive(one.run)
        assert containers.is_alive(one.run)
        assert one.says_alive(ALIVE)
        where = one.run.rsplit("-", 3)[0]
        assert not one.says_alive(f"{where}-4194305-7-{NOW}")
    finally:
        one.end()
        other.end()


def test_label() -> None:
    """Everything that this run creates carries its id."""
    assert containers.label() == f"onedigest.run={ALIVE}"


def test_remove(docker: Programs) -> None:
    """Containers first, then networks and volumes; only what carries the label."""
    docker.answer("^docker container ls", "c1\nc2\n").answer("^docker volume ls", "v1\n")
    containers.remove("onedigest.run=1-2")
    wanted = ["--filter", "label=onedigest.run=1-2"]
    assert docker.calls == [
        ["docker", "container", "ls", "--quiet", "--all", *wanted],
        ["docker", "container", "rm", "--force", "--volumes", "c1", "c2"],
        ["docker", "network", "ls", "--quiet", *wanted],
        ["docker", "volume", "ls", "--quiet", *wanted],
        ["docker", "volume", "rm", "v1"],
    ]


def test_leftovers_of_killed_runs_are_removed(docker: Programs) -> None:
    """What a killed run left goes; what a live one uses stays."""
    ours = "label=onedigest.run --format"
    docker.answer(f"^docker container ls .*{ours}", f"{ALIVE}\n{ELSEWHERE}\n{DEAD}\n")
    docker.answer(f"^docker network ls .*{ours}", DEAD)
    docker.answer("^docker (container|network) ls --quiet", "x")
    containers.remove_leftovers()
    assert docker.called("docker", "container", "rm") == [["docker", "container", "rm", "--force", "--volumes", "x"]]
    assert docker.called("docker", "network", "rm") == [["docker", "network", "rm", "x"]]
    assert not any(run in " ".join(call) for call in docker.calls for run in (ALIVE, ELSEWHERE))


def test_leftovers_of_an_earlier_version_are_removed(docker: Programs) -> None:
    """What a killed run of an earlier version left carries the label that it had then."""
    docker.answer(f"^docker container ls .*label={FORMER}.run --format", f"4194305-7\n{PID}-{STARTED}\n")
    docker.answer(f"^docker container ls --quiet --all --filter label={FORMER}.run=4194305-7$", "x")
    containers.remove_leftovers()
    assert docker.called("docker", "container", "rm") == [["docker", "container", "rm", "--force", "--volumes", "x"]]


def test_a_run_cleans_up_after_itself(docker: Programs) -> None:
    """What it created goes also when it fails."""
    docker.answer("^docker network ls --quiet", "n")
    with pytest.raises(Failure, match="no room"), containers.cleaned_up():
        raise Failure("no room")
    assert docker.called("docker", "network", "rm") == [["docker", "network", "rm", "n"]]


def test_an_engine_that_stopped_is_told_from_a_bad_image(docker: Programs) -> None:
    """Whoever reads it at night starts the engine, and does not look for a fault in the service."""
    docker.answer("^docker version", err="Cannot connect to the Docker daemon", status=1)
    sentence = r"^the Docker Engine stopped half-way \(GET / failed\); start it and run this again"
    with pytest.raises(Failure, match=sentence), containers.cleaned_up():
        raise Failure("GET / failed")


def test_server_version(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody is there, and not only a client, or nothing at all."""
    docker.answer("^docker version", "28.1\n", once=True).answer("^docker version", "\n", status=1)
    assert containers.server_version() == "28.1"
    assert docker.calls == [["docker", "version", "--format", "{{.Server.Version}}"]]
    assert containers.server_version() == ""
    monkeypatch.setenv("PATH", "")
    assert containers.server_version() == ""


def test_a_second_ctrl_c_does_not_stop_the_cleaning_up(docker: Programs) -> None:
    """Whoever is impatient leaves nothing behind either."""
    before = signal.getsignal(signal.SIGINT)
    asked = docker.folder / "asked"
    try:
        with containers.cleaned_up():
            (docker.bin / "docker").write_text(f'#!/bin/sh\nkill -INT $PPID; echo "$1" >> {asked}\n', "utf-8")
    except KeyboardInterrupt:
        pytest.fail("the cleaning up was interrupted")
    assert asked.read_text("utf-8").split() == ["container", "network", "volume"]
    assert signal.getsignal(signal.SIGINT) == before


def test_logs(docker: Programs) -> None:
    """Both of a container's streams count."""
    docker.answer("^docker logs", "out\n", "err\n")
    assert containers.logs("c1", lines=5) == "out\nerr"
    assert docker.calls == [["docker", "logs", "--tail", "5", "c1"]]


def test_start(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The container's id comes back, and the command is shown to be repeated."""
    docker.answer("^docker run", "0123456789ab\n")
    assert containers.start(["docker", "run", "image"]) == "0123456789ab"
    assert capsys.readouterr().err == "$ docker run image\n"


SAID = "docker: Error response from daemon: "
ENDPOINT = "driver failed programming external connectivity on endpoint web (0f4e8a30bd22)"
TAKEN = f"{SAID}{ENDPOINT}: Bind for 0.0.0.0:4000 failed: port is already allocated."
BOUND = f"{SAID}listen tcp4 0.0.0.0:4000: bind: address already in use."


@pytest.mark.parametrize(
    ("said", "port"),
    [
        (TAKEN, "4000"),
        (BOUND, "4000"),
        (f"{SAID}{ENDPOINT}: Bind for 127.0.0.1:4000 failed: port is already allocated.", "4000"),
        (f"{SAID}{ENDPOINT}: Bind for :::4000 failed: port is already allocated.", "4000"),
        (f"{SAID}{ENDPOINT}: Bind for [::]:4000 failed: port is already allocated.", "4000"),
        (
            f"{SAID}{ENDPOINT}: Error starting userland proxy: listen tcp4 0.0.0.0:4000: bind: address already in use.",
            "4000",
        ),
        # Docker Engine 28
        (
            f"{SAID}failed to set up container networking: {ENDPOINT}: failed to bind host port for"
            " 0.0.0.0:4000:172.31.0.2:80/tcp: address already in use",
            "4000",
        ),
        (
            f"{SAID}failed to set up container networking: {ENDPOINT}: failed to bind port 0.0.0.0:4000/tcp: Error"
            " starting userland proxy: listen tcp4 0.0.0.0:4000: bind: address already in use",
            "4000",
        ),
        # Docker Engine 29
        (
            f"{SAID}failed to set up container networking: {ENDPOINT}: failed to bind host port"
            " 127.0.0.1:4000/tcp: address already in use",
            "4000",
        ),
        (f"{SAID}{ENDPOINT}: failed to bind host port [::1]:4000/tcp: address already in use", "4000"),
        # Docker Desktop, a rootless engine
        (
            f"{SAID}Ports are not available: exposing port TCP 0.0.0.0:4000 -> 127.0.0.1:0: listen tcp 0.0.0.0:4000:"
            " bind: address already in use.",
            "4000",
        ),
        (
            f"{SAID}Ports are not available: exposing port TCP 127.0.0.1:4000 -> 0.0.0.0:0: listen tcp 127.0.0.1:4000:"
            " bind: Only one usage of each socket address (protocol/network address/port) is normally permitted.",
            "4000",
        ),
        (
            f"{SAID}{ENDPOINT}: error while calling PortManager.AddPort(): listen tcp4 127.0.0.1:4000: bind: address"
            " already in use.",
            "4000",
        ),
        (f"{SAID}No such image: localhost:5000/hello:ci", ""),
        (f"{SAID}network address already in use", ""),
        ("", ""),
    ],
)
def test_taken_port(said: str, port: str) -> None:
    """Each engine says in its own words that a port is taken."""
    assert containers.taken_port(said) == port


@pytest.mark.parametrize(
    ("said", "holder", "sentence"),
    [
        (TAKEN, "web\n", r"^port 4000 is taken by the container web; run docker rm --force web, or .* --port$"),
        (BOUND, "", r"^port 4000 is taken by another program; end it, or give another one with --port$"),
        ("no such image\nSee 'docker run --help'.\n", "", r"^the container does not start: no such image$"),
    ],
)
def test_start_says_who_has_the_port(docker: Programs, said: str, holder: str, sentence: str) -> None:
    """A taken port is told from any other failure, and by whom."""
    docker.answer("^docker run", err=said, status=125).answer("^docker container ls .*publish=4000", holder)
    with pytest.raises(Failure, match=sentence):
        containers.start(["docker", "run", "--publish", "4000:80", "image"])
