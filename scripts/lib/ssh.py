"""Reach an engine over SSH, and never one whose host key nobody vouched for."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib.command import Failure, UsageError, last_line, run
from lib.names import without_secrets

DEPLOY_USER = "deploy"
TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,31})@)?"
    r"(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)|\[(?P<ipv6>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Target:
    """A machine to reach. If `user` is "" or `port` is 0, ssh's own configuration says them."""

    user: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        """It as parse_target reads it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    @property
    def login(self) -> str:
        """Its name for ssh, `[user@]host`."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def ssh(self) -> list[str]:
        """The command that logs in there by hand."""
        return ["ssh", *(["-p", str(self.port)] if self.port else []), self.login]

    @property
    def known_as(self) -> str:
        """The name under which ssh keeps its host key: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"."""
        return f"[{self.host}]:{self.port}" if self.port not in (0, 22) else self.host


def parse_target(what: str, text: str) -> Target:
    """Return the machine that `[user@]host[:port]` names, or raise UsageError; `what` is said to be wrong."""
    match = TARGET.fullmatch(text)
    if not match or not 0 < int(match["port"] or 22) < 65536:
        raise UsageError(
            f"{what} is {without_secrets(text)!r}, which is not [user@]host[:port], such as deploy@hello.example.org"
        )
    return Target(match["user"] or "", match["host"] or match["ipv6"], int(match["port"] or 0))


