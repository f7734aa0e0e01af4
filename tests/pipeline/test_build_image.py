"""How the image is built: the exact command, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import build_image
from lib.command import Failure
from lib.names import Commit
from support.programs import Programs

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Commit(SHA, False, 1_700_000_000, "hello", "https://github.com/octo/hello")
DIGEST, OTHER = (f"sha256:{letter * 64}" for letter in "ab")

# Writes what buildx writes: a digest into the file that --metadata-file names.
BUILDX = """#!/bin/sh
if [ "$2" = build ]; then
    while [ "$1" != --metadata-file ]; do shift; done
    printf '%s' '{metadata}' > "$2"
else
    printf '%s' '[{{"Id": "{digest}", "Config": {{}}}}]'
fi
"""


def test_build_command() -> None:
    """Every platform in one index, with provenance, into the engine; dates and labels from the commit."""
    command = build_image.build_command(
        "hello:ci", ["linux/amd64", "linux/arm64"], COMMIT, metadata=Path("/out/m.json"), root=Path("/src")
    )
    assert command == [
        *("docker", "buildx", "build", "--builder", "default", "--load", "--provenance", "mode=max"),
        *("--platform", "linux/amd64,linux/arm64", "--tag", "hello:ci", "--metadata-file", "/out/m.json"),
        *("--build-arg", f"REVISION={SHA}"),
        *("--build-arg", "CREATED=2023-11-14T22:13:20Z"),
        *("--build-arg", "SOURCE=https://github.com/octo/hello"),
        *("--build-arg", "SOURCE_DATE_EPOCH=1700000000"),
        *("--progress", "plain", "/src"),
    ]


def test_build_command_with_stand_ins() -> None:
    """The Dockerfile's image by its digest is another one here; the Dockerfile stays as it is."""
    command = build_image.build_command("x", [], COMMIT, instead={"python:3@sha256:0": "python:3"}, metadata=Path("m"))
    assert command[command.index("--build-context") + 1] == "python:3@sha256:0=docker-image://python:3"


def test_build_command_behind_a_proxy() -> None:
    """A proxy and a corporate CA reach the build, by name and as a secret: no image keeps them."""
    command = build_image.build_command(
        "hello:ci", ["linux/amd64"], COMMIT, ca_bundle="/ca.crt", proxies=["HTTPS_PROXY"], metadata=Path("m")
    )
    assert command[command.index("HTTPS_PROXY") - 1] == "--build-arg"
    assert command[command.index("--secret") + 1] == "id=ca,src=/ca.crt"


def test_build_command_on_what_the_base_is_now() -> None:
    """An engine keeps what a tag was when it pulled it, unless it is told to look again."""
    command = build_image.build_command("hello:ci", ["linux/amd64"], COMMIT, pull=True, metadata=Path("m"))
    assert "--pull" in command


def test_a_dirty_work_tree_marks_the_revision() -> None:
    """What is in no commit is not said to be one."""
    dirty = Commit(SHA, True, 0, "hello", "")
    command = build_image.build_command("hello:ci", ["linux/amd64"], dirty, metadata=Path("m"))
    assert f"REVISION={SHA}-dirty" in command


def test_ca_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that SSL_CERT_FILE names, else the system's; none that is missing or too large for a secret."""
    named, system = tmp_path / "named.crt", tmp_path / "system.crt"
    monkeypatch.setattr(build_image, "CA_BUNDLES", (str(tmp_path / "missing.crt"), str(system)))
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    assert build_image.ca_bundle() == ""
    system.write_text("system", "utf-8")
    assert build_image.ca_bundle() == str(system)
    named.write_text("named", "utf-8")
    assert build_image.ca_bundle() == str(named)
    named.write_bytes(b"x" * (build_image.SECRET_LIMIT + 1))
    assert build_image.ca_bundle() == str(system)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is set, in any spelling."""
    for upper in build_image.PROXIES:
        for name in (upper, upper.lower()):
            monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are set, in either spelling."""
    assert build_image.proxies() == []
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("HTTP_PROXY", "")
    assert build_image.proxies() == ["https_proxy", "NO_PROXY"]


