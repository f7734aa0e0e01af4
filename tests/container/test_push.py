"""Publishing what was tested, to a real registry: once, whole, and nothing else."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import build_image
import pipeline
import push_image
from conftest import need_root
from lib import registry as registries
from lib import release
from lib.command import Failure, run
from lib.daemon import Daemon
from lib.names import FORMER, PIPELINE, Commit, ImageName, checked_out
from lib.registry import LocalImage, index_of, local_image
from lib.standin import host_platform, start_registry
from support.front import Front
from support.projects import FIXTURE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def commit(image: LocalImage) -> Commit:
    """The commit that the image was built from."""
    sha, _, dirty = image.revision.partition("-")
    return Commit(sha, bool(dirty), 0, "hello", "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without a pause."""
    monkeypatch.setattr("lib.registry.time.sleep", lambda seconds: None)


@pytest.fixture
def target(registry: int) -> Iterator[ImageName]:
    """An image on a registry on localhost; its local tags go with it."""
    target = ImageName(f"localhost:{registry}", "me", "hello")
    yield target
    remove(target)


def remove(target: ImageName) -> None:
    """Remove the tags that pushing left in the engine."""
    tags = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", str(target)]).stdout.split()
    if tags:
        run(["docker", "image", "rm", "--force", *tags])


def test_pushed_as_tested(image: LocalImage, commit: Commit, target: ImageName) -> None:
    """The registry has the digest that was built, with both platforms and what attests them."""
    assert push_image.publish(image, target, commit, dry_run=True) == image.digest
    assert index_of(target.tagged(commit.revision)) is None
    assert push_image.publish(image, target, commit) == image.digest
    found = release.verified(target, commit.revision, revision=commit.revision)
    assert (found.digest, set(found.platforms)) == (image.digest, {"linux/amd64", "linux/arm64"})
    layers = registries.layer_sizes(target.at(image.digest))
    added = pipeline.added_bytes(target.at(image.digest), layers, "fixture")
    for platform in found.platforms:
        assert 0 < added[platform] <= 12_000 < sum(layers[platform])


def test_no_password_is_pushed(target: ImageName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's password, which the build is given, is in no layer, configuration or attestation of the image."""
    monkeypatch.setenv("HTTPS_PROXY", "http://corp:PLANTED@127.0.0.1:9")
    built = build_image.build(target.tagged("proxied"), [host_platform()], checked_out(), root=FIXTURE)
    run(["docker", "push", "--quiet", target.tagged("proxied")])
    blobs = [file.read_bytes() for file in (tmp_path / "data").rglob("blobs/**/data")]
    assert any(built.revision.encode() in blob for blob in blobs), "this is not where the registry keeps its blobs"
    for blob in blobs:
        assert b"PLANTED" not in (gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob)


def test_pushed_once(image: LocalImage, commit: Commit, target: ImageName, capsys: pytest.CaptureFixture[str]) -> None:
    """Doing it again pushes nothing."""
    push_image.publish(image, target, commit)
    capsys.readouterr()
    assert push_image.publish(image, target, commit) == image.digest
    assert "already exists, skipping" in capsys.readouterr().err


def test_a_published_commit_keeps_its_image(
    image: LocalImage, broken: Callable[[str], str], commit: Commit, target: ImageName
) -> None:
    """Another build of the same commit does not take its place; the first one is used."""
    clean = Commit(commit.sha, False, commit.date, commit.repository, commit.url)
    labels = f'LABEL org.opencontainers.image.revision="{commit.sha}" try='
    first = local_image(broken(labels + "1"))
    run(["docker", "tag", first.reference, target.tagged(commit.sha)])
    run(push_image.push_command(target.tagged(commit.sha)))
    second = local_image(broken(labels + "2"))
    assert first.digest != second.digest
    assert push_image.publish(second, target, clean) == first.digest
    index = index_of(target.tagged(commit.sha))
    assert index is not None
    assert index.digest == first.digest


def test_another_revision_is_refused(image: LocalImage, commit: Commit, target: ImageName) -> None:
    """An image of another commit is not published as this one's."""
    other = Commit("f" * 40, False, commit.date, commit.repository, commit.url)
    with pytest.raises(Failure, match=r"was built from .* run python3 scripts/build_image.py first"):
        push_image.publish(image, target, other)


@pytest.mark.usefixtures("quick")
def test_a_registry_that_recovers(image: LocalImage, commit: Commit, registry: int) -> None:
    """After two answers of 503 it tries again."""
    with Front(registry, "") as front:
        front.writes_to_fail = 2
        target = ImageName(f"localhost:{front.port}", "me", "hello")
        try:
            assert push_image.publish(image, target, commit) == image.digest
        finally:
            remove(target)
    assert front.writes_to_fail == 0


@pytest.mark.usefixtures("quick")
def test_a_registry_that_stays_down(image: LocalImage, commit: Commit, free_port: int) -> None:
    """A registry that cannot be reached is a sentence, after five tries."""
    with pytest.raises(Failure, match=r"cannot read http:.* \(tried 5 times\)"):
        push_image.publish(image, ImageName(f"localhost:{free_port}", "me", "hello"), commit)


@pytest.mark.usefixtures("quick")
def test_a_registry_with_a_full_disk(image: LocalImage, commit: Commit, tmp_path: Path, free_port: int) -> None:
    """A push that cannot be stored is red, and the tag is not there."""
    need_root("a small file system")
    data = tmp_path / "data"
    data.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(data)])
    daemon = Daemon("registry", tmp_path)
    try:
        start_registry(daemon, tmp_path, free_port)
        target = ImageName(f"localhost:{free_port}", "me", "hello")
        with pytest.raises(Failure, match=r"cannot push .* \(tried 5 times\)"):
            push_image.publish(image, target, commit)
        assert index_of(target.tagged(commit.revision)) is None
        remove(target)
    finally:
        daemon.stop()
        run(["umount", str(data)])


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"DOCKERHUB_USERNAME": "Me"}, "error: DOCKERHUB_USERNAME is 'Me'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "a b"}, "error: IMAGE_REPOSITORY is 'a b'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "a;rm"}, "error: IMAGE_REPOSITORY is 'a;rm'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "https://x"}, "error: REGISTRY is 'https://x'"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(image: LocalImage, env: dict[str, str], says: str) -> None:
    """The variable and its value, exit 2, no traceback."""
    command = [sys.executable, str(ROOT / "scripts/push_image.py"), "--image", image.reference]
    clean = {name: value for name, value in os.environ.items() if name not in ("REGISTRY", "IMAGE_REPOSITORY")}
    done = subprocess.run(command, env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1


def test_a_stand_in_stays_here(image: LocalImage, commit: Commit) -> None:
    """An image on a stand-in base goes to no registry but one on localhost; a real one is asked for elsewhere."""
    stand_in = LocalImage(image.reference, image.digest, {**image.labels, f"{FORMER}.stand-in": "true"})
    with pytest.raises(Failure, match="stand-in"):
        push_image.publish(stand_in, ImageName("registry.example.com", "me", "hello"), commit)


def test_json_of_the_engine_is_the_labels(image: LocalImage) -> None:
    """Whether an image is a stand-in's is read from its labels, which come from its base."""
    done = run(["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", image.reference])
    assert json.loads(done.stdout) == image.labels
    marks = [image.labels.get(f"{name}.stand-in") for name in (PIPELINE, FORMER)]
    assert image.stand_in == ("true" in marks)
