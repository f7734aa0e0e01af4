"""What runs on a host for the deploy key: runs that nothing of the caller's ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import on_host
from lib.command import Failure, UsageError, wait_until
from lib.daemon import Daemon
from lib.host import Asked
from on_host import begin, environment, fixed, follow, main, outcome

HERE = {
    "IMAGE_NAMESPACE": "me",
    "IMAGE_REPOSITORY": "hello",
    "STACK": "hello",
    "REGISTRY": "",
    "GITHUB_REPOSITORY": "octo/hello",
}
REDEPLOY = """import json, os, pathlib, sys, time
folder = pathlib.Path(os.environ["GITHUB_OUTPUT"]).parent
print("redeploying", sys.argv[1:], flush=True)
docker = os.environ.get("DOCKER_CONFIG")
kept = (pathlib.Path(docker) / "config.json").read_text() if docker else ""
print(json.dumps({"env": dict(os.environ), "kept": kept}), file=sys.stderr, flush=True)
(folder / "output").write_text("digest=sha256:x\\n")
while not (folder.parent / "go").exists():
    time.sleep(0.01)
sys.exit(3)
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs are kept; redeploy.py is one that continues until it may end, and then fails."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/redeploy.py").write_text(REDEPLOY, "utf-8")
    monkeypatch.setattr(on_host, "ROOT", tmp_path)
    yield tmp_path / "runs"
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs/go").touch()  # nothing runs on


def test_a_run_continues_without_its_caller(runs: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """It is in a session of its own; the same caller finds it again, running or ended, and gets all that it said."""
    lent = {"run": "a" * 32, "token": "t", "by": "octo", "basic": "bWU6eA=="}
    folder = begin(Asked("redeploy", "1.2.3"), lent, HERE, runs)
    pid = Daemon("run", folder).pid
    assert pid
    assert os.getsid(pid) == pid != os.getsid(0)
    assert begin(Asked("redeploy", "1.2.3"), lent, HERE, runs) == folder
    assert Daemon("run", folder).pid == pid
    (runs / "go").touch()
    assert [follow(folder), follow(folder)] == [3, 3]
    said = capfdbinary.readouterr().out.decode().splitlines()
    assert said[0] == said[2] == "redeploying ['--', '1.2.3']"
    told = json.loads(said[1])
    assert (told["env"]["GITHUB_TOKEN"], told["env"]["GITHUB_ACTOR"]) == ("t", "octo")
    assert json.loads(told["kept"]) == {"auths": {"https://index.docker.io/v1/": {"auth": "bWU6eA=="}}}
    assert not (folder / "docker").exists()
    assert '"digest": "sha256:x"' in outcome(folder)
    assert {path.stat().st_mode & 0o077 for path in (runs, folder)} == {0}


def test_a_run_that_is_over_at_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began, so the caller gets its exit code, even if it ended before anybody looked."""
    runs.mkdir()
    (runs / "go").touch()

    def over(pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    with monkeypatch.context() as patched:
        patched.setattr("lib.daemon.started_at", over)
        folder = begin(Asked("redeploy", "1.2.3"), {}, HERE, runs)
    assert follow(folder) == 3


def test_a_run_that_is_killed(runs: Path) -> None:
    """The caller is told, and what to do; the run does not count as one that waits."""
    folder = begin(Asked("redeploy", "1.2.3"), {}, HERE, runs)
    pid = Daemon("run", folder).pid
    assert pid
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: on_host.has_ended(folder), what="it to be gone")
    with pytest.raises(Failure, match="the redeploy was killed; the next one, of any version, repairs what it left"):
        follow(folder)


def test_no_more_than_a_few_wait(runs: Path) -> None:
    """Whoever has the key cannot fill the host with processes, nor its disk with what they wrote."""
    folders = [begin(Asked("redeploy", "1.2.3"), {}, HERE, runs) for _ in range(on_host.WAITING)]
    with pytest.raises(Failure, match="5 redeploys run or wait here already"):
        begin(Asked("redeploy", "1.2.3"), {}, HERE, runs)
    (runs / "go").touch()
    for folder in folders:
        follow(folder)
    for _ in range(on_host.KEPT):
        follow(begin(Asked("dry-run", "1.2.3"), {}, HERE, runs))
    assert len([path for path in runs.iterdir() if path.is_dir()]) == on_host.KEPT


def test_what_a_redeploy_is_told() -> None:
    """What is fixed here, and what was lent to ask with; nothing else of the caller's or of this process's."""
    told = environment({"STACK": "hello"}, {"token": "t", "identity": "i"}, Path("/x"))
    assert told.pop("PATH").startswith("/usr/local/sbin:")
    assert told == {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LOGNAME": "deploy",
        "STACK": "hello",
        "GITHUB_TOKEN": "t",
        "GH_TOKEN": "t",
        "DOCKER_CONFIG": "/x/docker",
    }


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", json.dumps({**HERE, "PATH": "/evil"}), json.dumps({**HERE, "STACK": 1})),
        *(
            json.dumps({**HERE, name: ""})
            for name in ("GITHUB_REPOSITORY", "IMAGE_NAMESPACE", "IMAGE_REPOSITORY", "STACK")
        ),
        json.dumps({name: value for name, value in HERE.items() if name != "STACK"}),
        json.dumps({**HERE, "STACK": "a\nb"}),
    ],
)
def test_a_file_that_prepare_host_did_not_write(text: str) -> None:
    """Nothing runs with it: a host that does not know whom to trust trusts nobody."""
    assert fixed(json.dumps(HERE)) == HERE
    with pytest.raises(Failure, match=r"host\.json is not what prepare_host\.py wrote; run it again"):
        fixed(text)


@pytest.mark.parametrize("line", ["sh", "", "redeploy 1.2.3; id"])
def test_what_is_not_asked_right(line: str, runs: Path) -> None:
    """It is refused before anything is read or begun."""
    with pytest.raises(UsageError, match="is not what this key may do"):
        main(["--", line])
    assert not runs.exists()
