"""Redeploying under constant load: visitors notice nothing, whatever the version is worth."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from lib.command import wait_until
from prepare_host import make_key
from swarm.host import BAD, Host, Load
from swarm.over_ssh import Access, reached_over_ssh

pytestmark = pytest.mark.full


@pytest.fixture
def at_first(host: Host) -> Host:
    """The host, with 1.0.0 serving."""
    if host.serving() != host.commits[1]:
        done = host.redeploy("1.0.0")
        assert done.returncode == 0, done.stderr
    return host


def test_a_good_version(at_first: Host) -> None:
    """It is rolled out without a failed request, `previous` goes back, and once more goes forth."""
    host = at_first
    dry = host.redeploy("--dry-run", "1.1.0")
    assert (dry.returncode, host.commits[0][:12] in dry.stdout + dry.stderr) == (0, True)
    assert host.serving() == host.commits[1]
    with Load(host) as load:
        done = host.redeploy("1.1.0")
        assert done.returncode == 0, done.stderr
        assert host.serving() == host.commits[0]
        back = host.redeploy("previous")
        assert back.returncode == 0, back.stderr
    load.check()
    assert host.serving() == host.commits[1]
    assert host.digest("1.0.0") in host.redeploy("--status").stdout


@pytest.mark.parametrize("name", BAD)
def test_a_bad_version(at_first: Host, name: str) -> None:
    """It is rolled back by itself, the run fails and says which version is serving; no request failed."""
    host = at_first
    with Load(host) as load:
        done = host.redeploy(name)
    assert done.returncode == 1, done.stderr
    assert "was not deployed" in done.stderr
    assert "Traceback" not in done.stderr
    assert host.serving() == host.commits[1]
    load.check()


def test_what_does_not_exist(at_first: Host) -> None:
    """A version that was never published changes nothing."""
    before = at_first.own.docker("service", "ls", "--format", "{{.Name}} {{.Image}}")
    for version in ("9.9.9", "sha256:" + "0" * 64, "f" * 40):
        done = at_first.redeploy(version)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert version in done.stderr
    assert at_first.own.docker("service", "ls", "--format", "{{.Name}} {{.Image}}") == before


def test_a_version_without_proof(at_first: Host) -> None:
    """It is refused, unless somebody says why; then it serves, --status says so, and `previous` leaves it."""
    host = at_first
    commit = "e" * 40  # which is nowhere
    host.publish("unproven", commit)
    digest, reason = host.digest("unproven"), "the fix for the orders is not merged yet"
    done = host.redeploy(digest)
    assert (done.returncode, host.serving()) == (1, host.commits[1])
    done = host.redeploy(digest, "--unverified", reason)
    assert (done.returncode, host.serving()) == (0, commit), done.stderr
    assert f"because: {reason}" in done.stderr
    assert f"\nUNVERIFIED: {reason}\n" in host.redeploy("--status").stdout
    back = host.redeploy("previous")
    assert (back.returncode, host.serving()) == (0, host.commits[1]), back.stderr
    assert "UNVERIFIED: " not in host.redeploy("--status").stdout


def test_a_killed_container(at_first: Host) -> None:
    """A replica that is killed is replaced; visitors go to the other one."""
    host = at_first
    with Load(host) as load:
        web = host.containers("web")
        host.own.docker("kill", "--signal", "KILL", web[0])
        wait_until(
            lambda: len(now := host.containers("web")) == 2 and web[0] not in now and host.replicas("web") == "2/2",
            seconds=60,
            what="the replica to be replaced",
        )
    load.check()


def test_more_replicas(at_first: Host) -> None:
    """From one replica to four, and down to two, under load."""
    host = at_first
    assert host.redeploy("1.0.0", REPLICAS="1").returncode == 0
    try:
        with Load(host) as load:
            more = host.redeploy("1.0.0", REPLICAS="4")
            assert more.returncode == 0, more.stderr
            wait_until(
                lambda: host.replicas("web") == "4/4", seconds=30, what="the replica that was replaced to be gone"
            )
            assert host.redeploy("1.0.0", REPLICAS="2").returncode == 0
    finally:
        host.redeploy("1.0.0", REPLICAS="2")
    wait_until(lambda: host.replicas("web") == "2/2", seconds=30, what="the replicas to be two")
    load.check()


def test_redis_is_killed_during_an_update(at_first: Host) -> None:
    """The page goes without a number for a moment; no visit that was shown is lost, and the update ends well."""
    host = at_first
    command = host.command("1.1.0")
    with Load(host) as load:
        with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "starting" in line:
                    break
            shown = host.visits()
            host.own.docker("kill", "--signal", "KILL", host.containers("redis")[0])
            output = process.stderr.read()
        assert process.returncode == 0, output
        wait_until(lambda: host.replicas("redis") == "1/1" and host.visits() > shown, seconds=60, what="Redis")
    load.check()
    assert host.serving() == host.commits[0]


def test_over_ssh(at_first: Host, tmp_path: Path) -> None:
    """DEPLOY_HOST is reached by its known key only, also if no program can be run in the folder for temporary files."""

    def status(access: Access, known_hosts: str, *before: str, **more: str) -> subprocess.CompletedProcess[str]:
        where = {"DEPLOY_HOST": access.host, "DEPLOY_SSH_KEY": access.key, "DEPLOY_KNOWN_HOSTS": known_hosts}
        env = {**at_first.environment(), **where, **more}
        del env["DOCKER_HOST"]
        return subprocess.run([*before, *at_first.command("--status")], env=env, capture_output=True, text=True)

    with reached_over_ssh(at_first.own, tmp_path) as access, tempfile.TemporaryDirectory(prefix="fh") as short:
        other = f"{access.known_hosts.split(' ')[0]} {make_key(tmp_path / 'other')}"
        noexec = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o noexec none {short} && exec "$@"', "sh")
        found = [
            (status(access, access.known_hosts, *how, TMPDIR=short), status(access, other, *how, TMPDIR=short))
            for how in ((), noexec)
        ]
    for right, wrong in found:
        assert right.returncode == 0, right.stderr
        assert at_first.digest("1.0.0") in right.stdout
        assert wrong.returncode == 1
        assert "its host key is not the known one: nothing was sent" in wrong.stderr


def test_a_redeploy_that_is_killed_is_finished_by_the_next(at_first: Host) -> None:
    """SIGKILL in the middle leaves no mixture."""
    host = at_first
    command = host.command("1.1.0")
    with subprocess.Popen(command, env=host.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line:
                break
        process.kill()
    done = host.redeploy("--timeout", "40", "1.1.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[0]
