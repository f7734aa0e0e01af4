"""What a redeploy decides: which version it is, whether it may be deployed, and what the command does."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

import redeploy
from lib import github, names
from lib import release as releases
from lib.command import Failure, UsageError
from lib.distribution import Refused
from lib.names import ImageName, checked_out
from lib.record import Record, Unfinished
from lib.service import Service
from lib.settings import Wanted, wanted
from lib.swarm import Release
from support.hub import MANIFEST, REVISION, Hub, Image, honest
from support.programs import Programs
from support.swarm_answers import COMMIT, NEW, OLD, deployed, record, release, service

STAND_IN = honest("e" * 40, **{"onedigest.stand-in": "true"})


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.2.3", "me/hello:1.2.3"),
        ("v1.2.3", "me/hello:1.2.3"),
        ("v1.3.0-rc.1", "me/hello:1.3.0-rc.1"),
        ("very-new", "me/hello:very-new"),
        (COMMIT, f"me/hello:{COMMIT}"),
        (OLD, f"me/hello@{OLD}"),
    ],
)
def test_a_version_is_a_tag_or_a_digest(version: str, expected: str) -> None:
    """The name of a Git tag is understood as well."""
    assert redeploy.reference(ImageName("", "me", "hello"), redeploy.check_version(version)) == expected


@pytest.mark.parametrize("version", ["", "-x", "a b", "$(id)", "1.2.3\n", "sha256:abc", "é", "a" * 129])
def test_what_cannot_be_a_version_is_refused(version: str) -> None:
    """Before anything is asked or run."""
    with pytest.raises(UsageError):
        redeploy.check_version(version)


def test_previous_goes_back_and_further_back() -> None:
    """After going back from 3 to 2, previous is 1, and not the version that was left."""
    records = [record(1, "1", OLD, None), record(2, "2", NEW, 1), record(3, "3", OLD, 2)]
    going_back, before = redeploy.choose("previous", records, release)
    assert (going_back.version, before) == ("2", 1)

    records.append(record(4, "2", NEW, 1))
    further, before = redeploy.choose("previous", records, release)
    assert (further.version, before) == ("1", None)


@pytest.mark.parametrize("records", [[], [record(1, "1", OLD, None)]])
def test_there_is_no_previous_of_the_first(records: list[Record]) -> None:
    """One sentence says so."""
    with pytest.raises(Failure, match="no version was deployed before"):
        redeploy.choose("previous", records, release)


def test_deploying_the_same_again_leaves_previous_where_it_was() -> None:
    """A re-run does not count as a new version; another digest does."""
    records = [record(1, "1", OLD, None), record(2, "2", NEW, 1)]

    assert redeploy.choose("2", records, lambda _: release("2", NEW))[1] == 1
    assert redeploy.choose("3", records, lambda _: release("3", "sha256:" + "d" * 64))[1] == 2
    assert redeploy.choose("1", [], release)[1] is None


def test_previous_after_a_redeploy_that_was_cut_off() -> None:
    """What runs was not proven, so the version before it is the one that was proven last."""
    records = [record(1, "1", OLD, None), record(2, "2", NEW, 1)]

    assert redeploy.choose("previous", records, release, "sha256:" + "d" * 64)[0].version == "2"
    assert redeploy.choose("previous", records, release, NEW)[0].version == "1"


def test_previous_is_verified_and_not_refused(capsys: pytest.CaptureFixture[str], env: pytest.MonkeyPatch) -> None:
    """Going back must not depend on a registry; what was proven then is in the record."""
    env.setenv("GITHUB_ACTIONS", "true")
    asked: list[str] = []

    def find(version: str) -> Release:
        asked.append(version)
        raise Failure("it was withdrawn")

    found, _ = redeploy.choose("previous", [record(1, "1", OLD, None), record(2, "2", NEW, 1)], find)

    assert (found.digest, asked) == (OLD, [OLD])
    printed = capsys.readouterr()
    assert f"warning: {found} cannot be verified now (it was withdrawn); it was deployed 2026-01" in printed.err
    assert printed.out.startswith("::warning::1 (revision")


def test_a_dry_run_shows_a_diff_of_versions() -> None:
    """From what to what; from nothing where nothing is deployed."""
    assert redeploy.difference(None, release()).splitlines()[0] == "- nothing"
    lines = redeploy.difference(release("1", OLD), release("2", NEW)).splitlines()
    assert lines[:2] == [f"- {release('1', OLD)}", f"+ {release('2', NEW)}"]


def test_a_version_is_verified_and_becomes_a_digest(hub: Hub) -> None:
    """For the nodes' platforms, by the policy that releases have to meet, too: test_release.py."""
    commit = checked_out().sha
    digest = hub.put("1.0.0", honest(commit, ["linux/amd64"]))
    name = ImageName(hub.host, "me", "hello")

    found = redeploy.verified(name, "v1.0.0", ["linux/amd64"])

    assert replace(found, proof={}) == Release("v1.0.0", str(name), digest, commit)
    assert found.proof["platforms"] == "yes: linux/amd64"
    assert redeploy.verified(name, digest, []).digest == digest
    with pytest.raises(Failure, match=rf"^{name}:1\.0\.0 has no image for linux/arm64, which is needed here"):
        redeploy.verified(name, "1.0.0", ["linux/arm64"])


