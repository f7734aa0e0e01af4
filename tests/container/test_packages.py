"""The bill of materials of a real image, and what its container says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import compare_image
import list_packages
from lib import containers, service
from lib.command import run
from lib.packages import contents_of
from lib.registry import LocalImage
from lib.standin import host_platform
from support.projects import commit, fill, git

DPKG = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version} ${Architecture}\\n"]
PYTHON = "import importlib.metadata as m; print(*{f'{d.name} {d.version}' for d in m.distributions()}, sep='\\n')"

HERE = host_platform()
FOREIGN = [name for name in service.PLATFORMS if name != HERE]  # slow, as it is emulated


def inside(image: LocalImage, platform: str, *command: str) -> set[str]:
    """Return the lines that a command in a container of the image prints."""
    start = ["docker", "run", "--rm", "--network", "none", "--platform", platform, image.reference]
    return set(run([*start, *command]).stdout.splitlines())


@pytest.mark.parametrize("platform", [HERE, *(pytest.param(name, marks=pytest.mark.full) for name in FOREIGN)])
def test_as_the_container_says(image: LocalImage, platform: str) -> None:
    """Nothing is missing and nothing is made up: as dpkg and Python in the container list it, emulated if need be."""
    listed = contents_of(image.reference, platform).packages
    debian = {f"{each.name} {each.version} {each.arch}" for each in listed if each.kind == "deb"}
    python = {f"{each.name} {each.version}" for each in listed if each.kind == "pypi"}
    says = (line.partition(" ") for line in inside(image, platform, *DPKG))
    assert debian == {package for state, _, package in says if state == "installed"}
    assert python == inside(image, platform, "python", "-c", PYTHON)
    assert debian
    assert python


def test_the_files(image: LocalImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for each platform, valid by CycloneDX's schema, with the same bytes each time; no container is left."""
    monkeypatch.setattr(list_packages, "STATE", tmp_path)
    texts = []
    for _ in range(2):
        assert list_packages.main(["--image", image.reference, "--digest", image.digest]) == 0
        texts.append({file.name: file.read_text("utf-8") for file in tmp_path.glob("*.cdx.json")})
    assert texts[0] == texts[1]
    assert set(texts[0]) == {"packages-linux-amd64.cdx.json", "packages-linux-arm64.cdx.json"}
    for text in texts[0].values():
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        assert json.loads(text)["metadata"]["component"]["version"] == image.revision
    mine = ["docker", "ps", "--all", "--quiet", "--filter", f"label={containers.label()}"]
    assert run(mine).stdout == ""


def test_beside_the_image_of_another_commit(
    image: LocalImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That commit is built, both are started, what differs is said, and nothing of it is left."""
    name = f"compare{os.getpid()}"
    fill(tmp_path, name)
    (tmp_path / "src/old-1.0.dist-info").mkdir()
    (tmp_path / "src/old-1.0.dist-info/METADATA").write_text("Name: old\nVersion: 1.0\n", "utf-8")
    commit(tmp_path)
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    monkeypatch.setattr(compare_image, "ROOT", tmp_path)
    monkeypatch.setattr(compare_image, "PAIRS", 1)
    monkeypatch.setenv("PLATFORMS", HERE)
    load = service.load
    monkeypatch.setattr(service, "load", lambda root=tmp_path: load(root))
    assert compare_image.main(["--image", image.reference]) == 0
    told = capsys.readouterr().out
    assert "| old (pypi) | `1.0` | removed |  |" in told
    assert f"| {HERE} | " in told
    assert " times as long to start (1 pairs of starts" in told
    assert run(["docker", "image", "ls", "--quiet", f"{name}:base"]).stdout == ""
