"""What is pushed, where to, and what is never pushed."""

from __future__ import annotations

import json

import pytest

import push_image
from lib import names, release, service
from lib.command import Failure
from lib.distribution import Refused
from lib.names import Commit, ImageName
from lib.registry import LocalImage
from support.hub import BOTH, REVISION, Hub, Image, honest
from support.programs import Programs

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Commit(SHA, False, 0, "hello", "")
DIRTY = Commit(SHA, True, 0, "hello", "")
HUB = ImageName("", "octo", "hello")
LOCAL = ImageName("localhost:5000", "octo", "hello")
TESTED, EARLIER = honest(SHA), honest(SHA, built="earlier")


def image(revision: str = SHA, **labels: str) -> LocalImage:
    """The tested image in the engine, built from a revision."""
    return LocalImage("hello:ci", TESTED.digest, {REVISION: revision, **labels})


def test_commands() -> None:
    """What tags and pushes, to be repeated by hand."""
    assert push_image.tag_command("hello:ci", "octo/hello:1") == ["docker", "tag", "hello:ci", "octo/hello:1"]
    assert push_image.push_command("octo/hello:1") == ["docker", "push", "octo/hello:1"]


STAND_IN = {f"{names.FORMER}.stand-in": "true"}


@pytest.mark.parametrize(
    ("built", "target", "commit", "sentence"),
    [
        (image(**STAND_IN), HUB, COMMIT, "hello:ci is built on a stand-in .* octo/hello is not on localhost; refusing"),
        (
            image(f"{SHA}-dirty"),
            HUB,
            DIRTY,
            "has uncommitted changes, so its image is not published; commit them",
        ),
        (image("f" * 40), LOCAL, COMMIT, f"was built from {'f' * 40}, and {SHA} is checked out; run python3 scripts/b"),
        (image(""), LOCAL, COMMIT, "was built from an unknown revision, and"),
        (image(f"{SHA}-dirty"), LOCAL, COMMIT, f"was built from {SHA}-dirty, and {SHA} is checked out"),
    ],
)
def test_what_is_never_published(built: LocalImage, target: ImageName, commit: Commit, sentence: str) -> None:
    """Stand-ins and uncommitted changes stay here, and an image goes only by the name of its commit."""
    with pytest.raises(Failure, match=sentence):
        push_image.check_allowed(built, target, commit)


@pytest.mark.parametrize(
    ("built", "target", "commit"),
    [(image(), HUB, COMMIT), (image(**STAND_IN), LOCAL, COMMIT), (image(f"{SHA}-dirty"), LOCAL, DIRTY)],
)
def test_what_is_published(built: LocalImage, target: ImageName, commit: Commit) -> None:
    """A commit's image goes anywhere; a stand-in's and a dirty one to localhost."""
    push_image.check_allowed(built, target, commit)


@pytest.fixture
def target(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> ImageName:
    """An image in a registry; every commit is one of main."""
    monkeypatch.setattr(release, "in_main", lambda commit, env: commit == SHA)
    monkeypatch.setattr(release, "is_ancestor", lambda commit, of: commit == SHA)
    return ImageName(hub.host, "octo", "hello")


@pytest.fixture
def pushed(hub: Hub) -> None:
    """The tested image comes to be there after the first look."""
    hub.tags[SHA] = [""]
    hub.put(SHA, TESTED)


@pytest.mark.usefixtures("pushed")
def test_publish(docker: Programs, hub: Hub, target: ImageName) -> None:
    """Asked, tagged, pushed, and asked again: the registry has the tested digest, and its limit counts nothing."""
    reference = f"{target}:{SHA}"
    assert push_image.publish(image(), target, COMMIT) == TESTED.digest
    assert [call[1:] for call in docker.calls] == [["tag", "hello:ci", reference], ["push", reference]]
    assert [request.split()[0] for request in hub.requests if "/manifests/" in request][1:] == ["HEAD", "HEAD"]


def test_publish_twice_pushes_nothing(
    docker: Programs, hub: Hub, target: ImageName, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run finds what the first one published."""
    hub.put(SHA, TESTED)
    assert push_image.publish(image(), target, COMMIT) == TESTED.digest
    assert docker.calls == []
    assert capsys.readouterr().err == f"{target}:{SHA} already exists, skipping\n"


def test_a_published_commit_keeps_its_image(
    docker: Programs, hub: Hub, target: ImageName, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built again, a commit's image has another index digest: the published one stays, and is not overwritten."""
    hub.put(SHA, EARLIER)
    assert push_image.publish(image(), target, COMMIT, platforms=BOTH) == EARLIER.digest
    assert docker.calls == []
    assert f"is already published as {EARLIER.digest}, which was verified; using" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Image(), "is not an image index with platforms"),
        (honest("f" * 40), f"has the revision label '{'f' * 40}'"),
        (honest(SHA, ["linux/amd64"]), "has no image for linux/arm64"),
    ],
    ids=["empty", "of another commit", "of one platform"],
)
def test_what_somebody_else_published_is_not_taken(
    docker: Programs, hub: Hub, target: ImageName, other: Image, says: str
) -> None:
    """A commit's tag that holds anything but its image stops the run: nothing is pushed, attested or promoted."""
    hub.put(SHA, other)
    with pytest.raises(Failure, match=says):
        push_image.publish(image(), target, COMMIT, platforms=BOTH)
    assert docker.calls == []


