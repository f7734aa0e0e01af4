"""What is pushed, where to, and what is never pushed."""

from __future__ import annotations

import json

import pytest

import push_image
from lib.command import Failure
from lib.names import ImageName, Source
from lib.registry import LocalImage, Refused, digest_of
from programs import Programs

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Source(SHA, False, 0, "hello", "")
DIRTY = Source(SHA, True, 0, "hello", "")
HUB = ImageName("", "octo", "hello")
LOCAL = ImageName("localhost:5000", "octo", "hello")
TESTED, EARLIER = '{"manifests": []}', '{"manifests": [], "earlier": true}'
NOT_THERE = "ERROR: not found"


def image(revision: str = SHA, content: str = TESTED, **labels: str) -> LocalImage:
    """An image of the engine, built from a revision."""
    return LocalImage("hello:ci", digest_of(content), {"org.opencontainers.image.revision": revision, **labels})


def test_commands() -> None:
    """What tags and pushes, to be repeated by hand."""
    assert push_image.tag_command("hello:ci", "octo/hello:1") == ["docker", "tag", "hello:ci", "octo/hello:1"]
    assert push_image.push_command("octo/hello:1") == ["docker", "push", "octo/hello:1"]


STAND_IN = {"friendlyhello.stand-in": "true"}


@pytest.mark.parametrize(
    ("built", "target", "commit", "sentence"),
    [
        (image(**STAND_IN), HUB, COMMIT, "hello:ci is built on a stand-in .* octo/hello is not on localhost"),
        (image(f"{SHA}-dirty"), HUB, DIRTY, "changes that are in no commit: not publishing it; commit them first"),
        (image("f" * 40), LOCAL, COMMIT, f"was built from {'f' * 40}, and {SHA} is checked out; run python3 scripts/b"),
        (image(""), LOCAL, COMMIT, "was built from an unknown revision, and"),
        (image(f"{SHA}-dirty"), LOCAL, COMMIT, f"was built from {SHA}-dirty, and {SHA} is checked out"),
    ],
)
def test_what_is_never_published(built: LocalImage, target: ImageName, commit: Source, sentence: str) -> None:
    """Stand-ins and uncommitted changes stay here, and an image goes only by the name of its commit."""
    with pytest.raises(Failure, match=sentence):
        push_image.check_allowed(built, target, commit)


@pytest.mark.parametrize(
    ("built", "target", "commit"),
    [(image(), HUB, COMMIT), (image(**STAND_IN), LOCAL, COMMIT), (image(f"{SHA}-dirty"), LOCAL, DIRTY)],
)
def test_what_is_published(built: LocalImage, target: ImageName, commit: Source) -> None:
    """A commit's image goes anywhere; a stand-in's and a dirty one to localhost."""
    push_image.check_allowed(built, target, commit)


def test_publish(docker: Programs) -> None:
    """Asked, tagged, pushed, and asked again: the registry has the tested digest."""
    docker.answer("inspect --raw", err=NOT_THERE, status=1, once=True).answer("inspect --raw", TESTED)
    reference = f"localhost:5000/octo/hello:{SHA}"
    assert push_image.publish(image(), LOCAL, COMMIT) == digest_of(TESTED)
    assert [call[1:] for call in docker.calls] == [
        ["buildx", "imagetools", "inspect", "--raw", reference],
        ["tag", "hello:ci", reference],
        ["push", reference],
        ["buildx", "imagetools", "inspect", "--raw", reference],
    ]


