"""Setting on GitHub what the workflows need: with stand-ins for gh and for Docker Hub."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import configure_github
import doctor
from configure_github import environment, main, parse_settings, same
from conftest import need
from lib import access
from lib.command import Failure, UsageError, run
from lib.gh import find, rulesets
from support.copies import git, repository
from support.github import ACTIONS, GitHubStandIn, fresh
from support.github_http import GitHubOverHTTP
from support.programs import Programs
from support.rights import RightsStandIn

TOKEN = "dckr_pat_not-to-be-seen"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnot-to-be-seen\n-----END OPENSSH PRIVATE KEY-----\n"
RULESETS = rulesets(ACTIONS)
POLICIES = [["branch", "main"], ["tag", "v*"]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, docker_config: Path) -> Iterator[RightsStandIn]:
    """A stand-in for Docker Hub that takes the token of octo."""
    with RightsStandIn() as made:
        made.users = {f"octo:{TOKEN}": ["pull", "push"]}
        monkeypatch.setattr(access, "HUB", made.host)
        yield made


@pytest.fixture
def github(tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> GitHubStandIn:
    """A fresh repository on GitHub, and its clone."""
    root = repository(tmp_path / "clone", {"a": "a"})
    git(root, "remote", "add", "origin", "git@github.com:octo/hello.git")
    monkeypatch.setattr(configure_github, "ROOT", root)
    programs.add("ssh-keygen").answer("-F hello.example.org", "hello.example.org ssh-ed25519 AAAAHost\n")
    (tmp_path / "known_hosts").touch()
    settings = f"hostname hello.example.org\nport 22\nuserknownhostsfile {tmp_path}/known_hosts\n"
    programs.add("ssh").answer("^ssh -G", settings)
    return GitHubStandIn(tmp_path / "github", programs.bin)


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Give something on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_all_of_it(
    github: GitHubStandIn,
    hub: RightsStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One command sets everything; the same once more sets only the secrets, which nobody can compare."""
    key = tmp_path / "key"
    key.write_text(KEY, "utf-8")
    command = ["DOCKERHUB_USERNAME=octo", "PLATFORMS=linux/amd64", "--token", "--host", "root@hello.example.org"]
    give(monkeypatch, f"{TOKEN}\n")
    assert main([*command, "--key", str(key)]) == 0
    state = github.read()
    assert state["variables"] == {
        "": {"DOCKERHUB_USERNAME": "octo", "PLATFORMS": "linux/amd64"},
        "production": {
            "DEPLOY_HOST": "deploy@hello.example.org",
            "DEPLOY_KNOWN_HOSTS": "hello.example.org ssh-ed25519 AAAAHost",
        },
    }
    assert state["secrets"] == {"": {}, "publish": {"DOCKERHUB_TOKEN": TOKEN}, "production": {"DEPLOY_SSH_KEY": KEY}}
    assert {name: place["policies"] for name, place in state["environments"].items()} == {
        "publish": POLICIES,
        "production": POLICIES,
    }
    assert [rule["name"] for rule in state["rulesets"]] == [rule["name"] for rule in RULESETS]
    first = len(github.changes)
    give(monkeypatch, TOKEN)
    assert main([*command, "--key", str(key)]) == 0
    assert [words[:3] for words in github.changes[first:]] == [
        ["secret", "set", "DOCKERHUB_TOKEN"],
        ["secret", "set", "DEPLOY_SSH_KEY"],
    ]
    assert github.read() == state
    assert main([]) == 0
    said = capfd.readouterr()
    assert said.out.splitlines()[-1] == "octo/hello: nothing to set"
    for secret in (TOKEN, "not-to-be-seen"):
        assert secret not in said.out + said.err
        assert secret not in json.dumps([call["words"] for call in github.calls]), "a list of processes shows it"
        assert not [request for request in hub.requests if secret in request]


