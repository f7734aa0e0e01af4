"""Tests that run beside each other get no port twice."""

import subprocess
import sys

from lib.command import ROOT
from support.ports import free_port

ASK = """
import sys
sys.path[:0] = ["tests", "scripts"]
from support.ports import free_port
print(free_port(), free_port(), flush=True)
sys.stdin.read()
"""


def test_no_port_twice() -> None:
    """Each process has a thousand of its own while it lives, whatever its number is."""
    mine = [free_port(), free_port()]
    others: list[subprocess.Popen[str]] = []
    try:
        for _ in range(3):
            command = [sys.executable, "-c", ASK]
            pipe = subprocess.PIPE
            others.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        given = [[int(port) for port in (other.stdout or sys.stdin).readline().split()] for other in others]
    finally:
        for other in others:
            other.communicate()
    assert all(len(set(ports)) == 2 for ports in (mine, *given))
    assert len({port // 1000 for ports in (mine, *given) for port in ports}) == 4