def test_publish_twice_pushes_nothing(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run finds what the first one published."""
    docker.answer("inspect --raw", TESTED)
    assert push_image.publish(image(), LOCAL, COMMIT) == digest_of(TESTED)
    assert len(docker.calls) == 1
    assert capsys.readouterr().err == f"localhost:5000/octo/hello:{SHA} already exists, skipping\n"


def test_a_published_commit_keeps_its_image(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """Built again, a commit's image has another index digest: the published one goes on, and is not overwritten."""
    docker.answer("inspect --raw", EARLIER)
    assert push_image.publish(image(), HUB, COMMIT) == digest_of(EARLIER)
    assert len(docker.calls) == 1
    assert f"published it as {digest_of(EARLIER)}: that is the one that goes on" in capsys.readouterr().err


def test_a_dirty_image_is_pushed_again(docker: Programs) -> None:
    """A work tree changes under the same name, so on localhost the newest one counts."""
    docker.answer("inspect --raw", EARLIER, once=True).answer("inspect --raw", TESTED)
    assert push_image.publish(image(f"{SHA}-dirty"), LOCAL, DIRTY) == digest_of(TESTED)
    assert docker.called("docker", "push") == [["docker", "push", f"localhost:5000/octo/hello:{SHA}-dirty"]]


def test_dry_run(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it would run, and runs none of it."""
    docker.answer("inspect --raw", err=NOT_THERE, status=1)
    assert push_image.publish(image(), HUB, COMMIT, dry_run=True) == digest_of(TESTED)
    assert len(docker.calls) == 1
    said = f"would run: docker tag hello:ci octo/hello:{SHA} && docker push octo/hello:{SHA}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("answer", "found"), [({"out": EARLIER}, digest_of(EARLIER)), ({"err": NOT_THERE, "status": 1}, "missing")]
)
def test_a_registry_that_keeps_something_else(docker: Programs, answer: dict[str, str], found: str) -> None:
    """The digest after the push has to be the tested one."""
    docker.answer("inspect --raw", err=NOT_THERE, status=1, once=True)
    docker.answer("inspect --raw", **answer)  # type: ignore[arg-type]
    with pytest.raises(Failure, match=f"{SHA} is {found}, and {digest_of(TESTED)} was tested"):
        push_image.publish(image(), LOCAL, COMMIT)


def test_a_push_that_fails_is_tried_again(docker: Programs, no_pause: list[float]) -> None:
    """Errors of the network pass."""
    docker.answer("inspect --raw", err=NOT_THERE, status=1, once=True).answer("inspect --raw", TESTED)
    for _ in range(2):
        docker.answer("^docker push", err="received unexpected HTTP status: 500", status=1, once=True)
    assert push_image.publish(image(), LOCAL, COMMIT) == digest_of(TESTED)
    assert len(docker.called("docker", "push")) == 3
    assert len(no_pause) == 2


def test_a_push_that_is_refused_is_not(docker: Programs, no_pause: list[float]) -> None:
    """A token that may not write is named at once, with what to check."""
    docker.answer("^docker push", err="denied: requested access to the resource is denied\n", status=1)
    docker.answer("inspect --raw", err=NOT_THERE, status=1)
    with pytest.raises(Refused, match=r"the registry refuses .*: denied: .*; check that DOCKERHUB_USERNAME and"):
        push_image.publish(image(), HUB, COMMIT)
    assert len(docker.called("docker", "push")) == 1


@pytest.fixture
def checked_out(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A commit that is checked out, and its image in the engine."""
    monkeypatch.setattr(push_image, "source", lambda: COMMIT)
    for name, value in {"DOCKERHUB_USERNAME": "octo", "IMAGE_REPOSITORY": "", "REGISTRY": ""}.items():
        monkeypatch.setenv(name, value)
    labels = {"org.opencontainers.image.revision": SHA}
    return docker.answer("image inspect", json.dumps([{"Id": digest_of(TESTED), "Config": {"Labels": labels}}]))


@pytest.mark.usefixtures("state")
def test_main(checked_out: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what to deploy: the name with the digest."""
    checked_out.answer("inspect --raw", TESTED)
    assert push_image.main(["--digest", digest_of(TESTED)]) == 0
    assert capsys.readouterr().out == f"octo/hello@{digest_of(TESTED)}\n"


def test_main_with_another_digest(checked_out: Programs) -> None:
    """An image that was built after the test is not the tested one."""
    with pytest.raises(Failure, match=f"hello:ci on this engine is .*, and {digest_of(EARLIER)} was tested"):
        push_image.main(["--digest", digest_of(EARLIER)])
    assert not checked_out.called("docker", "push")