@pytest.mark.parametrize(
    ("proxy", "mode"),
    [
        ("", "mode=max"),
        ("http://proxy:3128", "mode=max"),
        ("http://me:secret@proxy:3128", "mode=min"),
        ("http://me@proxy", "mode=min"),
        ("me:secret@proxy:3128", "mode=min"),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "ftp_proxy"])
@pytest.mark.usefixtures("docker_config", "no_proxies")
def test_a_proxys_password_is_not_in_the_provenance(
    monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, mode: str
) -> None:
    """Full provenance holds the build's arguments with their values, for everybody who pulls the image."""
    monkeypatch.setenv(name, proxy)
    assert build_image.provenance() == mode


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ('{"proxies": {"default": {"httpProxy": "http://me:secret@proxy:3128"}}}', "mode=min"),
        ('{"proxies": {"tcp://host:2376": {"httpsProxy": "me:secret@proxy:3128", "noProxy": "x"}}}', "mode=min"),
        ('{"proxies": {"default": {"httpProxy": "http://proxy:3128"}}}', "mode=max"),
        ('{"proxies": {}}', "mode=max"),
        ('{"proxies": "text"}', "mode=max"),
        ("{", "mode=max"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_the_password_of_a_proxy_that_docker_knows_itself(docker_config: Path, config: str, mode: str) -> None:
    """Docker gives every build the proxies of its config.json, as arguments."""
    (docker_config / "config.json").write_text(config, "utf-8")
    assert build_image.provenance() == mode


def test_digest_in() -> None:
    """The digest comes from the build's own metadata."""
    assert build_image.digest_in(json.dumps({"containerimage.digest": DIGEST})) == DIGEST


@pytest.mark.parametrize("metadata", ["{}", '{"containerimage.digest": 5}'])
def test_no_digest(metadata: str) -> None:
    """A buildx that is too old says what to do."""
    with pytest.raises(Failure, match=r"wrote no digest .* update docker buildx"):
        build_image.digest_in(metadata)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("#7 0.311 collecting\n#7 1.204 No matching distribution\n#7 ERROR: exit code 1\n", "No matching distribution"),
        ("#1 DONE 0.0s\nERROR: failed to solve: no space\nmore\n", "failed to solve: no space"),
        ("", "docker buildx build failed"),
    ],
)
def test_why_it_failed(log: str, expected: str) -> None:
    """The line that says most: what the step wrote, not that it failed."""
    assert build_image.why_it_failed(log) == expected


def test_build(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The digest is the same in the metadata and in the engine, and is what is handed on."""
    metadata = json.dumps({"containerimage.digest": DIGEST})
    (docker.bin / "docker").write_text(BUILDX.format(metadata=metadata, digest=DIGEST), "utf-8")
    dirty = Commit(SHA, True, 0, "hello", "")
    assert build_image.build("hello:ci", ["linux/amd64"], dirty).digest == DIGEST
    assert f"changes that are in no commit: the image's revision is {SHA}-dirty" in capsys.readouterr().err


def test_an_engine_with_another_image(docker: Programs, state: Path) -> None:
    """An engine that keeps another digest than the one that was built is not gone on with."""
    metadata = json.dumps({"containerimage.digest": DIGEST})
    (docker.bin / "docker").write_text(BUILDX.format(metadata=metadata, digest=OTHER), "utf-8")
    with pytest.raises(Failure, match=f"hello:ci on this engine is {OTHER}, but {DIGEST} was tested"):
        build_image.build("hello:ci", ["linux/amd64"], COMMIT)
    assert not (state / "image.json").exists()


def test_a_build_that_fails(docker: Programs, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole log is shown, and the sentence at the end says why."""
    docker.answer("buildx build", err="#7 0.3 no wheels for s390x\nERROR: exit code: 1\n", status=1)
    with pytest.raises(Failure, match=r"^the build failed: no wheels for s390x$"):
        build_image.build("hello:ci", ["linux/amd64"], COMMIT)
    assert "ERROR: exit code: 1" in capsys.readouterr().err
