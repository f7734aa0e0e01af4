"""An engine of the tests' own that is reached over SSH, with a key that can do nothing but deploy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prepare_host import authorized, make_key
from support.ssh_server import ssh_server
from swarm.own_engine import OwnEngine

PORT = 2222


@dataclass(frozen=True)
class Access:
    """What a user sets to deploy there: DEPLOY_HOST, DEPLOY_KNOWN_HOSTS and DEPLOY_SSH_KEY."""

    host: str
    known_hosts: str
    key: str


@contextlib.contextmanager
def reached_over_ssh(own: OwnEngine, folder: Path) -> Iterator[Access]:
    """Run an SSH server on the engine's machine until the end of the block, with its files in `folder`."""
    folder.chmod(0o700)
    key = make_key(folder / "key")
    dial = f"docker --host {own.env['DOCKER_HOST']} system dial-stdio"
    (folder / "authorized").write_text(authorized("", key, dial), "utf-8")

    # The start-up files of the user who runs the tests have no part in them.
    options = f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nSetEnv HOME={folder}"
    with ssh_server(folder, own.address, PORT, options, lambda command: [*own.enter, *command]) as host_key:
        known_hosts = f"[{own.address}]:{PORT} {host_key}"
        yield Access(f"root@{own.address}:{PORT}", known_hosts, (folder / "key").read_text("utf-8"))