def test_dry_run(github: GitHubStandIn, hub: RightsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--dry-run asks and tries the token, and sets nothing."""
    (tmp_path / "key").write_text(KEY, "utf-8")
    give(monkeypatch, TOKEN)
    words = ["--dry-run", "DOCKERHUB_USERNAME=octo", "--token", "--host", "hello.example.org"]
    assert main([*words, "--key", str(tmp_path / "key")]) == 0
    assert github.changes == []
    assert hub.requests


@pytest.mark.parametrize(
    ("users", "token", "sentence"),
    [
        ({}, TOKEN, "does not take this token for octo"),
        ({f"octo:{TOKEN}": ["pull"]}, TOKEN, "may not push octo/hello; make one with the permission Read & Write"),
        ({f"octo:{TOKEN}": ["pull", "push"]}, "", "standard input has no token"),
        ({f"octo:{TOKEN}": ["pull", "push"]}, f"{TOKEN} {TOKEN}", "standard input has no token"),
    ],
)
def test_bad_token(
    github: GitHubStandIn,
    hub: RightsStandIn,
    monkeypatch: pytest.MonkeyPatch,
    users: dict[str, list[str]],
    token: str,
    sentence: str,
) -> None:
    """A token that could not publish is refused before anything is set, in a sentence without it."""
    hub.users = users
    give(monkeypatch, token)
    with pytest.raises(Failure, match=sentence) as failure:
        main(["DOCKERHUB_USERNAME=octo", "--token"])
    assert TOKEN not in str(failure.value)
    assert github.changes == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["DOCKERHUB_TOKEN=x"], "DOCKERHUB_TOKEN is a secret, and no command line may show it"),
        (["DOCKER_USERNAME=x"], "'DOCKER_USERNAME' is not NAME=value of a variable.*DOCKERHUB_USERNAME"),
        (["DOCKERHUB_USERNAME"], "'DOCKERHUB_USERNAME' is not NAME=value"),
        (["DOCKERHUB_USERNAME=Octo"], "'Octo', which is not an account name"),
        (["PLATFORMS=amd64"], "PLATFORMS has 'amd64' in it"),
        (["EDGE_PORT=http"], "EDGE_PORT is 'http'"),
        (["DOMAIN=https://x"], "DOMAIN is 'https://x'"),
        (["DEPLOY_URL=x"], "DEPLOY_URL is 'x'"),
        (["REPLICAS=0"], "REPLICAS is '0'"),
        (["EMULATE=yes"], "EMULATE is 'yes', expected true or false"),
        (["ATTESTATIONS=1"], "ATTESTATIONS is '1', expected true or false"),
        (["IMAGE_VISIBILITY=secret"], "IMAGE_VISIBILITY is 'secret', expected private or public"),
        (["DOCKERHUB_USERNAME=octo", "REGISTRY=https://ghcr.io"], "REGISTRY is 'https://ghcr.io'"),
        (["--token"], "whose token"),
        (["--host", "https://x"], "--host is 'https://x'"),
    ],
)
def test_bad_words(github: GitHubStandIn, words: list[str], sentence: str) -> None:
    """What cannot be is refused before anything is set, with the name."""
    with pytest.raises(UsageError, match=sentence):
        main(words)
    assert github.changes == []


@pytest.mark.parametrize("said", ["incorrect passphrase supplied to decrypt private key", "invalid format"])
def test_a_key_that_cannot_be_used(github: GitHubStandIn, programs: Programs, tmp_path: Path, said: str) -> None:
    """A key with a passphrase, or half of one, is refused before anything is set."""
    programs.answer("ssh-keygen -y", err=said, status=255)
    (tmp_path / "key").write_text(KEY, "utf-8")
    with pytest.raises(UsageError, match=r"has a passphrase|is not a private key"):
        main(["--host", "hello.example.org", "--key", str(tmp_path / "key")])
    assert github.changes == []


def test_who_may_not(github: GitHubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason why GitHub cannot be configured is a sentence with the next command."""
    state = github.state
    for change, sentence in (
        ({"repository": {**state["repository"], "permissions": {"admin": False}}}, "gh auth switch"),
        ({"visible": False}, "shows no repository octo/hello"),
        ({"login": False}, "gh is not logged in at github.com; run gh auth login"),
    ):
        github.state = {**state, **change}
        github.keep()
        with pytest.raises(Failure, match=sentence):
            main([])
    github.state = state
    github.keep()
    with pytest.raises(Failure, match=r"there is no key .*prepare_host\.py root@hello\.example\.org first"):
        main(["--host", "root@hello.example.org", "--key", str(tmp_path / "none")])
    git(tmp_path / "clone", "remote", "set-url", "origin", "/somewhere")
    with pytest.raises(Failure, match="origin is /somewhere"):
        main([])
    git(tmp_path / "clone", "remote", "set-url", "origin", "https://github.com/octo/hello")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Failure, match="gh is not installed"):
        main([])