# Without proof.

REASON = "GitHub is down, and the page shows other people's orders"


@pytest.mark.parametrize(
    ("reason", "version", "run", "says"),
    [
        (REASON, NEW, "true", "--unverified is not for workflows"),
        ("", NEW, "", "--unverified is '', which is not a reason"),
        ("urgent", NEW, "", "--unverified is 'urgent', which is not a reason"),
        ("  urgent      ", NEW, "", "is not a reason that others will understand"),
        ("x" * 201, NEW, "", "one line of 10 to 200 printable characters"),
        ("one line\nand another", NEW, "", "is not a reason"),
        ("in red: \x1b[31m, for ever", NEW, "", "is not a reason"),
        ("right to left: \u202e evil", NEW, "", "is not a reason"),
        (REASON, "1.0.0", "", "--unverified takes a digest, and '1.0.0' is not one"),
        (REASON, "latest", "", "whoever can write to the registry can move a tag"),
        (REASON, "previous", "", "--unverified takes a digest"),
        (REASON, "", "", "--unverified takes a digest"),
    ],
)
def test_when_a_proof_is_not_waived(
    docker: Programs, env: pytest.MonkeyPatch, reason: str, version: str, run: str, says: str
) -> None:
    """In a workflow, without a reason, or for what is not a digest: before anything is asked or touched."""
    env.setenv("GITHUB_ACTIONS", run)

    with pytest.raises(UsageError, match=says) as caught:
        redeploy.main([*([version] if version else ["--status"]), "--unverified", reason])

    assert "\n" not in str(caught.value)
    assert docker.calls == []


@pytest.fixture
def elsewhere(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> ImageName:
    """An image of a repository on GitHub, where nobody answers."""
    monkeypatch.setattr(names, "LOCAL_HOSTS", ())
    monkeypatch.setattr(releases, "in_main", lambda *_: False)
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/hello")
    monkeypatch.setattr(github, "gh", lambda *_: (_ for _ in ()).throw(Refused("HTTP 503")))
    return ImageName(hub.host, "me", "hello")


def test_what_github_says_can_be_waived(hub: Hub, elsewhere: ImageName, capsys: pytest.CaptureFixture[str]) -> None:
    """By whom and why is said, and what is missing; the release is marked in every later sentence about it."""
    commit = "e" * 40
    digest = hub.put("x", honest(commit))
    with pytest.raises(Failure, match="which is not a commit in the history of main"):
        redeploy.verified(elsewhere, digest, ())

    found = redeploy.verified(elsewhere, digest, (), REASON)

    assert (found.digest, found.revision, found.unverified) == (digest, commit, REASON)
    assert str(found).endswith(", UNVERIFIED)")
    assert [name for name, said in found.proof.items() if said.startswith("waived: ")] == list(releases.WAIVABLE)
    said = capsys.readouterr().err
    assert f"UNVERIFIED: {redeploy.user()} takes the responsibility, because: {REASON}\n" in said
    for name in releases.WAIVABLE:
        assert f"UNVERIFIED: {name}: {elsewhere}@{digest} " in said


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda image: image.content.update(mediaType=MANIFEST), "image index"),
        (lambda image: image.entries.append(image.platform("linux/amd64", {REVISION: "e" * 40})), "platforms"),
        (lambda image: image.entries.pop(), "provenance"),
        (lambda image: image.entries.__setitem__(slice(None), honest("main").entries), "revision"),
        (lambda image: image.entries.__setitem__(slice(None), STAND_IN.entries), "official base"),
    ],
)
def test_what_the_image_is_cannot_be_waived(
    hub: Hub, elsewhere: ImageName, make: Callable[[Image], object], check: str
) -> None:
    """A complete image of one commit, with provenance and an official base; and it has to be in the registry."""
    for known in (honest("main"), STAND_IN):
        hub.put("known", known)
    image = honest("e" * 40)
    make(image)
    digest = hub.put("x", image)

    with pytest.raises(
        Failure, match=f"; --unverified waives history, signature, test result only, and this is {check}$"
    ):
        redeploy.verified(elsewhere, digest, (), REASON)
    with pytest.raises(Failure, match="there is no "):
        redeploy.verified(elsewhere, f"sha256:{'0' * 64}", (), REASON)


