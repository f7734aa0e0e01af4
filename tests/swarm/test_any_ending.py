"""Whatever ends a redeploy: what serves, what is recorded and what is said agree, and the next one repairs the rest."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from swarm.host import Host

pytestmark = pytest.mark.full

KILLED = 20  # redeploys that are killed, each somewhere else
CUT_OFF = 12  # redeploys whose way to the engine is gone from some command on
REPAIRED = 4  # one in so many is repaired; the others leave what they left to the one after


def agrees(host: Host) -> None:
    """What serves is what --status says and what is recorded; or --status says that a redeploy is unfinished."""
    status = host.redeploy("--status")
    assert status.returncode == 0, status.stderr
    if "unfinished: " in status.stdout:
        return
    serving = host.serving()
    assert status.stdout.splitlines()[0].endswith(f"status 200, revision {serving}"), status.stdout
    recorded = re.search(r"(?m)^deployed: .*\n +.*\(revision ([0-9a-f]{12})", status.stdout)
    assert recorded, status.stdout
    assert serving.startswith(recorded[1])


def puts_things_right(host: Host) -> None:
    """The next redeploy ends well, whatever was left, and leaves nothing itself."""
    done = host.redeploy("1.0.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[1]
    assert host.configs("unfinished") == host.configs("redeploying") == []
    agrees(host)


def chosen() -> random.Random:
    """Return a source of chance, and say what to plant to have the same again."""
    seed = random.randrange(10**6)  # noqa: S311
    print(f"seed {seed}")
    return random.Random(seed)  # noqa: S311


def killed_after(host: Host, version: str, lines: int) -> bool:
    """Redeploy, and kill it without a warning after so many lines of progress; return whether it came so far."""
    command = host.command(version)
    with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for count, _ in enumerate(process.stderr, start=1):
            if count == lines:
                process.kill()
                return True
    return False


def test_killed_anywhere(at_first: Host) -> None:
    """SIGKILL after any line, with a good version and a bad one, also while one repairs what another left."""
    host = at_first
    chance = chosen()
    for number in range(KILLED):
        version, lines = chance.choice(("1.1.0", "crashes", "page-of-500")), chance.randint(1, 30)
        print(f"{version}, killed after {lines} lines: {killed_after(host, version, lines)}")
        agrees(host)
        if number % REPAIRED == REPAIRED - 1:
            puts_things_right(host)


@pytest.mark.parametrize("version", ["1.1.0", "crashes"])
def test_killed_and_then_a_bad_version(at_first: Host, version: str) -> None:
    """What is gone back to is what was proven, and not what the killed one left."""
    host = at_first
    before = host.specs()
    assert killed_after(host, version, 8)

    done = host.redeploy("never-healthy")

    assert done.returncode == 1, done.stderr
    assert (host.specs(), host.serving()) == (before, host.commits[1])
    agrees(host)


def broken_docker(folder: Path, after: int) -> Mapping[str, str]:
    """Return the environment in which every `docker` command fails after so many; as where a host is gone half-way."""
    real = shutil.which("docker")
    count = folder / "count"
    count.write_text("0", "utf-8")
    program = folder / "docker"
    program.write_text(
        f"#!/bin/sh\nn=$(($(cat {count}) + 1))\necho $n > {count}\n"
        f'[ $n -le {after} ] && exec {real} "$@"\necho "error during connect: no route to host" >&2\nexit 1\n',
        "utf-8",
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"}


def test_cut_off_anywhere(at_first: Host, tmp_path: Path) -> None:
    """The host cannot be reached any more after any command: one sentence, and the next redeploy finds its way."""
    host = at_first
    chance = chosen()
    for number in range(CUT_OFF):
        version, after = chance.choice(("1.1.0", "page-of-500")), chance.randint(1, 40)
        done = host.redeploy(version, **broken_docker(tmp_path, after))
        print(f"{version}, cut off after {after} commands: {done.returncode}")
        assert "Traceback" not in done.stderr
        agrees(host)
        if number % REPAIRED == REPAIRED - 1:
            puts_things_right(host)


FAULTS = {
    "deploy": "RuntimeError('planted')",
    "wait": "KeyError('planted')",
    "prove": "MemoryError()",
}


@pytest.mark.parametrize("step", FAULTS)
def test_any_exception_after_the_first_change(at_first: Host, tmp_path: Path, step: str) -> None:
    """Not only what was thought of: the version before serves again, and one sentence says so."""
    host = at_first
    before = host.specs()
    planted = tmp_path / "planted.py"
    planted.write_text(
        f"""
import sys
sys.path.insert(0, {str(host.project / "scripts")!r})
import redeploy
from lib.rollout import Rollout
real, done = Rollout.{step}, []
def fails_once(self, *arguments, **more):
    real(self, *arguments, **more)
    if not done:
        done.append(1)
        raise {FAULTS[step]}
Rollout.{step} = fails_once
redeploy.start(redeploy.main)
""",
        "utf-8",
    )
    command = ["python3", str(planted), "1.1.0"]
    done = subprocess.run(command, env=host.environment(), capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert done.stderr.splitlines()[-1].endswith("is serving")
    assert (host.specs(), host.serving()) == (before, host.commits[1])
    agrees(host)


def test_a_redeploy_that_is_told_to_stop(at_first: Host) -> None:
    """SIGTERM, as from a workflow that is cancelled: it goes back before it ends."""
    host = at_first
    before = host.specs()
    command = host.command("1.1.0")
    with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line:
                process.terminate()
                break
        output = process.stderr.read()
    assert process.returncode == 128 + 15, output
    assert (host.specs(), host.serving()) == (before, host.commits[1])
    agrees(host)