def test_what_is_there_stays(github: GitHubStandIn, capfd: pytest.CaptureFixture[str]) -> None:
    """Approvals and other people's rules stay; a rule of ours that was changed is put right."""
    reviewers = {"type": "required_reviewers", "reviewers": [{"type": "User", "reviewer": {"id": 5}}]}
    github.state["environments"]["production"] = {
        "policies": [],
        "deployment_branch_policy": None,
        "protection_rules": [{"type": "wait_timer", "wait_timer": 10}, {**reviewers, "prevent_self_review": True}],
    }
    github.state["rulesets"] = [
        {"id": 1, "name": "theirs", "target": "branch", "enforcement": "active", "rules": []},
        {"id": 2, **RULESETS[0], "enforcement": "disabled"},
    ]
    github.keep()
    assert main([]) == 0
    state = github.read()
    production = state["environments"]["production"]
    assert (production["wait_timer"], production["reviewers"]) == (10, [{"type": "User", "id": 5}])
    assert production["prevent_self_review"] is True
    assert production["policies"] == POLICIES
    assert [rule["name"] for rule in state["rulesets"]] == ["theirs", RULESETS[0]["name"], RULESETS[1]["name"]]
    assert state["rulesets"][1]["enforcement"] == "active"
    assert "go through a pull request from now on" in capfd.readouterr().err


@pytest.mark.parametrize("app", [ACTIONS, 1234, None])
def test_who_reports_the_check(github: GitHubStandIn, app: int | None) -> None:
    """The app that runs workflows, by the number that this GitHub gives it; anybody if it has no such app."""
    github.state["apps"] = {"apps/github-actions": {"id": app}} if app else {}
    github.keep()
    assert main([]) == 0
    (checks,) = [rule["parameters"] for rule in github.read()["rulesets"][0]["rules"] if "parameters" in rule]
    expected = {"context": "required", **({"integration_id": app} if app else {})}
    assert checks["required_status_checks"] == [expected]


def test_the_rule_for_main_spares_the_first_push() -> None:
    """It keeps nobody from making main, for which no check can have run, and from then on holds for everybody."""
    main_, _ = rulesets(ACTIONS)
    (checks,) = [rule["parameters"] for rule in main_["rules"] if "parameters" in rule]
    assert checks["do_not_enforce_on_create"] is True
    assert "bypass_actors" not in main_


def test_plan_without_rules(github: GitHubStandIn, capfd: pytest.CaptureFixture[str]) -> None:
    """A private repository without rules gets the rest, and the reason."""
    github.state["refuses"] = {"rulesets": [403, "Upgrade to GitHub Pro or make this repository public"]}
    github.keep()
    assert main([]) == 0
    assert "no rules for private repositories" in capfd.readouterr().err
    assert sorted(github.read()["environments"]) == ["production", "publish"]
    github.state["refuses"] = {"rulesets": [403, "Resource not accessible"]}
    github.keep()
    with pytest.raises(Failure, match="Resource not accessible"):
        main([])


