#!/usr/bin/env python3
"""Make a fresh Debian or Ubuntu machine a place to deploy to, over SSH.

  python3 scripts/prepare_host.py root@host.example.com
  python3 scripts/prepare_host.py root@second.example.com --join root@host.example.com

Installs the Docker Engine from the distribution, makes the machine a Swarm (or, with --join, a worker of
one), and adds a user `deploy` whose key can do nothing but talk to the engine. Then prints the variables
and the secret to set on GitHub. Doing it twice changes nothing. You need to be root there, or be allowed
to use sudo without a password, and to have accepted the host's key before: this script trusts no new one.
"""

from __future__ import annotations

import io
import os
import pwd
import re
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import engine
from lib import containers
from lib.command import ROOT, Failure, UsageError, home, last_line, parser, run, say, shown, start
from lib.names import FORMER, PIPELINE
from lib.ssh import DEPLOY_USER, Target, parse_target, public_half, ssh_settings

KEYS = [home() / ".ssh" / f"{name}_deploy" for name in (PIPELINE, FORMER)]
"""The keys to deploy with: the one that is made, and the one that an earlier version made."""
OLDEST_ENGINE = 25  # the first that knows a health check's start_interval, which deploy/compose.stack.yaml uses

# A key that can open no shell and forward nothing: DOCKER_HOST=ssh://… runs exactly this command on the host.
RESTRICTIONS = 'restrict,command="docker system dial-stdio"'


def here_command(folder: str, public_key: str, token: str, manager: str, *, dry_run: bool) -> list[str]:
    """Return the command that prepares the machine that it runs on; `folder` has these scripts there."""
    join = ["--join", manager] if manager else []
    return [
        # -B: otherwise root's .pyc files stay behind, and the login user cannot delete them.
        *("python3", "-B", f"{folder}/prepare_host.py", "--here", "--authorize", public_key, *join),
        *(["--token-file", f"{folder}/token"] if token else []),
        *(["--dry-run"] if dry_run else []),
    ]


def scripts_archive(token: str) -> bytes:
    """Return a tar of what has to run on the host, with the token to join by, which no list of processes shows."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("prepare_host.py", "engine.py", "lib"):
            archive.add(
                ROOT / "scripts" / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry
            )
        entry = tarfile.TarInfo("token")
        entry.size, entry.mode = len(token), 0o600
        archive.addfile(entry, io.BytesIO(token.encode()))
    return buffer.getvalue()


def ssh_command(target: Target) -> list[str]:
    """Return the command that logs in; a host key that is not known is never accepted."""
    program, *rest = target.ssh
    return [program, "-o", "StrictHostKeyChecking=yes", *rest]


def on(target: Target, command: str, stdin: bytes = b"") -> str:
    """Run a line of shell on the target and return what it prints; its progress passes through."""
    ssh = ssh_command(target)
    say(f"$ {shown(ssh)} ...")
    try:
        done = subprocess.run([*ssh, command], input=stdin, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError as error:
        raise Failure("there is no ssh command; on Debian, install openssh-client") from error
    if done.returncode == 255:
        raise Failure(f"cannot reach {target.host} by ssh: see above; run {shown(target.ssh)} once by hand")
    if done.returncode != 0:
        raise Failure(f"{target.host} could not be prepared: see above")
    return done.stdout.decode("utf-8", "replace").strip()


def sudo(target: Target) -> list[str]:
    """Return what a command there has to begin with to run as root."""
    return [] if target.user == "root" or on(target, "id -u") == "0" else ["sudo", "--non-interactive"]


def prepare(target: Target, public_key: str, *, token: str = "", manager: str = "", dry_run: bool) -> None:
    """Send the scripts to the target, run them there as root, and remove them."""
    root = sudo(target)
    folder = on(target, "mktemp -d")
    if not re.fullmatch(r"/[A-Za-z0-9/._-]+", folder):
        raise Failure(f"mktemp on {target.host} said {folder!r}")
    command = shown([*root, *here_command(folder, public_key, token, manager, dry_run=dry_run)])
    on(target, f"trap 'rm -rf {folder}' EXIT; tar -x -C {folder} && {command}", scripts_archive(token))


def reached(target: Target, settings: Mapping[str, str]) -> Target:
    """Return a machine as everybody can reach it, whatever ssh's configuration here (ssh_settings) calls it."""
    port = int(settings.get("port", "22"))
    return Target(target.user, settings.get("hostname", target.host), target.port or (port if port != 22 else 0))


