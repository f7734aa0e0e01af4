"""Running commands, saying what happens, failing in one sentence."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import pipeline
import serve
import smoke_test
from lib import command
from lib.command import (
    Failure,
    UsageError,
    add_summary,
    annotate,
    last_line,
    run,
    say,
    set_output,
    stage,
    start,
    wait_until,
)
from lib.distribution import Login, login_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
EVERY_FILE = sorted((ROOT / "scripts").rglob("*.py"))


@pytest.mark.parametrize("options", [[], ["-P"]], ids=["plain", "PYTHONSAFEPATH"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_answers_help_from_any_folder(script: Path, options: list[str], tmp_path: Path) -> None:
    """--help is the script's own docstring, wherever it is asked for, and if Python looks for modules nowhere near."""
    done = subprocess.run(
        [sys.executable, *options, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    docstring = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    assert docstring.splitlines()[0] in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_usage_mistake_is_exit_2(script: Path) -> None:
    """An option that does not exist ends in a sentence."""
    done = subprocess.run([sys.executable, str(script), "--no-such-option"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", EVERY_FILE, ids=lambda path: path.name)
def test_an_old_python_can_read_the_scripts(file: Path) -> None:
    """Python 3.8 gets as far as the sentence that says that 3.11 is needed."""
    ast.parse(file.read_text("utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("file", EVERY_FILE, ids=lambda path: path.name)
def test_scripts_import_the_standard_library_and_each_other(file: Path) -> None:
    """They start on a bare runner."""
    own = {path.stem for path in SCRIPTS} | {"lib"}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.partition(".")[0] in sys.stdlib_module_names | own


def test_an_old_python_is_told_so() -> None:
    """One sentence, and which Python is needed."""
    program = (
        "import sys, collections; v = collections.namedtuple('v', 'major minor')(3, 10);"
        f"sys.version_info = v; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import lib"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: these scripts need Python 3.11 or newer and this is 3.10")


def test_run_quotes_what_failed() -> None:
    """The command and the last line that it wrote."""
    with pytest.raises(Failure) as caught:
        run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])
    assert str(caught.value) == "exit 3 from sh -c 'echo one >&2; echo two >&2; exit 3': two"


def test_run_says_what_it_could_not_run(tmp_path: Path) -> None:
    """A missing program, a file that is none, a missing folder, too much time."""
    with pytest.raises(Failure, match="no such file or program 'no-such-program'"):
        run(["no-such-program"])
    with pytest.raises(Failure, match="Permission denied"):
        run([str(tmp_path)])
    with pytest.raises(Failure, match="no such file or program"):
        run(["true"], cwd=tmp_path / "missing")
    with pytest.raises(Failure, match=r"no end after 0\.01 s"):
        run(["sleep", "5"], timeout=0.01)


def test_run_hands_on_environment_and_input(capfd: pytest.CaptureFixture[str]) -> None:
    """What is added to the environment, what is written to the command, and where its output goes."""
    assert run(["sh", "-c", 'echo "$A"; cat'], env={"A": "b"}, stdin="c").stdout == "b\nc"
    run(["echo", "two words"], show=True, passthrough=True)
    assert capfd.readouterr() == ("", "$ echo 'two words'\ntwo words\n")


def test_a_line_of_progress_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes write to one log: their lines are not mixed."""
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    say("Build image ...")
    assert written == ["Build image ...\n"]


# A command that says when it can be interrupted, under a script that says when it waits for it.
CLEANS_UP = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from lib.command import run, say, start

class Popen(subprocess.Popen):
    def communicate(self, *arguments):
        say("ready")
        return super().communicate(*arguments)

subprocess.Popen = Popen
shell = "trap 'sleep 1; echo put away; exit' INT; echo ready; while :; do sleep 0.1; done"
start(lambda _: run(["sh", "-c", shell], passthrough=True).returncode)
"""


@pytest.mark.parametrize("start_it", [[], ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]], ids=["", "background"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_may_put_away_what_it_has_begun(number: signal.Signals, status: int, start_it: list[str]) -> None:
    """Ctrl-C reaches a whole group of processes, SIGTERM one; either way the command is waited for.

    So it is in a shell's background job, which ignores SIGINT when it starts.
    """
    begin = [*start_it, sys.executable, "-c", CLEANS_UP]
    with subprocess.Popen(begin, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr
            assert [process.stderr.readline() for _ in range(2)] == ["ready\n"] * 2
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert process.wait(timeout=60) == status
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.stderr.readline() == "put away\n"


def test_last_line_leaves_the_help_out() -> None:
    """Docker's pointer to its help is not taken for the reason."""
    said = "docker: it is broken\n\nRun 'docker run --help' for more information\n"
    assert last_line(subprocess.CompletedProcess([], 1, "", said)) == ": docker: it is broken"
    assert last_line(subprocess.CompletedProcess([], 1, "out\n", "")) == ": out"
    assert last_line(subprocess.CompletedProcess([], 1, "", "")) == ""


@pytest.mark.parametrize("script", [pipeline, serve, smoke_test], ids=lambda script: str(script.__name__))
@pytest.mark.parametrize("value", ["0", "65536", "-1", "x", "", "4000 ", "٤٠٠٠"])
def test_a_port_is_looked_at_first(script: ModuleType, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is built or started for it."""
    with pytest.raises(SystemExit) as ended:
        script.main([f"--port={value}"])
    assert ended.value.code == 2
    assert f"{value!r} is not a port, a number from 1 to 65535" in capsys.readouterr().err


def test_wait_until_gives_up() -> None:
    """It names what it waited for."""
    with pytest.raises(Failure, match=r"waited 0\.02 s for Godot"):
        wait_until(lambda: False, seconds=0.02, what="Godot", every=0.01)


def test_stages_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stage leaves its name, its seconds and whether it ended well."""
    monkeypatch.setattr(command, "STATE", tmp_path / "build")
    monkeypatch.setattr(command.Progress, "total", 2)
    monkeypatch.setattr(command.Progress, "begun", 0)
    with stage("Build"):
        pass
    with pytest.raises(Failure), stage("Push"):
        raise Failure("no")
    lines = [json.loads(line) for line in (tmp_path / "build/stages.jsonl").read_text("utf-8").splitlines()]
    assert [(line["name"], line["ok"]) for line in lines] == [("Build", True), ("Push", False)]
    assert "[1/2] Build ..." in capsys.readouterr().err


def test_outputs_and_summaries_go_where_github_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written where they are set; a line break cannot add an output of its own."""
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    set_output("digest", "nowhere")
    add_summary("nowhere")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    set_output("digest", "d")
    add_summary("# Title")
    assert (tmp_path / "output").read_text("utf-8") == "digest=d\n"
    assert (tmp_path / "summary").read_text("utf-8") == "# Title\n\n"
    with pytest.raises(Failure, match="line break"):
        set_output("digest", "d\nother=1")


def test_annotations_are_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A message cannot start a command of its own."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    annotate("error", "50%\n::warning::x")
    assert capsys.readouterr().out == "::error::50%25%0A::warning::x\n"


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (Failure("it broke"), 1, "error: it broke"),
        (UsageError("no such thing"), 2, "error: no such thing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/x"), 1, "error: No space left on device: /x"),
        (OSError("odd"), 1, "error: odd"),
    ],
)
def test_how_a_script_ends(
    raised: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is 1, a usage mistake 2, Ctrl-C 130; each is one sentence."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def main(_argv: object) -> int:
        raise raised

    with pytest.raises(SystemExit) as ended:
        start(main)
    assert ended.value.code == status
    assert capsys.readouterr().err.strip() == said


def test_sigterm_and_a_closed_pipe_end_a_script() -> None:
    """SIGTERM runs the clean-up; a reader that leaves is not an error."""
    begin = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); from lib.command import start\n"
    terminated = begin + (
        "import os, signal\ndef main(argv):\n  try: os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "  finally: print('cleaned up')\nstart(main)"
    )
    done = subprocess.run([sys.executable, "-c", terminated], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "cleaned up\n")
    piped = begin + "def main(argv):\n  while True: print('x' * 9999)\nstart(main)"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" | head -c 1', sys.executable, piped], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("x", "")


SCRIPT = """import os, sys
sys.path.insert(0, {scripts!r})
from lib.command import run, say, start
from lib.names import git
def main(argv):
    with open("file", "w") as file:
        say("progress")
        print("result")
        run(["sh", "-c", "echo child; echo child >&2"], passthrough=True)
        file.write(git("rev-parse", "--absolute-git-dir") + " has a " + git("cat-file", "-t", "HEAD"))
    return 0
start(main)
"""
GIT_DIR = subprocess.run(
    ["git", "-C", str(ROOT), "rev-parse", "--absolute-git-dir"], capture_output=True, text=True
).stdout.strip()


def ran(tmp_path: Path, redirection: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a small script with its streams redirected by a shell."""
    line = f'"$0" -c "$1" {redirection}'
    script = SCRIPT.format(scripts=str(ROOT / "scripts"))
    command = ["sh", "-c", line, sys.executable, script]
    return subprocess.run(command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    """A file that is opened meanwhile does not take their place, and gets none of what was said."""
    assert ran(tmp_path, closed).returncode == 0
    assert (tmp_path / "file").read_text("utf-8") == f"{GIT_DIR} has a commit"


def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    """It is a failure, in a sentence: the result did not get there."""
    done = ran(tmp_path, ">/dev/full")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: No space left on device")


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"])
def test_what_a_hook_knows_of_another_repository(tmp_path: Path, variable: str) -> None:
    """Git tells its hooks, and so what they run, where their repository is; the script's own is another one."""
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", str(other)], check=True)
    assert ran(tmp_path, "", **{variable: str(other / ".git")}).returncode == 0
    assert (tmp_path / "file").read_text("utf-8") == f"{GIT_DIR} has a commit"


def test_nobody_has_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user id without a name, and without HOME, has no login and no keys, and that is all."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert command.home() == Path("/")
    assert login_of("localhost:5000") == Login()


def test_a_stage_in_a_checkout_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and is not noted; what fails in it is said as it is."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "STATE", tmp_path / "file/build")
    with pytest.raises(Failure, match="no"), stage("Push"):
        raise Failure("no")


def test_a_script_runs_with_no_home_of_its_own(tmp_path: Path) -> None:
    """An engine that is not there is a sentence with the next command, not a traceback."""
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    done = subprocess.run([sys.executable, str(ROOT / "scripts/engine.py")], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Docker Engine is reachable (")
    assert "--setup" in done.stderr
