"""A push to main that is published, or would be, as its author sees it."""

from __future__ import annotations

from workflows.act import GREEN, RED, Scenario


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


def test_upper_case_repository(scenario: Scenario) -> None:
    """A repository named Hello-World publishes hello-world, in the registry that REGISTRY names."""
    scenario.variables["IMAGE_REPOSITORY"] = ""
    scenario.image = f"{scenario.variables['REGISTRY']}/octo/hello-world"
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, GREEN)
    assert {scenario.sha, "edge"} <= scenario.tags


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
    assert "is not an image index with platforms, so this pipeline did not push it" in run.errors[0]
    assert scenario.digest(scenario.sha) == foreign
