"""Three hosts under constant load: a version is rolled out over all, and any one that has no Redis may be lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib.command import run, wait_until
from prepare_host import may_encrypt
from swarm.host import GREETING, Host, Load, started

pytestmark = pytest.mark.full


@dataclass
class Swarm:
    """Three managers. Redis is on the second one, so that it is not on the leader."""

    hosts: list[Host]

    def managers(self, host: Host) -> dict[str, str]:
        """What a host calls the managers that are ready, by host name; none where it knows of no leader."""
        done = run(["docker", "node", "ls", "--format", "json"], check=False, env=host.own.env)
        nodes = [json.loads(line) for line in done.stdout.splitlines()]
        return {node["Hostname"]: node["ManagerStatus"] for node in nodes if node["Status"] == "Ready"}

    def leader(self, host: Host) -> str:
        """The leader's host name, as a host sees it; "" while there is none."""
        return next((name for name, status in self.managers(host).items() if status == "Leader"), "")

    def nodes(self, service: str, host: Host) -> list[str]:
        """The names of the nodes that a service's tasks run on, as they are meant to, in order."""
        ask = ["docker", "service", "ps", f"hello_{service}", "--filter", "desired-state=running"]
        done = run([*ask, "--format", "{{.Node}} {{.CurrentState}}"], check=False, env=host.own.env)
        return sorted(line.split(" ")[0] for line in done.stdout.splitlines() if line.split(" ")[1] == "Running")

    def is_whole(self) -> bool:
        """Whether every host agrees that all three are there, each with its edge, and three replicas run.

        What a manager says of a host that has just come back is what it knew before, so each has to answer as well.
        """
        names = sorted(host.own.name for host in self.hosts)
        return all(
            sorted(self.managers(host).values()) == ["Leader", "Reachable", "Reachable"]
            and self.nodes("edge", host) == names
            and len(self.nodes("web", host)) >= len(names)
            and host.serving()
            for host in self.hosts
        )


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A Swarm of three engines with 1.0.0 and 1.1.0 published, and 1.0.0 deployed through the second."""
    with started(tmp_path_factory.mktemp("swarm"), "one", "two", "three") as hosts:
        first, second, third = hosts
        first.own.docker("swarm", "init", "--advertise-addr", first.own.address)
        token = first.own.docker("swarm", "join-token", "--quiet", "manager").strip()
        for host in (second, third):
            join = ("swarm", "join", "--advertise-addr", host.own.address, "--token", token)
            host.own.docker(*join, f"{first.own.address}:2377")
        done = second.redeploy("1.0.0", REPLICAS="3")
        assert done.returncode == 0, done.stderr
        yield Swarm(hosts)


@pytest.fixture
def swarm(deployed: Swarm) -> Swarm:
    """The Swarm, whole, with Redis on the second node."""
    wait_until(deployed.is_whole, what="the Swarm to be whole")
    second = deployed.hosts[1]
    assert deployed.nodes("redis", second) == [second.own.name]
    return deployed


def test_a_good_version(swarm: Swarm) -> None:
    """It is rolled out on all three without a failed request at any edge, and --status says what runs where."""
    first, second, third = swarm.hosts
    with Load(first) as one, Load(third) as other:
        done = second.redeploy("1.1.0")
        assert done.returncode == 0, done.stderr
        assert [host.serving() for host in swarm.hosts] == [first.commits[0]] * 3
        back = first.redeploy("previous")
        assert back.returncode == 0, back.stderr
    one.check()
    other.check()
    assert [host.serving() for host in swarm.hosts] == [first.commits[1]] * 3
    status = third.redeploy("--status").stdout
    for host in swarm.hosts:
        assert f" on {host.own.name} running, caddy:2@" in status
    web = [(name, first.digest("1.0.0")[:19]) for name in swarm.nodes("web", third)]
    assert sorted(re.findall(r"(?m)^hello_web\.\d on (\S+) running, hello@(\S+) ", status)) == web


def test_what_crosses_the_wire(swarm: Swarm) -> None:
    """Whoever listens between the hosts hears neither a visit nor Redis, if the kernel can encrypt.

    If it cannot, both are heard: so this listens at the right place.
    """
    first, second, third = swarm.hosts
    switch = ["nsenter", f"--net=/var/run/netns/{first.own.network.namespace}"]
    command = [*switch, sys.executable, str(Path(__file__).with_name("listen.py")), GREETING, "AUTH", "counter"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        for host in (first, second, third) * 4:
            assert host.visits() > 0
        heard = set(json.loads(listener.communicate("\n", timeout=60)[0]))
    if may_encrypt():
        assert heard == {"esp"}
    else:
        assert {"vxlan", GREETING, "counter"} <= heard


def test_the_leader_is_lost(swarm: Swarm) -> None:
    """Another manager leads, a version can be rolled out through it, and visitors of the others do not fail."""
    second = swarm.hosts[1]
    name = swarm.leader(second)
    assert name != second.own.name  # the first test that loses a manager: the one that began still leads
    lost = next(host for host in swarm.hosts if host.own.name == name)
    rest = [host for host in swarm.hosts if host is not lost]
    try:
        with Load(rest[0]) as one, Load(rest[1]) as other:
            lost.own.power_off()
            wait_until(lambda: swarm.leader(second) not in ("", name), what="another manager to be the leader")
            done = second.redeploy("1.1.0")
            assert done.returncode == 0, done.stderr
            assert [host.serving() for host in rest] == [second.commits[0]] * 2
    finally:
        lost.own.power_on()
    for load in (one, other):
        load.check()
    wait_until(swarm.is_whole, what="the Swarm to be whole again")
    assert lost.serving() == lost.commits[0]


def test_a_node_is_cut_off(swarm: Swarm) -> None:
    """Visitors of the other nodes do not fail, and its replicas come back elsewhere."""
    leader = swarm.leader(swarm.hosts[1])
    lost = next(host for host in (swarm.hosts[2], swarm.hosts[0]) if host.own.name != leader)
    rest = [host for host in swarm.hosts if host is not lost]
    names = {host.own.name for host in rest}
    # The Swarm puts a new replica where there are fewest, so that then every node has one.
    more = rest[0].redeploy("1.1.0", REPLICAS="6")
    assert more.returncode == 0, more.stderr
    assert lost.own.name in swarm.nodes("web", rest[0])
    try:
        with Load(rest[0]) as one, Load(rest[1]) as other:
            lost.own.cut_off()
            wait_until(
                lambda: len(on := swarm.nodes("web", rest[0])) == 6 and set(on) == names,
                what="the replicas to be back elsewhere",
            )
    finally:
        lost.own.plug_in()
    for load in (one, other):
        load.check()
    wait_until(swarm.is_whole, what="the Swarm to be whole again")
    assert lost.serving() == rest[0].serving()
