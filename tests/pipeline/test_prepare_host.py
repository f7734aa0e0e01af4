"""Making a machine a place to deploy to: decided without one, and done over SSH on one of the tests' own."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import prepare_host
from conftest import need_root
from lib.command import Failure, UsageError, run
from lib.names import FORMER
from lib.ssh import Target, parse_target
from prepare_host import (
    ENGINE,
    address_to_the_world,
    authorized,
    check_public_key,
    engine_version,
    forced_command,
    here_command,
    join_facts,
    known_hosts,
    make_key,
    own_address,
    parse_nodes,
    prepare,
    reached,
    scripts_archive,
    ssh_command,
    sudoers,
    swarm_command,
    to_be_fixed,
    trusted,
    what_to_set,
)
from support.ports import free_port
from support.programs import Programs
from support.ssh_server import ssh_server

ROOT = Path(__file__).resolve().parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDeploy onedigest deploy"
RESTRICTED = f'restrict,command="docker system dial-stdio" {KEY}\n'
TOKEN = "SWMTKN-1-secret"
FIREWALL = "nft -f /etc/onedigest/firewall.nft"
FIXED = {"REGISTRY": "", "IMAGE_NAMESPACE": "me", "IMAGE_REPOSITORY": "hello", "STACK": "hello"}
ON_GITHUB = {"DOCKERHUB_USERNAME": "me", "GITHUB_REPOSITORY": "octo/Hello"}


def test_ssh_never_takes_a_new_key() -> None:
    """The exact command, whatever ssh's own configuration says."""
    assert ssh_command(Target("me", "h", 2222)) == ["ssh", "-o", "StrictHostKeyChecking=yes", "-p", "2222", "me@h"]
    assert ssh_command(Target("", "h")) == ["ssh", "-o", "StrictHostKeyChecking=yes", "h"]


def test_here_command() -> None:
    """What runs on the host, with the token in a file; without a key, only the firewall is written."""
    here = ["python3", "-B", "/x/scripts/prepare_host.py", "--here"]
    plain = here_command("/x", KEY, "", "", engine_too=False, dry_run=False)
    assert plain == [*here, "--authorize", KEY]
    assert here_command("/x", KEY, "", "", engine_too=True, dry_run=False) == [*plain, "--engine"]
    joining = here_command("/x", KEY, TOKEN, "192.0.2.1:2377", engine_too=False, nodes=["192.0.2.1"], dry_run=True)
    more = ["--join", "192.0.2.1:2377", "--token-file", "/x/token", "--nodes", "192.0.2.1", "--dry-run"]
    assert joining == [*plain, *more]
    assert here_command("/x", "", "", "", engine_too=False, nodes=["::1"], dry_run=False) == [*here, "--nodes", "::1"]


@pytest.mark.parametrize(
    ("env", "fixed"),
    [
        ({}, {}),
        (
            {"IMAGE_NAMESPACE": "team", "IMAGE_REPOSITORY": "shop"},
            {"IMAGE_NAMESPACE": "team", "IMAGE_REPOSITORY": "shop"},
        ),
        ({"REGISTRY": "ghcr.io", "STACK": "front"}, {"REGISTRY": "ghcr.io", "STACK": "front"}),
        ({"ATTESTATIONS": "true", "DEPLOY_URL": "https://a.example/"}, {"DEPLOY_URL": "https://a.example/"}),
        ({"SERVICE_SECRETS": "A=b", "DOMAIN": "a.example", "GITHUB_TOKEN": "x"}, {}),
    ],
)
def test_what_the_host_keeps(env: dict[str, str], fixed: dict[str, str]) -> None:
    """Which image, and whose CI has to vouch for it: what the key's holder must not choose, and no secret."""
    found = to_be_fixed({**ON_GITHUB, **env})
    assert found["GITHUB_REPOSITORY"] == "octo/Hello"
    assert {"IMAGE_NAMESPACE": "me", "IMAGE_REPOSITORY": "hello", **fixed}.items() <= found.items()
    assert not {"SERVICE_SECRETS", "DOMAIN", "GITHUB_TOKEN"} & found.keys()
    assert ("ATTESTATIONS" in found) == ("ATTESTATIONS" in env)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "DOCKERHUB_USERNAME is ''"),
        (
            {"DOCKERHUB_USERNAME": "me", "GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "a/b"},
            "--engine",
        ),
    ],
)
def test_a_host_that_could_verify_nothing(env: dict[str, str], says: str) -> None:
    """Nothing is prepared: the sentence names the variable, or the choice to trust the key as one trusts root."""
    with pytest.raises(UsageError, match=says):
        to_be_fixed(env)


