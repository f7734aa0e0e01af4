#!/usr/bin/env python3
"""Hear all that crosses a switch until standard input ends; say which words were in what Swarm's hosts wrapped."""

from __future__ import annotations

import json
import select
import socket
import sys

ALL, IPV4, UDP, ESP, VXLAN = 0x0003, 0x0800, 17, 50, 4789

if __name__ == "__main__":
    words = [word.encode() for word in sys.argv[1:]]
    heard: set[str] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**25)
        print("listening", flush=True)
        while sys.stdin not in (ready := select.select([link, sys.stdin], [], [])[0]) or link in ready:
            frame = link.recv(65536)
            if int.from_bytes(frame[12:14], "big") != IPV4:
                continue
            rest = frame[14 + 4 * (frame[14] & 15) :]
            if frame[23] == ESP:
                heard.add("esp")
            if frame[23] == UDP and int.from_bytes(rest[2:4], "big") == VXLAN:
                heard |= {"vxlan", *(word.decode() for word in words if word in rest)}
    print(json.dumps(sorted(heard)))
