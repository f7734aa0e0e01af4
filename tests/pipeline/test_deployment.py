"""What a redeploy does where things go wrong, with a Swarm and a registry that answer from a table."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import pytest

import redeploy
from lib import swarm
from lib.command import Failure, UsageError
from lib.names import ImageName, source
from lib.registry import digest_of
from lib.ssh import connection
from lib.swarm import Holder, Record, Release
from programs import Programs
from redeploy import Deployment, Settings

OLD, NEW = (f"sha256:{letter * 64}" for letter in "ab")
NAME = ImageName("", "me", "hello")
OWN = Settings("hello", secret="hello_redis_url")
PROVEN = Record(1, Release("1.0.0", "me/hello", OLD, "c" * 40), "2026-01-02T03:04:05Z", "me@here")
RELEASE = Release("1.1.0", "me/hello", NEW, "d" * 40)


def service(digest: str = NEW, update: str = "", message: str = "") -> str:
    """What `docker service inspect` says of hello_web, which is to run once."""
    return json.dumps(
        [
            {
                "Spec": {
                    "Name": "hello_web",
                    "Mode": {"Replicated": {"Replicas": 1}},
                    "TaskTemplate": {"ContainerSpec": {"Image": f"me/hello@{digest}"}},
                },
                "UpdateStatus": {"State": update, "Message": message},
            }
        ]
    )


def tasks(*states: str, error: str = "", wanted: str = "Running") -> str:
    """What `docker service ps` says of tasks of the new release."""
    return "\n".join(
        json.dumps(
            {
                "ID": f"t{number}",
                "Name": "hello_web.1",
                "Image": f"me/hello@{NEW}",
                "Node": "n1",
                "DesiredState": wanted,
                "CurrentState": f"{state} now",
                "Error": error,
            }
        )
        for number, state in enumerate(states)
    )


def deployed(docker: Programs, inspect: str, ps: str = "") -> Programs:
    """Let docker say that the stack is there."""
    docker.answer("^docker service ls", "hello_web\n").answer("^docker service inspect", inspect)
    return docker.answer("^docker service ps", ps)


# What is deployed.


LABELS = {"org.opencontainers.image.revision": "{commit}"}
PLATFORM = {"digest": OLD, "platform": {"os": "linux", "architecture": "amd64"}}
PROOF = {
    "digest": NEW,
    "platform": {"os": "unknown", "architecture": "unknown"},
    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
}
PROVENANCE = {"layers": [{}, {"annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}}]}


def published(docker: Programs, labels: object, *, proof: object = PROVENANCE) -> str:
    """Let docker say that the registry has me/hello:1.0.0; return its digest."""
    index = json.dumps({"manifests": [PLATFORM, PROOF]})
    docker.answer(f"--raw me/hello@{NEW}", json.dumps(proof))
    # What an image says of itself proves nothing.
    docker.answer(f"--raw me/hello@{OLD}", json.dumps(PROVENANCE))
    docker.answer("--raw me/hello[:@]", index)
    commit = json.dumps(labels).replace("{commit}", source().sha)
    docker.answer("json .Image", f'{{"linux/amd64": {{"config": {{"Labels": {commit}}}}}}}')
    return digest_of(index)


def test_a_version_is_verified_and_becomes_a_digest(docker: Programs) -> None:
    """For the nodes' platforms, of a commit of this repository, with its provenance."""
    digest = published(docker, LABELS)

    assert redeploy.verified(NAME, "v1.0.0", ["linux/amd64"]) == Release("v1.0.0", "me/hello", digest, source().sha)