def known_hosts(real: Target, settings: Mapping[str, str], by_hand: Sequence[str]) -> str:
    """Return the lines of known_hosts that this machine trusts a machine by, under the name that it is `reached` as.

    `settings` are ssh's own for it, and `by_hand` is the command that logs in there.
    """
    name = settings.get("hostkeyalias") or real.known_as
    files = " ".join(settings.get(f"{whose}knownhostsfile", "") for whose in ("user", "global")).split()
    lines: list[str] = []
    for file in map(Path, files):
        if file.expanduser().exists():
            done = run(["ssh-keygen", "-F", name, "-f", str(file.expanduser())], check=False)
            lines += [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    if not lines:
        raise Failure(
            f"the host key of {name} is not known here; run {shown(by_hand)} once, and compare the fingerprint with the"
            " one that the machine's console shows"
        )
    # The names may be hashed, and a marker such as @cert-authority may stand before them.
    return "\n".join(re.sub(r"^(@\S+ )?\S+", lambda found: (found[1] or "") + real.known_as, line) for line in lines)


def trusted(target: Target) -> tuple[Target, str]:
    """Return a machine as everybody can reach it, and the lines of known_hosts that this machine trusts it by."""
    settings = ssh_settings(target)
    real = reached(target, settings)
    return real, known_hosts(real, settings, target.ssh)


def deploy_key() -> Path:
    """Return the key to deploy with, if no other one is named: the one that is there, or the one to make."""
    return next((key for key in KEYS if key.exists()), KEYS[0])


def make_key(path: Path) -> str:
    """Return the public half of the key to deploy with; make the pair if there is none."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{PIPELINE} deploy", "-f", str(path)])
    return public_half(str(path), path)


def what_to_set(target: Target, real: Target, hosts: str, key: Path) -> str:
    """Return what to set on GitHub, with the command that does it, and what else there is to know.

    `real` is the target as everybody can reach it.
    """
    deploy, root = replace(real, user=DEPLOY_USER), replace(target, user=target.user or "root")
    other = [] if key == deploy_key() else ["--key", str(key)]
    # Not `gh variable set`, which Debian 12's gh does not have.
    configure = shown(["python3", "scripts/configure_github.py", "--host", str(target), *other])
    return f"""To deploy from GitHub too, with gh logged in, run

  {configure}

or set by hand, under Settings > Environments > production:

  variable  DEPLOY_HOST         {deploy}
  variable  DEPLOY_KNOWN_HOSTS  {textwrap.indent(hosts, 32 * " ").strip()}
  secret    DEPLOY_SSH_KEY      what is in {key}

Let the world reach port 4000, or 80 and 443 if DOMAIN is set; port {real.port or 22} only from addresses you trust.
Let the hosts of a cluster, and nobody else, reach each other at 2377/tcp, 7946/tcp, 7946/udp and 4789/udp.

Another host joins with: python3 scripts/prepare_host.py root@OTHER --join {root}"""


NO_PASSWORD = "*"  # noqa: S105
"""No password fits, and the account is not locked: sshd with `UsePAM no` lets nobody into a locked one."""


# From here on: what runs on the host itself, as root.


def check_public_key(text: str) -> str:
    """Return a public key that can stand on a line of authorized_keys, or raise UsageError."""
    if not re.fullmatch(r"(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+( [^\n\"]*)?", text):
        raise UsageError(f"--authorize is {text!r}, expected an SSH public key")
    return text


def authorized(existing: str, public_key: str) -> str:
    """Return the text of an authorized_keys file that has the key once, restricted."""
    line = f"{RESTRICTIONS} {public_key}"
    kept = [old for old in existing.splitlines() if old.strip() and public_key.split()[1] not in old]
    return "\n".join([*kept, line]) + "\n"


def act(command: Sequence[str], dry_run: bool) -> None:
    """Run a command that changes the machine, or only say what it would be."""
    if dry_run:
        say(f"would run: {shown(command)}")
    else:
        run(command, show=True)


def engine_version(text: str) -> int:
    """Return the major number of an engine's version, 0 for none."""
    match = re.match(r"(\d+)\.", text)
    return int(match[1]) if match else 0


def swarm_command(token: str, manager: str) -> list[str]:
    """Return the command that makes this machine a Swarm, or a worker of one. The token is in a file."""
    if manager:
        return ["docker", "swarm", "join", "--token", token, manager]
    return ["docker", "swarm", "init"]


def prepare_here(public_key: str, token: str, manager: str, *, dry_run: bool) -> None:
    """Give this machine an engine and a Swarm, its own or the manager's, and its own one a user who deploys."""
    if os.geteuid() != 0 and not dry_run:
        raise Failure("this has to run as root; log in as root, or as somebody who may use sudo without a password")
    version = containers.server_version()
    if version and engine_version(version) < OLDEST_ENGINE:
        raise Failure(f"the engine there is {version}, and {OLDEST_ENGINE} or newer is needed: update it first")
    if not version:
        say("would install the Docker Engine" if dry_run else "installing the Docker Engine")
        if not dry_run:
            engine.install_docker()
            if engine.has_systemd():
                act(["systemctl", "enable", "--now", "docker"], dry_run)
            engine.restart(False)
    state = "" if dry_run and not version else run(["docker", "info", "--format", "{{.Swarm.LocalNodeState}}"]).stdout
    if state.strip() != "active":
        what = "a worker of the Swarm" if manager else "a Swarm"
        say(f"{'would make' if dry_run else 'making'} this machine {what}")
        if not dry_run:
            done = run(swarm_command(token, manager), check=False)
            if done.returncode:  # the command stays unsaid: the token is in it
                raise Failure(f"cannot make this machine {what}{last_line(done)}")
    if not manager:
        add_deploy_user(public_key, dry_run)


def is_locked(user: str) -> bool:
    """Whether an account is locked: shadow(5), a password that begins with `!`; False if only root can tell."""
    try:
        lines = Path("/etc/shadow").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)


