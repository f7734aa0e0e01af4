#!/usr/bin/env python3
"""Make a fresh Debian or Ubuntu machine a place to deploy to, over SSH.

  python3 scripts/prepare_host.py root@host.example.com
  python3 scripts/prepare_host.py root@second.example.com --join root@host.example.com

Installs the Docker Engine from the distribution, and gh from GitHub's own packages if the distribution's is
too old to verify anything; makes the machine a Swarm (or, with --join, a worker of one); lets only the Swarm's
hosts reach the Swarm's ports; and adds a user `deploy` whose key can do nothing but redeploy what this
repository's CI vouches for: DOCKERHUB_USERNAME, IMAGE_REPOSITORY and REGISTRY name the image, and the host
keeps that, service.toml and deploy/ as root's. After a change of these, run it again. With --engine the key
talks to the Docker Engine instead, which is as powerful as root.

Then prints the variables and the secret to set on GitHub. Doing it twice changes nothing. You need to be
root there, or be allowed to use sudo without a password, and to have accepted the host's key before: this
script trusts no new one.
"""

from __future__ import annotations

import grp
import io
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import urllib.error
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import engine
from lib import apt, containers, firewall
from lib.command import ROOT, Failure, UsageError, home, last_line, parser, run, say, shown, start
from lib.distribution import get
from lib.github import GITHUB, INSTALL, repository
from lib.host import FIXED, INSTALLED, SETTINGS, shipped
from lib.names import FORMER, PIPELINE, checked_out, image_name
from lib.ssh import DEPLOY_USER, Target, parse_target, public_half, ssh_settings
from lib.swarm import valid_stack

KEYS = [home() / ".ssh" / f"{name}_deploy" for name in (PIPELINE, FORMER)]
"""The keys to deploy with: the one that is made, and the one that an earlier version made."""
OLDEST_ENGINE = 25  # the first that knows a health check's start_interval, which deploy/compose.stack.yaml uses

ENGINE = "docker system dial-stdio"
"""What a key may run that talks to the engine."""


def here_command(
    folder: str,
    public_key: str,
    token: str,
    manager: str,
    *,
    engine_too: bool,
    nodes: Sequence[str] = (),
    dry_run: bool,
) -> list[str]:
    """Return the command that prepares the machine that it runs on; `folder` has these scripts there."""
    join = ["--join", manager] if manager else []
    authorize = ["--authorize", public_key] if public_key else []
    return [
        # -B: otherwise root's .pyc files stay behind, and the login user cannot delete them.
        *("python3", "-B", f"{folder}/scripts/prepare_host.py", "--here", *authorize, *join),
        *(["--token-file", f"{folder}/token"] if token else []),
        *(["--engine"] if engine_too else []),
        *(["--nodes", ",".join(nodes)] if nodes else []),
        *(["--dry-run"] if dry_run else []),
    ]


def to_be_fixed(env: Mapping[str, str]) -> dict[str, str]:
    """Return what the host keeps as root: which image, whose repository vouches for it, and what the stack is called.

    Raises UsageError if a variable is missing, or if nothing on GitHub could vouch for an image.
    """
    commit = checked_out(env=env)
    image = image_name(env, commit.repository)
    ledger = repository(env, commit.url)
    if ledger is None or ledger.server != GITHUB:
        raise UsageError(
            f"origin is {commit.url or 'not set'}, and not a repository on {GITHUB}, so the host could verify nothing;"
            " set origin, or add --engine: then the key talks to the engine, which is as powerful as root"
        )
    found = {
        "REGISTRY": image.registry,
        "IMAGE_NAMESPACE": image.namespace,
        "IMAGE_REPOSITORY": image.repository,
        "STACK": valid_stack(env.get("STACK") or image.repository),
        "GITHUB_REPOSITORY": ledger.slug,
    }
    return {**found, **{name: env[name] for name in FIXED if env.get(name) and name not in found}}


