"""What hosts of a Swarm say to each other is heard by nobody else: rules for nftables, in a table of their own.

Nothing but the Swarm's ports is ever dropped, so a mistake here locks nobody out. A table of its own is left alone by
Docker's rules, by iptables and by ufw: https://wiki.nftables.org/wiki-nftables/index.php/Configuring_tables.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from lib.command import UsageError
from lib.names import PIPELINE

FILE = f"/etc/{PIPELINE}/firewall.nft"
UNIT = f"{PIPELINE}-firewall.service"

# https://docs.docker.com/engine/swarm/swarm-tutorial/#open-protocols-and-ports-between-the-hosts; ESP is what encrypted
# networks are wrapped in: https://docs.docker.com/engine/network/drivers/overlay/#encrypt-traffic-on-an-overlay-network
TCP = (2377, 7946)
UDP = (4789, 7946)


def addresses(texts: Iterable[str]) -> list[str]:
    """Return addresses, each once and in order; raise UsageError for what is not one."""
    found = set()
    for text in texts:
        try:
            found.add(ipaddress.ip_address(text))
        except ValueError:
            raise UsageError(f"{text!r} is not the address of a host of the Swarm") from None
    return [str(each) for each in sorted(found, key=lambda each: (each.version, int(each)))]


def rules(nodes: Iterable[str]) -> str:
    """Return a file for `nft -f` that lets only `nodes` reach the Swarm's ports, and with none nobody.

    Read again, it replaces what it said before, in one step.
    """
    known = addresses(nodes)
    accept = [
        f"    {family} saddr {{ {', '.join(those)} }} accept\n"
        for family, those in (
            ("ip", [each for each in known if ":" not in each]),
            ("ip6", [each for each in known if ":" in each]),
        )
        if those
    ]
    return (
        "# Written by prepare_host.py. Only the Swarm's hosts reach its ports; all else is left to other rules.\n"
        f"table inet {PIPELINE}\n"
        f"delete table inet {PIPELINE}\n"
        f"table inet {PIPELINE} {{\n"
        "  chain input {\n"
        "    type filter hook input priority -10; policy accept;\n"
        "    iifname lo accept\n"
        f"{''.join(accept)}"
        f"    tcp dport {{ {', '.join(map(str, TCP))} }} drop\n"
        f"    udp dport {{ {', '.join(map(str, UDP))} }} drop\n"
        "    meta l4proto esp drop\n"
        "  }\n"
        "}\n"
    )


def unit() -> str:
    """Return a unit of systemd that has the rules in force before the network is up, and again after nftables' own.

    https://www.freedesktop.org/software/systemd/man/latest/systemd.unit.html: PartOf passes on a restart of
    nftables.service, which empties all tables.
    """
    return f"""# Written by prepare_host.py.
[Unit]
Description=Only the Swarm's hosts reach its ports
Wants=network-pre.target
Before=network-pre.target docker.service
After=nftables.service
PartOf=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {FILE}

[Install]
WantedBy=multi-user.target
"""