def test_a_reason_that_was_not_needed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """If everything is proven, or not offered here, nothing is marked."""
    digest = hub.put("x", honest(checked_out().sha))

    found = redeploy.verified(ImageName(hub.host, "me", "hello"), digest, (), REASON)

    assert (found.unverified, "UNVERIFIED" in str(found)) == ("", False)
    assert "--unverified was not needed" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "after", "kept"), [("", REASON, 1), (REASON, "", 1), (REASON, REASON, 0)])
def test_the_record_keeps_the_reason(monkeypatch: pytest.MonkeyPatch, before: str, after: str, kept: int) -> None:
    """Of the same digest, too: whether it is unverified is part of what was deployed, and ends when it is proven."""
    steps = Steps(monkeypatch)
    first = record(1, "1", NEW, None)
    monkeypatch.setattr(
        redeploy, "history", lambda _: [replace(first, release=replace(first.release, unverified=before))]
    )
    monkeypatch.setattr(redeploy.Job, "find", lambda _, version: replace(release(version, NEW), unverified=after))

    redeploy.redeploy(steps.job)

    assert [each.release.unverified for each in steps.records] == [after] * kept


@pytest.mark.usefixtures("env")
def test_the_status_says_what_is_unverified(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, for as long as it serves, and in the line of the version before."""
    deployed(docker, service(NEW)).answer("docker info", MANAGER)
    bad = replace(record(2, "2", NEW, 1), release=replace(release("2", NEW), unverified=REASON))
    monkeypatch.setattr(redeploy, "history", lambda _: [record(1, "1", OLD, None), bad])
    monkeypatch.setattr(redeploy, "answer", lambda _: "status 200")

    assert redeploy.main(["--status"]) == 0

    printed = capsys.readouterr().out
    assert f"{NEW[:19]}, UNVERIFIED), 2026" in printed
    assert f"\nUNVERIFIED: {REASON}\n" in printed


@pytest.mark.parametrize(
    ("out", "status", "says"),
    [
        ("", 1, "no Docker Engine answers: is the daemon running; run python3 scripts/engine.py"),
        ('{"LocalNodeState": ""}', 1, "no Docker Engine answers: is the daemon running; run python3 scripts/engine.py"),
        ("null", 0, "no Docker Engine answers"),
        ('{"LocalNodeState": "inactive"}', 0, "run docker swarm init there first, or rehearse with --rehearse"),
        ('{"LocalNodeState": "locked"}', 0, "run docker swarm unlock there first"),
        ('{"LocalNodeState": "active", "ControlAvailable": false}', 0, "deploy to one of its managers"),
    ],
)
def test_where_nothing_can_be_deployed(docker: Programs, out: str, status: int, says: str) -> None:
    """The sentence has the next command."""
    docker.answer("docker info", out, err="is the daemon running\n", status=status)

    with pytest.raises(Failure, match=says):
        redeploy.check_swarm()


@pytest.mark.parametrize("state", ["inactive", "active"])
def test_a_rehearsal_leaves_nothing_behind(docker: Programs, state: str) -> None:
    """It fails, and is taken away all the same; a Swarm that was there stays."""
    docker.answer("LocalNodeState", f"{state}\n").answer("config ls", "hello_deployed_000001\n")
    docker.answer("volume ls", "hello_data\n").answer("secret ls", "hello_redis_url\nsay_hello_x\n")

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


@pytest.fixture
def env(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No host, no workflow, and an image."""
    hub.put("1.0.0", honest(checked_out().sha))
    for name in (
        *("DEPLOY_HOST", "DEPLOY_URL", "DOCKER_HOST", "GITHUB_ACTIONS", "STACK", "DOMAIN", "EDGE_PORT"),
        *("REPLICAS", "REDIS_URL", "SERVICE_SECRETS"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REGISTRY", hub.host)
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
def test_a_dry_run_changes_nothing(docker: Programs, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """The version is verified for the nodes that are there, and the command is shown."""
    docker.answer("docker info", MANAGER).answer("node ls", "n1\n").answer("node inspect", json.dumps([NODE]))
    digest = hub.tags["1.0.0"][0]

    assert redeploy.main(["--dry-run", "1.0.0"]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"- nothing\n+ 1.0.0 (revision {checked_out().sha[:12]}, {digest[:19]})\n"
    assert "would run: docker stack deploy " in printed.err
    assert not [call for call in docker.calls if {"create", "deploy", "update", "rm"} & set(call)]


def test_a_rehearsed_dry_run_needs_no_swarm(docker: Programs, env: pytest.MonkeyPatch) -> None:
    """In a workflow without a host, where the runner's engine is in none."""
    env.setenv("GITHUB_ACTIONS", "true")

    assert redeploy.main(["--dry-run", "1.0.0"]) == 0

    assert {call[1] for call in docker.calls} == {"context"}


def test_a_rehearsal_of_what_is_not_there(docker: Programs, env: pytest.MonkeyPatch) -> None:
    """Fails before the runner's engine is made a Swarm."""
    env.setenv("GITHUB_ACTIONS", "true")

    with pytest.raises(Failure, match=r"there is no .*/me/hello:2\.0\.0 in the registry"):
        redeploy.main(["2.0.0"])
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


@pytest.mark.usefixtures("docker", "env")
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "1000000", "x", ""])
def test_a_bad_time_out(text: str) -> None:
    """It is named before anything is asked."""
    with pytest.raises(UsageError, match=r"^--timeout is "):
        redeploy.main(["--timeout", text, "1.0.0"])


@pytest.mark.parametrize(
    ("variable", "value"), [("DEPLOY_URL", "http://localhost:99999/"), ("DOMAIN", "a..b"), ("EDGE_PORT", "x")]
)
def test_a_bad_setting_is_refused_before_anything_is_touched(
    docker: Programs, env: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Not even asked for."""
    env.setenv(variable, value)

    with pytest.raises(UsageError, match=f"^{variable} is "):
        redeploy.main(["1.0.0"])
    assert {call[1] for call in docker.calls} <= {"context"}


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id need not be in /etc/passwd; then the record has the id."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.delenv("GITHUB_ACTOR", raising=False)
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert redeploy.user().startswith(f"uid {os.getuid()}@")
    monkeypatch.setenv("GITHUB_ACTOR", "octo")
    assert redeploy.user() == "octo"


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"DOMAIN": "nobody.invalid"}, r"DOMAIN is 'nobody\.invalid', which does not resolve"),
        ({"DEPLOY_URL": "https://nobody.invalid/"}, r"DEPLOY_URL is 'https://nobody\.invalid/', whose host does not"),
        ({"DOMAIN": "nobody.invalid", "DEPLOY_URL": "http://127.0.0.1/"}, ""),
        ({"DEPLOY_URL": "http://[::1]/"}, ""),
    ],
)
def test_names_are_looked_up_first(env: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped one is refused before anything changes; a domain may follow if the page is asked for elsewhere."""
    hello = Service("hello", ("hello",))
    job = redeploy.Job("hello", ImageName("", "me", "hello"), "1", hello, wanted(env, hello))
    with pytest.raises(UsageError, match=sentence) if sentence else contextlib.nullcontext():
        job.settings({})
    assert ("warning: DOMAIN" in capsys.readouterr().err) is (not sentence and "DOMAIN" in env)


# Whatever happens after the first change.

WEB = {"Name": "hello_web", "TaskTemplate": {"ContainerSpec": {"Image": f"me/hello@{OLD}"}}}


class Steps:
    """What a redeploy did, in order, with a Swarm that only notes it; one step raises something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str = "", error: BaseException | None = None) -> None:
        self.done: list[str] = []
        self.records: list[Record] = []
        steps = self

        def note(name: str) -> None:
            steps.done.append(name)
            if name == step and error:
                raise error

        class Rollout:
            def __init__(self, *_: object, **more: object) -> None:
                steps.before = more["before"]

            def settle(self) -> None:
                note("settle")

            def deploy(self, _: Release) -> None:
                note("deploy")

            def wait(self, _: Release) -> None:
                note("wait")

            def prove(self, _: Release) -> None:
                note("prove")

            def go_back(self, *_: object) -> str:
                note("go back")
                if step == "go back":
                    raise Failure("going back failed as well")
                return "1 is serving"

        def write(_: str, kept: Record) -> None:
            note("record")
            steps.records.append(kept)

        self.before: object = None
        self.cut_off: Unfinished | None = None
        monkeypatch.setattr(redeploy, "Rollout", Rollout)
        monkeypatch.setattr(redeploy, "locked", lambda *_, **__: contextlib.nullcontext())
        monkeypatch.setattr(redeploy, "history", lambda _: [record(1, "1", OLD, None)])
        monkeypatch.setattr(redeploy, "unfinished", lambda _: self.cut_off)
        monkeypatch.setattr(redeploy, "inspected", lambda _: [])
        monkeypatch.setattr(redeploy, "begin", lambda *_: note("begin"))
        monkeypatch.setattr(redeploy, "end", lambda *_: note("end"))
        monkeypatch.setattr(redeploy, "write_record", write)
        monkeypatch.setattr(redeploy, "needs_login", lambda _: False)
        monkeypatch.setattr(redeploy, "plain_networks", lambda _: [])
        monkeypatch.setattr(redeploy.Job, "find", lambda _, version: release(version, NEW))
        service = Service("hello", ("hello",))
        self.job = redeploy.Job("hello", ImageName("", "me", "hello"), "2", service, Wanted())


def test_a_redeploy_that_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What ran is kept before the first change, until the version is recorded."""
    steps = Steps(monkeypatch)

    redeploy.redeploy(steps.job)

    assert steps.done == ["settle", "begin", "deploy", "wait", "prove", "record", "end"]
    assert [(kept.number, kept.release.digest, kept.before) for kept in steps.records] == [(2, NEW, 1)]
    assert capsys.readouterr().out == f"me/hello@{NEW}\n"


@pytest.mark.parametrize("step", ["deploy", "wait", "prove", "record"])
@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (Failure("it is bad"), Failure, "it is bad; 1 is serving"),
        (RuntimeError("planted"), Failure, "RuntimeError planted; 1 is serving"),
        (KeyError("planted"), Failure, "KeyError 'planted'; 1 is serving"),
        (MemoryError(), Failure, "MemoryError; 1 is serving"),
        (KeyboardInterrupt(), KeyboardInterrupt, "KeyboardInterrupt; 1 is serving"),
        (SystemExit(143), SystemExit, "SystemExit 143; 1 is serving"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_is_raised_after_the_first_change(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    error: BaseException,
    raised: type[BaseException],
    says: str,
) -> None:
    """The version before serves again, nothing is recorded, and one sentence says both."""
    steps = Steps(monkeypatch, step, error)

    with pytest.raises(raised) as caught:
        redeploy.redeploy(steps.job)

    assert steps.done[-2:] == ["go back", "end"]
    assert steps.records == []
    assert f"was not deployed: {says}" in f"{caught.value} {capsys.readouterr().err}"


def test_going_back_that_fails_is_left_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran before is still kept, and the next redeploy goes back to that."""
    steps = Steps(monkeypatch, "go back")
    monkeypatch.setattr(redeploy, "write_record", lambda *_: (_ for _ in ()).throw(Failure("no leader")))

    with pytest.raises(Failure, match="no leader; going back failed as well"):
        redeploy.redeploy(steps.job)
    assert steps.done[-1] == "go back"

    steps = Steps(monkeypatch)
    steps.cut_off = Unfinished("2", "2026-01-03T03:04:05Z", "me@here", [{"Spec": WEB}])
    redeploy.redeploy(steps.job)
    assert steps.before == steps.cut_off.services
    assert "begin" not in steps.done
    assert steps.done[-1] == "end"


def test_a_failure_before_the_first_change_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to go back from."""
    steps = Steps(monkeypatch, "settle", Failure("an earlier update is still running"))

    with pytest.raises(Failure, match=r"^an earlier update is still running$"):
        redeploy.redeploy(steps.job)
    assert steps.done == ["settle"]
