"""A push or a pull request that is tested, and not published, as its author sees it."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.act import GREEN, RED, Scenario


def test_push_without_credentials(scenario: Scenario) -> None:
    """A fresh fork is green, and says what to set and where."""
    scenario.variables = {"PLATFORMS": "linux/amd64"}
    scenario.secrets = {}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert "set the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN" in run.notices[0]
    assert "(https://github.com/octo/Hello-World/settings/secrets/actions)" in run.summary
    assert scenario.front.requests == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DOCKERHUB_USERNAME": "Octo"}, "DOCKERHUB_USERNAME is 'Octo'"),
        ({"DOCKERHUB_USERNAME": ""}, "the variable DOCKERHUB_USERNAME is not"),
        ({"IMAGE_REPOSITORY": "hello world;rm"}, "IMAGE_REPOSITORY is 'hello world;rm'"),
        ({"REGISTRY": "https://localhost"}, "REGISTRY is 'https://localhost'"),
    ],
)
def test_a_wrong_setting(scenario: Scenario, changes: dict[str, str], named: str) -> None:
    """A wrong setting is named at once, in one sentence, before anything is built."""
    for name, value in changes.items():
        (scenario.variables if name in scenario.variables else scenario.secrets)[name] = value
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert len(run.errors) == 1
    assert named in run.errors[0]
    assert run.steps["Plan"] == "failure"
    assert scenario.front.requests == []


@pytest.mark.parametrize(
    ("actor", "payload"),
    [
        ("octo", {}),
        ("stranger", {"pull_request": {"number": 7, "head": {"repo": {"fork": True}}}}),
        ("dependabot[bot]", {"pull_request": {"number": 8, "user": {"login": "dependabot[bot]"}}}),
    ],
    ids=["own", "fork", "dependabot"],
)
def test_pull_request(scenario: Scenario, actor: str, payload: dict[str, Any]) -> None:
    """A pull request is built and smoke-tested; the registry is never spoken to, whatever is set."""
    if actor != "octo":
        scenario.secrets = {}  # as GitHub does for forks and Dependabot
    scenario.git("checkout", "--quiet", "-b", "topic")
    scenario.commit({"src/new-1.0.dist-info/METADATA": "Name: new\nVersion: 1.0\nLicense-Expression: AGPL-3.0-only\n"})
    payload = {"pull_request": {"number": 6, "head": {"repo": {"fork": False}}}, **payload}
    run = scenario.run("ci.yml", "pull_request", "refs/pull/7/merge", payload, actor=actor)
    assert (run.exit, run.jobs) == (0, GREEN)
    assert run.steps["Smoke-test image"] == "success"
    assert scenario.front.requests == []
    assert scenario.attested == []
    assert "| Smoke-test linux/amd64 |" in run.summary
    assert f"Compared with {scenario.git('rev-parse', 'main')}" in run.summary
    assert "| new (pypi) | none | `1.0` |" in run.summary
    assert "New licence: `AGPL-3.0-only` (new)" in run.summary
    assert " times as long to start" in run.summary


def test_pull_request_from_a_fork_is_tested_on_arm64(scenario: Scenario) -> None:
    """It needs no right and no secret for that, and still publishes nothing."""
    scenario.secrets = {}
    scenario.variables = {"EMULATE": "false"}
    payload = {"pull_request": {"number": 6, "head": {"repo": {"fork": True}}}}
    run = scenario.run("ci.yml", "pull_request", "refs/pull/7/merge", payload, actor="stranger")
    assert (run.exit, run.jobs) == (0, {**GREEN, "arm64": "success"})
    assert scenario.front.requests == []


def test_failing_unit_test(scenario: Scenario) -> None:
    """A failing test: red, and no image is even built."""
    scenario.commit({"tests/test_broken.py": "def test_it() -> None:\n    assert 1 == 2\n"})
    run = scenario.run("ci.yml")
    assert run.exit == 1
    assert run.jobs == {"check": "failure", "service": "failure", "required": "failure"}
    assert scenario.front.requests == []


def test_failing_smoke_test(scenario: Scenario) -> None:
    """An image that is not what it promises is not pushed, and nobody logs in."""
    dockerfile = (scenario.clone / "Dockerfile").read_text("utf-8")
    scenario.commit({"Dockerfile": f"{dockerfile}ENV BREAK=text\n"})
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert run.steps["Smoke-test image"] == "failure"
    assert "smoke test on linux/amd64" in run.errors[0]
    assert "good day of " in run.errors[0]
    assert "**failed**" in run.summary
    assert scenario.front.logins == []
    assert scenario.tags == set()


def test_run_by_hand_on_a_branch(scenario: Scenario) -> None:
    """A run by hand on another branch is a test only."""
    scenario.git("checkout", "--quiet", "-b", "topic")
    scenario.commit()
    run = scenario.run("ci.yml", "workflow_dispatch", "refs/heads/topic")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert scenario.tags == set()
