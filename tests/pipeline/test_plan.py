"""What a run may do, decided before it does anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plan
from lib import distribution, release
from lib.command import Failure, UsageError, run
from lib.names import Commit, ImageName, Version
from support.hub import BOTH, Hub, honest

SET = {"DOCKERHUB_USERNAME": "octo", "HAS_TOKEN": "true"}
MAIN = {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main"}
SHA = "0123456789abcdef0123456789abcdef01234567"


def decide(**env: str) -> plan.Plan:
    return plan.decide(env, "Hello-World")


def test_main_is_published() -> None:
    """A push to main, with a name and a token set, is published under the repository's name."""
    decided = decide(**MAIN, **SET)
    assert decided.image == ImageName("", "octo", "hello-world")
    assert decided.version is None


@pytest.mark.parametrize("event", ["pull_request", "pull_request_target"])
def test_pull_requests_are_not(event: str) -> None:
    """A pull request is never published, even if everything is set, and a wrong setting does not fail it."""
    env = {**MAIN, **SET, "GITHUB_EVENT_NAME": event, "DOCKERHUB_USERNAME": "NOT A NAME"}
    assert decide(**env).image is None


@pytest.mark.parametrize("ref", ["refs/heads/topic", "refs/heads/main2", "refs/pull/1/merge", ""])
def test_other_branches_are_not(ref: str) -> None:
    """Only main is published."""
    assert decide(**{**MAIN, **SET, "GITHUB_REF": ref}).image is None


def test_nothing_set() -> None:
    """If nothing is set, nothing is wrong: the run only tests."""
    assert decide(**MAIN) == plan.Plan(None, None, "")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DOCKERHUB_USERNAME": ""}, "DOCKERHUB_USERNAME is not"),
        ({"DOCKERHUB_USERNAME": "Octo"}, "DOCKERHUB_USERNAME is 'Octo'"),
        ({"IMAGE_REPOSITORY": "a b"}, "IMAGE_REPOSITORY is 'a b'"),
        ({"REGISTRY": "ghcr.io/octo"}, "REGISTRY is 'ghcr.io/octo'"),
    ],
)
def test_a_wrong_setting(changes: dict[str, str], named: str) -> None:
    """What is set by half or wrongly is named."""
    with pytest.raises(UsageError, match=named):
        decide(**{**MAIN, **SET, **changes})


@pytest.mark.parametrize(
    ("tag", "version"),
    [("v1.2.3", Version(1, 2, 3)), ("v1.3.0-rc.1", Version(1, 3, 0, "rc.1")), ("v0.0.1", Version(0, 0, 1))],
)
def test_version_tags(tag: str, version: Version) -> None:
    """A tag v1.2.3 is that version, and its commit is published."""
    decided = decide(**{**MAIN, **SET, "GITHUB_REF": f"refs/tags/{tag}"})
    assert decided.version == version
    assert decided.image is not None


@pytest.mark.parametrize(
    "tag",
    ["1.2.3", "v1.2", "v1.2.3.4", "v1.02.3", "v1.2.3+1", "vx.y.z", "v1.2.3-", "v\N{FULLWIDTH DIGIT ONE}.2.3", "v"],
)
def test_other_tags_are_refused(tag: str) -> None:
    """A tag that is not a semantic version is refused, even if nothing is set."""
    with pytest.raises(UsageError, match="is not a version"):
        decide(**{**MAIN, "GITHUB_REF": f"refs/tags/{tag}"})


