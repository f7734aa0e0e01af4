"""How many requests Docker Hub would count: a GET of a manifest is one, a HEAD and a GET of a blob are none.

https://docs.docker.com/docker-hub/usage/pulls/. On its free plan there are 200 in six hours.
"""

from __future__ import annotations

from workflows.act import Scenario

PUSH, AGAIN, RELEASE, REDEPLOY = 6, 8, 9, 3


def counted(scenario: Scenario) -> int:
    """Return the requests since the last time that would be counted."""
    asked = [request for request in scenario.front.requests if request.startswith("GET ")]
    scenario.front.requests.clear()
    return sum("/manifests/" in request for request in asked)


def test_requests_that_are_counted(scenario: Scenario) -> None:
    """For a push to main, the same again, a release, and a redeploy that is only shown; of an image for one platform.

    Verifying takes one for the index and two for each platform; the summary's sizes take one and one for each. With
    two platforms, as docs/DESIGN.md says, it is 9, 13, 14 and 5. Pulling the image comes on top of that.
    """
    assert scenario.run("ci.yml").exit == 0
    push = counted(scenario)
    assert scenario.run("ci.yml").exit == 0
    again = counted(scenario)
    assert scenario.run("release.yml", ref=scenario.tag("v1.0.0")).exit == 0
    release = counted(scenario)
    inputs = {"environment": "production", "version": "1.0.0", "dry-run": "true"}
    assert scenario.run("redeploy.yml", "workflow_dispatch", inputs=inputs).exit == 0
    assert (push, again, release, counted(scenario)) == (PUSH, AGAIN, RELEASE, REDEPLOY)