@pytest.mark.parametrize(
    ("labels", "proof", "platforms", "says"),
    [
        (LABELS, PROVENANCE, ["linux/arm64"], "has no image for linux/arm64, which the Swarm's nodes are"),
        ({**LABELS, "friendlyhello.stand-in": "true"}, PROVENANCE, [], "is built on a stand-in"),
        ({}, PROVENANCE, [], "does not say which commit it is made of"),
        ({"org.opencontainers.image.revision": "{commit}-dirty"}, PROVENANCE, [], "which is no commit of this"),
        ({"org.opencontainers.image.revision": "--help"}, PROVENANCE, [], "is made of '--help', which is no commit"),
        (LABELS, {"layers": [{"annotations": None}]}, [], "has no provenance"),
    ],
)
def test_what_must_not_be_deployed(
    docker: Programs, labels: dict[str, str], proof: object, platforms: list[str], says: str
) -> None:
    """The sentence says why, and which version it is."""
    published(docker, labels, proof=proof)

    with pytest.raises(Failure, match=rf"^me/hello:1\.0\.0 .*{says}"):
        redeploy.verified(NAME, "1.0.0", platforms)


# How it is deployed.


def test_a_redis_elsewhere(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is a secret that no list of processes shows, and no node is chosen for a Redis of our own."""
    monkeypatch.setenv("REDIS_URL", "rediss://:pass@elsewhere")
    how = redeploy.settings("hello", {"REDIS_URL": "rediss://:pass@elsewhere"}, None, {})

    Deployment(how, "", 0).deploy(RELEASE)

    assert docker.calls == [["docker", "secret", "create", how.secret, "-"], redeploy.deploy_command(how)]


@pytest.mark.parametrize("has_place", [False, True])
def test_our_own_redis_stays_on_its_node(docker: Programs, has_place: bool) -> None:
    """The first node that gets it keeps it: its data is there."""
    docker.answer("node ls", "n1\n" if has_place else "").answer("docker info", "n2\n")

    Deployment(OWN, "", 0).deploy(RELEASE)

    label = [["docker", "node", "update", "--label-add", "redis=yes", "n2"]]
    assert docker.called("docker", "node", "update") == ([] if has_place else label)
    assert docker.calls[-1] == redeploy.deploy_command(OWN)


def test_a_secret_is_created_once(docker: Programs) -> None:
    """One of that name is kept; that it cannot be created is a failure, without its value."""
    docker.answer("secret create", err="rpc error: code = AlreadyExists\n", status=1, once=True)
    docker.answer("secret create", err="rpc error: no leader\n", status=1)

    redeploy.create_secret("s", "hidden")
    with pytest.raises(Failure, match=r"^cannot create the secret s: rpc error: no leader$"):
        redeploy.create_secret("s", "hidden")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("", "no Docker Engine answers: is the daemon running; run python3 scripts/engine.py"),
        ('{"LocalNodeState": "inactive"}', "run docker swarm init there first, or rehearse with --rehearse"),
        ('{"LocalNodeState": "active", "ControlAvailable": false}', "deploy to one of its managers"),
    ],
)
def test_where_nothing_can_be_deployed(docker: Programs, out: str, says: str) -> None:
    """The sentence has the next command."""
    docker.answer("docker info", out, err="is the daemon running\n")

    with pytest.raises(Failure, match=says):
        redeploy.check_swarm()


# How it goes.


@pytest.mark.parametrize(
    ("inspect", "ps", "says"),
    [
        (service(NEW, "paused", "2 tasks failed"), "", "the update failed: 2 tasks failed"),
        (service(OLD, "rollback_completed", "rollback completed"), "", "the update failed: rollback completed"),
        (service(OLD), "", f"the update failed: the Swarm runs {OLD}"),
        (service(), tasks("Failed", "Rejected", "Failed", error="exit (1)"), r"the service does not start: exit \(1\)"),
        (service(), tasks("Pending", error="no suitable node"), r"not done after 0 s: .*0 of 1 running \(no suitable"),
        (service(OLD, "rollback_started", "x"), "", "not done after 0 s: hello_web is rollback_started"),
    ],
)
def test_an_update_that_ends_badly(docker: Programs, inspect: str, ps: str, says: str) -> None:
    """What the Swarm says is in the sentence."""
    deployed(docker, inspect, ps)

    with pytest.raises(Failure, match=f"^{says}"):
        Deployment(OWN, "", 0).wait(RELEASE)


def test_a_stack_that_somebody_removes_meanwhile(docker: Programs) -> None:
    """It is not waited for."""
    with pytest.raises(Failure, match="the stack hello has no service web any more"):
        Deployment(OWN, "", 0).wait(RELEASE)
    assert len(docker.calls) == 1


def test_an_earlier_update_that_does_not_end(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is deployed into it."""
    deployed(docker, service(OLD, "updating", "update in progress"))

    with pytest.raises(Failure, match="an update that began earlier has not ended after 0 s; see --status"):
        Deployment(OWN, "", 0).settle()
    assert "hello_web is updating: update in progress" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ps", "answer", "goes_back"),
    [
        (tasks("Complete"), (200, PROVEN.release.revision), True),
        (tasks("Failed"), (200, PROVEN.release.revision), True),
        (tasks("Running"), (500, RELEASE.revision), True),
        (tasks("Running"), (500, PROVEN.release.revision), False),
        (tasks("Running"), (404, RELEASE.revision), False),
        (tasks("Shutdown"), (0, "refused"), False),
    ],
)
def test_a_bad_release_goes_back_at_once(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, ps: str, answer: tuple[int, str], goes_back: bool
) -> None:
    """Swarm is told to roll back as soon as a replica ended by itself, or visitors get the release's own errors."""
    monkeypatch.setattr(redeploy, "answer", lambda address: answer)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    moments = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    deployed(docker, service(update="updating"), ps)

    with pytest.raises(Failure, match="not done after 3 s"):
        Deployment(OWN, "", 3).wait(RELEASE)

    assert (["docker", "service", "rollback", "--detach", "hello_web"] in docker.calls) == goes_back