def scripts_archive(token: str, fixed: Mapping[str, str]) -> bytes:
    """Return a tar of what has to run on the host, with the token to join by, which no list of processes shows."""
    scripts = {f"scripts/{name}": (ROOT / "scripts" / name).read_bytes() for name in ("prepare_host.py", "engine.py")}
    files = {**shipped(), **scripts, SETTINGS: json.dumps(fixed, indent=2).encode(), "token": token.encode()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600 if name == "token" else 0o755 if name[-3:] == ".py" else 0o644
            archive.addfile(entry, io.BytesIO(content))
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


def prepare(
    target: Target,
    public_key: str,
    fixed: Mapping[str, str],
    *,
    token: str = "",
    manager: str = "",
    nodes: Sequence[str] = (),
    dry_run: bool,
) -> None:
    """Send the scripts to the target, run them there as root, and remove them; with nothing `fixed`, for --engine.

    Without a key, only the Swarm's other hosts, `nodes`, are let in.
    """
    root = sudo(target)
    folder = on(target, "mktemp -d")
    if not re.fullmatch(r"/[A-Za-z0-9/._-]+", folder):
        raise Failure(f"mktemp on {target.host} said {folder!r}")
    engine_too = bool(public_key) and not fixed and not manager
    here = here_command(folder, public_key, token, manager, engine_too=engine_too, nodes=nodes, dry_run=dry_run)
    command = shown([*root, *here])
    on(target, f"trap 'rm -rf {folder}' EXIT; tar -x -C {folder} && {command}", scripts_archive(token, fixed))


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

Another host joins with: python3 scripts/prepare_host.py root@OTHER --join {root}"""


NO_PASSWORD = "*"  # noqa: S105
"""No password fits, and the account is not locked: sshd with `UsePAM no` lets nobody into a locked one."""


# From here on: what runs on the host itself, as root.


def check_public_key(text: str) -> str:
    """Return a public key that can stand on a line of authorized_keys, or raise UsageError."""
    if not re.fullmatch(r"(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+( [^\n\"]*)?", text):
        raise UsageError(f"--authorize is {text!r}, expected an SSH public key")
    return text


def authorized(existing: str, public_key: str, command: str) -> str:
    """Return the text of an authorized_keys file that has the key once, able to run one command and nothing else."""
    line = f'restrict,command="{command.replace(chr(34), chr(92) + chr(34))}" {public_key}'
    kept = [old for old in existing.splitlines() if old.strip() and public_key.split()[1] not in old]
    return "\n".join([*kept, line]) + "\n"


def entry(stack: str) -> str:
    """Return the path of what a key of a stack runs as root."""
    return str(INSTALLED / stack / "scripts" / "on_host.py")


def forced_command(stack: str) -> str:
    """Return what a key of a stack runs: the entry with what was asked as one word, which no shell takes apart."""
    return f'sudo --non-interactive {entry(stack)} -- "$SSH_ORIGINAL_COMMAND"'


def sudoers(stack: str) -> str:
    """Return what lets the user run the entry as root, and nothing else: sudoers(5)."""
    return f"# Written by prepare_host.py.\n{DEPLOY_USER} ALL=(root) NOPASSWD: {entry(stack)}\n"


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


def source_of(route: str) -> str:
    """Return the address that a line of `ip -o route get` leaves this machine from; "" if there is none."""
    found = re.search(r" src (\S+)", route)
    return found[1] if found else ""


def address_to_the_world() -> str:
    """Return the address from which this machine reaches others; "" if it has no way out. Nothing is sent."""
    need("ip", "iproute2", dry_run=False)
    nobody = ("192.0.2.1", "2001:db8::1")  # in no network: RFC 5737, RFC 3849
    said = (run(["ip", "-o", "route", "get", world], check=False).stdout for world in nobody)
    return next(filter(None, map(source_of, said)), "")


def swarm_command(token: str, manager: str, address: str) -> list[str]:
    """Return the command that makes this machine a Swarm, or a worker of one. The token is in a file.

    The other hosts will reach a Swarm at `address`: the engine does not choose one if the machine has several.
    """
    if manager:
        return ["docker", "swarm", "join", "--token", token, manager]
    return ["docker", "swarm", "init", *(["--advertise-addr", address] if address else [])]


def prepare_here(
    public_key: str, token: str, manager: str, *, nodes: Sequence[str] = (), engine_too: bool, dry_run: bool
) -> None:
    """Give this machine an engine, a firewall and a Swarm, its own or the manager's, and its own a user who deploys.

    `nodes` are the addresses of the Swarm's other hosts, besides those that this machine knows of. Without a key, only
    the firewall is written. With `engine_too`, whoever deploys talks to the engine itself.
    """
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
    if nodes:
        check_encryption()
    protect([*nodes, *(swarm_nodes() if state.strip() == "active" and not manager else [])], dry_run)
    if not public_key:
        return
    if state.strip() != "active":
        what = "a worker of the Swarm" if manager else "a Swarm"
        say(f"{'would make' if dry_run else 'making'} this machine {what}")
        if not dry_run:
            done = run(swarm_command(token, manager, "" if manager else address_to_the_world()), check=False)
            if done.returncode:  # the command stays unsaid: the token is in it
                raise Failure(f"cannot make this machine {what}{last_line(done)}")
    if not manager:
        command = ENGINE if engine_too else install(json.loads((ROOT / SETTINGS).read_text("utf-8")), dry_run)
        add_deploy_user(public_key, command, dry_run)


ADDRESSES = "{{.Status.Addr}} {{with .ManagerStatus}}{{.Addr}}{{end}}"


def parse_nodes(said: str) -> list[str]:
    """Return addresses from lines of ADDRESSES; a manager may know itself as 0.0.0.0, and by where it is managed."""
    found = []
    for line in said.splitlines():
        address, _, managed = line.partition(" ")
        found += [address, managed.rpartition(":")[0].strip("[]")]
    return [address for address in dict.fromkeys(found) if address not in ("", "0.0.0.0", "::")]  # noqa: S104


def swarm_nodes() -> list[str]:
    """Return the addresses of the hosts of the Swarm that this machine manages; raise Failure for a worker."""
    done = run(["docker", "node", "ls", "--quiet"], check=False)
    if done.returncode:
        raise Failure("this machine is a worker of a Swarm; prepare it with --join and one of its managers")
    return parse_nodes(run(["docker", "node", "inspect", "--format", ADDRESSES, *done.stdout.split()]).stdout)


def may_encrypt() -> bool:
    """Whether this kernel can do what encrypted networks need: ESP with AES-GCM, tried where nobody else sees it."""
    state = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport aead rfc4106(gcm(aes))"
    return run(["unshare", "--net", "ip", *state.split(), "0x" + "01" * 20, "64"], check=False).returncode == 0


def check_encryption() -> None:
    """Raise Failure if the stack's networks are encrypted and this machine cannot take part: nothing would reach it."""
    wanted = [path.name for path in sorted((ROOT / "deploy").glob("*.yaml")) if "encrypted" in path.read_text("utf-8")]
    if wanted and not may_encrypt():
        raise Failure(
            "this machine's kernel cannot encrypt what hosts send each other (CONFIG_INET_ESP, CONFIG_CRYPTO_GCM);"
            f" choose another kernel, or, if nobody else is on their network, take driver_opts out of"
            f" {' and '.join(wanted)} in deploy/"
        )


def protect(nodes: Sequence[str], dry_run: bool) -> None:
    """Let only these hosts reach the Swarm's ports here, from now on and after a restart."""
    need("nft", "nftables", dry_run)
    rules = firewall.rules(nodes)
    if dry_run:
        say(f"would write {firewall.FILE}:\n{rules}")
    else:
        Path(firewall.FILE).parent.mkdir(mode=0o755, exist_ok=True)
        write(Path(firewall.FILE), rules, 0o644, dry_run)
    act(["nft", "-f", firewall.FILE], dry_run)
    if engine.has_systemd():
        write(Path("/etc/systemd/system") / firewall.UNIT, firewall.unit(), 0o644, dry_run)
        act(["systemctl", "daemon-reload"], dry_run)
        act(["systemctl", "enable", firewall.UNIT], dry_run)


def need(program: str, package: str, dry_run: bool) -> None:
    """Have a program here, from the distribution's package if need be, or only say so."""
    if shutil.which(program):
        return
    if dry_run:
        say(f"would install {package}")
    else:
        apt.install([package])


def write(path: Path, content: str | bytes, mode: int, dry_run: bool) -> None:
    """Make a file what it should be, or only say so; a file that is right already is left alone."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return
    say(f"{'would write' if dry_run else 'writing'} {path}")
    if dry_run:
        return
    new = path.with_name(f".{path.name}.new")  # sudo reads no file with a dot in its name
    new.touch(mode=0o600)
    new.chmod(mode)
    new.write_bytes(data)
    new.replace(path)


def install(fixed: Mapping[str, str], dry_run: bool) -> str:
    """Install what redeploys on this host's own, as root's; return what a key may run."""
    stack = fixed["STACK"]
    need("sudo", "sudo", dry_run)
    need_gh(dry_run)
    folder = INSTALLED / stack
    files = {**shipped(), SETTINGS: (ROOT / SETTINGS).read_bytes()}
    if not dry_run:
        for name in {str(Path(name).parent) for name in files}:
            (folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, content in files.items():
        write(folder / name, content, 0o755 if name.endswith("_host.py") else 0o644, dry_run)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc" and path.relative_to(folder).as_posix() not in files:
            say(f"{'would remove' if dry_run else 'removing'} {path}")
            if not dry_run:
                path.unlink()
    rule = Path("/etc/sudoers.d") / f"{PIPELINE}-{stack}"
    write(rule, sudoers(stack), 0o440, dry_run)
    if not dry_run and (done := run(["visudo", "--check", "--quiet", "--file", str(rule)], check=False)).returncode:
        rule.unlink()
        raise Failure(f"sudo does not take {rule}{last_line(done)}")
    return forced_command(stack)


KEYRING = "https://cli.github.com/packages/githubcli-archive-keyring.gpg"
"""What signs GitHub's packages: https://github.com/cli/cli/blob/trunk/docs/install_linux.md#debian."""
KEYRING_HERE = "/etc/apt/keyrings/githubcli-archive-keyring.gpg"
GH_SOURCE = f"""Types: deb
URIs: https://cli.github.com/packages
Suites: stable
Components: main
Signed-By: {KEYRING_HERE}
"""
GH_ONLY = """Package: *
Pin: origin cli.github.com
Pin-Priority: -1

Package: gh
Pin: origin cli.github.com
Pin-Priority: 990
"""


def knows_attestations() -> bool:
    """Whether the `gh` here, if any, can verify who signed an image; those of Debian 13 and Ubuntu 24.04 cannot."""
    return (
        bool(shutil.which("gh"))
        and "--signer-workflow" in run(["gh", "attestation", "verify", "--help"], check=False).stdout
    )


def need_gh(dry_run: bool) -> None:
    """Have a `gh` that verifies what this host is asked to run, from GitHub's own packages if need be."""
    if knows_attestations():
        return
    say(f"{'would install' if dry_run else 'installing'} gh from https://cli.github.com/packages")
    if dry_run:
        return
    try:
        keyring = get(KEYRING).body
        Path(KEYRING_HERE).parent.mkdir(mode=0o755, exist_ok=True)
        write(Path(KEYRING_HERE), keyring, 0o644, dry_run)
        write(apt.FOLDER / "sources.list.d/github-cli.sources", GH_SOURCE, 0o644, dry_run)
        write(apt.FOLDER / "preferences.d/github-cli", GH_ONLY, 0o644, dry_run)
        apt.update()
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "gh"], env=apt.QUIET)
    except (Failure, urllib.error.HTTPError) as error:
        raise Failure(
            f"cannot install gh ({error}); install 2.51 or newer there ({INSTALL}), or add --engine"
        ) from error
    if not knows_attestations():
        raise Failure(f"the gh there cannot verify attestations; install 2.51 or newer ({INSTALL}), or add --engine")


