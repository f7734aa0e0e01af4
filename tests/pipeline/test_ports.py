"""Tests that run beside each other get no port twice."""

import contextlib
import subprocess
import sys
from subprocess import PIPE

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
    given = [mine]
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            ask = subprocess.Popen([sys.executable, "-c", ASK], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)
            stack.callback(ask.communicate)  # it lives until then
            assert ask.stdout is not None
            given.append([int(port) for port in ask.stdout.readline().split()])
    assert all(len(set(ports)) == 2 for ports in given)
    assert len({port // 1000 for ports in given for port in ports}) == 4
