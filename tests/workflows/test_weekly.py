"""The weekly look at the newest release, as its owner sees it; the base image is on the scenario's own registry."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from lib.command import run
from support import images
from support.osv import Vulnerabilities
from support.projects import DATE
from workflows.act import TOKEN, USERNAME, Run, Scenario

BASE = "python:3.13-slim-trixie"
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Octo"), ("EMAIL", "octo@example.com"), ("DATE", DATE))
}


def weekly(scenario: Scenario, osv: Vulnerabilities) -> Run:
    """Run the workflow as it runs on a Monday."""
    return scenario.run("weekly.yml", "schedule", env={"OSV_ADDRESS": osv.address})


def test_nothing_set(scenario: Scenario) -> None:
    """In a fresh copy no job runs, and nobody is asked anything."""
    scenario.variables, scenario.secrets = {}, {}
    run = scenario.run("weekly.yml", "schedule")
    assert (run.exit, run.jobs) == (0, {})
    assert (scenario.front.requests, scenario.calls) == ([], [])


@pytest.fixture
def base(scenario: Scenario) -> Iterator[str]:
    """A base image on the registry, as an index of one platform."""
    name = f"localhost:{scenario.front.port}/{USERNAME}/base:1"
    push_base(scenario, name, "first")
    yield name
    run(["docker", "image", "rm", "--force", name], check=False)


def push_base(scenario: Scenario, name: str, mark: str) -> None:
    """Make the base image, with something in it that differs each time, and push it."""
    images.build(name, f"FROM {BASE}\nLABEL mark={mark}\n", "--platform", "linux/amd64", "--provenance", "mode=min")
    host, env = name.partition("/")[0], {"DOCKER_CONFIG": str(scenario.docker_config)}
    run(["docker", "login", "--username", USERNAME, "--password-stdin", host], stdin=TOKEN, env=env)
    run(["docker", "push", "--quiet", name], env=env)


@pytest.mark.full
def test_a_base_that_moves(scenario: Scenario, base: str) -> None:
    """Nothing moved: nothing is built. It moves: one issue, and what it says to run releases the next version."""
    dockerfile = (scenario.clone / "Dockerfile").read_text("utf-8")
    scenario.commit({"Dockerfile": dockerfile.replace(f"FROM {BASE}", f"FROM {base}")})
    assert scenario.run("release.yml", ref=scenario.tag("v1.0.0")).exit == 0
    first = scenario.digest("1.0.0")
    with Vulnerabilities() as osv:
        run = weekly(scenario, osv)
        assert (run.exit, run.jobs) == (0, {"base": "success", "scan": "success"})
        assert run.steps.get("Rebuild release", "skipped") == "skipped"
        assert osv.asked
        push_base(scenario, base, "second")
        pip = next(each for each in osv.asked if each["package"]["ecosystem"] == "PyPI")
        osv.known = {("PyPI", pip["package"]["name"], pip["version"]): ["GHSA-1"]}
        run = weekly(scenario, osv)
        assert (run.exit, run.jobs) == (1, {"base": "success", "offer": "success", "scan": "failure"})
        assert f"{pip['package']['name']} {pip['version']} (GHSA-1)" in run.errors[0]
        (issue,) = json.loads((scenario.folder / "issues.json").read_text("utf-8"))
        assert issue["title"] == "Release 1.0.1: the base image of 1.0.0 has moved"
        assert "The same packages in the same versions." in issue["body"]
        assert "Known vulnerabilities that this fixes, by https://osv.dev: none." in issue["body"]
        run = weekly(scenario, osv)
        assert run.steps.get("Rebuild release", "skipped") == "skipped", "it is offered already"
    commands = issue["body"].split("```")[1]
    subprocess.run(["sh", "-ec", commands], cwd=scenario.clone, env={**os.environ, **AUTHOR}, check=True)
    scenario.git("checkout", "--quiet", "v1.0.1")
    assert scenario.run("release.yml", ref="refs/tags/v1.0.1").exit == 0
    assert scenario.digest("1.0.0") == first != scenario.digest("1.0.1") == scenario.digest("latest")
