"""Redeploying under constant load: visitors notice nothing, whatever the version is worth."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from lib.command import run, wait_until
from lib.names import PIPELINE
from prepare_host import make_key
from swarm.host import BAD, Host, Load
from swarm.over_ssh import Access, reached_over_ssh
from swarm.prepared import PORT, Prepared, outside, prepared, scan

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


def test_how_long_a_replica_may_take_to_start_is_in_its_image(at_first: Host) -> None:
    """A service that needs half a minute is not taken for a bad version: the owner's Dockerfile says so."""
    ask = ("inspect", "--format", "{{json .Config.Healthcheck}}", at_first.containers("web")[0])
    health = json.loads(at_first.own.docker(*ask))
    assert (health["StartPeriod"], health["Interval"]) == (30e9, 5e9)


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
            wait_until(lambda: host.replicas("web") == "4/4", what="the replica that was replaced to be gone")
            assert host.redeploy("1.0.0", REPLICAS="2").returncode == 0
    finally:
        host.redeploy("1.0.0", REPLICAS="2")
    wait_until(lambda: host.replicas("web") == "2/2", what="the replicas to be two")
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
        wait_until(lambda: host.replicas("redis") == "1/1" and host.visits() > shown, what="Redis")
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
    done = host.redeploy("1.1.0")
    assert done.returncode == 0, done.stderr
    assert host.serving() == host.commits[0]