def test_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release has to be in main's history; a repository without main says what to run."""
    monkeypatch.setattr(release, "ROOT", tmp_path)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        return run(["git", "-C", str(tmp_path), *identity, *arguments]).stdout.strip()

    git("init", "--quiet", "--initial-branch", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    first = git("rev-parse", "HEAD")
    with pytest.raises(Failure, match=r"cannot fetch the history of main: .*; run git fetch origin main"):
        plan.check_history("v1.0.0", first)
    git("remote", "add", "origin", str(tmp_path))
    plan.check_history("v1.0.0", first)
    git("checkout", "--quiet", "-b", "topic")
    git("commit", "--quiet", "--allow-empty", "--message", "two")
    with pytest.raises(Failure, match="not in the history of main"):
        plan.check_history("v1.0.0", git("rev-parse", "HEAD"))


@pytest.fixture
def docker_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Docker Hub, with one image."""
    monkeypatch.setattr(distribution, "HUB", hub.host)
    hub.put(SHA, honest(SHA))
    return hub


def event(tmp_path: Path, content: object) -> dict[str, str]:
    """The environment of a run that such an event started."""
    (tmp_path / "event.json").write_text(json.dumps(content), "utf-8")
    return {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}


PRIVATE: dict[str, object] = {"repository": {"private": True}}
PUBLIC: dict[str, object] = {"repository": {"private": False}}
HELLO = ImageName("", "octo", "hello")


MADE = r"the first push would make octo/hello on Docker Hub public; create it .* IMAGE_VISIBILITY to private, or"
SHOWN = "IMAGE_VISIBILITY is private, but everybody may pull octo/hello from Docker Hub"


@pytest.mark.parametrize(
    ("content", "visibility", "image", "hidden", "says"),
    [
        (PRIVATE, "", HELLO, True, MADE),
        (PRIVATE, "", HELLO, False, MADE),
        (PRIVATE, "private", HELLO, True, ""),
        (PRIVATE, "private", HELLO, False, SHOWN),
        (PRIVATE, "public", HELLO, False, ""),
        (PRIVATE, "public", HELLO, True, ""),
        (PRIVATE, "secret", HELLO, True, "IMAGE_VISIBILITY is 'secret', expected private or public"),
        (PRIVATE, "", ImageName("ghcr.io", "octo", "hello"), True, ""),
        (PUBLIC, "", HELLO, True, ""),
        ({}, "", HELLO, True, MADE),
        ([], "", HELLO, True, MADE),
    ],
)
def test_a_private_repository_and_a_public_image(
    docker_hub: Hub, tmp_path: Path, content: object, visibility: str, image: ImageName, hidden: bool, says: str
) -> None:
    """What is private on GitHub does not become public on Docker Hub, unless that is wanted."""
    docker_hub.private = hidden
    env = {**event(tmp_path, content), "IMAGE_VISIBILITY": visibility}
    if says:
        with pytest.raises(Failure, match=says):
            plan.check_visibility(image, env)
    else:
        plan.check_visibility(image, env)


def test_a_private_repository_outside_github(docker_hub: Hub) -> None:
    """Nobody knows on a laptop, and whoever pushes from there knows what it is."""
    plan.check_visibility(HELLO, {})
    assert docker_hub.requests == []


def test_an_event_that_cannot_be_read(tmp_path: Path) -> None:
    """A failure, and not a guess."""
    with pytest.raises(Failure, match="cannot read the event that started this run"):
        plan.check_visibility(HELLO, {"GITHUB_EVENT_PATH": str(tmp_path / "nothing")})


def test_what_is_published(hub: Hub, monkeypatch: pytest.MonkeyPatch, no_pause: list[float]) -> None:
    """A published commit is used again if it is what it says; else the run stops, or builds."""
    monkeypatch.setattr(release, "in_main", lambda commit, env: commit == SHA)
    monkeypatch.setenv("PLATFORMS", " ".join(BOTH))
    image = ImageName(hub.host, "octo", "hello")
    assert plan.published(image, SHA) == ""
    digest = hub.put(SHA, honest(SHA))
    assert plan.published(image, SHA) == digest
    hub.errors = [503] * 5
    assert plan.published(image, SHA) == "", "no answer before the login is not a failure"
    hub.private = True
    assert plan.published(image, SHA) == "", "a private image looks like none"
    hub.private = False
    hub.tags[SHA] = []
    hub.put(SHA, honest("f" * 40))
    with pytest.raises(Failure, match="has the revision label"):
        plan.published(image, SHA)


def test_a_token_of_the_environment_alone() -> None:
    """A token that is set for the environment `publish` only is not seen here, and published with all the same."""
    assert decide(**{**MAIN, **SET, "HAS_TOKEN": "false"}).image is not None


HOSTED = {"RUNNER_ENVIRONMENT": "github-hosted", "GITHUB_ACTIONS": "true"}


@pytest.mark.parametrize(
    ("env", "private", "platforms", "emulated"),
    [
        (HOSTED, False, BOTH, False),
        (HOSTED, True, BOTH, True),
        ({"RUNNER_ENVIRONMENT": "self-hosted"}, False, BOTH, True),
        ({}, False, BOTH, True),
        ({**HOSTED, "EMULATE": "true"}, False, BOTH, True),
        ({**HOSTED, "EMULATE": "false"}, True, BOTH, False),
        ({"EMULATE": "false"}, False, BOTH, False),
        (HOSTED, False, ("linux/amd64",), True),
        (HOSTED, False, ("linux/arm64",), True),
        (HOSTED, False, ("linux/amd64", "linux/arm64", "linux/s390x"), False),
    ],
    ids=["public", "private", "self-hosted", "laptop", "on", "off", "off at home", "amd64", "arm64", "more"],
)
def test_where_arm64_is_tested(
    env: dict[str, str], private: bool, platforms: tuple[str, ...], emulated: bool, tmp_path: Path
) -> None:
    """On a machine of its own for a public repository on GitHub, else emulated; EMULATE decides otherwise."""
    event = tmp_path / "event.json"
    event.write_text(f'{{"repository": {{"private": {"true" if private else "false"}}}}}', "utf-8")
    assert plan.emulates({**env, "GITHUB_EVENT_PATH": str(event)}, platforms) is emulated


@pytest.mark.parametrize("value", ["yes", "True", "1", " "])
def test_emulate_is_true_or_false(value: str) -> None:
    """Anything else is named."""
    with pytest.raises(UsageError, match=f"the variable EMULATE is {value!r}, expected true or false"):
        plan.emulates({"EMULATE": value}, BOTH)


def test_what_to_set_leads_there() -> None:
    """The summary links to the page where variables and secrets are set."""
    text = plan.what_to_set("https://github.com/octo/hello")
    assert "(https://github.com/octo/hello/settings/secrets/actions)" in text
    assert "| secret | `DOCKERHUB_TOKEN` |" in text
    assert "](" not in plan.what_to_set("")


def test_nothing_set_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On GitHub, a run with nothing set has a notice and a summary, and hands on that nothing is published."""
    for name in ("DOCKERHUB_USERNAME", "HAS_TOKEN", "IMAGE_REPOSITORY", "REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**MAIN, "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "octo/hello"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setattr(plan, "checked_out", lambda: Commit(SHA, False, 0, "hello", "https://github.com/octo/hello"))
    assert plan.main([]) == 0
    assert "::notice::tested, not published" in capsys.readouterr().out
    assert "octo/hello/settings/secrets/actions" in (tmp_path / "summary").read_text("utf-8")
    assert "publish=false\nbuild=true\n" in (tmp_path / "output").read_text("utf-8")