def add_deploy_user(public_key: str, dry_run: bool) -> None:
    """Add the user whose key talks to the engine and does nothing else."""
    try:
        home = Path(pwd.getpwnam(DEPLOY_USER).pw_dir)
    except KeyError:
        home = Path("/home") / DEPLOY_USER
        act(["useradd", "--create-home", "--shell", "/bin/sh", "--password", NO_PASSWORD, DEPLOY_USER], dry_run)
    else:
        if is_locked(DEPLOY_USER):
            act(["usermod", "--password", NO_PASSWORD, DEPLOY_USER], dry_run)
    act(["usermod", "--append", "--groups", "docker", DEPLOY_USER], dry_run)
    keys = home / ".ssh" / "authorized_keys"
    text = authorized(keys.read_text("utf-8") if keys.exists() else "", public_key)
    say(f"{'would write' if dry_run else 'writing'} {keys}: a key that may only run docker system dial-stdio")
    if dry_run:
        return
    user = pwd.getpwnam(DEPLOY_USER)
    keys.parent.mkdir(mode=0o700, exist_ok=True)
    keys.write_text(text, "utf-8")
    keys.chmod(0o600)
    for path in (keys.parent, keys):
        os.chown(path, user.pw_uid, user.pw_gid)


def join_facts(target: Target) -> tuple[str, str]:
    """Return the address and the token by which a worker joins a manager's Swarm."""
    root = sudo(target)
    token = on(target, shown([*root, "docker", "swarm", "join-token", "--quiet", "worker"]))
    address = on(target, shown([*root, "docker", "info", "--format", "{{.Swarm.NodeAddr}}"]))
    return f"{address}:2377", token


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("target", nargs="?", metavar="[USER@]HOST[:PORT]", help="the machine to prepare")
    arguments.add_argument("--join", metavar="MANAGER", default="", help="make it a worker of this one's Swarm")
    arguments.add_argument(
        "--key", type=Path, default=deploy_key(), help="the key to deploy with (default: %(default)s)"
    )
    arguments.add_argument("--dry-run", action="store_true", help="say what would be done there, and do nothing")
    arguments.add_argument("--here", action="store_true", help="prepare this very machine (used over SSH)")
    arguments.add_argument("--authorize", default="", metavar="PUBLIC_KEY", help="with --here: who may deploy")
    arguments.add_argument("--token-file", type=Path, help="with --here --join: what to join by")
    options = arguments.parse_args(argv)
    if options.here:
        token = options.token_file.read_text("utf-8").strip() if options.token_file else ""
        prepare_here(check_public_key(options.authorize), token, options.join, dry_run=options.dry_run)
        return 0
    if not options.target:
        raise UsageError("which machine? python3 scripts/prepare_host.py root@host.example.com")
    target = parse_target("the machine", options.target)
    real, hosts = trusted(target)
    public_key = make_key(options.key)
    if options.join:
        address, token = join_facts(parse_target("--join", options.join))
        prepare(target, public_key, token=token, manager=address, dry_run=options.dry_run)
        say(f"{target.host} {'would be' if options.dry_run else 'is'} a worker of {options.join}'s Swarm")
        return 0
    prepare(target, public_key, dry_run=options.dry_run)
    print(what_to_set(target, real, hosts, options.key))
    return 0


if __name__ == "__main__":
    start(main)