def test_plan_without_environments(
    github: GitHubStandIn, hub: RightsStandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A private repository without environments keeps its secrets itself; a public one's failure is a failure."""
    github.state["refuses"] = {"environments": [403, "Upgrade to GitHub Pro or make this repository public"]}
    github.keep()
    with pytest.raises(Failure, match="Upgrade to GitHub Pro"):
        main([])
    github.state["repository"]["private"] = True
    github.keep()
    give(monkeypatch, TOKEN)
    assert main(["DOCKERHUB_USERNAME=octo", "--token"]) == 0
    assert github.read()["secrets"][""] == {"DOCKERHUB_TOKEN": TOKEN}
    assert "no environments for private repositories" in capfd.readouterr().err


def test_asked_in_a_terminal(
    github: GitHubStandIn, hub: RightsStandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a terminal the token is asked for and not shown."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: TOKEN)
    assert main(["DOCKERHUB_USERNAME=octo", "--token"]) == 0
    assert github.read()["secrets"]["publish"] == {"DOCKERHUB_TOKEN": TOKEN}
    assert "Docker Hub takes the token, and it may push octo/hello" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "found", "equal"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 2, "y": 0}, {"x": 1}]}, True),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1}, {"x": 2}]}, False),
        ({"a": [1]}, {"a": None}, False),
        ({"a": 1}, None, False),
    ],
)
def test_same(wanted: object, found: object, equal: bool) -> None:
    """What GitHub adds does not count as a difference; what it lacks or has more of in a list does."""
    assert same(wanted, found) is equal


def test_environment_that_is_new() -> None:
    """Only the policy is sent for one."""
    policy = {"protected_branches": False, "custom_branch_policies": True}
    assert environment({}) == {"deployment_branch_policy": policy}


def test_settings() -> None:
    """A value may have an equals sign in it."""
    assert parse_settings(["A=b=c", "B="], {"A", "B"}, set()) == {"A": "b=c", "B": ""}


@pytest.mark.parametrize(
    ("remote", "slug"),
    [
        ("git@github.com:octo/hello.git", "octo/hello"),
        ("https://token@github.com/octo/hello", "octo/hello"),
        ("ssh://git@github.example.com/octo/hello.git", "octo/hello"),
        ("/somewhere", ""),
        ("", ""),
    ],
)
def test_find(remote: str, slug: str) -> None:
    """The repository is the one that origin names."""
    found = find(remote)
    assert (found.slug if found else "") == slug


def test_with_the_real_gh(
    tmp_path: Path, hub: RightsStandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real gh speaks to a stand-in for GitHub over HTTP: all is set once, and the doctor finds nothing missing."""
    need(bool(shutil.which("gh")), "gh")
    root = repository(tmp_path / "clone", {"service.toml": 'name = "hello"\n'})
    git(root, "remote", "add", "origin", f"https://{GitHubOverHTTP.HOST}/octo/hello.git")
    monkeypatch.setattr(configure_github, "ROOT", root)
    # The path of a socket has at most 107 characters: unix(7).
    with tempfile.TemporaryDirectory(prefix="gh") as short, GitHubOverHTTP(Path(short), fresh()) as github:
        for name, value in github.env.items():
            monkeypatch.setenv(name, value)
        give(monkeypatch, TOKEN)
        assert main(["DOCKERHUB_USERNAME=octo", "--token"]) == 0
        assert github.state["variables"][""] == {"DOCKERHUB_USERNAME": "octo"}
        assert set(github.state["secrets"]["publish"]) == {"DOCKERHUB_TOKEN"}
        assert main(["DOCKERHUB_USERNAME=octo"]) == 0
        assert capfd.readouterr().out.splitlines()[-1] == "octo/hello: nothing to set"
        assert main(["DOCKERHUB_USERNAME=other"]) == 0
        assert github.state["variables"][""] == {"DOCKERHUB_USERNAME": "other"}
        assert TOKEN not in "".join(github.requests), "gh encrypts it"
        world = doctor.World({}, root)
        lines = [line for check in doctor.CHECKS["GitHub"] for line in check(world)]
        assert [line.said for line in lines if line.state in (doctor.MISSING, doctor.WRONG)] == []
        assert len(lines) > 6
        github.state["variables"] |= {"": {"DOCKERHUB_TOKEN": "x"}, "production": {"EDGE_PORT": "http"}}
        world = doctor.World({}, root)
        for fix in (
            doctor.with_variable(world, "EDGE_PORT", "4000"),
            doctor.without_variable(world, "DOCKERHUB_TOKEN"),
        ):
            run(shlex.split(fix))
        assert github.state["variables"][""] == {}
        assert github.state["variables"]["production"] == {"EDGE_PORT": "4000"}
