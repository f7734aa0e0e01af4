"""A Git tag, as the person who pushes it sees it."""

from __future__ import annotations

import pytest

from workflows.act import GREEN, NOT_PUBLISHED, PUBLISHED, RED, Run, Scenario

RELEASED = {**PUBLISHED, "release": "success"}


def release(scenario: Scenario, tag: str) -> Run:
    """Tag the commit that is checked out, as a release, and run the workflow."""
    return scenario.run("release.yml", ref=scenario.tag(tag))


def test_first_release(scenario: Scenario) -> None:
    """The image that main published gets the version's names; it is not built again."""
    assert scenario.run("ci.yml").exit == 0
    digest = scenario.digest(scenario.sha)
    run = release(scenario, "v1.2.3")
    assert (run.exit, run.jobs) == (0, RELEASED)
    assert run.steps.get("Build image", "skipped") == "skipped"
    assert scenario.tags == {scenario.sha, "edge", "1.2.3", "1.2", "1", "latest"}
    assert {scenario.digest(tag) for tag in scenario.tags} == {digest}
    assert f"| `latest` | new | `{digest}` |" in run.summary
    notes = scenario.releases["v1.2.3"]
    assert f":8080 --env GREETING=... {scenario.image}:1.2.3" in notes
    assert f"docker pull {scenario.image}@{digest}" in notes
    assert "| platforms | linux/amd64 |" in notes
    assert "--latest=true" in scenario.announced[-1]
    assert "--verify-tag" in scenario.announced[-1]


def test_release_before_the_image_exists(scenario: Scenario) -> None:
    """A tag that is faster than main: the commit is tested and published first, then released."""
    run = release(scenario, "v0.1.0")
    assert (run.exit, run.jobs) == (0, RELEASED)
    assert run.steps["Smoke-test image"] == "success"
    assert scenario.tags == {scenario.sha, "0.1.0", "0.1", "0", "latest"}
    digest = scenario.digest(scenario.sha)
    assert {scenario.digest(tag) for tag in scenario.tags} == {digest}
    assert scenario.attested == [f"{scenario.image}@{digest}"] * 2
    assert scenario.run("release.yml", ref="refs/tags/v0.1.0").exit == 0, "again"
    assert {scenario.digest(tag) for tag in scenario.tags} == {digest}
    assert [call[1] for call in scenario.announced] == ["view", "create", "view"]


def test_back_port(scenario: Scenario) -> None:
    """A patch of an older version moves that version's range, and never latest."""
    before = {tag: scenario.put(tag) for tag in ("1.1.8", "1.1", "1.2.0", "1.2", "1", "2.0.0", "2.0", "2", "latest")}
    run = release(scenario, "v1.1.9")
    assert (run.exit, run.jobs) == (0, RELEASED)
    digest = scenario.digest(scenario.sha)
    assert scenario.tags == {*before, "1.1.9", scenario.sha}
    after = {tag: scenario.digest(tag) for tag in before}
    assert after == {**before, "1.1": digest}
    assert f"| `1.1` | `{before['1.1']}` | `{digest}` |" in run.summary
    assert "--latest=false" in scenario.announced[-1]


def test_pre_release(scenario: Scenario) -> None:
    """A pre-release gets its own name and moves no other."""
    before = {tag: scenario.put(tag) for tag in ("1.2.3", "1.2", "1", "latest")}
    run = release(scenario, "v1.3.0-rc.1")
    assert (run.exit, run.jobs) == (0, RELEASED)
    assert scenario.tags == {*before, "1.3.0-rc.1", scenario.sha}
    assert {tag: scenario.digest(tag) for tag in before} == before
    assert "--prerelease" in scenario.announced[-1]
    assert "--latest=false" in scenario.announced[-1]


@pytest.mark.parametrize("tag", ["v1.2.3.4", "v01.2.3", "v1.2.3+build.5", "v1.2.x", "v1.2", "1.2.3", "release-1"])
def test_tag_that_is_not_a_version(scenario: Scenario, tag: str) -> None:
    """A tag that is not a version fails with one sentence; nothing is published."""
    run = release(scenario, tag)
    assert (run.exit, run.jobs) == (1, RED)
    assert run.errors[0].startswith(f"the tag '{tag}' is not a version")
    assert scenario.tags == set()
    assert scenario.announced == []


def test_tag_outside_main(scenario: Scenario) -> None:
    """A tag on a commit that was never on main is refused."""
    scenario.git("checkout", "--quiet", "-b", "topic")
    scenario.commit()
    run = release(scenario, "v1.0.0")
    assert (run.exit, run.jobs) == (1, RED)
    assert f"{scenario.sha}, which is not in the history of main" in run.errors[0]
    assert scenario.tags == set()


def test_version_that_is_taken(scenario: Scenario) -> None:
    """A version that was published with another digest never moves."""
    taken = scenario.put("1.0.0")
    run = release(scenario, "v1.0.0")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert f"1.0.0 is already published as {taken}" in run.errors[0]
    assert scenario.digest("1.0.0") == taken
    assert scenario.tags == {"1.0.0", scenario.sha}
    assert scenario.announced == []


def test_release_without_credentials(scenario: Scenario) -> None:
    """Where nothing is set, a tag is green, says what to set, and releases nothing."""
    scenario.variables = {"PLATFORMS": "linux/amd64"}
    scenario.secrets = {}
    run = release(scenario, "v1.0.0")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert "DOCKERHUB_USERNAME" in run.notices[0]
    assert scenario.announced == []
