"""Reaching an engine over SSH: what is said to ssh, and what its answers mean."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lib.command import Failure, UsageError
from lib.ssh import connection, parse_target, private, reason, ssh_options
from programs import Programs


@pytest.mark.parametrize(
    ("text", "docker_host"),
    [
        ("hello.example.org", "ssh://deploy@hello.example.org:22"),
        ("me@10.0.0.1:2222", "ssh://me@10.0.0.1:2222"),
        ("hello:2222", "ssh://deploy@hello:2222"),
    ],
)
def test_a_host_is_reached_as_the_deploy_user_unless_another_is_named(text: str, docker_host: str) -> None:
    """[user@]host[:port]"""
    target = parse_target("DEPLOY_HOST", text)
    assert (str(target), target.docker_host) == (text, docker_host)


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=id", "a b", "a;b", "me@", "a:", "a:0", "a:70000", "a\n", "a\nb", "$(id)", "a@b@c", "a-", "a."],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """Nothing reaches ssh that it or a shell could take for something else; the sentence says what is wrong."""
    with pytest.raises(UsageError, match=rf"^--join is {re.escape(repr(text))}, which is not \[user@\]host\[:port\]"):
        parse_target("--join", text)


@pytest.mark.parametrize(
    ("text", "ssh", "known_as"),
    [
        ("root@host.example.org", "ssh root@host.example.org", "host.example.org"),
        ("host", "ssh host", "host"),
        ("me@192.0.2.1:2222", "ssh -p 2222 me@192.0.2.1", "[192.0.2.1]:2222"),
        ("me@host:22", "ssh -p 22 me@host", "host"),
    ],
)
def test_how_a_host_is_reached_by_hand(text: str, ssh: str, known_as: str) -> None:
    """What is not said is left to ssh's own configuration; ssh keeps the key of another port under another name."""
    target = parse_target("DEPLOY_HOST", text)
    assert (" ".join(target.ssh), target.known_as) == (ssh, known_as)


def test_ssh_never_trusts_a_key_that_nobody_vouched_for() -> None:
    """Strict, without questions, with our known hosts and no others."""
    options = ssh_options(Path("/k"), Path("/known"), Path("/c"))

    assert "StrictHostKeyChecking=yes" in options
    assert "BatchMode=yes" in options
    assert "UserKnownHostsFile=/known" in options
    assert "GlobalKnownHostsFile=/dev/null" in options
    assert options[-2:] == ["-i", "/k"]
    assert "-i" not in ssh_options(None, None, Path("/c"))


def test_a_host_without_its_key_is_refused() -> None:
    """DEPLOY_KNOWN_HOSTS is not optional."""
    with pytest.raises(UsageError, match="DEPLOY_KNOWN_HOSTS is not set"), connection({"DEPLOY_HOST": "a.example.org"}):
        pass


@pytest.mark.parametrize(
    ("docker_host", "host"), [("", ""), ("unix:///run/docker.sock", ""), ("tcp://10.0.0.1:2376", "10.0.0.1")]
)
def test_without_ssh_docker_is_left_as_it_is(docker_host: str, host: str) -> None:
    """This machine's engine, or one that DOCKER_HOST names."""
    with connection({"DOCKER_HOST": docker_host}) as found:
        assert found == host


def test_a_key_is_written_for_our_eyes_only(tmp_path: Path) -> None:
    """With the line break at its end that ssh wants, and without those of Windows."""
    written = private(tmp_path / "key", "a\r\nb")

    assert written is not None
    assert written.read_bytes() == b"a\nb\n"
    assert written.stat().st_mode & 0o777 == 0o600
    assert private(tmp_path / "none", " \n") is None


def test_sshs_own_words_are_found_among_dockers() -> None:
    """The last line of them."""
    assert reason("error: exit status 255, stderr=Warning\r\nHost key verification failed.\r\n") == (
        "Host key verification failed."
    )
    assert reason("") == "no reason given"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@", "host key is not the known one: nothing was sent"),
        ("deploy@h: Permission denied (publickey).", "does not accept our key; add the public key to its"),
        ('Load key "/k": error in libcrypto', "DEPLOY_SSH_KEY is not a private key"),
        ("ssh: connect to host h port 22: No route to host", "it cannot be reached"),
        ("sh: docker: not found", r"no Docker Engine answers \(sh: docker: not found\)"),
    ],
)
def test_why_a_host_does_not_answer(docker: Programs, monkeypatch: pytest.MonkeyPatch, said: str, says: str) -> None:
    """In words, with ssh's own; afterwards docker finds its way as before."""
    monkeypatch.setenv("DOCKER_HOST", "ssh://deploy@h")
    before = dict(os.environ)
    docker.answer("", err=f"error during connect: exit status 255, stderr={said}\r\n", status=1)

    with pytest.raises(Failure, match=rf"^ssh://deploy@h: .*{says}"), connection({"DOCKER_HOST": "ssh://deploy@h"}):
        pass
    assert dict(os.environ) == before


def test_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(Failure, match="there is no ssh command; install openssh-client"),
        connection({"DEPLOY_HOST": "h", "DEPLOY_KNOWN_HOSTS": "h ssh-ed25519 A"}),
    ):
        pass
