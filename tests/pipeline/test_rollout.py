"""How a release is deployed, judged and undone, with a Swarm that answers from a table."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lib import rollout
from lib.command import Failure
from lib.rollout import Rollout
from lib.service import Backing, Service
from lib.settings import Wanted, deploy_command, settings
from lib.swarm import Service as Running
from lib.swarm import Task
from lib.visit import Answer
from support.programs import Programs
from support.swarm_answers import NEW, OLD, PROVEN, RELEASE, deployed, service, task, tasks, web

HELLO = Service("hello", ("hello",), backing=(Backing("redis", "redis:8", "redis://redis:6379/0", "REDIS_URL"),))
OWN = settings("hello", HELLO, Wanted(), {})


def test_a_redis_elsewhere(docker: Programs) -> None:
    """Its address is a secret that no list of processes shows, and no node is chosen for a Redis of our own."""
    how = settings("hello", HELLO, Wanted(secrets={"REDIS_URL": "rediss://:pass@elsewhere"}), {})

    Rollout(how, "", 0).deploy(RELEASE)

    assert docker.calls == [["docker", "secret", "create", how.secrets["REDIS_URL"], "-"], deploy_command(how)]


@pytest.mark.parametrize("has_place", [False, True])
def test_our_own_redis_stays_on_its_node(docker: Programs, has_place: bool) -> None:
    """The first node that gets it keeps it: its data is there."""
    docker.answer("node ls", "n1\n" if has_place else "").answer("docker info", "n2\n")

    Rollout(OWN, "", 0).deploy(RELEASE)

    label = [["docker", "node", "update", "--label-add", "redis=yes", "n2"]]
    assert docker.called("docker", "node", "update") == ([] if has_place else label)
    assert docker.calls[-1] == deploy_command(OWN)


def test_a_secret_is_created_once(docker: Programs) -> None:
    """One of that name is kept; that it cannot be created is a failure, without its value."""
    docker.answer("secret create", err="rpc error: code = AlreadyExists\n", status=1, once=True)
    docker.answer("secret create", err="rpc error: no leader\n", status=1)

    rollout.create_secret("s", "hidden")
    with pytest.raises(Failure, match=r"^cannot create the secret s: rpc error: no leader$"):
        rollout.create_secret("s", "hidden")


OTHER = web(image=f"me/hello@{OLD}")
GOOD = task()
STARTING = task("starting")
CRASHED = task("failed", wanted="shutdown", error="exit (3)")


@pytest.mark.parametrize(
    ("now", "tasks", "more", "expected"),
    [
        # the service web, its tasks, what else is known, and what it means
        (web(), [GOOD], {}, ("done", "")),
        (web(update="completed"), [GOOD], {}, ("done", "")),
        (web(), [STARTING], {}, ("waiting", "hello_web has 0 of 1 running")),
        (web(), [task("pending", error="no node")], {}, ("waiting", "hello_web has 0 of 1 running (no node)")),
        (web(update="updating"), [GOOD], {}, ("waiting", "hello_web is updating")),
        (web(update="paused", message="2 failed"), [GOOD], {}, ("bad", "the update failed: 2 failed")),
        (web(update="paused"), [GOOD], {}, ("bad", "the update failed: paused")),
        (
            web(image=f"me/hello@{OLD}", update="rollback_started", message="why"),
            [],
            {},
            ("bad", "the update failed: why"),
        ),
        (
            web(image=f"me/hello@{OLD}", update="rollback_completed"),
            [],
            {},
            ("bad", "the update failed: rollback_completed"),
        ),
        (OTHER, [], {}, ("bad", f"the update failed: the Swarm runs {OLD}")),
        (None, [], {}, ("bad", "the stack has no service web any more")),
        # the first version of all: Swarm tries for ever
        (web(), [CRASHED] * 2, {}, ("waiting", "hello_web has 0 of 1 running")),
        (web(), [CRASHED] * 3, {}, ("bad", "the service does not start: exit (3)")),
        # one that ended by itself while it is rolled out
        (web(update="updating"), [CRASHED], {}, ("bad", str(CRASHED))),
        (web(update="updating"), [task("complete")], {}, ("bad", str(task("complete")))),
        (web(update="updating"), [CRASHED], {"before": {"t1"}}, ("waiting", "hello_web is updating")),
        (web(update="updating"), [task("shutdown")], {}, ("waiting", "hello_web is updating")),
        (web(update="updating"), [task("failed", image=f"me/hello@{OLD}")], {}, ("waiting", "hello_web is updating")),
        # what visitors got from the release itself
        (web(update="updating"), [GOOD], {"errors": [500]}, ("waiting", "hello_web is updating")),
        (web(update="updating"), [GOOD], {"errors": [500, 503]}, ("bad", "the page answers with status 503")),
        # going back
        (web(), [GOOD], {"going_back": True}, ("done", "")),
        (web(update="rollback_started"), [CRASHED], {"going_back": True}, ("waiting", "hello_web is rollback_started")),
        (web(update="rollback_completed"), [GOOD], {"going_back": True}, ("done", "")),
        (web(update="updating"), [CRASHED], {"going_back": True}, ("waiting", "hello_web is updating")),
        (
            web(image=f"me/hello@{OLD}"),
            [],
            {"going_back": True},
            ("bad", f"the roll-back failed: the Swarm runs {OLD}"),
        ),
        (
            replace(OTHER, update="rollback_paused", message="no"),
            [],
            {"going_back": True},
            ("bad", "the roll-back failed: no"),
        ),
    ],
)
def test_the_verdict(now: Running | None, tasks: list[Task], more: dict[str, Any], expected: tuple[str, str]) -> None:
    """What the Swarm says means that the rollout continues, is done, or is bad for a reason."""
    found = {"web": now} if now else {}

    said = rollout.verdict(found, tasks, RELEASE, **more)

    assert (said.state, said.reason) == expected


def test_the_verdict_waits_for_every_service() -> None:
    """A release is not done while another service of the stack is being updated, and bad if that goes badly."""
    edge = Running("hello_edge", "caddy:2", 1, "updating", "port is taken")

    assert rollout.verdict({"web": web(), "edge": edge}, [GOOD], RELEASE).state == "waiting"
    edge = replace(edge, update="paused")
    assert rollout.verdict({"web": web(), "edge": edge}, [GOOD], RELEASE).reason == "the update failed: port is taken"


def test_a_rollout_that_does_not_end(docker: Programs) -> None:
    """The sentence says how long it was waited for, and for what."""
    deployed(docker, service(), tasks("Pending", error="no suitable node"))

    with pytest.raises(Failure, match=r"^not done after 0 s: hello_web has 0 of 1 running \(no suitable node\)"):
        Rollout(OWN, "", 0).wait(RELEASE)


def test_the_errors_that_count_are_those_of_the_release(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of the version before, and pages that are not found, are waited out."""
    answers = [Answer(500, PROVEN.release.revision), Answer(404, RELEASE.revision), Answer(0, reason="refused")]
    answers += [Answer(500, RELEASE.revision), Answer(502, RELEASE.revision), Answer(503, RELEASE.revision)]
    monkeypatch.setattr(rollout, "answer", lambda address: answers.pop(0))
    monkeypatch.setattr(rollout, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    deployed(docker, service(update="updating"), tasks("Running"))

    with pytest.raises(Failure, match=r"^the page answers with status 502$"):
        Rollout(OWN, "", 3600).wait(RELEASE)
    assert len(answers) == 1


def test_an_earlier_update_that_does_not_end(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is deployed into it."""
    deployed(docker, service(OLD, "updating", "update in progress"))

    with pytest.raises(Failure, match="an earlier update is still running after 0 s; see --status"):
        Rollout(OWN, "", 0).settle()
    assert "hello_web is updating: update in progress" in capsys.readouterr().err


def test_what_ended_before_says_nothing_of_the_release(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remains of an earlier attempt with the same digest do not make it go back."""
    monkeypatch.setattr(rollout, "answer", lambda address: Answer(200, PROVEN.release.revision))
    deployment = Rollout(OWN, "", 0)
    for _ in range(2):
        docker.answer("^docker service inspect", service(), once=True)
    deployed(docker, service(update="updating"), tasks("Failed", wanted="Shutdown"))
    deployment.settle()

    with pytest.raises(Failure, match="not done after 0 s"):
        deployment.wait(RELEASE)

    assert not any("rollback" in call for call in docker.calls)


def test_a_first_version_that_fails_is_removed(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to go back to; what it wrote last is shown."""
    deployed(docker, service(), tasks("Running", "Failed", error="exit (3)"))
    docker.answer("service logs .* t1$", "no config\n")
    deployment = Rollout(OWN, "", 0)
    deployment.look()

    assert deployment.go_back(RELEASE, None).startswith("it was the first one, so the stack was removed again")

    assert docker.called("docker", "stack") == [["docker", "stack", "rm", "hello"]]
    assert f"the last lines of hello_web.1 on n1 failed, hello@{NEW[:19]}: exit (3):\n  | no config\n" in (
        capsys.readouterr().err
    )


def engine(docker: Programs, services: object) -> None:
    """Let the engine's own interface answer every question with these services."""
    text = json.dumps(services)
    docker.answer("dial-stdio", f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}")


def test_going_back_that_fails_as_well(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said with its reason, and where to look."""
    monkeypatch.setattr(rollout, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    deployed(docker, service(NEW, "paused"))
    docker.answer("dial-stdio", err="no leader\n", status=1)

    with pytest.raises(Failure) as failure:
        Rollout(OWN, "", 0, before=json.loads(service(OLD))).go_back(RELEASE, PROVEN)

    assert str(failure.value) == (
        f"going back to {PROVEN.release} failed as well (the engine does not answer GET /services?filters="
        "%7B%22label%22%3A%20%5B%22com.docker.stack.namespace%3Dhello%22%5D%7D: no leader);"
        " see python3 scripts/redeploy.py --status"
    )


def test_a_stack_that_ran_before_is_put_back_and_not_removed(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no record says what ran: what the Swarm said before the first change is enough."""
    monkeypatch.setattr(rollout, "visit_until", lambda address, revision, **more: visited.append(revision))
    visited: list[str] = []
    before = json.loads(service(OLD))
    deployed(docker, service(OLD), tasks("Running", digest=OLD))
    engine(docker, before)

    said = Rollout(OWN, "", 60, before=before).go_back(RELEASE, None)

    assert said == f"the version that ran before ({OLD[:19]}) is serving"
    assert visited == [""]
    assert not docker.called("docker", "stack")


def test_a_service_that_changes_meanwhile_is_put_back_all_the_same(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swarm may be rolling it back at that moment: then its number is another one, and the next try has that."""
    monkeypatch.setattr(rollout, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    docker.answer("dial-stdio", err="update out of sequence\n", status=1, once=True)
    engine(docker, json.loads(service(OLD)))

    Rollout(OWN, "", 0, before=json.loads(service(OLD))).put_back()

    assert "trying again: the engine does not answer" in capsys.readouterr().err


def test_a_roll_back_that_swarm_gave_up_is_begun_again(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves a replica too many, and would for ever."""
    monkeypatch.setattr(rollout, "visit_until", lambda address, revision, **more: None)
    told: list[str] = []
    monkeypatch.setattr(rollout, "put_back", lambda stack, before: told.append(stack))
    docker.answer("^docker service ps", tasks("Running", "Running", digest=OLD), once=True)
    for _ in range(2):  # when it is told to stop, and at the first look
        docker.answer("^docker service inspect", service(OLD, "rollback_paused", "early termination"), once=True)
    deployed(docker, service(OLD), tasks("Running", digest=OLD))

    Rollout(OWN, "", 60, before=json.loads(service(OLD))).go_back(RELEASE, PROVEN)

    assert told == ["hello", "hello"]


def test_a_stack_that_somebody_removed_gets_what_was_proven_last(
    docker: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ran before, and a record says what did earlier."""
    monkeypatch.setattr(rollout, "visit_until", lambda address, revision, **more: None)
    deployed(docker, service(OLD), tasks("Running", digest=OLD))

    assert Rollout(OWN, "", 60).go_back(RELEASE, PROVEN) == f"{PROVEN.release} is serving"

    assert docker.called("docker", "stack") == [deploy_command(OWN)]


def test_what_is_put_back_is_asked_for_where_it_was(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another domain or port goes back with the version, so the page is at its old address again."""
    visited: list[str] = []
    monkeypatch.setattr(rollout, "visit_until", lambda address, revision, **more: visited.append(address))
    before = json.loads(service(OLD))
    deployed(docker, service(OLD), tasks("Running", digest=OLD))
    engine(docker, before)
    new, old = "https://a.example.org/", "http://127.0.0.1:4000/"

    Rollout(OWN, new, 60, before=before, address_before=old).go_back(RELEASE, PROVEN)
    Rollout(OWN, new, 60).go_back(RELEASE, PROVEN)

    assert visited == [old, new]


def test_a_service_without_a_revision_is_proven_by_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then any page with the status 200 will do."""
    visited: list[str] = []
    monkeypatch.setattr(rollout, "visit_until", lambda address, revision, **more: visited.append(revision))

    for one in (HELLO, replace(HELLO, off={"revision": "it has none"})):
        Rollout(replace(OWN, service=one), "", 0).prove(RELEASE)

    assert visited == [RELEASE.revision, ""]
