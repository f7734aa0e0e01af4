"""The firewall of a host: what it says, and what nft makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from conftest import need, need_root
from lib.command import UsageError, run
from lib.firewall import FILE, addresses, rules, unit


def test_only_the_hosts_are_let_in() -> None:
    """Each once, in order, by its family; everything that is dropped is the Swarm's."""
    text = rules(["192.0.2.10", "fd00::2", "192.0.2.9", "192.0.2.10"])
    assert "ip saddr { 192.0.2.9, 192.0.2.10 } accept" in text
    assert "ip6 saddr { fd00::2 } accept" in text
    drops = [line.strip() for line in text.splitlines() if line.endswith("drop")]
    assert drops == ["tcp dport { 2377, 7946 } drop", "udp dport { 4789, 7946 } drop", "meta l4proto esp drop"]
    assert "policy accept" in text
    assert "saddr" not in rules([])


@pytest.mark.parametrize("text", ["", "host", "0.0.0.0/0", "192.0.2.1; flush ruleset", "192.0.2.256", "::1 accept"])
def test_what_is_not_an_address(text: str) -> None:
    """It does not reach nft."""
    with pytest.raises(UsageError, match="is not the address of a host"):
        addresses([text])


def test_nft_takes_it_twice() -> None:
    """The second time replaces the first, and no other table is touched; where nobody else sees it."""
    need_root("a firewall of the tests' own")
    need(bool(shutil.which("nft")), "nft")
    name = f"onedigest-{os.getpid()}-nft"
    nft = ["nsenter", f"--net=/var/run/netns/{name}", "nft"]
    run(["ip", "netns", "add", name])
    try:
        run([*nft, "add", "table", "inet", "another"])
        for nodes in (["192.0.2.1"], ["192.0.2.2", "fd00::2"], []):
            subprocess.run([*nft, "-f", "-"], input=rules(nodes), text=True, check=True)
            listed = run([*nft, "list", "ruleset"]).stdout
            assert [node in listed for node in ("192.0.2.1", "192.0.2.2")] == [
                node in nodes for node in ("192.0.2.1", "192.0.2.2")
            ]
            assert listed.count("chain input") == 1
            assert "table inet another" in listed
    finally:
        run(["ip", "netns", "delete", name])


def test_it_is_there_after_a_restart() -> None:
    """Before the network and Docker are, and again when nftables' own service empties all tables."""
    lines = unit().splitlines()
    assert f"ExecStart=/usr/sbin/nft -f {FILE}" in lines
    assert "Before=network-pre.target docker.service" in lines
    assert {"After=nftables.service", "PartOf=nftables.service", "WantedBy=multi-user.target"} <= set(lines)
