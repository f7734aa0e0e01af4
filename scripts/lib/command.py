"""Run commands, say what happens, and fail in one sentence.

Results go to stdout, progress to stderr. `GITHUB_OUTPUT` and `GITHUB_STEP_SUMMARY` are written
only if they are set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The top of the repository; every script runs from any folder because it starts here."""

STATE = ROOT / "build"
"""Where a run notes its stages, in stages.jsonl. Ignored by Git."""


LOCAL_TO_A_REPOSITORY = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE", "GIT_CONFIG"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE"),
)
"""What Git tells its hooks about their repository, which need not be this one: githooks(5), `git rev-parse
--local-env-vars`; but not its configuration."""


class Failure(Exception):
    """Something went wrong that the user can act on: printed as one sentence, exit 1."""

    status = 1


class UsageError(Failure):
    """The user asked for something that cannot be: printed as one sentence, exit 2."""

    status = 2


def say(message: str) -> None:
    """Print one line of progress to stderr, in one piece: other processes may write there, too."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def home() -> Path:
    """Return the user's folder; "/" if there is none, as for a user id without a name and without HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def shown(command: Sequence[str]) -> str:
    """Return the command as a line that can be pasted into a shell."""
    return shlex.join(command)


def run(
    command: Sequence[str],
    *,
    check: bool = True,
    show: bool = False,
    passthrough: bool = False,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return it with its output as text.

    `show` prints it first, as a line to repeat by hand. `passthrough` lets its output through to
    stderr instead of keeping it; such a command may put away what it has begun after Ctrl-C or
    SIGTERM. `env` is added to this process's environment. `timeout` is in seconds. Raises Failure,
    quoting the last line that the command wrote, when it cannot be started, runs out of time, or
    (with `check`) exits with anything but 0.
    """
    if show:
        say(f"$ {shown(command)}")
    try:
        with subprocess.Popen(
            command,
            stdout=sys.stderr if passthrough else subprocess.PIPE,
            stderr=None if passthrough else subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **env} if env else None,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            cwd=cwd,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except BaseException as stopped:
                if passthrough and not isinstance(stopped, subprocess.TimeoutExpired):
                    let_it_end(process, interrupted=isinstance(stopped, KeyboardInterrupt))
                else:
                    process.kill()
                raise
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
    except FileNotFoundError as error:
        # A missing working folder raises the same error as a missing program.
        missing = str(error.filename or command[0])
        raise Failure(f"cannot run {shown(command)!r}: no such file or program {missing!r}") from error
    except PermissionError as error:
        raise Failure(f"cannot run {shown(command)!r}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"no end after {timeout:g} s: {shown(command)}") from error
    if check and done.returncode != 0:
        raise Failure(f"exit {done.returncode} from {shown(command)}{last_line(done)}")
    return done


def let_it_end(process: subprocess.Popen[str], *, interrupted: bool) -> None:
    """Interrupt a command and wait: it may have much to put away, such as pytest with its servers and containers.

    Ctrl-C reaches all processes of a terminal: then it was `interrupted` already.
    """
    if not interrupted:
        with contextlib.suppress(PermissionError):  # sudo's
            process.send_signal(signal.SIGINT)
    process.wait()


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return ': ' and the last line that a command wrote, or nothing if it wrote none.

    Docker's trailing "See '… --help'" is skipped.
    """
    for text in (done.stderr, done.stdout):
        lines = [line.strip() for line in (text or "").splitlines()]
        said = [line for line in lines if line and not re.match(r"(Run|See) '.*--help'", line)]
        if said:
            return f": {said[-1]}"
    return ""


PATIENCE = 300.0
"""Seconds after which what has not happened never will, however busy the machine is."""


def wait_until(ready: Callable[[], bool], *, what: str, seconds: float = PATIENCE, every: float = 0.1) -> None:
    """Poll `ready` until it returns True; raise Failure naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() >= deadline:
            raise Failure(f"waited {seconds:g} s for {what}")
        time.sleep(every)


class Progress:
    """How many stages a run has in all, if that is known, and how many have begun."""

    total = 0
    begun = 0


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Say where a run is, how long the stage took, and note it in build/stages.jsonl.

    Each line there is {"name": str, "seconds": float, "ok": bool}; reports are made from it.
    """
    Progress.begun += 1
    label = f"[{Progress.begun}/{Progress.total}] " if Progress.total else ""
    say(f"{label}{name} ...")
    start = time.monotonic()
    ok = False
    try:
        yield
        ok = True
    finally:
        seconds = time.monotonic() - start
        say(f"{label}{name}: {seconds:.1f} s{'' if ok else ' (failed)'}")
        with contextlib.suppress(OSError):  # nothing depends on it, and a checkout may be read-only
            STATE.mkdir(exist_ok=True)
            with (STATE / "stages.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "seconds": round(seconds, 1), "ok": ok}) + "\n")


def set_output(name: str, value: str) -> None:
    """Hand a value to later steps of a workflow, if there is one.

    A line break would let a value add outputs of its own, so it is refused.
    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    if "\n" in value or "\r" in value:
        raise Failure(f"output {name} has a line break in it: {value!r}")
    path = os.environ.get("GITHUB_OUTPUT")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name}={value}\n")


def add_summary(markdown: str) -> None:
    """Append to the job summary, if there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(markdown.rstrip("\n") + "\n\n")


def annotate(level: str, message: str) -> None:
    """On GitHub, show a sentence on the run's page and not only in its log; `level` is error, warning or notice.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands#setting-an-error-message
    """
    if os.environ.get("GITHUB_ACTIONS") == "true":
        text = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::{level}::{text}", flush=True)


def warn(sentence: str) -> None:
    """Say what somebody should look at, although nothing fails; on GitHub on the run's page, too."""
    say(f"warning: {sentence}")
    annotate("warning", sentence)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return an argument parser whose --help is the script's docstring."""
    summary, _, rest = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        description=f"{summary}\n{rest}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def port_number(text: str) -> int:
    """Return a port's number, for argparse, which says what is wrong with another one."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 1 to 65535")
    return int(text)


def start(main: Callable[[Sequence[str]], int]) -> None:
    """Run a script's main and exit: a Failure is one sentence, as is an OSError; Ctrl-C and SIGTERM clean up.

    Nothing of what starts it is in the way: a stream that is closed, or what a Git hook knows of its own repository.
    """

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    open_streams()
    for name in LOCAL_TO_A_REPOSITORY:
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, stop)
    # A shell's background job ignores SIGINT, and so would all that it starts: nothing could be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except Failure as failure:
        say(f"error: {failure}")
        annotate("error", str(failure))
        status = failure.status
    except KeyboardInterrupt:
        say("interrupted")
        status = 130
    except BrokenPipeError:  # such as `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:  # a full disk, a file that may not be read
        say(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def open_streams() -> None:
    """Open what is closed of standard input, output and error, or else the next file takes its place and our words."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
