"""What a job's summary and a release's notes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import announce_release
import summarize
from lib.command import Failure, UsageError
from lib.names import Commit, ImageName, Version
from lib.release import Verified
from support.hub import Hub, honest

SHA = "0123456789abcdef0123456789abcdef01234567"
DIGEST = f"sha256:{'a' * 64}"
IMAGE = ImageName("", "octo", "hello")
STAGES = '{"name": "Build image", "seconds": 1.5, "ok": true}\n\n{"name": "Push image", "seconds": 20.0, "ok": false}\n'


def test_stage_table() -> None:
    """Each stage with its seconds; the one that failed is marked."""
    table = summarize.stage_table(summarize.stages_in(STAGES))
    assert table.splitlines()[2:] == ["| Build image | 1.5 |", "| Push image **failed** | 20.0 |"]
    assert summarize.stage_table([]) == ""


def test_way_ends_where_it_failed() -> None:
    """The picture follows the digest from the commit to the stage that failed."""
    picture = summarize.way(SHA, DIGEST, [*summarize.stages_in(STAGES), {"name": "Never", "ok": True, "seconds": 1}])
    assert 'commit(["commit 0123456"])' in picture
    assert 'commit --> s1["Build image<br/>sha256:aaaaaaaaaaaa…"]' in picture
    assert 's1 --> s2["Push image<br/>failed"]' in picture
    assert "Never" not in picture


def test_commands_and_sizes() -> None:
    """What to copy to run it, and what it weighs."""
    assert f"docker run --rm -p 4000:80 octo/hello:{SHA}" in summarize.commands(
        IMAGE, DIGEST, f"docker run --rm -p 4000:80 octo/hello:{SHA}"
    )
    assert f"docker pull octo/hello@{DIGEST}" in summarize.commands(
        IMAGE, DIGEST, f"docker run --rm -p 4000:80 octo/hello:{SHA}"
    )
    assert "| linux/arm64 | 1.2 MB |" in summarize.size_table({"linux/arm64": 1_234_567})


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"ATTESTED": "success"}, "Attested: how it was built, and that it passed its tests."),
        ({"ATTESTED": "failure"}, "Not attested, so not published: run the failed jobs again."),
        ({"ATTESTED": "skipped", "PRIVATE": "true"}, "Recorded in a check run of the commit: GitHub attests"),
        ({"ATTESTED": "skipped", "PRIVATE": "false"}, ""),
        ({}, ""),
    ],
)
def test_whether_it_is_attested(env: dict[str, str], sentence: str) -> None:
    """A run that publishes says whether the image was attested; a failure is never silent."""
    said = summarize.attested(env)
    assert said.startswith(sentence)
    assert bool(said) is bool(sentence)


def test_failed_login_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The login is an action's step: its failure is put into one sentence here."""
    monkeypatch.setattr(summarize, "STATE", tmp_path)
    monkeypatch.setattr(summarize, "checked_out", lambda: Commit(SHA, False, 0, "hello", ""))
    (tmp_path / "stages.jsonl").write_text(STAGES, "utf-8")
    for name, value in {"LOGIN": "failure", "DIGEST": DIGEST, "DOCKERHUB_USERNAME": "octo", "REGISTRY": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PUBLISHED", raising=False)
    with pytest.raises(Failure, match=r"cannot log in to Docker Hub as 'octo'.*DOCKERHUB_TOKEN"):
        summarize.main([])
    assert f"Digest: `{DIGEST}`" in capsys.readouterr().out


def test_sizes(hub: Hub) -> None:
    """What a pull of each platform weighs."""
    hub.put("1", honest(SHA, ["linux/amd64"]))
    assert summarize.sizes_of(f"{hub.host}/octo/hello:1") == {"linux/amd64": len('"a layer of linux/amd64"')}


@pytest.mark.usefixtures("no_pause")
def test_missing_sizes_do_not_fail(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry that does not say leaves the sizes out."""
    hub.errors = [503] * 5
    assert summarize.sizes_of(f"{hub.host}/octo/hello:1") == {}
    assert f"no sizes: cannot ask the registry about {hub.host}/octo/hello: it says 503" in capsys.readouterr().err


def test_notes() -> None:
    """A release's notes have all that a user needs to pull this and no other."""
    platforms = {"linux/arm64": DIGEST, "linux/amd64": DIGEST}
    text = announce_release.notes(Version(1, 2, 3), Verified(IMAGE, DIGEST, SHA, platforms), "docker run it")
    assert text.startswith("```sh\ndocker run it\n```\n")
    assert "docker pull octo/hello:1.2.3" in text
    assert f"docker pull octo/hello@{DIGEST}" in text
    assert "| platforms | linux/amd64, linux/arm64 |" in text


@pytest.mark.parametrize(
    ("version", "latest", "flags"),
    [
        (Version(1, 2, 3), True, ["--latest=true"]),
        (Version(1, 1, 9), False, ["--latest=false"]),
        (Version(1, 3, 0, "rc.1"), False, ["--prerelease", "--latest=false"]),
    ],
)
def test_release_command(version: Version, latest: bool, flags: list[str]) -> None:
    """A pre-release is marked as one, and a back-port does not become GitHub's latest."""
    assert announce_release.create_command(version, "octo/hello", "notes.md", latest) == [
        *("gh", "release", "create", f"v{version}", "--repo", "octo/hello", "--verify-tag"),
        *("--title", str(version), "--notes-file", "notes.md", "--generate-notes", *flags),
    ]


FACTS = {"digest": DIGEST, "platforms": {"linux/amd64": DIGEST}, "latest": True}


def test_what_was_promoted_is_announced() -> None:
    """What the job that publishes hands on is all that the announcement needs: its job has no login."""
    found, is_latest = announce_release.handed_on(json.dumps(FACTS), IMAGE, SHA)
    assert (found, is_latest) == (Verified(IMAGE, DIGEST, SHA, {"linux/amd64": DIGEST}), True)


@pytest.mark.parametrize(
    "facts",
    ["{", "[]", "null", "{}", json.dumps({**FACTS, "digest": "latest"}), json.dumps({**FACTS, "platforms": [DIGEST]})],
)
def test_what_was_not_promoted_is_not_announced(facts: str) -> None:
    """Anything else is named."""
    with pytest.raises(UsageError):
        announce_release.handed_on(facts, IMAGE, SHA)
