"""A real SSH server for the tests."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from conftest import need
from lib.command import run
from lib.daemon import Daemon
from prepare_host import make_key


@contextlib.contextmanager
def ssh_server(
    folder: Path, host: str, port: int, options: str, enter: Callable[[list[str]], list[str]]
) -> Iterator[str]:
    """Run one for root until the end of the block, and yield its public key; `enter` makes its command run elsewhere.

    `options` are more lines of its configuration; `folder` keeps its files.
    """
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    need(Path(sshd).exists(), "sshd")
    Path("/run/sshd").mkdir(exist_ok=True)
    public_key = make_key(folder / "host")
    (folder / "config").write_text(
        f"HostKey {folder}/host\nListenAddress {host}:{port}\nPermitRootLogin prohibit-password\nPidFile none\n"
        f"{options}\n",
        "utf-8",
    )
    daemon = Daemon("sshd", folder)
    scan = ["ssh-keyscan", "-p", str(port), host]
    try:
        daemon.start(
            enter([sshd, "-D", "-e", "-f", str(folder / "config")]),
            ready=lambda: "ssh-ed25519" in run(scan, check=False).stdout,
        )
        yield public_key
    finally:
        daemon.stop()
