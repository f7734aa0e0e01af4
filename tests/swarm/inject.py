#!/usr/bin/env python3
"""Send a host an echo request for one of its containers, wrapped as its Swarm's hosts wrap theirs (RFC 7348)."""

from __future__ import annotations

import socket
import struct
import sys


def checksum(data: bytes) -> int:
    """Return the Internet checksum: RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def packet(vni: int, mac: bytes, address: bytes) -> bytes:
    """Return an echo request in an IP packet in an Ethernet frame, with VXLAN's header in front."""
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"a stranger"
    echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    sender = address[:3] + bytes([address[3] ^ 0x7F])
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(echo), 0, 0, 64, 1, 0, sender, address)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    frame = mac + bytes.fromhex("02420a000063") + b"\x08\x00" + head + echo
    return struct.pack("!II", 0x08000000, vni << 8) + frame


if __name__ == "__main__":
    host, vni, mac, address = sys.argv[1:]
    wrapped = packet(int(vni), bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        for _ in range(3):
            link.sendto(wrapped, (host, 4789))
