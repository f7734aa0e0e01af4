"""Start a long-running process of our own, find it again later, and end it: never anybody else's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lib.command import PATIENCE, Failure, say, shown, wait_until


class Daemon:
    """A process with a PID file and a log in `folder`, so that a later run finds it again.

    A PID alone proves nothing: after a crash or a reboot it may belong to somebody else. So `NAME.pid`
    holds the process's start time as well (proc_pid_stat(5), field 22), and both must agree.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._pid_file = folder / f"{name}.pid"

    @property
    def pid(self) -> int | None:
        """The PID of our process, or None if it does not run."""
        try:
            pid, started = self._pid_file.read_text("utf-8").split()
            return int(pid) if started_at(int(pid)) == int(started) else None
        except (OSError, ValueError):
            return None

    def start(
        self,
        command: Sequence[str],
        *,
        ready: Callable[[], bool] | None = None,
        seconds: float = PATIENCE,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process in a session of its own and wait until `ready`; without that, it may end at once.

        Raises Failure with the end of its log when it ends or is not ready after `seconds`; then
        nothing is left running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        self._pid_file.write_text(f"{process.pid} {started_at(process.pid)}\n", "utf-8")
        if ready is None:
            return
        try:
            wait_until(lambda: process.poll() is not None or ready(), seconds=seconds, what=f"{self.name} to start")
            if process.poll() is not None:
                raise Failure(f"{self.name} ended with {process.returncode}: {shown(command)}")
        except BaseException:
            say("\n".join(self.log.read_text("utf-8", "replace").splitlines()[-20:]))
            self.stop()
            raise

    def stop(self, seconds: float = 30) -> bool:
        """End the process and wait for it; return whether there was one."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda: ended(pid), seconds=seconds, what=f"{self.name} to stop")
            except Failure:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: ended(pid), what=f"{self.name} to be killed")
        self._pid_file.unlink(missing_ok=True)
        return pid is not None


def started_at(pid: int | str) -> int | None:
    """Return when a process (a PID, or "self") started, in clock ticks since boot, or None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name in front may have blanks and brackets in it
    return None if fields[0] == "Z" else int(fields[19])


def ended(pid: int) -> bool:
    """Whether a process is gone; one that is our child is reaped, and is gone only when its last thread is."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return started_at(pid) is None