@pytest.fixture(scope="module")
def key(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The host as prepare_host.py leaves it, and the key to it; GitHub vouches for 1.0.0 and 1.1.0."""
    need(all(map(shutil.which, ("sudo", "nft"))), "sudo and nft")
    with prepared(host, tmp_path_factory.mktemp("prepared")) as found:
        yield found


def test_a_host_that_is_prepared_twice(key: Prepared) -> None:
    """Nothing is written again; the account has no part in the engine's group, and what it may run is root's."""
    again = key.prepare("--dry-run")
    assert again.returncode == 0, again.stderr
    assert "would write /usr" not in again.stderr
    assert "would run: useradd" not in again.stderr
    groups = (key.folder / "etc/group").read_text("utf-8")
    assert not re.search(r"(?m)^docker:.*\bdeploy\b", groups)
    owned = [*(key.folder / "local/lib").rglob("*"), *(key.folder / "home/deploy/.ssh").rglob("*")]
    assert len(owned) > 30
    assert not [path for path in owned if path.stat().st_uid != 0 or path.stat().st_mode & 0o022]


def test_a_key_that_redeploys(at_first: Host, key: Prepared) -> None:
    """What is proven is deployed by the host itself, without a failed request; GitHub is asked with the lent token."""
    host = at_first
    with Load(host) as load:
        dry = key.redeploy("--dry-run", "1.1.0")
        assert (dry.returncode, f"+ 1.1.0 (revision {host.commits[0][:12]}" in dry.stderr) == (0, True), dry.stderr
        assert host.serving() == host.commits[1]
        done = key.redeploy("1.1.0")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith(host.digest("1.1.0"))
        assert host.serving() == host.commits[0]
        back = key.redeploy("previous")
        assert back.returncode == 0, back.stderr
    load.check()
    assert host.serving() == host.commits[1]
    assert host.digest("1.0.0") in key.redeploy("--status").stdout
    assert "may-only-read" not in done.stdout + done.stderr


def test_a_key_that_asks_for_what_is_not_proven(at_first: Host, key: Prepared) -> None:
    """A version that GitHub does not vouch for is refused by the host; without GitHub's answer, so is every one."""
    before = at_first.specs()
    crashes = key.redeploy(at_first.digest("crashes"))
    assert crashes.returncode == 1
    assert "no attestations found" in crashes.stderr.splitlines()[-1]
    del (alone := dict(key.env))["GITHUB_TOKEN"]
    asked = subprocess.run(at_first.command("1.1.0"), env=alone, capture_output=True, text=True)
    assert asked.returncode == 1
    assert "set the GH_TOKEN environment variable" in asked.stderr.splitlines()[-1]
    unverified = key.redeploy("--unverified", "because I say so", at_first.digest("crashes"))
    assert unverified.returncode == 2
    assert "nothing that a deploy key may ask" in unverified.stderr
    assert at_first.specs() == before


MORE = (
    "sh",
    "id",
    "docker ps",
    "docker system dial-stdio",
    "scp -t /tmp",
    "on_host.py status",
    "--help",
    "-h",
    "-- status",
)
WITH_METACHARACTERS = (
    *("redeploy 1.1.0; touch {mark}", "redeploy 1.1.0 && touch {mark}", "redeploy 1.1.0 | touch {mark}"),
    *("redeploy $(touch {mark})", "redeploy `touch {mark}`", "redeploy 1.1.0\ntouch {mark}", "status > {mark}"),
    *('redeploy "1.1.0"', "redeploy '1.1.0'", '"; touch {mark}; "', "$(touch {mark})"),
)
WITH_OPTIONS = (
    *("redeploy --unverified 1.1.0", "redeploy --timeout 1 1.1.0", "redeploy -- 1.1.0", "redeploy 1.1.0 --dry-run"),
    *(
        "STACK=other redeploy 1.1.0",
        "redeploy localhost:5000/evil/image:1",
        "redeploy ../1.1.0",
        "redeploy .",
        "redeploy",
    ),
    *("redeploy 1.1.0 1.0.0", "redeploy  1.1.0", " status", "status ", "STATUS", "redeploy 1.1.0 - -", "offer me"),
    *(f"redeploy sha256:{'0' * 63}", f"redeploy {'a' * 129}", f"redeploy me/hello@sha256:{'0' * 64}"),
)


def test_a_key_that_asks_for_anything_else(at_first: Host, key: Prepared) -> None:
    """No shell, no engine, no file, no option, no other image: one sentence, and nothing happens there."""
    before, mark = at_first.specs(), key.folder / "home/mark"
    for line in ("", "redeploy", *MORE, *WITH_METACHARACTERS, *WITH_OPTIONS):
        asked = line.format(mark="/home/mark")
        done = subprocess.run([*key.ssh(), *(["--", asked] if asked else [])], input="", capture_output=True, text=True)
        assert done.returncode == 2, (line, done.stdout, done.stderr)
        assert done.stdout == "", line
        assert re.search(r"(?m)^error: .*(is not what this key may do|is not a tag)", done.stderr), line
    assert not mark.exists()
    assert at_first.specs() == before


@pytest.mark.parametrize(
    "lent",
    [
        *("", "{", "[]", '"x"', '{"DOMAIN": "evil.example"}', '{"image": "me/evil"}', '{"token": 1}'),
        *('{"token": "a\\nb"}', '{"run": "../../etc"}', '{"by": "x\\u001b"}', '{"login": "x"}', " " * 70000 + "{}"),
    ],
)
def test_a_key_that_lends_anything_else(at_first: Host, key: Prepared, lent: str) -> None:
    """Nothing but what GitHub and the registry are asked with: no setting, no path, no endless input."""
    before = at_first.specs()
    done = subprocess.run([*key.ssh(), "redeploy 1.1.0 -"], input=lent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is not what" in done.stderr
    assert at_first.specs() == before


@pytest.mark.parametrize(
    ("options", "words", "status", "says"),
    [
        (("-W", "127.0.0.1:{port}"), (), 255, "administratively prohibited"),
        (("-N", "-oExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22"), (), 255, "remote port forwarding failed"),
        (("-s",), ("sftp",), 2, ""),
        (("-tt",), ("sh",), 255, "PTY allocation request failed"),
        (("-A", "-X"), ("env",), 2, "is not what this key may do"),
    ],
)
def test_a_key_that_wants_another_channel(
    key: Prepared, options: tuple[str, ...], words: tuple[str, ...], status: int, says: str
) -> None:
    """No port is forwarded, here or there; no files, no terminal, no agent."""
    command = [*key.ssh(*(option.format(port=key.host.port) for option in options)), *words]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done.stderr


@pytest.mark.parametrize("lost", ["connection", "caller"])
def test_a_connection_that_breaks_during_a_redeploy(at_first: Host, key: Prepared, lost: str) -> None:
    """The roll-out continues there and ends proven; whoever still waits is told so, and the next one waits for it."""
    host = at_first
    with subprocess.Popen(host.command("1.1.0"), env=key.env, stderr=subprocess.PIPE, text=True) as caller:
        assert caller.stderr is not None
        for line in caller.stderr:
            if "starting" in line:
                break
        for pid in key.sessions() if lost == "connection" else [caller.pid]:
            os.kill(pid, signal.SIGKILL)
        rest = caller.stderr.read()
    if lost == "connection":
        assert caller.returncode == 0, rest
        assert "the connection broke; the roll-out continues without it" in rest
        assert rest.count("answers with revision") == 1
    else:
        done = key.redeploy("1.1.0")
        assert done.returncode == 0, done.stderr
        assert "is redeploying; waiting for it to finish" in done.stderr
    assert host.serving() == host.commits[0]
    assert host.configs("unfinished") == []
    assert host.digest("1.1.0") in key.redeploy("--status").stdout


def test_a_prepared_host_from_outside(at_first: Host, key: Prepared) -> None:
    """Nothing but SSH and the edge is open; without the firewall, the Swarm's own ports would be."""
    need(bool(shutil.which("nmap")), "nmap")
    assert at_first.serving()
    with outside(at_first.own.network) as enter:
        assert scan(enter, key.address, "-p-") == {PORT, 4000}
        table = [*at_first.own.enter, "nft"]
        run([*table, "delete", "table", "inet", PIPELINE])
        try:
            assert scan(enter, key.address, "-p2377,7946") == {2377, 7946}
        finally:
            run([*table, "-f", str(key.folder / f"etc/{PIPELINE}/firewall.nft")])
        assert scan(enter, key.address, "-p2377,7946") == set()


def test_a_packet_from_outside(at_first: Host, key: Prepared) -> None:
    """What a stranger wraps as the hosts wrap theirs reaches no container: the firewall drops it, and so does Docker.

    Without both, it would: either one is enough.
    """
    own = at_first.own
    inspected = json.loads(own.docker("inspect", at_first.containers("web")[0]))[0]
    there = inspected["NetworkSettings"]["Networks"]["hello_web"]
    options = json.loads(own.docker("network", "inspect", "hello_web"))[0]["Options"]
    vni = options["com.docker.network.driver.overlay.vxlanid_list"]
    assert options["encrypted"] == ""
    iptables, nft = [*own.enter, "iptables"], [*own.enter, "nft"]
    docker = [shlex.split(line)[1:] for line in run([*iptables, "-S", "INPUT"]).stdout.splitlines() if "4789" in line]
    assert docker
    with outside(own.network) as enter:

        def arrives() -> bool:
            before = echoes(at_first)
            script = str(Path(__file__).with_name("inject.py"))
            run([*enter, sys.executable, script, own.address, vni, there["MacAddress"], there["IPAddress"]])
            run(
                [*enter, "curl", "--silent", "--output", "/dev/null", at_first.page]
            )  # what came before it has been dealt with by then
            return echoes(at_first) > before

        assert not arrives()
        try:
            run([*nft, "delete", "table", "inet", PIPELINE])
            assert not arrives()
            for rule in docker:
                run([*iptables, "-D", *rule])
            assert arrives()
            run([*nft, "-f", str(key.folder / f"etc/{PIPELINE}/firewall.nft")])
            assert not arrives()
        finally:
            run([*nft, "-f", str(key.folder / f"etc/{PIPELINE}/firewall.nft")])
            for rule in docker:
                run([*iptables, "-D", *rule], check=False)
                run([*iptables, "-A", *rule])


def echoes(host: Host) -> int:
    """How often a container of the page was asked for an echo."""
    text = host.own.docker("exec", host.containers("web")[0], "cat", "/proc/net/snmp")
    names, values = (line.split() for line in text.splitlines() if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])
