"""Long-running processes of our own: found again, ended, and never mistaken for a stranger's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.command import Failure, wait_until
from lib.daemon import Daemon, ended, started_at


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has not been started, and is ended after the test."""
    daemon = Daemon("worker", tmp_path / "run")
    yield daemon
    daemon.stop()


def test_a_daemon_is_found_again_and_ended(daemon: Daemon) -> None:
    """A later run finds what an earlier one started, by its PID file."""
    daemon.start(["sh", "-c", "echo $GREETING; exec sleep 60"], ready=daemon.log.exists, env={"GREETING": "hi"})
    again = Daemon("worker", daemon.folder)
    assert again.pid == daemon.pid is not None
    assert again.stop() is True
    assert (again.pid, again.stop()) == (None, False)


def test_what_a_daemon_writes_is_kept(daemon: Daemon) -> None:
    """Its output is in a log, with the variables that it was given."""
    ready = lambda: "hi" in daemon.log.read_text("utf-8")  # noqa: E731
    daemon.start(["sh", "-c", "echo $GREETING; exec sleep 60"], ready=ready, env={"GREETING": "hi"})
    assert daemon.log.read_text("utf-8") == "hi\n"


def test_a_pid_file_of_a_stranger_is_stale(daemon: Daemon) -> None:
    """After a reboot the PID may be somebody else's: that one is left alone."""
    daemon.folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        began = started_at(stranger.pid) or 0
        (daemon.folder / "worker.pid").write_text(f"{stranger.pid} {began + 1}\n", "utf-8")
        assert daemon.pid is None
        assert daemon.stop() is False
        assert started_at(stranger.pid) == began
        stranger.kill()
    assert not (daemon.folder / "worker.pid").exists()


@pytest.mark.parametrize("text", ["", "no number", "1", f"{2**22 + 1} 5"])
def test_a_broken_pid_file_is_stale(daemon: Daemon, text: str) -> None:
    """A PID file without a usable PID means that no process runs."""
    daemon.folder.mkdir()
    (daemon.folder / "worker.pid").write_text(text, "utf-8")
    assert daemon.pid is None


def test_a_daemon_that_ends_at_its_start(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Its log is shown, and why it ended is said."""
    with pytest.raises(Failure, match=r"worker ended with 3: sh -c .*no room"):
        daemon.start(["sh", "-c", "echo no room >&2; exit 3"], ready=lambda: False)
    assert "no room" in capsys.readouterr().err
    assert daemon.pid is None


def test_a_daemon_that_is_never_ready(daemon: Daemon) -> None:
    """It is ended: nothing is left running."""
    seen: list[int | None] = []

    def ready() -> bool:
        seen.append(daemon.pid)
        return False

    with pytest.raises(Failure, match=r"waited 0.2 s for worker to start"):
        daemon.start(["sleep", "60"], ready=ready, seconds=0.2)
    assert seen[0] is not None
    assert started_at(seen[0]) is None


def test_a_daemon_that_will_not_end_is_killed(daemon: Daemon) -> None:
    """One that does not listen to SIGTERM is killed in the end."""
    ready = lambda: "ready" in daemon.log.read_text("utf-8")  # noqa: E731
    daemon.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], ready=ready)
    pid = daemon.pid
    assert pid is not None
    assert daemon.stop(seconds=0.2) is True
    assert started_at(pid) is None


def test_ended() -> None:
    """A child that ended is gone, although nobody asked how it ended; a strange process is not ours to reap."""
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not ended(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert started_at(child.pid) is None
        assert ended(child.pid)
    assert not ended(os.getpid())


THREAD = """import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_has_ended_when_its_last_thread_has() -> None:
    """Until then it keeps its files open, although it is a zombie already."""
    with subprocess.Popen([sys.executable, "-c", THREAD], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        wait_until(lambda: started_at(process.pid) is None, what="the first thread to end")
        assert not ended(process.pid)
        process.stdin.close()
        wait_until(lambda: ended(process.pid), what="the last thread to end")
