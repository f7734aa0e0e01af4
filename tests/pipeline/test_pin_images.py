"""Giving each image its digest: which are found, what is written, and that everything still works with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import build_image
import pin_images
from lib import distribution, engine, service, settings, standin
from lib.command import Failure, UsageError
from lib.images import Reference, references
from support.hub import Hub, honest
from support.projects import FIXTURE, ROOT

ZEROS = f"sha256:{64 * '0'}"
FILES = ("Dockerfile", "compose.yaml", "service.toml", "deploy/compose.stack.yaml", "deploy/compose.redis.yaml")


@pytest.mark.parametrize(
    ("file", "text", "images"),
    [
        ("Dockerfile", "FROM python:3.13\n", ["python:3.13"]),
        ("Dockerfile", "FROM --platform=$BUILDPLATFORM python:3.13 AS build\nFROM build\n", ["python:3.13"]),
        ("Dockerfile", "FROM a:1 AS one\nFROM a:1 AS Two\nFROM one\nfrom two as three\n", ["a:1", "a:1"]),
        ("Dockerfile", "ARG V=3\nFROM python:$V\nFROM python:${V}-slim\nFROM scratch\n", []),
        ("Dockerfile", "# FROM python:3.9\n FROM x\nRUN echo FROM y\n", []),
        ("Dockerfile", "FROM ghcr.io/octo/base\n", ["ghcr.io/octo/base"]),
        (
            "compose.yaml",
            "services:\n  web:\n    image: ${IMAGE:-hello:ci}\n  redis:\n    image: redis:8\n",
            ["redis:8"],
        ),
        ("compose.yaml", '    image: "redis:8" # counts\n', ["redis:8"]),
        ("compose.yaml", "    image: 'redis:8'\n", ["redis:8"]),
        ("compose.yaml", "  - image: redis:8\n", ["redis:8"]),
        ("compose.yaml", "    # image: redis:8\n    images: x\n    my-image: y\n", []),
        ("compose.override.yml", "    image: redis:8\n", ["redis:8"]),
        ("deploy/compose.stack.yaml", "  edge:\n    image: caddy:2\n", ["caddy:2"]),
        ("deploy/kubernetes.yaml", "    image: caddy:2\n", []),
    ],
)
def test_what_is_an_image(tmp_path: Path, file: str, text: str, images: list[str]) -> None:
    """Somebody else's, named in full; a stage, a variable and a comment are not."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / file).write_text(text, "utf-8")
    assert [each.image for each in references(tmp_path)] == images


def test_where_an_image_stands(tmp_path: Path) -> None:
    """Its file and line, where its name ends, and the digest that it has."""
    (tmp_path / "Dockerfile").write_bytes(f"# é\r\nFROM python:3@{ZEROS} AS a\r\n".encode())
    (found,) = references(tmp_path)
    assert found == Reference("Dockerfile", 2, "python:3", ZEROS, found.end)
    assert (tmp_path / "Dockerfile").read_bytes().decode()[: found.end].endswith(ZEROS)


def test_a_name_that_cannot_be_one(tmp_path: Path) -> None:
    """It is quoted."""
    (tmp_path / "Dockerfile").write_text("FROM Python:3\n", "utf-8")
    with pytest.raises(UsageError, match="'Python:3' is not the name of an image"):
        references(tmp_path)


