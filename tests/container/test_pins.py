"""A copy whose images have their digests is built and run, by a real engine, whosever digests they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_image
import pin_images
from conftest import need
from container.conftest import PREFIX
from lib import distribution, engine, service, standin
from lib.command import run
from lib.images import references
from lib.names import checked_out
from lib.registry import run_pulling
from smoke_test import backing_command
from support import images
from support.hub import Hub, honest
from support.projects import commit, fill


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the fixture's service."""
    need(engine.look().stands_in, "an engine that stands in for Docker Hub")
    fill(tmp_path / "copy")
    monkeypatch.setattr(pin_images, "ROOT", tmp_path / "copy")
    monkeypatch.setattr(distribution, "_authorizations", {})
    return tmp_path / "copy"


def test_digests_of_the_stand_ins(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written, and the engine finds them where it looks for Docker Hub's images."""
    monkeypatch.setattr(distribution, "HUB", standin.HOST)
    assert pin_images.main([]) == 0
    named = {each.image.partition(":")[0]: f"{each.image}@{each.digest}" for each in references(copy)}
    assert set(named) == {"python", "redis", "caddy"}
    images.build(f"{PREFIX}:pinned", f"FROM {named['python']}\nLABEL pinned=true\n")
    run(["docker", "image", "rm", f"{PREFIX}:pinned"])
    run(["docker", "pull", "--quiet", named["redis"]])


def test_digests_of_docker_hub(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has them here; the service is built on the stand-in of the tag, and its Redis runs."""
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        for each in references(copy):
            hub.put(each.image.partition(":")[2], honest(each.image))
        patch.setattr(distribution, "HUB", hub.host)
        assert pin_images.main([]) == 0
    commit(copy)
    built = build_image.build(f"{PREFIX}:pinned", [standin.host_platform()], checked_out(copy), root=copy)
    run(["docker", "image", "rm", built.reference])
    assert built.stand_in
    (redis,) = service.load(copy, {}).backing
    assert "@sha256:" in redis.image
    run_pulling(["docker", "run", "--rm", engine.here(redis.image), "redis-server", "--version"])
    assert backing_command(redis, "none")[-1] == engine.here(redis.image) != redis.image
