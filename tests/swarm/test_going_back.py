"""Whatever ends a redeploy: what serves, what is recorded and what is said agree, and the next one repairs the rest."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.command import run, wait_until
from support import projects
from swarm.host import Host, one_host

pytestmark = pytest.mark.full

KILLED = 20  # redeploys that are killed, each somewhere else
CUT_OFF = 12  # redeploys whose way to the engine is gone from some command on


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Swarm on an engine of its own, with 1.0.0 and 1.1.0 published, and a bad version of each kind."""
    with one_host(tmp_path_factory.mktemp("swarm")) as host:
        yield host


@pytest.fixture
def at_first(host: Host) -> Host:
    """The host, with 1.0.0 serving and recorded."""
    done = host.redeploy("1.0.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[1]
    return host


def specs(host: Host) -> dict[str, Any]:
    """Every service of the stack as it is meant to be, by name."""
    names = host.own.docker("service", "ls", "--format", "{{.Name}}").split()
    services = json.loads(host.own.docker("service", "inspect", *names))
    return {service["Spec"]["Name"]: service["Spec"] for service in services}


def configs(host: Host, kind: str) -> list[str]:
    """The names of the config objects of a kind, such as `deployed`."""
    names = host.own.docker("config", "ls", "--format", "{{.Name}}").split()
    return sorted(name for name in names if name.startswith(f"hello_{kind}"))


# The whole stack.


def test_the_whole_stack_is_as_it_was(at_first: Host) -> None:
    """Ports, replicas, secrets and the edge go back with the version, also what an update of `web` alone would not."""
    host = at_first
    before = specs(host)

    done = host.redeploy("crashes", REPLICAS="3", EDGE_PORT="4001", STORE_URL="redis://elsewhere:6379/0")

    assert done.returncode == 1, done.stderr
    assert "is serving" in done.stderr.splitlines()[-1]
    assert specs(host) == before
    assert host.serving() == host.commits[1]
    assert configs(host, "unfinished") == []
    # The Redis is another container on the same volume, and its name may take a moment to get around.
    wait_until(lambda: host.visits() > 1, seconds=60, what="the count to continue")


def test_a_good_version_with_other_settings_that_fail(at_first: Host) -> None:
    """A name for which there is no certificate is undone with everything that came with it."""
    host = at_first
    before = specs(host)

    done = host.redeploy("1.1.0", DOMAIN="hello.invalid")

    assert done.returncode == 1, done.stderr
    assert "warning: DOMAIN is 'hello.invalid', which does not resolve" in done.stderr
    assert (specs(host), host.serving()) == (before, host.commits[1])


def test_settings_are_checked_before_anything_is_touched(at_first: Host) -> None:
    """No task is started, no object created, and no version verified."""
    host = at_first
    before = specs(host), configs(host, "")
    for variable, value in (("DEPLOY_URL", "http://localhost:99999/"), ("REPLICAS", "x"), ("STORE_URL", "http://x")):
        done = host.redeploy("1.1.0", **{variable: value})
        assert (done.returncode, variable in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    done = host.redeploy("1.1.0", SERVICE_SECRETS="", STACK="other")
    assert "the service needs GREETING" in done.stderr
    assert (specs(host), configs(host, "")) == before


# Another name.


def test_a_service_that_is_renamed_keeps_its_history(at_first: Host, tmp_path: Path) -> None:
    """Every mention of its name is another one, and of the pipeline's, too; a bad version goes back."""
    host = at_first
    other = tmp_path / "renamed"
    shutil.copytree(host.project, other)
    for name in projects.git(other, "ls-files").splitlines():
        text = (other / name).read_bytes()
        for old, new in ((b"friendlyhello", b"shopapi"), (b"fixture", b"shopapi"), (b"onedigest", b"shopapi")):
            text = text.replace(old, new)
        (other / name).write_bytes(text)
    renamed = Host(host.own, host.port, other, host.commits)
    records = configs(host, "deployed")

    done = renamed.redeploy("crashes")

    assert done.returncode == 1, done.stderr
    assert "going back to 1.0.0" in done.stderr
    assert host.serving() == host.commits[1]
    assert configs(host, "deployed") == records
    assert renamed.redeploy("1.1.0").returncode == 0
    assert renamed.redeploy("previous").returncode == 0
    assert host.serving() == host.commits[1]


def test_the_records_of_an_earlier_version_count(at_first: Host) -> None:
    """They have other labels and fewer fields; `previous` and going back know them all the same."""
    host = at_first
    assert host.redeploy("1.1.0").returncode == 0
    for name in configs(host, "deployed"):
        (facts,) = json.loads(host.own.docker("config", "inspect", name))
        content = json.loads(base64.b64decode(facts["Spec"]["Data"]))
        del content["release"]["proof"]
        host.own.docker("config", "rm", name)
        labels = ("--label", "friendlyhello.stack=hello", "--label", "friendlyhello.kind=deployed")
        run(["docker", "config", "create", *labels, name, "-"], stdin=json.dumps(content), env=host.own.env)

    done = host.redeploy("crashes")

    assert "going back to 1.1.0" in done.stderr, done.stderr
    assert host.serving() == host.commits[0]
    assert host.redeploy("previous").returncode == 0
    assert host.serving() == host.commits[1]


def test_a_stack_without_a_record_is_not_removed(at_first: Host) -> None:
    """Somebody removed every record: what ran before is put back all the same, and recorded when it is deployed."""
    host = at_first
    before = specs(host)
    host.own.docker("config", "rm", *configs(host, "deployed"))

    done = host.redeploy("page-of-500")

    assert done.returncode == 1, done.stderr
    assert "the version that ran before" in done.stderr.splitlines()[-1]
    assert (specs(host), host.serving()) == (before, host.commits[1])


# Faults.


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
    assert configs(host, "unfinished") == configs(host, "redeploying") == []
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
    """SIGKILL after any line, with a good version and a bad one."""
    host = at_first
    chance = chosen()
    for _ in range(KILLED):
        version, lines = chance.choice(("1.1.0", "crashes", "page-of-500")), chance.randint(1, 30)
        print(f"{version}, killed after {lines} lines: {killed_after(host, version, lines)}")
        agrees(host)
        puts_things_right(host)


@pytest.mark.parametrize("version", ["1.1.0", "crashes"])
def test_killed_and_then_a_bad_version(at_first: Host, version: str) -> None:
    """What is gone back to is what was proven, and not what the killed one left."""
    host = at_first
    before = specs(host)
    assert killed_after(host, version, 8)

    done = host.redeploy("never-healthy", "--timeout", "60")

    assert done.returncode == 1, done.stderr
    assert (specs(host), host.serving()) == (before, host.commits[1])
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
    for _ in range(CUT_OFF):
        version, after = chance.choice(("1.1.0", "page-of-500")), chance.randint(1, 40)
        done = host.redeploy(version, **broken_docker(tmp_path, after))
        print(f"{version}, cut off after {after} commands: {done.returncode}")
        assert "Traceback" not in done.stderr
        agrees(host)
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
    before = specs(host)
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
    assert (specs(host), host.serving()) == (before, host.commits[1])
    agrees(host)


def test_a_redeploy_that_is_told_to_stop(at_first: Host) -> None:
    """SIGTERM, as from a workflow that is cancelled: it goes back before it ends."""
    host = at_first
    before = specs(host)
    command = host.command("1.1.0")
    with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line:
                process.terminate()
                break
        output = process.stderr.read()
    assert process.returncode == 128 + 15, output
    assert (specs(host), host.serving()) == (before, host.commits[1])
    agrees(host)
