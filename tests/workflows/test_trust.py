"""Whoever can write to the registry, and not to GitHub, cannot have an image of theirs released or deployed.

Each forged image has the right labels, the right shape and provenance of its own: only its signature is missing.
"""

from __future__ import annotations

import pytest

from workflows.act import NOT_PUBLISHED, PUBLISHED, RED, Run, Scenario

UNSIGNED = "no https://slsa.dev/provenance/v1 that this repository's CI signed"


def redeploy(scenario: Scenario, version: str) -> Run:
    """Ask for a redeploy, which only says what it would do."""
    inputs = {"environment": "production", "version": version, "dry-run": "true"}
    return scenario.run("redeploy.yml", "workflow_dispatch", inputs=inputs)


def test_the_honest_image(scenario: Scenario) -> None:
    """What CI built and tested is used again, released, and would be deployed; its proof is asked for each time."""
    assert scenario.run("ci.yml").jobs == PUBLISHED
    digest = scenario.digest(scenario.sha)
    run = scenario.run("release.yml", ref=scenario.tag("v1.0.0"))
    assert (run.exit, scenario.digest("latest")) == (0, digest)
    assert "Build image" not in run.steps or run.steps["Build image"] == "skipped"
    run = redeploy(scenario, "1.0.0")
    assert run.exit == 0
    verified = [call for call in scenario.calls if call[:2] == ["attestation", "verify"]]
    assert {call[2].rpartition("@")[2] for call in verified} == {digest}
    assert all("--deny-self-hosted-runners" in call for call in verified)


def test_a_forged_image_on_the_commits_tag(scenario: Scenario) -> None:
    """Before main's run: it is not taken for what an earlier run published."""
    forged = scenario.put(scenario.sha, scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert UNSIGNED in run.errors[0]
    assert scenario.tags == {scenario.sha}
    assert (scenario.digest(scenario.sha), scenario.attested) == (forged, [])


def test_a_forged_image_that_the_plan_cannot_see(scenario: Scenario) -> None:
    """A private image is looked at after the login, and it is not signed, promoted or overwritten either."""
    scenario.front.private = True
    scenario.put(scenario.sha, scenario.sha)
    run = scenario.run("ci.yml")
    scenario.front.private = False
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert UNSIGNED in run.errors[0]
    assert (scenario.tags, scenario.attested) == ({scenario.sha}, [])


def test_an_image_that_is_swapped_before_its_release(scenario: Scenario) -> None:
    """The commit's tag is overwritten after main's run: the release stops, and names nothing."""
    assert scenario.run("ci.yml").exit == 0
    tested = scenario.digest(scenario.sha)
    scenario.put(scenario.sha, scenario.sha)
    run = scenario.run("release.yml", ref=scenario.tag("v1.0.0"))
    assert run.exit == 1
    assert UNSIGNED in run.errors[0]
    assert scenario.tags == {scenario.sha, "edge"}
    assert scenario.digest("edge") == tested
    assert scenario.releases == {}


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_forged_image_is_not_deployed(scenario: Scenario, by: str) -> None:
    """By whatever name it is asked for."""
    digest = scenario.put("1.0.0", scenario.sha)
    run = redeploy(scenario, "1.0.0" if by == "tag" else digest)
    assert run.exit == 1
    assert UNSIGNED in run.errors[0]
