"""A push or a pull request, as its author sees it."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.act import Scenario

GREEN = {"check": "success", "service": "success", "image": "success", "required": "success"}
RED = {**GREEN, "image": "failure", "required": "failure"}


def test_push_without_credentials(scenario: Scenario) -> None:
    """A fresh fork is green, and says what to set and where."""
    scenario.variables = {"PLATFORMS": "linux/amd64"}
    scenario.secrets = {}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert "set the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN" in run.notices[0]
    assert "(https://github.com/octo/Hello-World/settings/secrets/actions)" in run.summary
    assert scenario.front.requests == []


def test_first_push_to_main(scenario: Scenario) -> None:
    """Both platforms are tested, and that very image is published as the commit and as edge."""
    scenario.variables["PLATFORMS"] = ""
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    digest = scenario.digest(scenario.sha)
    assert scenario.tags == {scenario.sha, "edge"}
    assert scenario.digest("edge") == digest
    assert scenario.attested == [f"{scenario.image}@{digest}"]
    assert f"Digest: `{digest}`" in run.summary
    assert f"docker pull {scenario.image}@{digest}" in run.summary
    assert "| Smoke-test linux/arm64 |" in run.summary
    assert "| linux/arm64 | " in run.summary
    assert "```mermaid" in run.summary
    assert f"| `edge` | new | `{digest}` |" in run.summary


def test_push_again(scenario: Scenario) -> None:
    """Running a commit again uses the image that is published; nothing is built and nothing moves."""
    scenario.run("ci.yml")
    digest = scenario.digest(scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert run.steps.get("Build image", "skipped") == "skipped"
    assert scenario.digest(scenario.sha) == scenario.digest("edge") == digest != ""
    assert "| `edge` | " in run.summary
    assert "| stays |" in run.summary


def test_wrong_token(scenario: Scenario) -> None:
    """A token that the registry refuses: red, one sentence says what to set, nothing is published."""
    scenario.secrets = {"DOCKERHUB_TOKEN": "not-the-token"}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert "the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN" in run.errors[-1]
    assert "not-the-token" not in run.output
    assert scenario.tags == set()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DOCKERHUB_USERNAME": "Octo"}, "DOCKERHUB_USERNAME is 'Octo'"),
        ({"DOCKERHUB_USERNAME": ""}, "the variable DOCKERHUB_USERNAME is not"),
        ({"DOCKERHUB_TOKEN": ""}, "the secret DOCKERHUB_TOKEN is not set"),
        ({"IMAGE_REPOSITORY": "hello world;rm"}, "IMAGE_REPOSITORY is 'hello world;rm'"),
        ({"REGISTRY": "https://localhost"}, "REGISTRY is 'https://localhost'"),
    ],
)
def test_set_wrongly(scenario: Scenario, changes: dict[str, str], named: str) -> None:
    """What is set wrongly is named at once, in one sentence, before anything is built."""
    for name, value in changes.items():
        (scenario.variables if name in scenario.variables else scenario.secrets)[name] = value
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert len(run.errors) == 1
    assert named in run.errors[0]
    assert run.steps["Plan"] == "failure"
    assert scenario.front.requests == []


def test_upper_case_repository(scenario: Scenario) -> None:
    """A repository named Hello-World publishes hello-world, in the registry that REGISTRY names."""
    scenario.variables["IMAGE_REPOSITORY"] = ""
    scenario.image = f"{scenario.variables['REGISTRY']}/octo/hello-world"
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert {scenario.sha, "edge"} <= scenario.tags


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
    scenario.commit()
    payload = {"pull_request": {"number": 6, "head": {"repo": {"fork": False}}}, **payload}
    run = scenario.run("ci.yml", "pull_request", "refs/pull/7/merge", payload, actor=actor)
    assert (run.exit, run.jobs) == (0, GREEN)
    assert run.steps["Smoke-test image"] == "success"
    assert scenario.front.requests == []
    assert scenario.attested == []
    assert "| Smoke-test linux/amd64 |" in run.summary


def test_failing_unit_test(scenario: Scenario) -> None:
    """A failing test: red, and no image is even built."""
    scenario.commit({"tests/test_broken.py": "def test_it() -> None:\n    assert 1 == 2\n"})
    run = scenario.run("ci.yml")
    assert run.exit == 1
    assert run.jobs == {"check": "failure", "service": "failure", "required": "failure"}
    assert scenario.front.requests == []


def test_failing_smoke_test(scenario: Scenario) -> None:
    """An image that is not what it promises is not pushed, and nobody logs in."""
    views = (scenario.clone / "src/friendlyhello/views.py").read_text("utf-8")
    assert "<h3>Hello" in views
    scenario.commit({"src/friendlyhello/views.py": views.replace("<h3>Hello", "<h3>Goodbye")})
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert run.steps["Smoke-test image"] == "failure"
    assert "smoke test on linux/amd64: the page is '<h3>Goodbye" in run.errors[0]
    assert "**failed**" in run.summary
    assert scenario.front.logins == []
    assert scenario.tags == set()


def test_registry_recovers(scenario: Scenario) -> None:
    """A registry that fails twice: the push is tried again, and the digest is the tested one."""
    scenario.front.writes_to_fail = 2
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert scenario.front.writes_to_fail == 0
    assert f"Digest: `{scenario.digest(scenario.sha)}`" in run.summary


def test_registry_stays_down(scenario: Scenario) -> None:
    """A registry that takes nothing: red, one sentence, nothing half-published."""
    scenario.front.writes_to_fail = 1_000_000
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert run.steps["Push image"] == "failure"
    assert f"{scenario.image}:{scenario.sha}" in run.errors[0]
    assert scenario.tags == set()


def test_repository_that_does_not_exist(scenario: Scenario) -> None:
    """A repository that is not there, or another's: red, one sentence says what to check, nothing is published."""
    scenario.front.denies = True
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert run.steps["Push image"] == "failure"
    assert len(run.errors) == 1
    assert "that the token may write, and that the repository (IMAGE_REPOSITORY) exists" in run.errors[0]
    assert scenario.tags == set()


def test_pushes_in_the_wrong_order(scenario: Scenario) -> None:
    """The older commit's run ends last: both are published, and edge stays on the newer one."""
    older = scenario.sha
    newer = scenario.commit()
    assert scenario.run("ci.yml").exit == 0
    scenario.git("checkout", "--quiet", older)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert scenario.tags == {older, newer, "edge"}
    assert scenario.digest("edge") == scenario.digest(newer) != scenario.digest(older)


def test_foreign_image(scenario: Scenario) -> None:
    """Somebody else's image on this commit's tag is not taken for ours, and not overwritten."""
    foreign = scenario.put(scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert "says that it is of revision none" in run.errors[0]
    assert scenario.digest(scenario.sha) == foreign


def test_run_by_hand_on_a_branch(scenario: Scenario) -> None:
    """A run by hand on another branch is a test only."""
    scenario.git("checkout", "--quiet", "-b", "topic")
    scenario.commit()
    run = scenario.run("ci.yml", "workflow_dispatch", "refs/heads/topic")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert scenario.tags == set()
