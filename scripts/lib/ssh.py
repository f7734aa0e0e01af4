"""Reach an engine over SSH, and never one whose host key nobody vouched for."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.command import Failure, UsageError, run, shown

DEPLOY_USER = "deploy"
TARGET = re.compile(
    r"(?:(?P<user>[a-z_][a-z0-9_-]{0,31})@)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Target:
    """A machine to reach. Where `user` is "" or `port` is 0, ssh's own configuration says them."""

    user: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        """It as parse_target reads it."""
        return f"{self.login}:{self.port}" if self.port else self.login

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

    @property
    def docker_host(self) -> str:
        """What DOCKER_HOST has to be for it, once prepare_host.py was there."""
        return f"ssh://{self.user or DEPLOY_USER}@{self.host}:{self.port or 22}"


def parse_target(what: str, text: str) -> Target:
    """Return the machine that `[user@]host[:port]` names, or raise UsageError; `what` is said to be wrong."""
    match = TARGET.fullmatch(text)
    if not match or not 0 < int(match["port"] or 22) < 65536:
        raise UsageError(f"{what} is {text!r}, which is not [user@]host[:port], such as deploy@hello.example.org")
    return Target(match["user"] or "", match["host"], int(match["port"] or 0))


def ssh_options(key: Path | None, known_hosts: Path | None, control: Path) -> list[str]:
    """Return the options of every ssh connection: never ask, never trust a new key, one connection for all commands."""
    return [
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"),
        *("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"),
        *("-o", "ControlMaster=auto", "-o", f"ControlPath={control}/%C", "-o", "ControlPersist=60"),
        *(["-o", f"UserKnownHostsFile={known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"] if known_hosts else []),
        *(["-o", "IdentitiesOnly=yes", "-i", str(key)] if key else []),
    ]


@contextlib.contextmanager
def connection(environ: Mapping[str, str]) -> Iterator[str]:
    """Let `docker` talk to the engine that the environment names; yield the host's name, "" for this machine.

    DEPLOY_HOST with DEPLOY_KNOWN_HOSTS, and DEPLOY_SSH_KEY where ssh has no key of its own; or DOCKER_HOST=ssh://…,
    with the host keys that ssh knows already. Raises UsageError or Failure in a sentence.
    """
    wanted = environ.get("DEPLOY_HOST", "")
    docker_host = environ.get("DOCKER_HOST", "")
    over_ssh = re.fullmatch(r"ssh://(?:[^@/]*@)?([^/:]+)(?::\d+)?(?:/.*)?", docker_host)
    if not wanted and not over_ssh:
        tcp = re.fullmatch(r"tcp://([^/:]+)(?::\d+)?/?", docker_host)
        yield tcp[1] if tcp else ""
        return
    target = parse_target("DEPLOY_HOST", wanted) if wanted else None
    if target and not environ.get("DEPLOY_KNOWN_HOSTS", "").strip():
        raise UsageError(
            f"DEPLOY_HOST is {wanted!r} and DEPLOY_KNOWN_HOSTS is not set, so nothing vouches for that machine;"
            " set it to the line that python3 scripts/prepare_host.py printed"
        )
    real = shutil.which("ssh")
    if not real:
        raise Failure("there is no ssh command; install openssh-client")
    # Short, because the path of a socket has at most 107 characters (unix(7)).
    with tempfile.TemporaryDirectory(prefix="ssh", dir="/tmp" if Path("/tmp").is_dir() else None) as folder:  # noqa: S108
        place = Path(folder)
        options = ssh_options(
            private(place / "key", environ.get("DEPLOY_SSH_KEY", "")),
            private(place / "known_hosts", environ["DEPLOY_KNOWN_HOSTS"]) if target else None,
            place,
        )
        # docker runs whatever `ssh` is first on PATH; that is the only way to give it options.
        wrapper = place / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shown([real, *options])} "$@"\n', "utf-8")
        wrapper.chmod(0o700)
        before = {name: os.environ.get(name) for name in ("PATH", "DOCKER_HOST")}
        os.environ["PATH"] = f"{wrapper.parent}{os.pathsep}{before['PATH']}"
        os.environ["DOCKER_HOST"] = target.docker_host if target else docker_host
        try:
            check(os.environ["DOCKER_HOST"])
            yield target.host if target else over_ssh[1] if over_ssh else ""
        finally:
            for control in place.glob("*"):
                if control.is_socket():
                    run([real, "-o", f"ControlPath={control}", "-O", "exit", "unused"], check=False)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def private(path: Path, content: str) -> Path | None:
    """Write a file that only we can read, with the line break at its end that ssh wants; None for no content."""
    if not content.strip():
        return None
    path.touch(0o600)
    path.write_text(content.replace("\r\n", "\n").rstrip("\n") + "\n", "utf-8")
    return path


def check(docker_host: str) -> None:
    """Raise Failure with what is wrong where the engine does not answer."""
    done = run(["docker", "version", "--format", "{{.Server.Version}}"], check=False, timeout=60)
    if done.returncode == 0:
        return
    for found, sentence in (
        (
            "IDENTIFICATION HAS CHANGED|Host key verification failed",
            "its host key is not the known one: nothing was sent",
        ),
        ("Permission denied", "it does not accept our key; add the public key to its ~/.ssh/authorized_keys"),
        ("error in libcrypto|invalid format", "DEPLOY_SSH_KEY is not a private key"),
        ("Could not resolve|Connection refused|timed out|No route to host", "it cannot be reached"),
    ):
        if re.search(found, done.stderr):
            raise Failure(f"{docker_host}: {sentence} ({reason(done.stderr)})")
    raise Failure(f"{docker_host}: no Docker Engine answers ({reason(done.stderr)})")


def reason(stderr: str) -> str:
    """Return the line of ssh's own among docker's."""
    found = re.search(r"stderr=(.*)", stderr, re.S)
    lines = [line.strip(" @\r") for line in (found[1] if found else stderr).strip().splitlines() if line.strip(" @\r")]
    return lines[-1] if lines else "no reason given"