def test_the_archive_has_what_runs_there() -> None:
    """The scripts that the host needs, and the token, readable by nobody else."""
    with tarfile.open(fileobj=io.BytesIO(scripts_archive(TOKEN, FIXED))) as archive:
        names = archive.getnames()
        token = archive.extractfile("token")
        assert token is not None
        assert token.read() == TOKEN.encode()
        assert archive.getmember("token").mode == 0o600
        fixed = archive.extractfile("host.json")
        assert fixed is not None
        assert json.load(fixed) == FIXED
    ours = {"prepare_host.py", "engine.py", "on_host.py", "redeploy.py", "lib/command.py"}
    assert {*(f"scripts/{name}" for name in ours), "service.toml", "deploy/compose.stack.yaml"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_swarm_command() -> None:
    """A first host makes a Swarm, at an address if it has one; a second one joins it."""
    assert swarm_command("", "", "") == ["docker", "swarm", "init"]
    assert swarm_command("", "", "192.0.2.3") == ["docker", "swarm", "init", "--advertise-addr", "192.0.2.3"]
    joins = ["docker", "swarm", "join", "--token", "t", "192.0.2.1:2377"]
    assert swarm_command("t", "192.0.2.1:2377", "192.0.2.3") == joins


@pytest.mark.parametrize(
    ("four", "six", "address"),
    [
        ("192.0.2.1 via 10.0.2.2 dev eth0 src 10.0.2.15 uid 0 \\    cache \n", None, "10.0.2.15"),
        (None, "2001:db8::1 from :: via fe80::1 dev eth0 proto ra src 2a00::5 metric 1024 pref medium\n", "2a00::5"),
        (None, None, ""),
    ],
    ids=["IPv4", "only IPv6", "no way out"],
)
def test_the_address_that_a_swarm_is_reached_at(
    programs: Programs, four: str | None, six: str | None, address: str
) -> None:
    """It is where packets to others leave from, also if the machine has several networks."""
    programs.add("ip")
    for world, said in (("192.0.2.1", four), ("2001:db8::1", six)):
        if said:
            programs.answer(f"route get {world}", said)
        else:
            programs.answer(f"route get {world}", "", status=2)
    assert address_to_the_world() == address


def test_a_machine_without_ip(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed: a minimal Debian does not have it."""
    installed: list[str] = []

    def install(packages: list[str]) -> None:
        installed.extend(packages)
        programs.add("ip").answer("route get 192.0.2.1", "192.0.2.1 dev eth0 src 192.0.2.3 uid 0\n")

    monkeypatch.setattr("lib.apt.install", install)
    monkeypatch.setenv("PATH", str(programs.bin))
    assert (address_to_the_world(), installed) == ("192.0.2.3", ["iproute2"])


def test_the_deploy_key_can_only_deploy() -> None:
    """It is written once, able to run one command, and other keys stay."""
    assert authorized("", KEY, ENGINE) == RESTRICTED
    assert authorized(RESTRICTED, KEY, ENGINE) == RESTRICTED
    assert authorized("ssh-rsa AAAA other\n\n", KEY, ENGINE) == f"ssh-rsa AAAA other\n{RESTRICTED}"
    assert authorized(KEY + "\n", KEY, ENGINE) == RESTRICTED
    entry = "/usr/local/lib/onedigest/hello/scripts/on_host.py"
    own = f'restrict,command="sudo --non-interactive {entry} -- \\"$SSH_ORIGINAL_COMMAND\\"" {KEY}\n'
    assert authorized(RESTRICTED, KEY, forced_command("hello")) == own
    assert sudoers("hello").splitlines()[-1] == f"deploy ALL=(root) NOPASSWD: {entry}"


def test_the_addresses_of_nodes() -> None:
    """A manager's may be where it is managed; what says nothing is left out, and each is there once."""
    said = "0.0.0.0 192.0.2.1:2377\n192.0.2.2 \n192.0.2.2 192.0.2.2:2377\nfd00::2 [fd00::2]:2377\n\n"
    assert parse_nodes(said) == ["192.0.2.1", "192.0.2.2", "fd00::2"]


@pytest.mark.parametrize(("text", "major"), [("26.1.5+dfsg1\n", 26), ("20.10.24", 20), ("", 0), ("dev", 0)])
def test_engine_version(text: str, major: int) -> None:
    """The major number is what counts."""
    assert engine_version(text) == major


def test_what_to_set_never_prints_the_key() -> None:
    """The variables are printed, the secret's file is only named; a port is in every line that needs it."""
    target = Target("", "host", 2222)
    text = what_to_set(target, target, "[host]:2222 ssh-ed25519 AAAA", Path("/k/deploy"))
    assert "python3 scripts/configure_github.py --host host:2222 --key /k/deploy\n" in text
    assert "  variable  DEPLOY_HOST         deploy@host:2222\n" in text
    assert "  variable  DEPLOY_KNOWN_HOSTS  [host]:2222 ssh-ed25519 AAAA\n" in text
    assert "  secret    DEPLOY_SSH_KEY      what is in /k/deploy\n" in text
    assert "gh variable" not in text, "Debian 12's gh has no such command"
    assert "; port 2222 only from addresses you trust" in text
    assert text.endswith("python3 scripts/prepare_host.py root@OTHER --join root@host:2222")


@pytest.mark.usefixtures("ssh_keygen")
def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The second time, the same key is used."""
    first = make_key(tmp_path / "ssh" / "deploy")
    assert first.startswith("ssh-ed25519 ")
    assert make_key(tmp_path / "ssh" / "deploy") == first
    assert (tmp_path / "ssh/deploy").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("ssh_keygen")
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("name", ["deploy", "deploy.key", "deploy.2026.pem", "a b"])
def test_a_key_that_is_there(tmp_path: Path, kind: str, name: str) -> None:
    """Of any kind and name; its public half is the one that belongs to it, whether there is a file with it or not."""
    key = tmp_path / name
    run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", 'a "comment"', "-f", str(key)])
    expected = Path(f"{key}.pub").read_text("utf-8").split()[:2]
    assert make_key(key).split()[:2] == expected
    Path(f"{key}.pub").write_text("ssh-ed25519 AAAA another\n", "utf-8")
    assert make_key(key).split()[:2] == expected
    Path(f"{key}.pub").unlink()
    public = make_key(key)
    assert public.split()[:2] == expected
    assert check_public_key(public) == public


@pytest.mark.usefixtures("ssh_keygen")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda key: key.chmod(0o644), "can be read by others, so ssh does not take it; run chmod 600"),
        (lambda key: key.write_text(key.read_text("utf-8")[:99], "utf-8"), "is not a private key, or not the whole of"),
        (lambda key: key.write_text(Path(f"{key}.pub").read_text("utf-8"), "utf-8"), "is the public half of a key"),
        (lambda key: run(["ssh-keygen", "-q", "-p", "-N", "a phrase", "-f", str(key)]), "has a passphrase"),
    ],
)
def test_a_key_that_cannot_deploy(tmp_path: Path, change: Callable[[Path], object], says: str) -> None:
    """The sentence has its path and what is wrong with it."""
    make_key(tmp_path / "key")
    change(tmp_path / "key")
    with pytest.raises(UsageError, match=f"^{tmp_path}/key {says}"):
        make_key(tmp_path / "key")


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHost"


@pytest.mark.usefixtures("ssh_keygen")
@pytest.mark.parametrize(
    ("called", "config", "known", "real"),
    [
        ("h.example.org", "", "h.example.org", "h.example.org"),
        ("me@h:2222", "", "[h]:2222", "me@h:2222"),
        ("192.0.2.1", "", "192.0.2.1", "192.0.2.1"),
        ("me@192.0.2.1:2222", "", "[192.0.2.1]:2222", "me@192.0.2.1:2222"),
        ("[fd00::2]", "", "fd00::2", "[fd00::2]"),
        ("alias", "Host alias\n HostName 192.0.2.1\n", "192.0.2.1", "192.0.2.1"),
        (
            "me@alias",
            "Host alias\n HostName h.example.org\n Port 2222\n",
            "[h.example.org]:2222",
            "me@h.example.org:2222",
        ),
        ("alias", "Host alias\n HostName h\n HostKeyAlias other\n", "other", "h"),
        ("alias:22", "Host alias\n HostName h\n Port 2222\n", "h", "h:22"),
    ],
)
def test_known_hosts(tmp_path: Path, called: str, config: str, known: str, real: str) -> None:
    """The key under the name by which everybody reaches the host, however ssh's configuration here calls it."""
    hosts = tmp_path / "known_hosts"
    hosts.write_text(f"{known},more {HOST_KEY} c\n@cert-authority {known} {HOST_KEY}\nelsewhere {HOST_KEY}\n", "utf-8")
    run(["ssh-keygen", "-H", "-f", str(hosts)])
    (tmp_path / "config").write_text(f"UserKnownHostsFile {tmp_path}/none {hosts}\n{config}", "utf-8")
    target = parse_target("", called)
    program, *rest = target.ssh
    said = run([program, "-F", str(tmp_path / "config"), "-G", *rest]).stdout
    settings = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)

    there = reached(target, settings)

    assert str(there) == real
    lines = known_hosts(there, settings, target.ssh).splitlines()
    assert lines == [f"{there.known_as} {HOST_KEY} c", f"@cert-authority {there.known_as} {HOST_KEY}"]


@pytest.mark.usefixtures("ssh_keygen")
def test_an_unknown_host_is_not_trusted() -> None:
    """The sentence says how to get to know it."""
    target = Target("me", "nobody.invalid", 2222)
    sentence = r"host key of \[nobody\.invalid\]:2222 is not known here; run ssh -p 2222 me@nobody\.invalid once"
    with pytest.raises(Failure, match=sentence):
        trusted(target)


def test_somebody_who_may_use_sudo(programs: Programs) -> None:
    """Whoever is not root there asks sudo, which may ask nothing back."""
    programs.add("ssh").answer("id -u", "1000\n").answer("join-token", f"{TOKEN}\n").answer(
        "docker info", "192.0.2.1\n"
    )
    programs.answer("mktemp -d", "/x/1\n").answer("node ls", "a\nb\n").answer("route get", "192.0.2.1 src 192.0.2.3 \n")
    programs.answer("node inspect", "0.0.0.0 192.0.2.1:2377\n192.0.2.2 \n")
    assert join_facts(Target("me", "h")) == ("192.0.2.1:2377", TOKEN, ["192.0.2.1", "192.0.2.1", "192.0.2.2"])
    assert own_address(Target("me", "h"), "192.0.2.1:2377") == "192.0.2.3"
    prepare(Target("me", "h"), KEY, FIXED, dry_run=False)
    lines = [call[-1] for call in programs.calls if call[-1] != "id -u"]
    assert lines == [
        "sudo --non-interactive docker swarm join-token --quiet worker",
        "sudo --non-interactive docker info --format '{{.Swarm.NodeAddr}}'",
        "sudo --non-interactive docker node ls --quiet",
        "sudo --non-interactive docker node inspect --format"
        " '{{.Status.Addr}} {{with .ManagerStatus}}{{.Addr}}{{end}}' a b",
        "ip -o route get 192.0.2.1",
        "mktemp -d",
        "trap 'rm -rf /x/1' EXIT; tar -x -C /x/1 && sudo --non-interactive"
        f" python3 -B /x/1/scripts/prepare_host.py --here --authorize '{KEY}'",
    ]


@pytest.mark.parametrize("said", ["", "/x; rm -rf /", "/x\nWelcome!"])
def test_a_host_that_talks(programs: Programs, said: str) -> None:
    """What it says is not run, here or there."""
    programs.add("ssh").answer("mktemp -d", said)
    with pytest.raises(Failure, match=r"^mktemp on h said "):
        prepare(Target("root", "h"), KEY, FIXED, dry_run=False)
    assert len(programs.calls) == 1


def test_no_ssh(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with what to install."""
    monkeypatch.setenv("PATH", str(programs.bin))
    with pytest.raises(Failure, match="there is no ssh command; on Debian, install openssh-client"):
        prepare(Target("root", "h"), KEY, FIXED, dry_run=False)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "which machine"),
        (["a b"], "the machine is 'a b', which is not"),
    ],
)
def test_usage(argv: list[str], says: str) -> None:
    """A mistake is a sentence."""
    with pytest.raises(UsageError, match=says):
        prepare_host.main(argv)


@pytest.mark.parametrize(
    "text", ["", 'ssh-ed25519 AAAA "quoted"', "ssh-ed25519 AAAA\nssh-ed25519 BBBB", "ssh-ed25519", "x"]
)
def test_what_is_not_a_public_key(text: str) -> None:
    """It does not reach authorized_keys."""
    with pytest.raises(UsageError, match="expected an SSH public key"):
        check_public_key(text)


def test_only_root_prepares_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else is told so before anything is done."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="has to run as root"):
        prepare_host.main(["--here", "--authorize", KEY])


# On a machine.


class Machine:
    """This machine as only its own processes see it: another /etc and /home, and no engine, as yet.

    Its users, groups and files are real; `docker` and what would install it answer from a table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(["cp", "--archive", "/etc", str(folder)])
        self.home = folder / "home"
        (self.home / "root" / ".ssh").mkdir(0o700, parents=True)
        (self.home / "tmp").mkdir()
        # ssh finds the home of whoever runs it here, and not in HOME.
        users = (folder / "etc/passwd").read_text("utf-8")
        (folder / "etc/passwd").write_text(re.sub(r"(?m)^(root:.*):/root:", r"\1:/home/root:", users), "utf-8")
        (folder / "etc/os-release").unlink()
        (folder / "etc/os-release").write_text("ID=ubuntu\n", "utf-8")
        self.programs = Programs(folder / "programs", "/usr/bin/env -S python3")
        self.programs.add("docker", "apt-get", "systemctl", "nft", "gh", "ip", "sudo", "visudo")
        self.programs.answer("gh attestation verify --help", "--signer-workflow\n")
        (folder / "lib").mkdir()
        # The user who deploys is here, too.
        folder.chmod(0o755)
        self.programs.folder.chmod(0o777)
        (self.programs.folder / "calls.jsonl").touch()
        (self.programs.folder / "calls.jsonl").chmod(0o666)
        self.env = {
            "HOME": "/home/root",
            "PATH": f"{self.programs.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TMPDIR": "/home/tmp",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # where nobody answers: the world is not asked
            **ON_GITHUB,
        }

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one there."""
        places = {"etc": "/etc", "home": "/home", "lib": "/usr/local/lib"}
        mounts = "; ".join(f"mount --bind {self.folder / name} {place}" for name, place in places.items())
        return ["unshare", "--mount", "sh", "-c", f'set -e; {mounts}; exec "$@"', "sh", *command]

    def prepare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script there."""
        command = self.inside(sys.executable, str(ROOT / "scripts/prepare_host.py"), *arguments)
        return run(command, check=False, env=self.env)

    def has_engine(self, swarm: str = "active") -> None:
        """Let an engine of today answer, and say whether it is in a Swarm."""
        self.programs.answer("^docker version", "26.1.5\n").answer("LocalNodeState", f"{swarm}\n")

    def deploy(self, address: str, *words: str) -> list[str]:
        """Return the command that asks something with the key that deploys."""
        key = ["-o", "IdentitiesOnly=yes", "-i", "/home/root/.ssh/onedigest_deploy", "-p", address.partition(":")[2]]
        return self.inside("ssh", "-o", "BatchMode=yes", *key, "deploy@127.0.0.1", *words)

    def files(self) -> dict[str, tuple[int, int]]:
        """What there is of ours, with the time of its last change and its mode."""
        ours = [*(self.folder / "lib").rglob("*"), *(self.folder / "etc").rglob("*onedigest*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_mode) for path in ours if path.is_file()}

    @property
    def did(self) -> list[str]:
        """What was asked of the programs, but for what changes nothing."""
        asked = re.compile(r"docker (version|info|node)|systemctl |gh |visudo |ip ")
        return [line for call in self.programs.calls if not asked.match(line := " ".join(call))]

    @property
    def keys(self) -> str:
        """Who may log in to deploy, "" for nobody."""
        file = self.home / "deploy/.ssh/authorized_keys"
        return file.read_text("utf-8") if file.exists() else ""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine that nobody else sees."""
    need_root("a machine of the tests' own")
    with tempfile.TemporaryDirectory(prefix="fh") as folder:
        yield Machine(Path(folder))


def test_a_fresh_machine(machine: Machine) -> None:
    """It gets an engine, a Swarm, and a user in the engine's group with a key that no one else can change."""
    machine.programs.answer("^docker version", status=1, once=True)
    machine.has_engine("inactive")
    done = machine.prepare("--here", "--engine", "--authorize", KEY)
    assert done.returncode == 0, done.stderr
    install = "apt-get install -y -q --no-install-recommends docker.io docker-buildx docker-compose-v2"
    assert machine.did == [install, FIREWALL, "docker swarm init"]
    assert machine.keys == RESTRICTED
    shown = run(machine.inside("stat", "-c", "%U %a", "/home/deploy/.ssh", "/home/deploy/.ssh/authorized_keys")).stdout
    assert shown.splitlines() == ["root 755", "root 644"]
    assert "docker" in run(machine.inside("id", "-nG", "deploy")).stdout.split()


def test_twice_changes_nothing(machine: Machine) -> None:
    """What is there stays, also the key of somebody else who deploys."""
    machine.has_engine()
    other = KEY.replace("IDeploy", "IOther")
    for key in (other, KEY, KEY):
        done = machine.prepare("--here", "--engine", "--authorize", key)
        assert done.returncode == 0, done.stderr
    assert machine.did == [FIREWALL] * 3
    assert machine.keys == authorized(authorized("", other, ENGINE), KEY, ENGINE)
    assert "useradd" not in done.stderr


@pytest.mark.parametrize("engine", [False, True])
def test_a_dry_run_on_the_machine(machine: Machine, engine: bool) -> None:
    """Everything is said, and nothing is done."""
    if engine:
        machine.has_engine("inactive")
    else:
        machine.programs.answer("^docker version", status=1)
    done = machine.prepare("--here", "--engine", "--dry-run", "--authorize", KEY)
    assert done.returncode == 0, done.stderr
    assert ("would install the Docker Engine" in done.stderr) == (not engine)
    assert "would make this machine a Swarm" in done.stderr
    assert "would run: useradd --create-home --shell /bin/sh --password '*' deploy\n" in done.stderr
    assert "would write /home/deploy/.ssh/authorized_keys" in done.stderr
    assert (machine.did, machine.keys) == ([], "")
    assert not (machine.home / "deploy").exists()


def test_an_old_engine_is_refused(machine: Machine) -> None:
    """An engine that was there is not replaced, and the sentence says what is needed."""
    machine.programs.answer("^docker version", "20.10.24\n")
    done = machine.prepare("--here", "--engine", "--authorize", KEY)
    assert (done.returncode, machine.did, machine.keys) == (1, [], "")
    assert done.stderr == "error: the engine there is 20.10.24, and 25 or newer is needed: update it first\n"


def test_a_swarm_that_refuses_a_worker(machine: Machine) -> None:
    """Its reason is shown, and the token that it was shown is not."""
    machine.has_engine("inactive")
    machine.programs.answer("swarm join", err="Error response from daemon: invalid join token\n", status=1)
    (machine.home / "token").write_text(TOKEN, "utf-8")
    done = machine.prepare("--here", "--authorize", KEY, "--join", "192.0.2.1:2377", "--token-file", "/home/token")
    assert done.returncode == 1
    assert machine.did == [FIREWALL, f"docker swarm join --token {TOKEN} 192.0.2.1:2377"]
    sentence = "error: cannot make this machine a worker of the Swarm: Error response from daemon: invalid join token"
    assert done.stderr.splitlines()[-1] == sentence
    assert TOKEN not in done.stderr + done.stdout


@pytest.fixture
def address(machine: Machine, tmp_path: Path) -> Iterator[str]:
    """Where the machine takes root's key over SSH, with the host key known."""
    port, ssh = free_port(), machine.home / "root/.ssh"
    (ssh / "authorized_keys").write_text(make_key(ssh / "id_ed25519") + "\n", "utf-8")
    variables = " ".join(f"{name}={value}" for name, value in machine.env.items() if name != "HOME")
    options = f"UsePAM no\nSetEnv {variables}"
    with ssh_server(tmp_path, "127.0.0.1", port, options, lambda command: machine.inside(*command)) as key:
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key.split()[:2])}\n", "utf-8")
        yield f"127.0.0.1:{port}"


def test_over_ssh(machine: Machine, address: str) -> None:
    """One command makes it a place to deploy to; the key that it prints the name of can do that and nothing else."""
    machine.has_engine("inactive")
    done = machine.prepare(address)
    assert done.returncode == 0, done.stderr
    assert f"python3 scripts/configure_github.py --host {address}\n" in done.stdout
    assert f" DEPLOY_HOST         deploy@{address}\n" in done.stdout
    known = (machine.home / "root/.ssh/known_hosts").read_text("utf-8").strip()
    assert f" DEPLOY_KNOWN_HOSTS  {known}\n" in done.stdout
    assert " DEPLOY_SSH_KEY      what is in /home/root/.ssh/onedigest_deploy\n" in done.stdout
    assert machine.did == [FIREWALL, "docker swarm init"]
    assert list((machine.home / "tmp").iterdir()) == []
    assert "docker" not in run(machine.inside("id", "-nG", "deploy")).stdout.split()

    run(machine.deploy(address, "redeploy $(id); id"), env=machine.env)
    entry = "/usr/local/lib/onedigest/hello/scripts/on_host.py"
    assert machine.programs.calls[-1] == ["sudo", "--non-interactive", entry, "--", "redeploy $(id); id"]
    fixed = json.loads((machine.folder / "lib/onedigest/hello/host.json").read_text("utf-8"))
    assert (fixed["IMAGE_NAMESPACE"], fixed["GITHUB_REPOSITORY"]) == ("me", "octo/Hello")
    rule = machine.folder / "etc/sudoers.d/onedigest-hello"
    assert (rule.read_text("utf-8"), rule.stat().st_mode & 0o777) == (sudoers("hello"), 0o440)

    before = machine.files()
    again = machine.prepare(address)
    assert (again.returncode, machine.files()) == (0, before), again.stderr


def test_a_key_that_talks_to_the_engine(machine: Machine, address: str) -> None:
    """Only where that is chosen; prepared without it again, the account is taken out of the engine's group."""
    machine.has_engine()
    done = machine.prepare(address, "--engine")
    assert done.returncode == 0, done.stderr
    assert "deploy talks to the engine, which is as powerful as root" in done.stderr
    machine.programs.answer("dial-stdio", "the engine\n")
    assert run(machine.deploy(address, "id"), env=machine.env).stdout == "the engine\n"
    assert machine.did[-1] == "docker system dial-stdio"
    assert "docker" in run(machine.inside("id", "-nG", "deploy")).stdout.split()

    done = machine.prepare(address)
    assert done.returncode == 0, done.stderr
    assert "docker" not in run(machine.inside("id", "-nG", "deploy")).stdout.split()
    assert "dial-stdio" not in machine.keys


def test_a_gh_that_cannot_verify(machine: Machine, address: str) -> None:
    """Nobody gets a key for a host that could verify nothing: the sentence says what to install or to choose."""
    machine.programs.answer("gh attestation", err='unknown command "attestation" for "gh"\n', status=1, first=True)
    machine.has_engine()
    done = machine.prepare(address)
    assert done.returncode == 1
    assert "install 2.51 or newer" in done.stderr
    assert "--engine" in done.stderr
    assert machine.keys == ""


def test_the_key_of_an_earlier_version(machine: Machine, address: str) -> None:
    """It deploys already, so it is used on."""
    machine.has_engine()
    name = f"{FORMER}_deploy"
    former = make_key(machine.home / "root/.ssh" / name)
    done = machine.prepare(address)
    assert done.returncode == 0, done.stderr
    assert f" DEPLOY_SSH_KEY      what is in /home/root/.ssh/{name}\n" in done.stdout
    assert former.split()[1] in machine.keys
    assert not (machine.home / "root/.ssh/onedigest_deploy").exists()


def test_a_locked_account_is_opened(machine: Machine, address: str) -> None:
    """An earlier version made it so, and a server without PAM lets nobody into a locked one."""
    machine.has_engine()
    run(machine.inside("useradd", "--create-home", "--shell", "/bin/sh", "deploy"))
    assert re.search("(?m)^deploy:!", (machine.folder / "etc/shadow").read_text("utf-8"))
    done = machine.prepare(address)
    assert done.returncode == 0, done.stderr
    machine.programs.answer("on_host.py", "the host\n")
    done = run(machine.deploy(address, "status"), env=machine.env, check=False)
    assert done.stdout == "the host\n", done.stderr
    assert "usermod --password" not in machine.prepare(address).stderr


def test_a_dry_run_over_ssh(machine: Machine, address: str) -> None:
    """It says what would be done there."""
    machine.has_engine("inactive")
    done = machine.prepare(f"root@{address}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would make this machine a Swarm" in done.stderr
    assert (machine.did, machine.keys) == ([], "")


def test_a_second_machine_joins(machine: Machine, address: str) -> None:
    """With the token that the manager gives, which is said nowhere; nobody logs in to a worker to deploy."""
    machine.programs.answer("join-token", f"{TOKEN}\n").answer("NodeAddr", "192.0.2.1\n")
    machine.programs.answer("ip -o route get", "192.0.2.1 dev eth0 src 192.0.2.3 uid 0\n")
    machine.programs.answer("node ls", "a\nb\n").answer("node inspect", "0.0.0.0 192.0.2.1:2377\n192.0.2.2 \n")
    machine.has_engine("inactive")
    done = machine.prepare(f"root@{address}", "--join", f"root@{address}")
    assert done.returncode == 0, done.stderr
    assert machine.did == [
        "docker swarm join-token --quiet worker",
        FIREWALL,  # the manager lets it in
        FIREWALL,  # it lets in the manager and the other one
        f"docker swarm join --token {TOKEN} 192.0.2.1:2377",
    ]
    said = (
        f"192.0.2.2 has to let 192.0.2.3 in, too: python3 scripts/prepare_host.py root@192.0.2.2 --join root@{address}"
    )
    assert said in done.stderr
    assert "ip saddr { 192.0.2.1, 192.0.2.2 } accept" in (machine.folder / "etc/onedigest/firewall.nft").read_text(
        "utf-8"
    )
    assert f"127.0.0.1 is a worker of root@{address}'s Swarm" in done.stderr
    assert TOKEN not in done.stderr + done.stdout
    assert (machine.keys, list((machine.home / "tmp").iterdir())) == ("", [])


def test_a_worker_is_prepared_as_one(machine: Machine) -> None:
    """Without its manager it cannot know who the others are: its firewall is not touched."""
    machine.programs.answer("node ls", err="Error response from daemon: This node is not a swarm manager.", status=1)
    machine.has_engine()
    done = machine.prepare("--here", "--engine", "--authorize", KEY)
    assert done.returncode == 1
    assert "is a worker of a Swarm; prepare it with --join" in done.stderr
    assert (machine.did, machine.keys) == ([], "")


def test_a_kernel_that_cannot_encrypt(machine: Machine, address: str) -> None:
    """It does not join: what the hosts send each other would not arrive."""
    machine.programs.answer("join-token", f"{TOKEN}\n").answer("NodeAddr", "192.0.2.1\n")
    machine.programs.answer("ip -o route get", "192.0.2.1 dev eth0 src 192.0.2.3 uid 0\n")
    machine.programs.answer("ip xfrm", err="RTNETLINK answers: Protocol not supported\n", status=2)
    machine.has_engine()
    done = machine.prepare(f"root@{address}", "--join", f"root@{address}")
    assert done.returncode == 1
    assert "kernel cannot encrypt what hosts send each other" in done.stderr
    assert not [line for line in machine.did if "swarm join " in line]


def test_a_machine_that_cannot_be_prepared(machine: Machine, address: str) -> None:
    """Its own words are shown, and nothing of ours stays there."""
    machine.programs.answer("^docker version", "20.10.24\n")
    done = machine.prepare(f"root@{address}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: the engine there is 20.10.24, and 25 or newer is needed: update it first",
        "error: 127.0.0.1 could not be prepared: see above",
    ]
    assert list((machine.home / "tmp").iterdir()) == []


def test_a_machine_that_cannot_be_reached(machine: Machine, address: str) -> None:
    """Another key than the known one, as somebody in between would show: the command to try by hand is named."""
    known = machine.home / "root/.ssh/known_hosts"
    other = make_key(machine.home / "other")
    known.write_text(f"[127.0.0.1]:{address.partition(':')[2]} {other}\n", "utf-8")
    done = machine.prepare(f"root@{address}")
    assert done.returncode == 1
    assert "Host key verification failed." in done.stderr
    port = address.partition(":")[2]
    assert done.stderr.splitlines()[-1] == (
        f"error: cannot reach 127.0.0.1 by ssh: see above; run ssh -p {port} root@127.0.0.1 once by hand"
    )
    assert machine.programs.calls == []
