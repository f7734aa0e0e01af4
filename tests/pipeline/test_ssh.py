"""Reaching an engine over SSH: what is said to ssh, and what its answers mean."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from conftest import need
from lib.command import Failure, UsageError, run
from lib.ssh import (
    Target,
    Tunnel,
    check,
    connection,
    endpoint,
    folder_for_sockets,
    host_of,
    is_far,
    parse_target,
    private,
    ssh_options,
)
from support.programs import Programs


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("hello.example.org", Target("", "hello.example.org")),
        ("me@10.0.0.1:2222", Target("me", "10.0.0.1", 2222)),
        ("hello:2222", Target("", "hello", 2222)),
        ("me@[fd00::2]", Target("me", "fd00::2")),
        ("[::ffff:10.0.0.1]:22", Target("", "::ffff:10.0.0.1", 22)),
        ("First.Last@hello", Target("First.Last", "hello")),
    ],
)
def test_a_host_has_a_name_and_perhaps_a_user_and_a_port(text: str, target: Target) -> None:
    """[user@]host[:port]; an IPv6 address is in brackets, as in a URL."""
    assert parse_target("DEPLOY_HOST", text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=id", "a b", "a;b", "me@", "a:", "a:0", "a:70000", "a\n", "a\nb", "$(id)", "a@b@c"),
        *("a-", "a.", "fd00::2", "[]", "[a]", "[fd00::2", "[fd00::2%eth0]"),
    ],
)
def test_what_is_not_a_host_is_refused(text: str) -> None:
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
        ("me@[fd00::2]", "ssh me@fd00::2", "fd00::2"),
        ("me@[fd00::2]:2222", "ssh -p 2222 me@fd00::2", "[fd00::2]:2222"),
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
    ("address", "host", "far"),
    [
        ("", "", False),
        ("unix:///var/run/docker.sock", "", False),
        ("npipe:////./pipe/docker_engine", "", False),
        ("fd://", "", False),
        ("tcp://10.0.0.1:2376", "10.0.0.1", True),
        ("tcp://[fd00::2]:2376", "fd00::2", True),
        ("tcp://hello.example.org", "hello.example.org", True),
        ("tcp://127.0.0.1:2375", "127.0.0.1", False),
        ("tcp://localhost:2375", "localhost", False),
        ("tcp://[::1]:2375", "::1", False),
        ("ssh://hello", "hello", True),
        ("ssh://me@hello.example.org:2222", "hello.example.org", True),
        ("ssh://me@[fd00::2]", "fd00::2", True),
        ("ssh://me@[fd00::2]:2222", "fd00::2", True),
        ("ssh://localhost", "localhost", True),
        ("tcp://[::ffff:127.0.0.1]:2375", "::ffff:127.0.0.1", False),
        ("tcp://[::ffff:10.0.0.1]:2375", "::ffff:10.0.0.1", True),
        ("tcp://0.0.0.0:2375", "0.0.0.0", False),  # noqa: S104
        ("tcp://[::]:2375", "::", False),
        ("tcp://localhost.:2375", "localhost.", False),
        ("tcp://127.example.org:2375", "127.example.org", True),
    ],
)
def test_where_an_engine_is(address: str, host: str, far: bool) -> None:
    """On this machine, or on another one, whose name the page is asked for at."""
    assert (host_of(address), is_far(address)) == (host, far)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "unix:///var/run/docker.sock"),
        ({"DOCKER_HOST": "tcp://10.0.0.1:2376"}, "tcp://10.0.0.1:2376"),
        ({"DOCKER_CONTEXT": "there"}, "ssh://me@there.example.org"),
    ],
)
def test_docker_is_asked_where_its_engine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    """It knows which of DOCKER_HOST, DOCKER_CONTEXT and the current context counts."""
    need(bool(shutil.which("docker")), "the docker command")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    run(["docker", "context", "create", "there", "--docker", "host=ssh://me@there.example.org"])
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    assert endpoint() == expected


def test_a_context_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has docker's reason, and the next command."""
    need(bool(shutil.which("docker")), "the docker command")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")

    with pytest.raises(Failure, match=r'^docker cannot tell .*"nowhere".* not found.*; see docker context ls$'):
        endpoint()


@pytest.mark.parametrize("address", ["", "unix:///run/docker.sock", "tcp://10.0.0.1:2376"])
def test_without_ssh_docker_is_left_as_it_is(docker: Programs, address: str) -> None:
    """This machine's engine, or one that docker reaches by itself."""
    docker.answer("context inspect", f"{address}\n")
    before = dict(os.environ)

    with connection({}) as found:
        assert found == host_of(address)
        assert dict(os.environ) == before


def test_a_key_is_written_for_our_eyes_only(tmp_path: Path) -> None:
    """With the line break at its end that ssh wants, and without those of Windows."""
    written = private(tmp_path / "key", "a\r\nb")

    assert written is not None
    assert written.read_bytes() == b"a\nb\n"
    assert written.stat().st_mode & 0o777 == 0o600
    assert private(tmp_path / "none", " \n") is None


