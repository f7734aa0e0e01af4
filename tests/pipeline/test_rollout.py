"""How a release is deployed, judged and undone, with a Swarm that answers from a table."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lib import rollout
from lib.command import Failure, UsageError
from lib.rollout import Rollout, Settings
from lib.swarm import Service, Task
from lib.visit import Answer
from programs import Programs
from swarm_answers import NEW, OLD, PROVEN, RELEASE, deployed, record, release, service, task, tasks, web

OWN = Settings("hello", secret="hello_redis_url")


def test_a_first_deployment_has_the_documented_settings() -> None:
    """Port 4000, two replicas, a Redis of its own."""
    found = rollout.settings("hello", {}, None, {})

    assert found == rollout.Settings("hello", "", 4000, 2, "hello_redis_url")
    assert found.own_redis


def test_what_is_running_is_kept_where_nothing_else_is_said() -> None:
    """A redeploy from another machine drops neither the domain, nor the replicas, nor the Redis elsewhere."""
    before = replace(record(1, "1.0.0", OLD, None), domain="hello.example.org", port=4100)
    running = {"web": web(replicas=5, secrets=("hello_redis_url_0123456789ab",))}

    found = rollout.settings("hello", {"DOMAIN": "", "REPLICAS": ""}, before, running)

    assert found == rollout.Settings("hello", "hello.example.org", 4100, 5, "hello_redis_url_0123456789ab")
    assert not found.own_redis


def test_the_environment_is_heard_before_what_is_running() -> None:
    """A secret's name tells that it is another one, and not what it is."""
    env = {"DOMAIN": "a.example.org", "EDGE_PORT": "81", "REPLICAS": "3", "REDIS_URL": "rediss://:secret@elsewhere"}

    found = rollout.settings("hello", env, record(1, "1.0.0", OLD, None), {"web": web(replicas=1)})

    assert (found.domain, found.port, found.replicas) == ("a.example.org", 81, 3)
    assert found.secret.startswith("hello_redis_url_")
    assert "secret" not in found.secret


def test_a_rehearsal_asks_for_no_certificate_and_touches_no_redis_elsewhere() -> None:
    """DOMAIN and REDIS_URL are for the real host."""
    env = {"DOMAIN": "a.example.org", "REDIS_URL": "redis://elsewhere"}

    assert rollout.settings("hello", env, None, {}, rehearsal=True) == rollout.settings("hello", {}, None, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DOMAIN", "localhost"),
        ("DOMAIN", "a.example.org; rm -rf /"),
        ("DOMAIN", "{$SECRET}.example.org"),
        ("EDGE_PORT", "0"),
        ("EDGE_PORT", "65536"),
        ("EDGE_PORT", "http"),
        ("REPLICAS", "-1"),
        ("REPLICAS", "101"),
        ("REDIS_URL", "http://:secret@elsewhere"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    """One sentence with the variable; never a password."""
    with pytest.raises(UsageError) as error:
        rollout.settings("hello", {variable: value}, None, {})

    assert variable in str(error.value)
    assert "secret@" not in str(error.value)


def test_the_stack_is_deployed_by_digest_and_moves_nothing_else() -> None:
    """The exact command, and what fills in the stack file."""
    how = rollout.Settings("hello", secret="hello_redis_url")

    assert rollout.deploy_command(how) == [
        "docker",
        "stack",
        "deploy",
        "--detach=true",
        "--prune",
        "--with-registry-auth",
        "--resolve-image",
        "changed",
        "--compose-file",
        str(rollout.DEPLOY / "stack.yaml"),
        "hello",
    ]
    variables = rollout.deploy_environment(how, release())
    assert variables["IMAGE"] == f"me/hello@{OLD}"
    assert (variables["PORT"], variables["REPLICAS"], variables["REDIS_REPLICAS"]) == ("4000", "2", "1")


def test_a_domain_publishes_the_ports_for_https() -> None:
    """domain.yaml comes on top of the stack, and an outside Redis leaves none inside."""
    how = rollout.Settings("hello", domain="a.example.org", secret="hello_redis_url_0123456789ab")

    assert rollout.deploy_command(how)[-3:-1] == ["--compose-file", str(rollout.DEPLOY / "domain.yaml")]
    assert rollout.deploy_environment(how, release())["REDIS_REPLICAS"] == "0"


@pytest.mark.parametrize(
    ("domain", "host", "env", "expected"),
    [
        ("", "", {}, "http://localhost:4000/"),
        ("", "10.0.0.1", {}, "http://10.0.0.1:4000/"),
        ("a.example.org", "10.0.0.1", {}, "https://a.example.org/"),
        ("a.example.org", "", {"DEPLOY_URL": "http://10.0.0.2/"}, "http://10.0.0.2/"),
    ],
)
def test_the_page_is_asked_for_where_visitors_find_it(
    domain: str, host: str, env: dict[str, str], expected: str
) -> None:
    """The domain, the host, or what DEPLOY_URL says."""
    assert rollout.url(rollout.Settings("hello", domain), host, env) == expected


def test_a_redis_elsewhere(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is a secret that no list of processes shows, and no node is chosen for a Redis of our own."""
    monkeypatch.setenv("REDIS_URL", "rediss://:pass@elsewhere")
    how = rollout.settings("hello", {"REDIS_URL": "rediss://:pass@elsewhere"}, None, {})

    Rollout(how, "", 0).deploy(RELEASE)

    assert docker.calls == [["docker", "secret", "create", how.secret, "-"], rollout.deploy_command(how)]


@pytest.mark.parametrize("has_place", [False, True])
def test_our_own_redis_stays_on_its_node(docker: Programs, has_place: bool) -> None:
    """The first node that gets it keeps it: its data is there."""
    docker.answer("node ls", "n1\n" if has_place else "").answer("docker info", "n2\n")

    Rollout(OWN, "", 0).deploy(RELEASE)

    label = [["docker", "node", "update", "--label-add", "redis=yes", "n2"]]
    assert docker.called("docker", "node", "update") == ([] if has_place else label)
    assert docker.calls[-1] == rollout.deploy_command(OWN)


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
def test_the_verdict(now: Service | None, tasks: list[Task], more: dict[str, Any], expected: tuple[str, str]) -> None:
    """What the Swarm says means that the rollout goes on, is done, or is bad for a reason."""
    found = {"web": now} if now else {}

    said = rollout.verdict(found, tasks, RELEASE, **more)

    assert (said.state, said.reason) == expected


def test_the_verdict_waits_for_every_service() -> None:
    """A release is not done while another service of the stack is being updated, and bad if that goes badly."""
    edge = Service("hello_edge", "caddy:2", 1, "updating", "port is taken")

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


def test_going_back_that_fails_as_well(docker: Programs) -> None:
    """It is said with its reason, and where to look."""
    deployed(docker, service(NEW, "paused"))
    docker.answer("stack deploy", err="no leader\n", status=1)

    said = Rollout(OWN, "", 0).go_back(RELEASE, PROVEN)

    assert said.startswith(f"going back to {PROVEN.release} failed as well (exit 1 from docker stack deploy")
    assert said.endswith("no leader); see python3 scripts/redeploy.py --status")
