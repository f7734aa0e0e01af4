"""What this service's image promises, looked at from outside: what is in it, and how it starts."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

import build_image
from lib import containers, service
from lib.client import ask
from lib.command import run, wait_until
from lib.names import checked_out
from lib.registry import Index, LocalImage
from lib.standin import host_platform
from pipeline import is_up
from smoke_test import smoke_test

ROOT = Path(__file__).resolve().parents[2]
THIS = service.load(ROOT)


def test_labels(image: LocalImage) -> None:
    """Tools can tell from the image where it comes from."""
    commit = checked_out()
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image.labels.items()}
    assert labels["title"] == THIS.name
    assert labels["licenses"] == "MIT"
    assert labels["revision"] == labels["version"] == commit.revision
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])


def test_nothing_but_what_runs(image: LocalImage) -> None:
    """The added layer has neither pip nor a compiler, no test of a library, and nothing that can be written to."""
    listing = [
        "find",
        "/app",
        "(",
        "-name",
        "pip",
        "-o",
        "-name",
        "*.c",
        "-o",
        "-name",
        "tests",
        "-o",
        "-writable",
        ")",
    ]
    command = ["docker", "run", "--rm", "--no-healthcheck", image.reference, *listing]
    assert run(command).stdout == ""
    last_stage = (ROOT / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    assert "\nRUN " not in last_stage


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_healthy_behind_a_proxy(image: LocalImage, name: str) -> None:
    """Docker may be configured to set a proxy in every container: the HEALTHCHECK asks its own container without it."""
    proxy = ["--env", f"{name}=http://127.0.0.1:9", "--env", f"{name.lower()}=http://127.0.0.1:9"]
    container = run(
        ["docker", "run", "--detach", "--label", containers.label(), *proxy, image.reference]
    ).stdout.strip()
    inspect = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
    try:
        wait_until(lambda: run(inspect).stdout.strip() != "starting", what="a verdict of the health check")
        assert run(inspect).stdout.strip() == "healthy"
    finally:
        run(["docker", "rm", "--force", container])


def files_in(blobs: Path, digest: str) -> dict[str, str]:
    """Return what an image's layers hold: each file's name, and all of it that can differ."""
    found = {}
    for layer in json.loads((blobs / digest.removeprefix("sha256:")).read_text("utf-8"))["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            for file in archive:
                content = archive.extractfile(file) if file.isreg() else None
                hashed = hashlib.sha256(content.read()).hexdigest() if content else file.linkname
                found[file.name] = f"{file.mtime:g} {file.mode:o} {file.uid}:{file.gid} {file.pax_headers} {hashed}"
    return found


@pytest.mark.full  # alone: what other tests build and remove at the same time is none of its business
def test_a_commit_always_gives_the_same_images(image: LocalImage, tmp_path: Path) -> None:
    """Two clones of one commit, built without any cache, yield the same platform images, byte for byte."""
    digests, blobs = [], {}
    for clone in ("one", "two"):
        run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / clone)])
        name = f"{THIS.name}-test-clone:{clone}"
        command = build_image.build_command(
            name,
            THIS.platforms,
            checked_out(tmp_path / clone, {}),
            ca_bundle=build_image.ca_bundle(),
            proxies=build_image.proxies(),
            metadata=tmp_path / f"{clone}.json",
            root=tmp_path / clone,
        )
        output = tmp_path / f"{clone}.tar"
        without_load = [part for part in command if part != "--load"]
        run([*without_load[:3], "--no-cache", "--output", f"type=oci,dest={output}", *without_load[3:]])
        run(["mkdir", str(tmp_path / f"{clone}-oci")])
        run(["tar", "-x", "-C", str(tmp_path / f"{clone}-oci"), "-f", str(output)])
        blobs[clone] = tmp_path / f"{clone}-oci/blobs/sha256"
        digest = build_image.digest_in((tmp_path / f"{clone}.json").read_text("utf-8"))
        digests.append(
            Index(digest, json.loads((blobs[clone] / digest.removeprefix("sha256:")).read_text("utf-8"))).platforms
        )
    assert set(digests[0]) == set(THIS.platforms)
    for platform in THIS.platforms:
        one, two = (index[platform] for index in digests)
        if one != two:  # say which files are to blame
            assert files_in(blobs["one"], one) == files_in(blobs["two"], two)
    assert digests[0] == digests[1]


def test_a_plain_hardened_run_answers_at_once(image: LocalImage, free_port: int) -> None:
    """docker run with every right taken away, and no Redis, serves the page."""
    hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    start = ["docker", "run", "--detach", "--rm", "--publish", f"{free_port}:80", *hardened, image.reference]
    container = run(start).stdout.strip()
    try:
        address = f"http://127.0.0.1:{free_port}/"
        wait_until(lambda: is_up(address), what=address)
        page = ask(address).text
        assert page.startswith("<h3>Hello World!</h3><b>Hostname:</b> ")
        assert page.endswith("<b>Visits:</b> <i>cannot connect to Redis, counter disabled</i>")
    finally:
        run(["docker", "rm", "--force", container])


@pytest.mark.parametrize("variable", ["REDIS_URL=http://me:secret@h", "WEB_CONCURRENCY=many", "METRICS_PORT=0"])
def test_a_wrong_setting_stops_the_start_with_a_sentence(image: LocalImage, variable: str) -> None:
    """The container ends at once, says which variable is wrong, and keeps the password to itself."""
    command = ["docker", "run", "--rm", "--no-healthcheck", "--env", variable, image.reference]
    done = run(command, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {variable.partition('=')[0]} must be") or "must start" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_the_good_image_passes(image: LocalImage, free_port: int) -> None:
    """The image of this work tree keeps every promise."""
    smoke_test(image, [host_platform()], free_port)