def is_locked(user: str) -> bool:
    """Whether an account is locked: shadow(5), a password that begins with `!`; False if only root can tell."""
    try:
        lines = Path("/etc/shadow").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)


def add_deploy_user(public_key: str, command: str, dry_run: bool) -> None:
    """Add the user whose key runs one command and does nothing else."""
    try:
        folder = Path(pwd.getpwnam(DEPLOY_USER).pw_dir)
    except KeyError:
        folder = Path("/home") / DEPLOY_USER
        act(["useradd", "--create-home", "--shell", "/bin/sh", "--password", NO_PASSWORD, DEPLOY_USER], dry_run)
    else:
        if is_locked(DEPLOY_USER):
            act(["usermod", "--password", NO_PASSWORD, DEPLOY_USER], dry_run)
    keys = folder / ".ssh" / "authorized_keys"
    text = authorized(keys.read_text("utf-8") if keys.exists() else "", public_key, command)
    group = "docker"
    if ENGINE in text:
        act(["usermod", "--append", "--groups", group, DEPLOY_USER], dry_run)
        say(f"{DEPLOY_USER} talks to the engine, which is as powerful as root")
    elif DEPLOY_USER in members(group):
        act(["gpasswd", "--delete", DEPLOY_USER, group], dry_run)
    say(f"{'would write' if dry_run else 'writing'} {keys}: a key that may only run {command}")
    if dry_run:
        return
    # Root's, so that nothing that runs as this user can change it; sshd reads it as the user.
    keys.parent.mkdir(mode=0o755, exist_ok=True)
    keys.write_text(text, "utf-8")
    for path, mode in ((keys.parent, 0o755), (keys, 0o644)):
        path.chmod(mode)
        os.chown(path, 0, 0)


