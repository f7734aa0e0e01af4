"""An image that goes from one machine to another, whole and with the same digest."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import hand_over
from lib import engine
from lib.command import Failure
from lib.engine import Engine
from lib.registry import digest_of
from support.programs import Programs

Blobs = dict[str, bytes]


def put(blobs: Blobs, content: object) -> dict[str, Any]:
    """Keep content by its digest, and return what refers to it."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    blobs[digest_of(body)] = body
    return {"digest": digest_of(body), "size": len(body)}


def image(*platforms: str) -> tuple[str, Blobs]:
    """Return an image's digest and all of its content."""
    blobs: Blobs = {}
    entries = []
    for platform in platforms:
        system, machine = platform.split("/")
        manifest = {"config": put(blobs, {"of": platform}), "layers": [put(blobs, f"a layer of {platform}".encode())]}
        entries.append({**put(blobs, manifest), "platform": {"os": system, "architecture": machine}})
    return put(blobs, {"manifests": entries})["digest"], blobs


def save(path: Path, listed: list[str], blobs: Blobs, *more: object) -> None:
    """Write an OCI image layout that lists these digests, and `more`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = json.dumps({"manifests": [*({"digest": digest} for digest in listed), *more]}).encode()
    names = {f"blobs/{digest.replace(':', '/')}": body for digest, body in blobs.items()}
    with tarfile.open(path, "w") as tar:
        for name, body in {"index.json": layout, **names}.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))


DIGEST, BLOBS = image("linux/amd64", "linux/arm64")
BODY = json.loads(BLOBS[DIGEST])
OTHER, OTHERS = image("linux/s390x")


def test_commands() -> None:
    """What saves and loads, to be repeated by hand."""
    assert hand_over.save_command("hello:ci", Path("a.tar")) == ["docker", "save", "--output", "a.tar", "hello:ci"]
    assert hand_over.load_command(Path("a.tar")) == ["docker", "load", "--input", "a.tar"]


def test_a_whole_image(tmp_path: Path) -> None:
    """Its index says what it has."""
    save(tmp_path / "a.tar", [DIGEST], BLOBS)
    assert list(hand_over.check_archive(tmp_path / "a.tar", DIGEST).platforms) == ["linux/amd64", "linux/arm64"]


def test_what_an_engine_keeps_beside_an_image(tmp_path: Path) -> None:
    """Docker Engine 29 adds the proof of an earlier build of the same platform: not an image, unless it has a name."""
    annotations = {"io.containerd.manifest.subject": BODY["manifests"][0]["digest"]}
    beside = {"digest": OTHER, "annotations": annotations}
    save(tmp_path / "a.tar", [DIGEST], {**BLOBS, **OTHERS}, beside)
    assert hand_over.check_archive(tmp_path / "a.tar", DIGEST).digest == DIGEST
    annotations["io.containerd.image.name"] = "docker.io/library/other:ci"
    save(tmp_path / "a.tar", [DIGEST], {**BLOBS, **OTHERS}, beside)
    with pytest.raises(Failure, match=r"a\.tar holds 2 images, expected one"):
        hand_over.check_archive(tmp_path / "a.tar", DIGEST)


@pytest.mark.parametrize("lost", [digest for digest in BLOBS if digest != DIGEST])
def test_any_part_that_is_lost(tmp_path: Path, lost: str) -> None:
    """An engine that keeps a part of an image saves a part of it, and says nothing."""
    save(tmp_path / "a.tar", [DIGEST], {digest: body for digest, body in BLOBS.items() if digest != lost})
    with pytest.raises(Failure, match=f"a.tar lacks 1 parts of the image, such as {lost}; run python3 "):
        hand_over.check_archive(tmp_path / "a.tar", DIGEST)


@pytest.mark.parametrize(
    ("listed", "blobs", "sentence"),
    [
        ([OTHER], OTHERS, f"the image in .*a.tar is {OTHER}, .*{DIGEST}"),
        ([], BLOBS, "a.tar holds 0 images, expected one"),
        ([DIGEST, OTHER], {**BLOBS, **OTHERS}, "a.tar holds 2 images, expected one"),
        ([DIGEST], {}, "a.tar holds 1 images, expected one"),
        ([DIGEST], {**BLOBS, DIGEST: BLOBS[DIGEST] + b" "}, f"a manifest in .*a.tar is sha256:.*{DIGEST}"),
    ],
    ids=["another", "none", "two", "empty", "changed"],
)
def test_another_image(tmp_path: Path, listed: list[str], blobs: Blobs, sentence: str) -> None:
    """What is not the image that was tested is not loaded."""
    save(tmp_path / "a.tar", listed, blobs)
    with pytest.raises(Failure, match=sentence):
        hand_over.check_archive(tmp_path / "a.tar", DIGEST)


@pytest.mark.parametrize("content", [None, b"", b"not a tar file"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """One sentence names it."""
    if content is not None:
        (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(Failure, match=r"cannot read an image from .*a.tar: .*; run the job that saved it again"):
        hand_over.check_archive(tmp_path / "a.tar", DIGEST)


@pytest.fixture
def machine(docker: Programs, state: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """An engine with an image."""
    monkeypatch.setattr(hand_over, "STATE", state)
    monkeypatch.setattr(hand_over, "SAVED", state / "image.tar")
    monkeypatch.setattr(hand_over, "TAKEN", state / "tested/image/image.tar")
    monkeypatch.setattr(engine, "find", Engine)
    docker.answer("image inspect", json.dumps([{"Id": DIGEST, "Config": {}}]))
    return docker


def test_save_and_load(machine: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """Both print the digest."""
    save(hand_over.SAVED, [DIGEST], BLOBS)  # as the engine does
    save(hand_over.TAKEN, [DIGEST], BLOBS)
    for what in ("save", "load"):
        assert hand_over.main([what, "--digest", DIGEST]) == 0
        assert capsys.readouterr().out == f"{DIGEST}\n"
        assert machine.called("docker", what)


@pytest.mark.parametrize("what", ["save", "load"])
def test_an_engine_with_another_image(machine: Programs, what: str) -> None:
    """The digest that was tested has to be the engine's before it is saved, and the file's before it is loaded."""
    save(hand_over.TAKEN, [DIGEST], BLOBS)
    with pytest.raises(Failure, match=f"is {DIGEST}, .*{OTHER}"):
        hand_over.main([what, "--digest", OTHER])
    assert not machine.called("docker", what)
