"""One click on "Run workflow", as the person who clicks sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflows.act import Run, Scenario

# What says what, where and how to deploy.
IMAGE = ("DOCKERHUB_USERNAME", "REGISTRY", "IMAGE_REPOSITORY")
VARIABLES = {
    "DEPLOY_HOST": "deploy@host.example.com",
    "DEPLOY_KNOWN_HOSTS": "host.example.com ssh-ed25519 x",
    "DEPLOY_URL": "https://www.example.com/",
    "DOMAIN": "host.example.com",
    "EDGE_PORT": "4080",
    "REPLICAS": "3",
}
SECRETS = {
    "DEPLOY_SSH_KEY": "key-of-the-scenario",
    "SERVICE_SECRETS": "STORE_URL=rediss://:passw0rd-of-the-scenario@redis.example.com",
}

# In place of the script: what a run hands to it. What the script does with it is tested elsewhere.
ECHO = f"""import json, os, sys
names = {(*IMAGE, *VARIABLES, *SECRETS)}
with open(os.environ["SCENARIO_FOLDER"] + "/handed", "w") as file:
    json.dump(dict(arguments=sys.argv[1:], **{{name: os.environ.get(name) for name in names}}), file)
"""


def redeploy(scenario: Scenario, version: str, dry_run: bool = False, environment: str = "production") -> Run:
    """Run the workflow by hand with these inputs."""
    inputs = {"environment": environment, "version": version, "dry-run": str(dry_run).lower()}
    return scenario.run("redeploy.yml", "workflow_dispatch", inputs=inputs)


def handed(scenario: Scenario) -> dict[str, Any]:
    """What the script was given."""
    content: dict[str, Any] = json.loads((scenario.folder / "handed").read_text("utf-8"))
    return content


@pytest.mark.parametrize(
    "version",
    [
        "1.2.3",
        "previous",
        "--help",
        "$(touch executed)",
        "`touch executed`",
        "'; touch executed; '",
        '"; touch executed; "',
        "a\ntouch executed",
        "::error::injected",
        "🚀",
        "",
    ],
)
def test_any_text_stays_a_text(scenario: Scenario, version: str) -> None:
    """Whatever is typed as a version reaches the script as it was typed: no shell and no option reads it."""
    scenario.commit({"scripts/redeploy.py": ECHO})
    run = redeploy(scenario, version)
    assert (run.exit, run.jobs) == (0, {"redeploy": "success"})
    assert handed(scenario)["arguments"] == ["--", version]
    assert not list(scenario.folder.rglob("executed"))


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_handed_on(scenario: Scenario, dry_run: bool) -> None:
    """The script is given all that says what, where and how to deploy, and whether to change anything."""
    scenario.commit({"scripts/redeploy.py": ECHO})
    scenario.variables |= VARIABLES
    scenario.secrets |= SECRETS
    run = redeploy(scenario, "1.2.3", dry_run)
    assert (run.exit, run.jobs) == (0, {"redeploy": "success"})
    assert handed(scenario) == {
        "arguments": [*(["--dry-run"] if dry_run else []), "--", "1.2.3"],
        **VARIABLES,
        **SECRETS,
        **{name: scenario.variables[name] for name in IMAGE},
    }


@pytest.mark.parametrize(
    ("tag", "deployed"),
    [("v1.0.0", True), ("v1.1.0-rc.1", False)],
)
def test_deploy_on_release(scenario: Scenario, tag: str, deployed: bool) -> None:
    """With DEPLOY_ON_RELEASE set to true, a final release is deployed, and no pre-release."""
    scenario.commit({"scripts/redeploy.py": ECHO})
    scenario.secrets |= SECRETS
    scenario.variables["DEPLOY_ON_RELEASE"] = "true"
    run = scenario.run("release.yml", ref=scenario.tag(tag))
    assert run.exit == 0
    assert run.jobs.get("redeploy") == ("success" if deployed else None)
    assert (scenario.folder / "handed").exists() == deployed
    if deployed:
        assert handed(scenario)["arguments"] == ["--", "1.0.0"]
        assert SECRETS.items() <= handed(scenario).items()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("9.9.9", "9.9.9 in the registry"),
        ("sha256:" + "0" * 64, "sha256:000"),
        ("$(touch executed)", "'$(touch executed)' is not a tag"),
        ("'; touch executed; '", "is not a tag"),
        ("a\ntouch executed", "is not a tag"),
        ("🚀", "'🚀' is not a tag"),
        ("--help", "'--help' is not a tag"),
    ],
)
def test_what_cannot_be_deployed(scenario: Scenario, version: str, says: str) -> None:
    """What is not there, or is not a version, fails the run with one sentence; nothing is executed or deployed."""
    run = redeploy(scenario, version)
    assert (run.exit, run.jobs) == (1, {"redeploy": "failure"})
    assert any(says in error for error in run.errors)
    assert "Traceback" not in run.output
    assert not list(scenario.folder.rglob("executed"))


def test_another_branch(scenario: Scenario) -> None:
    """A branch's own scripts are not run with the key that deploys."""
    scenario.git("checkout", "--quiet", "-b", "topic")
    scenario.commit({"scripts/redeploy.py": ECHO})
    run = scenario.run("redeploy.yml", "workflow_dispatch", "refs/heads/topic", inputs={"version": "1.2.3"})
    assert (run.exit, run.jobs) == (1, {"redeploy": "failure"})
    assert not (scenario.folder / "handed").exists()