def test_what_ended_before_says_nothing_of_the_release(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remains of an earlier attempt with the same digest do not make it go back."""
    monkeypatch.setattr(redeploy, "answer", lambda address: (200, PROVEN.release.revision))
    deployment = Deployment(OWN, "", 0)
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
    deployment = Deployment(OWN, "", 0)
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

    said = Deployment(OWN, "", 0).go_back(RELEASE, PROVEN)

    assert said.startswith(f"going back to {PROVEN.release} failed as well (exit 1 from docker stack deploy")
    assert said.endswith("no leader); see python3 scripts/redeploy.py --status")


@pytest.mark.parametrize("state", ["inactive", "active"])
def test_a_rehearsal_leaves_nothing_behind(docker: Programs, state: str) -> None:
    """It fails, and is taken away all the same; a Swarm that was there stays."""
    docker.answer("LocalNodeState", f"{state}\n").answer("config ls", "hello_deployed_000001\n")
    docker.answer("volume ls", "hello_data\n")

    with pytest.raises(Failure, match="red"), redeploy.rehearsal("hello"):
        raise Failure("red")

    changed = [call[1:] for call in docker.calls if not {"ls", "info"} & set(call)]
    swarm_here = [["swarm", "init", "--advertise-addr", "127.0.0.1"]], [["swarm", "leave", "--force"]]
    theirs = [["config", "rm", "hello_deployed_000001"], ["secret", "rm", "hello_redis_url"]]
    assert changed == [
        *(swarm_here[0] if state == "inactive" else []),
        ["stack", "rm", "hello"],
        *(swarm_here[1] if state == "inactive" else theirs),
        ["volume", "rm", "hello_data"],
    ]


# What the Swarm keeps.


def config(*contents: object) -> str:
    """What `docker config inspect` says of some."""
    data = [base64.b64encode(json.dumps(content).encode()).decode() for content in contents]
    return json.dumps([{"ID": f"c{number}", "Spec": {"Data": text}} for number, text in enumerate(data, start=1)])


def holder(until: float) -> str:
    """What the Swarm keeps of a redeploy from another machine."""
    return config(asdict(Holder("elsewhere", 1, 2, "1.0.0", since=0, until=until)))


TAKEN = "rpc error: code = AlreadyExists\n"


def test_one_at_a_time(docker: Programs) -> None:
    """Somebody else's redeploy is waited for; the sentence says until when, and what to do if it is dead."""
    docker.answer("config create", err=TAKEN, status=1).answer("config inspect", holder(until=4e9))

    with (
        pytest.raises(
            Failure, match=r"process 1 on elsewhere, .* since 00:00:00 UTC .* run docker config rm hello_redep"
        ),
        swarm.locked("hello", "2", lease=60, wait=-1),
    ):
        pass
    assert not docker.called("docker", "config", "rm")


def test_the_next_one_waits(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told once, and goes on when the other one ends."""
    pauses: list[float] = []
    monkeypatch.setattr(swarm, "time", SimpleNamespace(**{**vars(time), "sleep": pauses.append}))
    for _ in range(2):
        docker.answer("config create", err=TAKEN, status=1, once=True)
    docker.answer("config inspect", holder(until=4e9))

    with swarm.locked("hello", "2", lease=60, wait=60):
        pass

    assert pauses == [1, 1]
    assert capsys.readouterr().err.count("waiting for it to end") == 1


def test_a_killed_one_is_taken_over_from(docker: Programs) -> None:
    """By the ID of its lock, so that nobody's newer one goes; then ours goes by its name."""
    docker.answer("config create", err=TAKEN, status=1, once=True).answer("config inspect", holder(until=1))

    with swarm.locked("hello", "2", lease=60, wait=60):
        assert docker.called("docker", "config", "rm") == [["docker", "config", "rm", "c1"]]

    assert docker.calls[-1] == ["docker", "config", "rm", "hello_redeploying"]


def test_records_are_kept_and_read(docker: Programs) -> None:
    """Oldest first; of more than twenty the oldest go."""
    names = [f"hello_deployed_{number:06d}" for number in range(1, 23)]
    second = Record(2, RELEASE, "2026-01-03T03:04:05Z", "me@here", before=1)
    docker.answer("config ls", "\n".join(reversed(names)))
    docker.answer("config inspect", config(asdict(second), asdict(PROVEN)))

    swarm.write_record("hello", second)

    assert docker.calls[-1] == ["docker", "config", "rm", *names[:2]]
    assert swarm.history("hello") == [PROVEN, second]


@pytest.mark.parametrize(
    ("when", "ask", "says"),
    [
        ("config create", lambda: swarm.create_config("hello", "lock", "c", {}), "cannot create c in the Swarm"),
        ("config inspect", lambda: swarm.read_configs(["c"]), "cannot read c in the Swarm"),
        ("service inspect", lambda: swarm.services("hello"), "cannot inspect the services of hello"),
    ],
)
def test_a_swarm_without_a_leader(docker: Programs, when: str, ask: Callable[[], object], says: str) -> None:
    """Is a failure, and not an empty answer."""
    docker.answer("service ls", "hello_web\n").answer(when, err="no leader\n", status=1)

    with pytest.raises(Failure, match=f"^{says}: no leader$"):
        ask()


def test_what_goes_while_it_is_looked_at(docker: Programs) -> None:
    """Is not there any more, and that is no failure."""
    docker.answer("service ls", "hello_web\n").answer("service inspect", "[]", "no such service: hello_web\n", status=1)
    docker.answer("config inspect", "[]", "no such config: c\n", status=1)

    assert (swarm.services("hello"), swarm.read_configs(["c"])) == ({}, [])


# The command.


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No host, no workflow, and an image."""
    for name in ("DEPLOY_HOST", "DEPLOY_URL", "DOCKER_HOST", "GITHUB_ACTIONS", "STACK", "REGISTRY", "DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKERHUB_USERNAME", "me")
    monkeypatch.setenv("IMAGE_REPOSITORY", "hello")
    return monkeypatch


MANAGER = '{"LocalNodeState": "active", "ControlAvailable": true}'
NODE = {
    "Spec": {"Availability": "active"},
    "Status": {"State": "ready"},
    "Description": {"Platform": {"OS": "linux", "Architecture": "x86_64"}},
}


@pytest.mark.usefixtures("env")
def test_a_dry_run_changes_nothing(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The version is verified for the nodes that are there, and the command is shown."""
    docker.answer("docker info", MANAGER).answer("node ls", "n1\n").answer("node inspect", json.dumps([NODE]))
    digest = published(docker, LABELS)

    assert redeploy.main(["--dry-run", "1.0.0"]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"- nothing\n+ 1.0.0 (revision {source().sha[:12]}, {digest[:19]})\n"
    assert "would run: docker stack deploy " in printed.err
    assert not [call for call in docker.calls if {"create", "deploy", "update", "rm"} & set(call)]


def test_a_rehearsed_dry_run_needs_no_swarm(docker: Programs, env: pytest.MonkeyPatch) -> None:
    """In a workflow without a host, where the runner's engine is in none."""
    env.setenv("GITHUB_ACTIONS", "true")
    published(docker, LABELS)

    assert redeploy.main(["--dry-run", "1.0.0"]) == 0

    assert {tuple(call[1:3]) for call in docker.calls} == {("buildx", "imagetools")}


def test_a_rehearsal_of_what_is_not_there(docker: Programs, env: pytest.MonkeyPatch) -> None:
    """Fails before the runner's engine is made a Swarm."""
    env.setenv("GITHUB_ACTIONS", "true")
    docker.answer("--raw", err="not found\n", status=1)

    with pytest.raises(Failure, match=r"there is no me/hello:1\.0\.0 in the registry"):
        redeploy.main(["1.0.0"])
    assert not docker.called("docker", "swarm")


@pytest.mark.usefixtures("env")
def test_the_status_of_nothing(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """Says how to begin."""
    docker.answer("docker info", MANAGER)

    assert redeploy.main(["--status"]) == 0

    assert capsys.readouterr().out == "hello is not deployed; run python3 scripts/redeploy.py VERSION\n"


def test_no_version() -> None:
    """A usage mistake with the next command."""
    with pytest.raises(UsageError, match=r"no version given; run python3 scripts/redeploy\.py VERSION, or --status"):
        redeploy.main([])


# Over SSH.


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@", "host key is not the known one: nothing was sent"),
        ("deploy@h: Permission denied (publickey).", "does not accept our key; add the public key to its"),
        ('Load key "/k": error in libcrypto', "DEPLOY_SSH_KEY is not a private key"),
        ("ssh: connect to host h port 22: No route to host", "it cannot be reached"),
        ("sh: docker: not found", r"no Docker Engine answers \(sh: docker: not found\)"),
    ],
)
def test_why_a_host_does_not_answer(docker: Programs, env: pytest.MonkeyPatch, said: str, says: str) -> None:
    """In words, with ssh's own; afterwards docker finds its way as before."""
    env.setenv("DOCKER_HOST", "ssh://deploy@h")
    before = dict(os.environ)
    docker.answer("", err=f"error during connect: exit status 255, stderr={said}\r\n", status=1)

    with pytest.raises(Failure, match=rf"^ssh://deploy@h: .*{says}"), connection({"DOCKER_HOST": "ssh://deploy@h"}):
        pass
    assert dict(os.environ) == before


def test_no_ssh(env: pytest.MonkeyPatch) -> None:
    """One sentence, with what to install."""
    env.setenv("PATH", "/nowhere")
    with (
        pytest.raises(Failure, match="there is no ssh command; install openssh-client"),
        connection({"DEPLOY_HOST": "h", "DEPLOY_KNOWN_HOSTS": "h ssh-ed25519 A"}),
    ):
        pass
