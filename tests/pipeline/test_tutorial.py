"""docs/TUTORIAL.md: what it says that the scripts run is what they run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import build_image
import doctor
import pipeline
import push_image
import smoke_test
from lib import containers, registry, service
from lib.command import run
from lib.names import Commit, ImageName
from lib.registry import LocalImage
from lib.standin import host_platform
from support.programs import Programs
from support.projects import FIXTURE, ROOT

SHA, DIGEST = "c" * 40, f"sha256:{'a' * 64}"
COMMIT = Commit(SHA, False, 0, "hello", "")
THIS = service.load(FIXTURE, {})
IMAGE = LocalImage(THIS.image, DIGEST, {})
TARGET = ImageName("", "octo", "hello")
TUTORIAL = (ROOT / "docs/TUTORIAL.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+?) \| `(docker .+?)` \| `(.+?)` \| .+ \|$", TUTORIAL, re.M)


def build(*proxies: str) -> None:
    """Build, as far as the command goes."""
    command = build_image.build_command(
        IMAGE.reference, THIS.platforms, COMMIT, proxies=proxies, metadata=Path("metadata.json")
    )
    run(command)


def stop() -> None:
    """The end of a smoke test of a service that need not finish what is in flight."""
    this = service.parse((FIXTURE / "service.toml").read_text("utf-8") + '\n[off]\nfinish = "a"\nstop = "b"\n', {})
    test = smoke_test.SmokeTest(this, None, IMAGE, host_platform(), 0)
    test.container = "c1"
    test.check_stop()


def smoke() -> None:
    """The command that a smoke test starts the image with."""
    run(smoke_test.run_command(THIS, THIS.image, host_platform(), publish=0, network="n", environment={}))


def log_in() -> None:
    """A login, and the logout after it."""
    with pipeline.logged_in("octo", "s3cret", ""):
        pass


def look_up() -> None:
    """The doctor's question whether a name resolves in a container."""
    world = SimpleNamespace(service=THIS, engine=SimpleNamespace(version="29"), image=None)
    list(doctor.names_in_containers(world))  # type: ignore[arg-type]


# In the order of the table: what runs the row's command.
RUNS: list[Callable[[], object]] = [
    build,
    smoke,
    lambda: run(pipeline.plain_run_command(THIS, TARGET.at(DIGEST), 4000)),
    lambda: containers.remove(containers.label()),
    stop,
    lambda: containers.remove(containers.label()),
    lambda: registry.local_image(IMAGE.reference),
    lambda: pipeline.pull_back(IMAGE, TARGET, COMMIT, DIGEST),
    log_in,
    lambda: run(push_image.tag_command(IMAGE.reference, TARGET.tagged(SHA))),
    lambda: run(push_image.push_command(TARGET.tagged(SHA))),
    lambda: pipeline.pull_back(IMAGE, TARGET, COMMIT, DIGEST),
    lambda: build("HTTPS_PROXY"),
    look_up,
]


def fits(row: str, called: list[str]) -> bool:
    """Whether a command is what a row says: `…` is any number of words, or any part of one."""
    return bool(re.fullmatch(re.escape(row).replace("…", ".*"), shlex.join(called)))


def test_every_row_is_run() -> None:
    """No row of the table is without a script that runs it here."""
    assert len(ROWS) == len(RUNS) == TUTORIAL.count("\n| ") - 1


@pytest.mark.parametrize(("row", "act"), list(zip(ROWS, RUNS, strict=True)), ids=[row[0] for row in ROWS])
def test_what_is_run(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, row: tuple[str, str, str], act: Callable[[], object]
) -> None:
    """The script in the third column runs the command in the second."""
    docker.answer("image inspect", json.dumps([{"Id": DIGEST, "Config": {}}])).answer("container ls", "c1\n")
    monkeypatch.setattr(doctor, "addresses", lambda name: {"192.0.2.1"})
    act()
    _, command, script = row
    assert any(fits(command, called) for called in docker.calls), docker.calls
    assert (ROOT / "scripts" / script).is_file()


@pytest.mark.parametrize(
    ("called", "good"),
    [
        ("docker push octo/hello:1", True),
        ("docker push --quiet octo/hello:1", False),
        ("docker pull octo/hello:1", False),
    ],
)
def test_another_command_does_not_fit(called: str, good: bool) -> None:
    """A row that says something else than what is run is found out."""
    assert fits("docker push octo/…:…", called.split()) is good


def test_tests_that_are_named_are_there() -> None:
    """Each test that the page names exists."""
    file = ""
    names = re.findall(r"`(?:(tests/\S+\.py)::)?(test_\w+)`", TUTORIAL)
    assert names
    for path, name in names:
        file = path or file
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), name
