"""compose.yaml, and the backup of what its Redis keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import backup
from lib.command import run
from lib.engine import look
from lib.images import without_digest
from lib.registry import LocalImage
from support import ports

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """A copy of compose.yaml in a folder of its own, from which compose takes the project's name."""

    def __init__(self, folder: Path, image: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._env = {"IMAGE": image, "PORT": str(ports.free_port()), "COMPOSE_PROJECT_NAME": ""}
        self.name = folder.name
        text = (ROOT / "compose.yaml").read_text("utf-8")
        # A stand-in for an official image has another digest.
        (folder / "compose.yaml").write_text(without_digest(text) if look().stands_in else text, "utf-8")

    def compose(self, *words: str, check: bool = True) -> str:
        """Run `docker compose` in the folder, and return what it prints."""
        return run(["docker", "compose", *words], env=self._env, cwd=self._folder, check=check).stdout

    def up(self) -> None:
        """Start it, and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", "--no-build")

    def visit(self) -> int:
        """Visit the page, and return the number that it shows."""
        curl = ["curl", "--fail", "--silent", "--noproxy", "*", f"http://127.0.0.1:{self._env['PORT']}/"]
        return int(run(curl).stdout.rpartition("</b> ")[2])


@pytest.fixture
def project(image: LocalImage, tmp_path: Path) -> Iterator[Callable[[str], Project]]:
    """Make a project, any number of times; each is gone with its volumes after the test."""
    made: list[Project] = []

    def make(name: str) -> Project:
        made.append(Project(tmp_path / f"friendlyhello-test-{os.getpid()}-{name}", image.reference))
        return made[-1]

    yield make
    for each in made:
        each.compose("down", "--volumes", "--timeout", "1", check=False)


def test_compose_counts_and_keeps_its_count(project: Callable[[str], Project]) -> None:
    """docker compose up serves the counter; down and up again counts on where it was."""
    one = project("one")
    visits = []
    for _ in range(2):
        one.up()
        visits += [one.visit() for _ in range(2)]
        one.compose("down")

    assert visits == [1, 2, 3, 4]


def test_a_copy_in_another_folder_has_a_count_of_its_own(project: Callable[[str], Project]) -> None:
    """Neither takes over the other's containers, and `down --volumes` deletes its own count only."""
    one, other = project("one"), project("other")
    one.up()
    other.up()
    assert [one.visit(), other.visit(), other.visit(), one.visit()] == [1, 1, 2, 2]
    other.compose("down", "--volumes")

    assert one.visit() == 3


def test_redis_lets_the_page_count_and_nothing_else(project: Callable[[str], Project]) -> None:
    """Whoever takes over the page cannot empty the database, read other keys, or change the settings."""
    one = project("one")
    one.up()
    assert one.visit() == 1
    for command in ("flushall", "set counter 0", "get other", "incrby other 1", "keys *", "config get *", "shutdown"):
        said = one.compose("exec", "--no-TTY", "redis", "redis-cli", *command.split())
        assert said.startswith("NOPERM"), command

    assert one.compose("exec", "--no-TTY", "redis", "redis-cli", "get", "counter").strip() == "1"
    assert one.visit() == 2


def test_the_count_survives_the_loss_of_its_volume(project: Callable[[str], Project], tmp_path: Path) -> None:
    """backup.py saves it while pages are served, and puts it back into an empty volume, or over a later count."""
    one, file = project("one"), tmp_path / "count.tar"
    one.up()
    assert [one.visit() for _ in range(3)] == [1, 2, 3]
    assert backup.main([str(file), "--project", one.name]) == 0
    assert file.stat().st_mode & 0o077 == 0
    assert one.visit() == 4

    one.compose("down", "--volumes")
    one.up()
    assert one.visit() == 1
    assert backup.main(["--restore", str(file), "--project", one.name]) == 0
    one.up()

    assert one.visit() == 4
