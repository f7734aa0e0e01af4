"""A host that `prepare_host.py` prepared, as a user has it: an SSH server, users, sudo, and a key that may redeploy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lib.command import run
from lib.daemon import Daemon
from lib.registry import index_of
from prepare_host import make_key
from support.gh_answers import PROVENANCE, TEST_RESULT, result_of
from support.projects import git
from support.ssh_server import ssh_server
from swarm.host import Host
from swarm.own_engine import Network

PORT = 2222
SLUG = "octo/hello"
GH = Path(__file__).parents[1] / "workflows/bin/gh"

# The machine's own users, programs and state; its kernel, network and engine are the engine's.
MOUNTS = """set -e
for part in etc home; do mount --bind {folder}/$part /$part; done
for part in usr/local var/lib; do
    name=$(basename $part)
    mount -t overlay -o lowerdir=/$part,upperdir={folder}/$name,workdir={folder}/$name.work overlay /$part
done
mount -t tmpfs tmpfs /run
mkdir /run/sshd && touch /run/docker.sock && mount --bind {socket} /run/docker.sock
exec "$@"
"""


@dataclass
class Prepared:
    """The host, who may log in to it as root, and what a user sets on GitHub to redeploy there."""

    host: Host
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    """What whoever redeploys has: a login, and no engine."""

    @property
    def address(self) -> str:
        return self.host.own.address

    def prepare(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run prepare_host.py, as somebody who may log in as root."""
        command = [sys.executable, str(self.host.project / "scripts/prepare_host.py"), f"root@{self.address}:{PORT}"]
        key = ("--key", str(self.folder / "deploy"))
        env = {**self.host.environment(), "PATH": f"{self.folder}/bin:{os.environ['PATH']}", **more}
        return subprocess.run([*command, *key, *arguments], env=env, capture_output=True, text=True)

    def redeploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Redeploy with the key, from a machine without an engine."""
        return subprocess.run(self.host.command(*arguments), env=self.env, capture_output=True, text=True)

    def sessions(self) -> list[int]:
        """The processes of the SSH server that have a connection; what they run is not among them."""
        lines = [line.split() for line in run(["ps", "-e", "--no-headers", "-o", "ppid,pid,comm"]).stdout.splitlines()]
        found = [Daemon("sshd", self.folder).pid]
        for parent in found:
            found += [int(pid) for of, pid, name in lines if int(of) == parent and name.startswith("sshd")]
        return [pid for pid in found[1:] if pid]

    def ssh(self, *options: str) -> list[str]:
        """The command that logs in with the key."""
        known = f"-oUserKnownHostsFile={self.folder}/known"
        key = ("-oIdentitiesOnly=yes", "-i", str(self.folder / "deploy"))
        return ["ssh", "-oBatchMode=yes", known, *key, f"-p{PORT}", *options, f"deploy@{self.address}"]

    def vouch_for(self, tag: str, commit: str) -> None:
        """Have GitHub keep what CI signs of an image: that it built it from a commit, and that it passed its tests."""
        index = index_of(f"localhost:{self.host.port}/me/hello:{tag}")
        assert index is not None
        with (self.folder / "attestations.jsonl").open("a", encoding="utf-8") as file:
            for kind, predicate in ((PROVENANCE, {}), (TEST_RESULT, result_of(dict(index.platforms)))):
                signed = {"digest": index.digest, "type": kind, "commit": commit, "predicate": predicate}
                file.write(json.dumps({**signed, "ref": "refs/heads/main"}) + "\n")


@contextlib.contextmanager
def outside(network: Network) -> Iterator[list[str]]:
    """Another machine on the hosts' network, which is none of them; yields what leads a command into it."""
    name = f"{network.namespace}-outside"
    run(["ip", "netns", "add", name])
    try:
        network.join(name)
        yield ["nsenter", f"--net=/var/run/netns/{name}"]
    finally:
        run(["ip", "netns", "delete", name])


def scan(enter: list[str], address: str, *options: str) -> set[int]:
    """Return the TCP ports that nmap finds open."""
    said = run([*enter, "nmap", "-n", "-Pn", "-sS", "-T5", "--max-retries", "2", "-oG", "-", *options, address]).stdout
    return {int(port) for port in re.findall(r"(\d+)/open/tcp", said)}


@contextlib.contextmanager
def prepared(host: Host, folder: Path) -> Iterator[Prepared]:
    """Have prepare_host.py prepare the host; what GitHub says of its images is a stand-in's."""
    folder.chmod(0o755)
    for name in ("home", "local/bin", "local.work", "lib", "lib.work", "bin"):
        (folder / name).mkdir(parents=True)
    run(["cp", "--archive", "/etc", str(folder)])
    users = folder / "etc/passwd"
    users.write_text(re.sub(r"(?m)^(root:.*):/root:", r"\1:/home/root:", users.read_text("utf-8")), "utf-8")
    ssh = folder / "home/root/.ssh"
    ssh.mkdir(0o700, parents=True)
    (ssh / "authorized_keys").write_text(make_key(folder / "root") + "\n", "utf-8")
    (folder / "local/bin/gh").write_text(f'#!/bin/sh\nSCENARIO_FOLDER={folder} exec {GH} "$@"\n', "utf-8")
    (folder / "bin/ssh").write_text(
        f"#!/bin/sh\nexec /usr/bin/ssh -oUserKnownHostsFile={folder}/known -oIdentitiesOnly=yes -i {folder}/root "
        '"$@"\n',
        "utf-8",
    )
    for program in ("local/bin/gh", "bin/ssh"):
        (folder / program).chmod(0o755)
    (folder / "main").write_text("\n".join(host.commits), "utf-8")
    git(host.project, "remote", "add", "origin", f"https://github.com/{SLUG}.git")
    socket = host.own.env["DOCKER_HOST"].removeprefix("unix://")
    mounts = MOUNTS.format(folder=folder, socket=socket)
    enter = [*host.own.enter, "unshare", "--mount", "sh", "-c", mounts, "sh"]
    with ssh_server(
        folder, host.own.address, PORT, "UsePAM no\nSubsystem sftp internal-sftp", lambda command: [*enter, *command]
    ) as host_key:
        known = f"[{host.own.address}]:{PORT} {' '.join(host_key.split()[:2])}"
        (folder / "known").write_text(f"{known}\n", "utf-8")
        it = Prepared(host, folder)
        it.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DOCKER")},
            "DOCKER_HOST": f"unix://{folder}/no-engine.sock",
            "DEPLOY_HOST": f"deploy@{host.own.address}:{PORT}",
            "DEPLOY_KNOWN_HOSTS": known,
            "GITHUB_TOKEN": "may-only-read",
            "GITHUB_ACTIONS": "",
        }
        done = it.prepare()
        assert done.returncode == 0, done.stderr
        it.env["DEPLOY_SSH_KEY"] = (folder / "deploy").read_text("utf-8")
        it.vouch_for("1.0.0", host.commits[1])
        it.vouch_for("1.1.0", host.commits[0])
        try:
            yield it
        finally:
            git(host.project, "remote", "remove", "origin")