def ssh_settings(target: Target) -> dict[str, str]:
    """Return what ssh's own configuration says about a machine, by the keywords of ssh_config(5) in lower case."""
    program, *rest = target.ssh
    done = run([program, "-G", *rest], check=False, timeout=60)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def endpoint() -> str:
    """Return the address of the engine that `docker` talks to.

    docker says it, because it weighs DOCKER_HOST, DOCKER_CONTEXT and its current context.
    """
    done = run(["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], check=False, timeout=60)
    if done.returncode != 0:
        raise Failure(f"docker cannot tell which engine it talks to{last_line(done)}; see docker context ls")
    return done.stdout.strip()


def host_of(address: str) -> str:
    """Return the name of an engine's machine, "" for this one; raise UsageError if the address is not one."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError as error:
        raise UsageError(
            f"docker's engine is at {without_secrets(address)!r}, which is not an address: {error}"
        ) from error
    return (parts.hostname or "") if parts.scheme in ("ssh", "tcp", "http", "https") else ""


def is_far(address: str) -> bool:
    """Whether an engine is on another machine; one over SSH is, and one on a loopback address is not."""
    host = host_of(address)
    return bool(host) and (address.startswith("ssh:") or not is_here(host))


def is_here(host: str) -> bool:
    """Whether a name or an address means the machine that asks, whichever machine that is."""
    if host.rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def ssh_options(key: Path | None, known_hosts: Path | None, control: Path | None) -> list[str]:
    """Return the options of every ssh connection: never ask, never trust a new key.

    With a folder `control`, one connection serves all commands.
    """
    shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={control}/master", "-o", "ControlPersist=60"]
    return [
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"),
        *("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"),
        *(shared if control else ["-o", "ControlPath=none"]),
        *(["-o", f"UserKnownHostsFile={known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"] if known_hosts else []),
        *(["-o", "IdentitiesOnly=yes", "-i", str(key)] if key else []),
    ]


def deploy_host(environ: Mapping[str, str]) -> Target | None:
    """Return the machine that DEPLOY_HOST names, None if it names none; raise UsageError if nothing vouches for it."""
    wanted = environ.get("DEPLOY_HOST", "")
    if not wanted:
        return None
    target = parse_target("DEPLOY_HOST", wanted)
    if not environ.get("DEPLOY_KNOWN_HOSTS", "").strip():
        raise UsageError(
            f"DEPLOY_HOST is {wanted!r} and DEPLOY_KNOWN_HOSTS is not set, so nothing vouches for that machine;"
            " set it to the line that python3 scripts/prepare_host.py printed"
        )
    return replace(target, user=target.user or DEPLOY_USER, port=target.port or 22)


@contextlib.contextmanager
def logged_in(
    target: Target, environ: Mapping[str, str], *, vouched: bool = True, shared: bool = False
) -> Iterator[tuple[list[str], Path]]:
    """Yield the command that runs another one there, once that is added to it, and a folder for sockets.

    It uses DEPLOY_SSH_KEY, if ssh has no key of its own. `vouched` means that DEPLOY_KNOWN_HOSTS says the host's key,
    and not what ssh knows; `shared`, that all commands use one connection.
    """
    if not shutil.which("ssh"):
        raise Failure("there is no ssh command; install openssh-client")
    with tempfile.TemporaryDirectory(prefix="ssh", dir=folder_for_sockets()) as folder:
        place = Path(folder)
        key = private(place / "key", environ.get("DEPLOY_SSH_KEY", ""))
        if key:
            public_half("DEPLOY_SSH_KEY", key)
        known = private(place / "known_hosts", environ["DEPLOY_KNOWN_HOSTS"]) if vouched else None
        program, *rest = target.ssh
        try:
            yield [program, *ssh_options(key, known, place if shared else None), "-T", *rest], place
        finally:
            if shared:
                run([program, "-o", f"ControlPath={place}/master", "-O", "exit", "unused"], check=False)


@contextlib.contextmanager
def connection(environ: Mapping[str, str]) -> Iterator[str]:
    """Let `docker` talk to the engine that the environment names; yield the host's name, "" for this machine.

    DEPLOY_HOST with DEPLOY_KNOWN_HOSTS, and DEPLOY_SSH_KEY if ssh has no key of its own; or docker's own settings, with
    the host keys that ssh knows already. Raises UsageError or Failure in a sentence.
    """
    target = wanted = deploy_host(environ)
    if target is None:
        address = endpoint()
        if not address.startswith("ssh://"):
            yield host_of(address)
            return
        target = parse_target("the host of docker's engine", address.removeprefix("ssh://").partition("/")[0])
    with logged_in(target, environ, vouched=bool(wanted), shared=True) as (ssh, place):
        before = {name: os.environ.get(name) for name in ("DOCKER_HOST", "DOCKER_CONTEXT")}
        try:
            with Tunnel(place / "docker.sock", [*ssh, "docker system dial-stdio"]) as tunnel:
                os.environ["DOCKER_HOST"] = f"unix://{tunnel.path}"
                os.environ.pop("DOCKER_CONTEXT", None)  # docker would use it first
                check(f"ssh://{target}", tunnel)
                yield (target.host if wanted else ssh_settings(target).get("hostname", "")) or target.host
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def folder_for_sockets() -> str:
    """Return where temporary files go, or /tmp if that path is too long for a socket.

    It has at most 107 characters (unix(7)), and ssh adds 17 to its own for a moment.
    """
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if len(folder) <= 60 and Path(folder).is_dir():
            return folder
    raise Failure(f"{tempfile.gettempdir()} is too long a path for a socket; set TMPDIR to a shorter one")


class Tunnel:
    """A socket on this machine whose every connection is a command's standard input and output.

    So `docker` reaches an engine over an ssh with our options. Left to itself, it runs the ssh that is first on PATH
    with options of its own, and skips a wrapper there without a word if its folder is mounted noexec.
    """

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        self.path = path
        self.command = command
        self.errors = path.with_suffix(".log")
        self._server = socket.socket(socket.AF_UNIX)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Tunnel:
        self._server.bind(str(self.path))
        self._server.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._server.close()
        for process in self._processes:
            process.terminate()
            process.wait()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            end = connection.fileno()
            with connection, self.errors.open("ab") as errors:
                made = subprocess.Popen(self.command, stdin=end, stdout=end, stderr=errors)
            self._processes = [*(process for process in self._processes if process.poll() is None), made]

    def said(self) -> str:
        """What the commands wrote to standard error."""
        return self.errors.read_text("utf-8", "replace") if self.errors.exists() else ""


def private(path: Path, content: str) -> Path | None:
    """Write a file that only we can read, with the line break at its end that ssh wants; None for no content."""
    if not content.strip():
        return None
    path.touch(0o600)
    path.write_text(content.replace("\r\n", "\n").rstrip("\n") + "\n", "utf-8")
    return path


def public_half(what: str, key: Path) -> str:
    """Return the public half of a private key, or raise UsageError: nobody is there to type a passphrase."""
    done = run(["ssh-keygen", "-y", "-P", "", "-f", str(key)], check=False)
    if done.returncode == 0:
        return done.stdout.strip().replace('"', "")  # the comment, if there is one, is anybody's
    if "UNPROTECTED" in done.stderr:
        raise UsageError(f"{what} can be read by others, so ssh does not take it; run chmod 600 {key}")
    if "passphrase" in done.stderr:
        raise UsageError(f"{what} has a passphrase, and nobody is there to type it; use a key without one")
    if re.match(r"(ssh|ecdsa|sk)-\S+ AAAA", key.read_text("utf-8", "replace")):
        raise UsageError(f"{what} is the public half of a key, the one in the file that ends in .pub; use the other")
    raise UsageError(f"{what} is not a private key, or not the whole of it; use the whole file")


def check(address: str, tunnel: Tunnel) -> None:
    """Raise Failure with what is wrong if the engine does not answer."""
    done = run(["docker", "version", "--format", "{{.Server.Version}}"], check=False, timeout=60)
    if done.returncode == 0:
        return
    said = tunnel.said() or done.stderr
    for found, sentence in (
        (
            "IDENTIFICATION HAS CHANGED|Host key verification failed",
            "its host key is not the known one: nothing was sent",
        ),
        ("Permission denied", "it does not accept our key; add the public key to its ~/.ssh/authorized_keys"),
        ("Could not resolve|Connection refused|timed out|No route to host|unreachable", "it cannot be reached"),
    ):
        if re.search(found, said):
            raise Failure(f"{address}: {sentence} ({reason(said)})")
    raise Failure(f"{address}: no Docker Engine answers ({reason(said)})")


def reason(said: str) -> str:
    """Return the last line that ssh wrote."""
    lines = [line.strip(" @\r") for line in said.splitlines() if line.strip(" @\r")]
    return lines[-1] if lines else "no reason given"
