"""Making a machine a place to deploy to, decided without one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import prepare_host
from lib.command import Failure, UsageError
from prepare_host import (
    Target,
    authorized,
    engine_version,
    here_command,
    known_hosts,
    make_key,
    parse_target,
    scripts_archive,
    swarm_command,
    what_to_set,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDeploy friendlyhello deploy"


@pytest.mark.parametrize(
    ("text", "expected", "known_as"),
    [
        ("root@host.example.com", Target("root", "host.example.com", ""), "host.example.com"),
        ("host", Target("", "host", ""), "host"),
        ("me@192.0.2.1:2222", Target("me", "192.0.2.1", "2222"), "[192.0.2.1]:2222"),
        ("me@host:22", Target("me", "host", "22"), "host"),
    ],
)
def test_target(text: str, expected: Target, known_as: str) -> None:
    """User, host and port; ssh keeps the key of another port under another name."""
    assert parse_target(text) == expected
    assert expected.known_as == known_as


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "host;rm", "$(x)", "me@", "host:", "host:999999", "a@b@c"]
)
def test_a_target_cannot_be_an_option_or_a_command(text: str) -> None:
    """What ssh or a shell could take for something else is refused."""
    with pytest.raises(UsageError, match="is not a host"):
        parse_target(text)


def test_ssh_never_takes_a_new_key() -> None:
    """The exact command, whatever ssh's own configuration says."""
    assert Target("me", "h", "2222").ssh == ["ssh", "-o", "StrictHostKeyChecking=yes", "-p", "2222", "me@h"]
    assert Target("", "h", "").ssh == ["ssh", "-o", "StrictHostKeyChecking=yes", "h"]


def test_here_command() -> None:
    """What runs on the host: through sudo where one is not root, and the token in a file."""
    plain = here_command("/x", KEY, "", "", dry_run=False, root=True)
    assert plain == ["python3", "/x/prepare_host.py", "--here", "--authorize", KEY]
    joining = here_command("/x", KEY, "SWMTKN-secret", "192.0.2.1:2377", dry_run=True, root=False)
    assert joining[:2] == ["sudo", "--non-interactive"]
    assert joining[-5:] == ["--join", "192.0.2.1:2377", "--token-file", "/x/token", "--dry-run"]
    assert "SWMTKN-secret" not in joining


def test_the_archive_has_what_runs_there() -> None:
    """The scripts that the host needs, and the token, readable by nobody else."""
    with tarfile.open(fileobj=io.BytesIO(scripts_archive("SWMTKN-secret"))) as archive:
        names = archive.getnames()
        token = archive.extractfile("token")
        assert token is not None
        assert token.read() == b"SWMTKN-secret"
        assert archive.getmember("token").mode == 0o600
    assert {"prepare_host.py", "engine.py", "lib/command.py", "lib/standin.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_swarm_command() -> None:
    """A first host makes a Swarm, a second one joins it."""
    assert swarm_command("", "") == ["docker", "swarm", "init"]
    assert swarm_command("t", "192.0.2.1:2377") == ["docker", "swarm", "join", "--token", "t", "192.0.2.1:2377"]


def test_the_deploy_key_can_only_deploy() -> None:
    """It is written once, restricted to the engine, and other keys stay."""
    line = f'restrict,command="docker system dial-stdio" {KEY}\n'
    assert authorized("", KEY) == line
    assert authorized(line, KEY) == line
    assert authorized("ssh-rsa AAAA other\n\n", KEY) == f"ssh-rsa AAAA other\n{line}"
    assert authorized(KEY + "\n", KEY) == line


@pytest.mark.parametrize(("text", "major"), [("26.1.5+dfsg1\n", 26), ("20.10.24", 20), ("", 0), ("dev", 0)])
def test_engine_version(text: str, major: int) -> None:
    """The major number is what counts."""
    assert engine_version(text) == major


def test_what_to_set_never_prints_the_key() -> None:
    """The variables are printed, the secret's file is only named."""
    text = what_to_set(Target("root", "host", "2222"), "[host]:2222 ssh-ed25519 AAAA", Path("/k/deploy"))
    assert "gh variable set DEPLOY_HOST --body deploy@host:2222\n" in text
    assert "gh variable set DEPLOY_KNOWN_HOSTS --body '[host]:2222 ssh-ed25519 AAAA'\n" in text
    assert "gh secret set DEPLOY_SSH_KEY < /k/deploy\n" in text
    assert "python3 scripts/prepare_host.py root@OTHER --join root@host" in text


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The second time, the same key is used."""
    first = make_key(tmp_path / "ssh" / "deploy")
    assert first.startswith("ssh-ed25519 ")
    assert make_key(tmp_path / "ssh" / "deploy") == first
    assert (tmp_path / "ssh/deploy").stat().st_mode & 0o077 == 0


def test_an_unknown_host_is_not_trusted() -> None:
    """The sentence says how to get to know it."""
    with pytest.raises(Failure, match=r"host key of \[nobody\.invalid\]:2222 is not known here; run ssh"):
        known_hosts(Target("", "nobody.invalid", "2222"))


def test_dry_run_on_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine it says that it would install one, and does nothing."""
    monkeypatch.setattr("engine.answers", lambda: False)
    assert prepare_host.main(["--here", "--dry-run", "--authorize", KEY]) == 0
    assert "would install the Docker Engine" in capsys.readouterr().err


def test_an_old_engine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that was there is not replaced, and the sentence says what is needed."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 20.10.24\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Failure, match=r"the engine there is 20\.10\.24, and 25 or newer is needed"):
        prepare_host.main(["--here", "--dry-run", "--authorize", KEY])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "which machine"),
        (["--here", "--authorize", 'ssh-ed25519 AAAA "quoted"'], "expected an SSH public key"),
        (["--here", "--authorize", ""], "expected an SSH public key"),
        (["a b"], "is not a host"),
    ],
)
def test_usage(argv: list[str], says: str) -> None:
    """A mistake is a sentence."""
    with pytest.raises(UsageError, match=says):
        prepare_host.main(argv)
