"""The scripts that name published images, against a real registry, without a workflow around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import announce_release
import plan
import promote_image
import summarize
from lib import registry, release
from lib.command import Failure
from lib.names import Commit, ImageName
from workflows.act import HERE, SLUG, Scenario


@pytest.fixture
def here(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scenario:
    """A scenario whose repository and registry the scripts see as their own, logged in."""
    host, username, repository = scenario.image.split("/")
    for name, value in {
        **scenario.engine,
        "REGISTRY": host,
        "DOCKERHUB_USERNAME": username,
        "IMAGE_REPOSITORY": repository,
        "DOCKER_CONFIG": str(scenario.docker_config),
        "GITHUB_REPOSITORY": SLUG,
        "SCENARIO_FOLDER": str(scenario.folder),
        "HAS_TOKEN": "true",
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(HERE / "bin"), prepend=":")
    auth = scenario.front.reader.split()[1]
    (scenario.docker_config / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}), "utf-8")
    for module in (promote_image, announce_release, plan, summarize, release):
        monkeypatch.setattr(module, "STATE", tmp_path / "build", raising=False)
        monkeypatch.setattr(module, "ROOT", scenario.clone, raising=False)
        monkeypatch.setattr(module, "checked_out", lambda: Commit(scenario.sha, False, 0, "hello", ""), raising=False)
    (tmp_path / "build").mkdir()
    return scenario


def test_promote(here: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    """A version's names are put on the commit's digest, and said; a second time nothing moves."""
    digest = here.put(here.sha, here.sha)
    assert promote_image.main(["1.2.3", "--digest", digest, "--dry-run"]) == 0
    assert here.tags == {here.sha}
    assert promote_image.main(["1.2.3", "--digest", digest]) == 0
    assert here.tags == {here.sha, "1.2.3", "1.2", "1", "latest"}
    assert f"latest: new -> {digest}" in capsys.readouterr().out
    assert promote_image.main(["1.2.3"]) == 0
    assert f"latest: stays at {digest}" in capsys.readouterr().out
    assert {here.digest(tag) for tag in here.tags} == {digest}


def test_a_version_that_nobody_released(here: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    """A higher version in the registry that has no Git tag does not keep latest from moving."""
    planted = here.put("999.0.0", released=False)
    digest = here.put(here.sha, here.sha)
    assert promote_image.main(["1.2.3"]) == 0
    assert here.digest("latest") == digest
    assert here.digest("999.0.0") == planted
    assert "ignoring 999.0.0 in the registry: there is no Git tag v999.0.0" in capsys.readouterr().err


def test_promote_edge(here: Scenario) -> None:
    """Edge goes to this commit, then forward to a newer one that others pushed, never back."""
    old = here.sha
    first = here.put(old, old)
    promote_image.main(["edge"])
    assert here.digest("edge") == first
    new = here.commit()
    second = here.put(new, new)
    here.git("checkout", "--quiet", old)
    promote_image.main(["edge"])
    assert here.digest("edge") == second


def test_another_digest_is_refused(here: Scenario) -> None:
    """The digest that was handed on has to be the one that is published for this commit."""
    with pytest.raises(Failure, match=r"run python3 scripts/push_image.py first"):
        promote_image.main(["1.2.3"])
    here.put(here.sha, here.sha)
    with pytest.raises(Failure, match="refusing to continue with a different image"):
        promote_image.main(["1.2.3", "--digest", here.put("other")])
    assert here.tags == {here.sha, "other"}


def test_a_registry_that_changes_it(here: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag that gets another digest than it was given is an error, not a release."""
    digest = here.put(here.sha, here.sha)
    other = here.put("other")
    put_tag = registry.put_tag
    monkeypatch.setattr(promote_image, "put_tag", lambda image, _digest, tag: put_tag(image, other, tag))
    with pytest.raises(Failure, match=f"is {other}, but {digest} was tested"):
        promote_image.main(["1.2.3"])


def test_announce(here: Scenario, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A release is made once; a dry run shows its notes."""
    with pytest.raises(Failure, match=r"run python3 scripts/promote_image.py 1.2.3 first"):
        announce_release.main(["1.2.3"])
    digest = here.put("1.2.3", here.sha)
    assert announce_release.main(["1.2.3", "--dry-run"]) == 0
    assert digest in capsys.readouterr().out
    assert here.calls == []
    announce_release.main(["1.2.3"])
    announce_release.main(["1.2.3"])
    assert [call[1] for call in here.calls] == ["view", "create", "view"]
    assert "--latest=false" in here.calls[1], "latest is not this image"
    monkeypatch.delenv("GITHUB_REPOSITORY")
    with pytest.raises(Failure, match="GITHUB_REPOSITORY is not set"):
        announce_release.main(["1.2.3"])


def test_what_is_published(here: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A published commit is used again where it is what it says; else the run stops, or builds."""
    host, username, repository = here.image.split("/")
    image = ImageName(host, username, repository)
    assert plan.published(image, here.sha) == ""
    assert plan.main([]) == 0
    assert f"subject={here.image}\n" in (tmp_path / "output").read_text("utf-8")
    here.put(here.sha)
    with pytest.raises(Failure, match="is not an image index with platforms"):
        plan.published(image, here.sha)
    digest = here.put(here.sha, here.sha)
    assert plan.published(image, here.sha) == digest
    assert plan.main([]) == 0
    assert f"build=false\ndigest={digest}\n" in (tmp_path / "output").read_text("utf-8")


def test_no_answer(here: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is silent before the login does not fail the run: the commit is built, and asked for again."""
    host, username, repository = here.image.split("/")
    here.front.down = True
    monkeypatch.setattr("lib.registry.time.sleep", lambda _seconds: None)
    assert plan.published(ImageName(host, username, repository), here.sha) == ""


def test_summary_of_what_is_published(here: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published image's summary says how to pull it; sizes that nobody knows are left out."""
    digest = here.put(here.sha, here.sha)
    monkeypatch.setenv("DIGEST", digest)
    monkeypatch.setenv("PUBLISHED", "true")
    printed: list[str] = []
    monkeypatch.setattr(summarize, "add_summary", printed.append)
    assert summarize.main([]) == 0
    assert f"docker pull {here.image}@{digest}" in printed[0]