def test_a_stand_in_that_is_published_is_not_taken(
    docker: Programs, hub: Hub, target: ImageName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that got where stand-ins must not be is not used either."""
    monkeypatch.setattr(names, "LOCAL_HOSTS", ())
    hub.put(SHA, honest(SHA, **{"onedigest.stand-in": "True"}))
    with pytest.raises(Failure, match="is built on a stand-in"):
        push_image.publish(image(), target, COMMIT, platforms=BOTH)
    assert docker.calls == []


@pytest.mark.usefixtures("docker_config")
def test_a_dirty_image_is_pushed_again(docker: Programs, hub: Hub, target: ImageName) -> None:
    """A work tree changes under the same name, so on localhost the newest one counts."""
    hub.put(f"{SHA}-dirty", EARLIER)
    hub.put(f"{SHA}-dirty", TESTED)
    assert push_image.publish(image(f"{SHA}-dirty"), target, DIRTY) == TESTED.digest
    assert docker.called("docker", "push") == [["docker", "push", f"{target}:{SHA}-dirty"]]


def test_dry_run(docker: Programs, target: ImageName, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it would run, and runs none of it."""
    assert push_image.publish(image(), target, COMMIT, dry_run=True) == TESTED.digest
    assert docker.calls == []
    said = f"would run: docker tag hello:ci {target}:{SHA} && docker push {target}:{SHA}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("there", "found"), [(EARLIER, EARLIER.digest), (None, "missing")], ids=["another", "none"])
def test_a_registry_that_keeps_something_else(
    docker: Programs, hub: Hub, target: ImageName, there: Image | None, found: str
) -> None:
    """The digest after the push has to be the tested one."""
    if there:
        hub.tags[SHA] = [""]
        hub.put(SHA, there)
    with pytest.raises(Failure, match=f"{SHA} is {found}, but {TESTED.digest} was tested"):
        push_image.publish(image(), target, COMMIT)


@pytest.mark.usefixtures("pushed")
def test_a_push_that_fails_is_tried_again(docker: Programs, target: ImageName, no_pause: list[float]) -> None:
    """Errors of the network pass."""
    for _ in range(2):
        docker.answer("^docker push", err="received unexpected HTTP status: 500", status=1, once=True)
    assert push_image.publish(image(), target, COMMIT) == TESTED.digest
    assert len(docker.called("docker", "push")) == 3
    assert len(no_pause) == 2


def test_a_push_that_is_refused_is_not(docker: Programs, target: ImageName, no_pause: list[float]) -> None:
    """A token that may not write is named at once, with what to check."""
    docker.answer("^docker push", err="denied: requested access to the resource is denied\n", status=1)
    with pytest.raises(Refused, match=r"the registry refuses .*: denied: .*; check that DOCKERHUB_USERNAME and"):
        push_image.publish(image(), target, COMMIT)
    assert len(docker.called("docker", "push")) == 1


@pytest.fixture
def checked_out(docker: Programs, target: ImageName, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A commit that is checked out, and its image in the engine."""
    monkeypatch.setattr(push_image, "checked_out", lambda: COMMIT)
    for name, value in {"DOCKERHUB_USERNAME": "octo", "IMAGE_REPOSITORY": "", "REGISTRY": target.registry}.items():
        monkeypatch.setenv(name, value)
    return docker.answer("image inspect", json.dumps([{"Id": TESTED.digest, "Config": {"Labels": {REVISION: SHA}}}]))


@pytest.mark.usefixtures("state", "checked_out")
def test_main(hub: Hub, target: ImageName, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what to deploy: the name with the digest."""
    hub.put(SHA, TESTED)
    assert push_image.main(["--digest", TESTED.digest]) == 0
    assert capsys.readouterr().out == f"{target}@{TESTED.digest}\n"


def test_main_with_another_digest(checked_out: Programs) -> None:
    """An image that was built after the test is not the tested one."""
    with pytest.raises(Failure, match=f"^{service.load().image} on this engine is .*, but {EARLIER.digest} was tested"):
        push_image.main(["--digest", EARLIER.digest])
    assert not checked_out.called("docker", "push")