@pytest.fixture
def copy(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project by tags alone, and a Docker Hub that has them."""
    root = tmp_path / "copy"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
        (root / name).write_text(re.sub(r"@sha256:[0-9a-f]{64}", "", (root / name).read_text("utf-8")), "utf-8")
    for each in references(root):
        tag = each.image.partition(":")[2]
        hub.tags.pop(tag, None)
        hub.put(tag, honest(tag))
    monkeypatch.setattr(distribution, "HUB", hub.host)
    monkeypatch.setattr(pin_images, "ROOT", root)
    return root


def test_every_image_gets_its_digest(copy: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """In its place, and nothing else changes; a second time there is nothing to do, and nobody is asked."""
    before = {name: (copy / name).read_bytes() for name in FILES}
    assert pin_images.main(["--check"]) == 1
    assert "\ndeploy/compose.stack.yaml:" in capsys.readouterr().out
    assert pin_images.main(["--dry-run"]) == 0
    assert {name: (copy / name).read_bytes() for name in FILES} == before

    assert pin_images.main([]) == 0

    found = references(copy)
    assert {each.image: [each.digest] for each in found} == {
        each.image: hub.tags[each.image.partition(":")[2]] for each in found
    }
    after = {name: (copy / name).read_text("utf-8") for name in FILES}
    assert {name: re.sub(r"@sha256:[0-9a-f]{64}", "", text).encode() for name, text in after.items()} == before
    assert hub.counted == 0
    hub.requests.clear()
    assert pin_images.main([]) == pin_images.main(["--check"]) == 0
    assert hub.requests == []
    assert {name: (copy / name).read_text("utf-8") for name in FILES} == after


def test_one_that_is_missing(copy: Path, hub: Hub) -> None:
    """Then nothing is written, whatever else was found."""
    before = {name: (copy / name).read_bytes() for name in FILES}
    last = references(copy)[-1]
    hub.tags[last.image.partition(":")[2]] = [""]
    with pytest.raises(Failure, match=f"there is no {last.image} in its registry, which {last.file} names"):
        pin_images.main([])
    assert {name: (copy / name).read_bytes() for name in FILES} == before


def test_line_endings_stay(copy: Path) -> None:
    """A checkout on Windows is still one."""
    file = copy / "Dockerfile"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    pin_images.main([])
    text = file.read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n")
    assert b"@sha256:" in text


def test_the_service_has_the_digest_of_compose_yaml(copy: Path) -> None:
    """service.toml keeps the tag, and both still say the same; another tag there is a difference."""
    pin_images.main([])
    (image,) = (each for each in references(copy) if each.file == "compose.yaml")
    (redis,) = service.load(copy, {}).backing
    assert redis.image == f"{image.image}@{image.digest}"
    assert not [each for each in service.differences(copy, {}) if "image" in each]
    toml = copy / "service.toml"
    toml.write_text(toml.read_text("utf-8").replace(image.image, "redis:7"), "utf-8")
    assert service.load(copy, {}).backing[0].image == "redis:7"
    assert any("with the image redis:7" in each for each in service.differences(copy, {}))
    assert service.load(FIXTURE, {}).backing[0].image == "redis:8"


# What Dependabot finds and replaces: file_parser.rb and file_updater.rb of docker and docker-compose in
# https://github.com/dependabot/dependabot-core (docker/lib/dependabot).
FROM_LINE = r"(?m)^FROM(\s+--platform=\S+)?\s+(docker\.io/)?{}(?=\s|$)"
IMAGE_LINE = r"(?i)(?:from|image:\s*)\s+[\"']?(?:\$\{{[^}}:]+:-)?(docker\.io/)?{}(?:\}})?[\"']?(?=\s|$)"


def test_dependabot_moves_tag_and_digest(copy: Path) -> None:
    """Each line that was written is one that it would find again, however often the image stands there."""
    pin_images.main([])
    for each in references(copy):
        declaration = re.escape(f"{each.image}@{each.digest}")
        pattern = (FROM_LINE if each.file == "Dockerfile" else IMAGE_LINE).format(declaration)
        same = [one for one in references(copy) if (one.file, one.image) == (each.file, each.image)]
        assert len(re.findall(pattern, (copy / each.file).read_text("utf-8"))) == len(same), each


# Where the engine stands in for Docker Hub.


@pytest.mark.parametrize(
    ("reference", "stands_in", "expected"),
    [
        (f"redis:8@{ZEROS}", True, "redis:8"),
        (f"redis:8@{ZEROS}", False, f"redis:8@{ZEROS}"),
        ("redis:8", True, "redis:8"),
        ("redis:8", None, "redis:8"),
    ],
)
def test_a_stand_in_is_known_by_its_tag(
    monkeypatch: pytest.MonkeyPatch, reference: str, stands_in: bool | None, expected: str
) -> None:
    """It has another digest than the image that it stands for; the engine is asked only if there is one."""
    mirrors = (f"http://{standin.HOST}",) if stands_in else ()

    def look() -> engine.Engine:
        assert stands_in is not None
        return engine.Engine(version="29", mirrors=mirrors)

    monkeypatch.setattr(engine, "look", look)
    assert engine.here(reference) == expected


@pytest.mark.parametrize("stands_in", [True, False])
def test_what_is_taken_instead(copy: Path, monkeypatch: pytest.MonkeyPatch, stands_in: bool) -> None:
    """For the build and for the stack; nothing where the engine has the official images."""
    pin_images.main([])
    monkeypatch.setattr(settings, "DEPLOY", copy / "deploy")
    mirrors = (f"http://{standin.HOST}",) if stands_in else ()
    monkeypatch.setattr(engine, "look", lambda: engine.Engine(version="29", mirrors=mirrors))
    named: Mapping[str, Reference] = {each.file: each for each in references(copy)}
    python, edge = named["Dockerfile"], named["deploy/compose.stack.yaml"]
    instead = build_image.stand_ins(copy)
    assert instead == ({f"{python.image}@{python.digest}": python.image} if stands_in else {})
    assert settings.edge_image() == ({"image": edge.image} if stands_in else {})
