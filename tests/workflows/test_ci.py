"""A push or a pull request, as its author sees it."""

from __future__ import annotations

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