def members(group: str) -> list[str]:
    """Return who is in a group besides those whose first one it is; nobody, if there is no such group."""
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def join_facts(target: Target) -> tuple[str, str, list[str]]:
    """Return the address and the token by which a worker joins a manager's Swarm, and the addresses of its hosts."""
    root = sudo(target)
    token = on(target, shown([*root, "docker", "swarm", "join-token", "--quiet", "worker"]))
    address = on(target, shown([*root, "docker", "info", "--format", "{{.Swarm.NodeAddr}}"]))
    nodes = on(target, shown([*root, "docker", "node", "ls", "--quiet"])).split()
    said = on(target, shown([*root, "docker", "node", "inspect", "--format", ADDRESSES, *nodes]))
    return f"[{address}]:2377" if ":" in address else f"{address}:2377", token, [address, *parse_nodes(said)]


def own_address(target: Target, manager: str) -> str:
    """Return the address that a machine reaches a manager from: the one that the manager's host has to let in."""
    said = on(target, shown(["ip", "-o", "route", "get", manager.rpartition(":")[0].strip("[]")]))
    found = source_of(said)
    if not found:
        raise Failure(f"{target.host} has no way to {manager}: {said!r}")
    return firewall.addresses([found])[0]


def join(target: Target, boss: Target, public_key: str, *, dry_run: bool) -> None:
    """Make a machine a worker of a manager's Swarm; the hosts let each other in first, and nobody else."""
    address, token, nodes = join_facts(boss)
    mine = own_address(target, address)
    prepare(boss, "", {}, nodes=[mine], dry_run=dry_run)
    prepare(target, public_key, {}, token=token, manager=address, nodes=firewall.addresses(nodes), dry_run=dry_run)
    say(f"{target.host} {'would be' if dry_run else 'is'} a worker of {boss}'s Swarm")
    for other in firewall.addresses(nodes):
        if other not in (mine, address.rpartition(":")[0].strip("[]")):
            say(f"{other} has to let {mine} in, too: python3 scripts/prepare_host.py root@{other} --join {boss}")


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("target", nargs="?", metavar="[USER@]HOST[:PORT]", help="the machine to prepare")
    arguments.add_argument("--join", metavar="MANAGER", default="", help="make it a worker of this one's Swarm")
    arguments.add_argument(
        "--key", type=Path, default=deploy_key(), help="the key to deploy with (default: %(default)s)"
    )
    arguments.add_argument(
        "--engine",
        action="store_true",
        help="let the key talk to the engine: as powerful as root, and nothing to verify",
    )
    arguments.add_argument("--dry-run", action="store_true", help="say what would be done there, and do nothing")
    arguments.add_argument("--here", action="store_true", help="prepare this very machine (used over SSH)")
    arguments.add_argument("--nodes", default="", help="with --here: the addresses of the Swarm's other hosts")
    arguments.add_argument("--authorize", default="", metavar="PUBLIC_KEY", help="with --here: who may deploy")
    arguments.add_argument("--token-file", type=Path, help="with --here --join: what to join by")
    options = arguments.parse_args(argv)
    if options.here:
        token = options.token_file.read_text("utf-8").strip() if options.token_file else ""
        key = check_public_key(options.authorize) if options.authorize else ""
        nodes = firewall.addresses(options.nodes.split(",") if options.nodes else ())
        prepare_here(key, token, options.join, nodes=nodes, engine_too=options.engine, dry_run=options.dry_run)
        return 0
    if not options.target:
        raise UsageError("which machine? python3 scripts/prepare_host.py root@host.example.com")
    target = parse_target("the machine", options.target)
    fixed = {} if options.engine or options.join else to_be_fixed(os.environ)
    real, hosts = trusted(target)
    public_key = make_key(options.key)
    if options.join:
        join(target, parse_target("--join", options.join), public_key, dry_run=options.dry_run)
        return 0
    prepare(target, public_key, fixed, dry_run=options.dry_run)
    print(what_to_set(target, real, hosts, options.key))
    return 0


if __name__ == "__main__":
    start(main)