@pytest.mark.usefixtures("ssh_keygen")
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("whole", ""),
        ("windows", ""),
        ("locked", "has a passphrase, and nobody is there to type it"),
        ("cut", "is not a private key, or not the whole of it"),
        ("headless", "is not a private key, or not the whole of it"),
        ("words", "is not a private key, or not the whole of it"),
        ("public", "is the public half of a key"),
    ],
)
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_the_key_is_looked_at_first(
    docker: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, key: str, says: str
) -> None:
    """What is wrong with it is said before any host is asked whether it accepts it; the key itself is not said."""
    monkeypatch.setenv("PATH", f"{docker.add('ssh').bin}:{os.environ['PATH']}")
    docker.answer("^ssh -G", "hostname h\n").answer("^docker version", "28.0.0\n")
    phrase = "a passphrase" if key == "locked" else ""
    run(["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", str(tmp_path / "key")])
    text = (tmp_path / "key").read_text("utf-8")
    made = {
        "cut": text[: len(text) // 2],
        "headless": "\n".join(text.splitlines()[1:]),
        "words": "my secret key",
        "windows": text.replace("\n", "\r\n"),
        "public": (tmp_path / "key.pub").read_text("utf-8"),
    }
    env = {"DEPLOY_HOST": "h", "DEPLOY_KNOWN_HOSTS": "h ssh-ed25519 A", "DEPLOY_SSH_KEY": made.get(key, text)}

    if says:
        with pytest.raises(UsageError, match=f"^DEPLOY_SSH_KEY {says}") as error, connection(env):
            pass
        assert text.splitlines()[1] not in str(error.value)
        assert not docker.called("docker")
    else:
        with connection(env) as host:
            assert host == "h"


@pytest.mark.parametrize(("length", "is_used"), [(40, True), (90, False)])
def test_sockets_are_where_temporary_files_go(monkeypatch: pytest.MonkeyPatch, length: int, is_used: bool) -> None:
    """TMPDIR says where, unless a socket there would have too long a path."""
    with tempfile.TemporaryDirectory(prefix="fh", dir="/tmp") as short:
        folder = Path(short) / ("x" * (length - len(short)))
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        assert folder_for_sockets() == (str(folder) if is_used else short.rpartition("/")[0])


def test_docker_runs_no_ssh_of_its_own(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a socket, and each of its connections is an ssh with our options: no script has to be executable."""
    monkeypatch.setenv("DOCKER_CONTEXT", "there")
    docker.add("ssh").answer("context inspect", "ssh://me@[fd00::2]:2222\n").answer("docker version", "28.0.0\n")
    docker.answer("^ssh .* -G", "hostname fd00::2\nport 2222\n").answer("dial-stdio", "the engine's answer")

    with connection({}) as host:
        assert host == "fd00::2"
        assert "DOCKER_CONTEXT" not in os.environ
        path = os.environ["DOCKER_HOST"].removeprefix("unix://")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert client.makefile().read() == "the engine's answer"
        made = [file for file in Path(path).parent.rglob("*") if file.is_file()]
        assert not [file for file in made if file.stat().st_mode & 0o111]

    (command,) = [call for call in docker.called("ssh") if call[-1] == "docker system dial-stdio"]
    assert "StrictHostKeyChecking=yes" in command
    assert command[-4:-1] == ["-p", "2222", "me@fd00::2"]
    assert os.environ["DOCKER_CONTEXT"] == "there"
    assert not Path(path).parent.exists()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@", "host key is not the known one: nothing was sent"),
        ("Warning\r\nHost key verification failed.\r\n", r"nothing was sent \(Host key verification failed\.\)"),
        ("deploy@h: Permission denied (publickey).", "does not accept our key; add the public key to its"),
        ("ssh: connect to host h port 22: No route to host", "it cannot be reached"),
        ("sh: docker: not found", r"no Docker Engine answers \(sh: docker: not found\)"),
        ("", r"no Docker Engine answers \(error during connect: EOF\)"),
    ],
)
def test_why_a_host_does_not_answer(docker: Programs, tmp_path: Path, said: str, says: str) -> None:
    """In words, with ssh's own."""
    docker.answer("docker version", err="error during connect: EOF\n", status=1)
    tunnel = Tunnel(tmp_path / "docker.sock", [])
    tunnel.errors.write_text(said, "utf-8")

    with pytest.raises(Failure, match=rf"^ssh://deploy@h: .*{says}"):
        check("ssh://deploy@h", tunnel)


def test_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with what to install."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with (
        pytest.raises(Failure, match="there is no ssh command; install openssh-client"),
        connection({"DEPLOY_HOST": "h", "DEPLOY_KNOWN_HOSTS": "h ssh-ed25519 A"}),
    ):
        pass
