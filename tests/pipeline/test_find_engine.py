"""Finding an engine, and saying what keeps it from running the pipeline: with a docker that answers from a table."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lib import engine
from lib.command import Failure
from lib.engine import Engine
from lib.service import PLATFORMS
from support.docker_info import INFO, INSPECT, MIRRORED
from support.programs import Programs

GOOD = Engine(version="26.1.5", image_store=True, buildx=(0, 13, 1), platforms=("linux/amd64", "linux/arm64"))


def test_parse_info() -> None:
    """What `docker info` says, in our words."""
    assert engine.parse_info(INFO, INSPECT) == GOOD
    assert engine.parse_info(MIRRORED, INSPECT).stands_in


@pytest.mark.parametrize(
    "info",
    [
        {"ServerErrors": ["Cannot connect to the Docker daemon"]},
        {"ServerErrors": ["Cannot connect to the Docker daemon"], "ClientInfo": None, "DriverStatus": None},
    ],
)
def test_parse_info_without_an_engine(info: dict[str, Any]) -> None:
    """A client alone is not an engine, and says why it has none."""
    found = engine.parse_info(info, "")
    assert found == Engine(why_not="Cannot connect to the Docker daemon")


def test_an_old_engine() -> None:
    """An engine with the older image store, a buildx without a version, and one platform."""
    info = {**INFO, "DriverStatus": [["Backing Filesystem", "extfs"]]}
    info["ClientInfo"] = {"Plugins": [{"Name": "buildx", "Version": "dev"}]}
    found = engine.parse_info(info, "Platforms: linux/amd64\n")
    assert (found.image_store, found.buildx, found.platforms) == (False, (), ("linux/amd64",))


@pytest.mark.parametrize(
    ("registries", "refused"),
    [
        (None, False),  # an engine that does not say
        ({"Mirrors": []}, False),
        ({"InsecureRegistryCIDRs": ["127.0.0.0/8"]}, False),
        ({"InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"]}, False),
        ({"InsecureRegistryCIDRs": ["10.0.0.0/8", "127.0.0.0/8"]}, False),
        ({"InsecureRegistryCIDRs": ["0.0.0.0/0"]}, False),
        ({"InsecureRegistryCIDRs": ["127.0.0.1/8"]}, False),
        ({"InsecureRegistryCIDRs": ["10.0.0.0/8"]}, True),
        ({"InsecureRegistryCIDRs": ["127.1.0.0/16", "::1/128"]}, True),
        ({"InsecureRegistryCIDRs": []}, True),
        ({"InsecureRegistryCIDRs": None, "IndexConfigs": {"registry.corp:3000": {"Secure": False}}}, True),
    ],
)
def test_an_engine_that_wants_tls_on_localhost(registries: dict[str, Any] | None, refused: bool) -> None:
    """Engine 29.10 takes insecure-registries literally: the sentence says what to add."""
    found = engine.parse_info({**INFO, "ServerVersion": "29.10.0", "RegistryConfig": registries}, INSPECT)
    sentence = engine.without_loopback(found)
    assert bool(sentence) is refused
    assert not refused or 'add "127.0.0.0/8", "::1/128" to "insecure-registries" in /etc/docker/daemon.json' in sentence
    assert engine.problems(found, PLATFORMS) == []


def test_no_engine_wants_nothing_of_localhost() -> None:
    """If no engine answers, that is the one thing to say."""
    assert engine.without_loopback(Engine(loopback=False)) == ""


def test_how_an_engine_is_shown() -> None:
    """The engine is shown in one line, and nobody overlooks a stand-in for Docker Hub."""
    assert str(GOOD) == "Docker Engine 26.1.5, buildx 0.13.1, linux/amd64, linux/arm64"
    assert "STAND-INS from localhost:5055, not Docker Hub's" in str(engine.parse_info(MIRRORED, INSPECT))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"version": "", "why_not": "is it running?"}, [r"no Docker Engine is reachable \(is it running\?\); .*setup"]),
        ({"version": ""}, [r"no Docker Engine is reachable \(no reason given\)"]),
        ({"version": "", "why_not": "connect: permission denied"}, ["you may not talk to .*: run sudo usermod"]),
        ({"image_store": False}, ["image store is off: add .*containerd-snapshotter.* to /etc/docker/daemon.json"]),
        ({"buildx": (0, 12, 9)}, ["docker buildx 0.13 or newer is missing: install the package docker-buildx"]),
        ({"platforms": ("linux/amd64",)}, ["the engine cannot run linux/arm64: install qemu-user-static"]),
        ({"platforms": (), "buildx": ()}, ["buildx 0.13 or newer is missing"]),
        ({"platforms": (), "image_store": False}, ["image store is off", "cannot run linux/amd64, linux/arm64"]),
    ],
)
def test_problems(changed: dict[str, Any], expected: list[str]) -> None:
    """Each thing that is missing gets a sentence with what to do."""
    found = engine.problems(Engine(**{**vars(GOOD), **changed}), PLATFORMS)
    assert len(found) == len(expected)
    for sentence, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, sentence)


@pytest.mark.parametrize("platforms", [["linux/amd64"], []])
def test_only_the_platforms_that_are_built_are_missed(platforms: list[str]) -> None:
    """A service for one platform needs no emulation of the other."""
    one = Engine(**{**vars(GOOD), "platforms": ("linux/amd64",)})
    assert engine.problems(one, platforms) == []
    assert engine.problems(one, ["linux/arm64"])


def test_find(docker: Programs) -> None:
    """The engine is the one that `docker` talks to."""
    docker.answer("^docker info", json.dumps(INFO)).answer("^docker buildx inspect", INSPECT)
    assert engine.find(PLATFORMS) == GOOD
    assert engine.look() == GOOD


@pytest.mark.parametrize(
    ("context", "status", "expected"),
    [
        ("default\n", 0, "default"),
        ("colima\n", 0, "colima"),
        ("orbstack\n", 0, "orbstack"),
        ("rootless\n", 0, "rootless"),
        ("desktop-linux\n", 0, "desktop-linux"),
        ("", 1, "default"),  # a docker that knows no contexts
    ],
)
def test_the_builder_is_the_contexts_own(docker: Programs, context: str, status: int, expected: str) -> None:
    """Each context has a builder of its name; `default` would be another engine, or none."""
    docker.answer("^docker info", json.dumps(INFO)).answer("^docker context show", context, status=status)
    docker.answer(f"^docker buildx inspect {expected}$", INSPECT)
    assert engine.builder() == expected
    assert engine.find(PLATFORMS) == GOOD


def test_find_says_all_that_is_missing(docker: Programs) -> None:
    """Everything is said in one sentence, once, with the command that fixes it."""
    docker.answer("^docker info", json.dumps({**INFO, "DriverStatus": [], "ClientInfo": {}}))
    with pytest.raises(
        Failure, match=r"image store is off.*; docker buildx .*; or run python3 scripts/engine.py --setup"
    ):
        engine.find(PLATFORMS)


@pytest.mark.parametrize(
    ("info", "said", "sentence"),
    [
        ("", "cannot connect\n", r"no Docker Engine is reachable \(cannot connect\)"),
        ("", "", r"\(docker info said nothing\)"),
        ("{}", "is it running?\n", r"\(is it running\?\)"),
        ('{"ServerErrors": ["cannot connect"]}', "errors pretty printing info\n", r"\(cannot connect\)"),
        ("{}", "connect: permission denied\n", r"^you may not talk to the Docker Engine: run sudo usermod"),
    ],
)
def test_find_with_a_silent_engine(docker: Programs, info: str, said: str, sentence: str) -> None:
    """What docker says is quoted; --setup is named once."""
    docker.answer("^docker info", info, said, status=1)
    with pytest.raises(Failure, match=sentence) as raised:
        engine.find(PLATFORMS)
    assert str(raised.value).count("--setup") == 1


def test_no_docker_command(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Docker is told so."""
    monkeypatch.setenv("PATH", str(programs.bin))
    assert engine.look() == Engine(why_not="there is no docker command")
