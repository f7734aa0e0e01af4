"""What a run creates in the engine goes when it ends, and nothing else does."""

from __future__ import annotations

import os
import signal

import pytest

from lib import containers
from lib.command import Failure
from lib.daemon import started_at
from programs import Programs

DEAD = "4194305-7"  # no PID is that high: proc(5), pid_max
ALIVE = f"{os.getpid()}-{started_at(os.getpid())}"


@pytest.mark.parametrize(
    ("run", "alive"),
    [
        (ALIVE, True),
        (DEAD, False),
        (f"{os.getpid()}-1", False),  # a PID that is somebody else's by now
        ("1234-0", True),  # nobody knows when it started
        ("by-hand", True),
        ("", True),
    ],
    ids=["alive", "dead", "reused", "unknown", "by-hand", "none"],
)
def test_is_alive(run: str, alive: bool) -> None:
    """Whether a run's process still runs; what cannot be told counts as alive."""
    assert containers.is_alive(run) is alive


def test_label() -> None:
    """Everything that this run creates carries its id."""
    assert containers.label() == f"friendlyhello.run={ALIVE}"


def test_remove(docker: Programs) -> None:
    """Containers first, then networks and volumes; only what carries the label."""
    docker.answer("^docker container ls", "c1\nc2\n").answer("^docker volume ls", "v1\n")
    containers.remove("friendlyhello.run=1-2")
    wanted = ["--filter", "label=friendlyhello.run=1-2"]
    assert docker.calls == [
        ["docker", "container", "ls", "--quiet", "--all", *wanted],
        ["docker", "container", "rm", "--force", "--volumes", "c1", "c2"],
        ["docker", "network", "ls", "--quiet", *wanted],
        ["docker", "volume", "ls", "--quiet", *wanted],
        ["docker", "volume", "rm", "v1"],
    ]


def test_leftovers_of_killed_runs_are_removed(docker: Programs) -> None:
    """What a killed run left goes; what a live one uses stays."""
    docker.answer("^docker container ls .*--format", f"{ALIVE}\n{DEAD}\n").answer("^docker network ls .*--format", DEAD)
    docker.answer("^docker (container|network) ls --quiet", "x")
    containers.remove_leftovers()
    assert docker.called("docker", "container", "rm") == [["docker", "container", "rm", "--force", "--volumes", "x"]]
    assert docker.called("docker", "network", "rm") == [["docker", "network", "rm", "x"]]
    assert not any(ALIVE in " ".join(call) for call in docker.calls)


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


TAKEN = "docker: Error response from daemon: driver failed: Bind for 0.0.0.0:4000 failed: port is already allocated."
BOUND = "docker: Error response from daemon: listen tcp4 0.0.0.0:4000: bind: address already in use."


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
