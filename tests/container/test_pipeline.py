"""The whole pipeline, what is left of it when it is broken off, and compose.yaml."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import containers
from lib.command import run, wait_until
from lib.registry import LocalImage

ROOT = Path(__file__).resolve().parents[2]


def ours() -> set[str]:
    """Everything in the engine that a run of the scripts created."""
    label = f"label={containers.LABEL}"
    found = run(["docker", "container", "ls", "--all", "--quiet", "--filter", label]).stdout.split()
    return {*found, *run(["docker", "network", "ls", "--quiet", "--filter", label]).stdout.split()}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of the last commit."""
    run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")])
    return tmp_path / "clone"


def test_build_to_run(clone: Path, free_port: int) -> None:
    """One command with no account: both platforms tested, published, pulled back and run, by one digest."""
    command = [sys.executable, "scripts/pipeline.py", "--json", "out.json", "--port", str(free_port)]
    env = {name: value for name, value in os.environ.items() if name not in ("DOCKERHUB_USERNAME", "REGISTRY")}
    before = ours()
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((clone / "out.json").read_text("utf-8"))
    assert result["tested_digest"] == result["published_digest"] == result["reference"].partition("@")[2]
    assert result["platforms"] == ["linux/amd64", "linux/arm64"]
    assert [stage["name"] for stage in result["stages"]] == [
        "Find a Docker Engine",
        "Build image",
        "Start image",
        "Smoke-test linux/amd64",
        "Smoke-test linux/arm64",
        "Push image",
        "Pull image back by digest",
        f"Run it on port {free_port}",
    ]
    assert all(0 < size <= 12_000_000 for size in result["added_bytes"].values())
    assert result["tested_digest"] in done.stdout
    assert "docker run --rm -p 4000:80 " in done.stdout
    assert ours() == before


def test_a_dirty_work_tree_is_marked(clone: Path) -> None:
    """It is built all the same, says so, and its revision tells."""
    (clone / "src/friendlyhello/new.py").touch()
    name = f"friendlyhello-test-{os.getpid()}:dirty"
    command = [sys.executable, "scripts/build_image.py", "--image", name, "--platform", "linux/amd64"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    try:
        assert done.returncode == 0, done.stderr
        assert "the work tree has changes that are in no commit" in done.stderr
        assert json.loads((clone / "build/image.json").read_text("utf-8"))["revision"].endswith("-dirty")
    finally:
        run(["docker", "image", "rm", "--force", name], check=False)


def test_no_git_repository_is_a_sentence(clone: Path) -> None:
    """Unpacked from an archive, the scripts say what to do."""
    run(["rm", "-rf", str(clone / ".git")])
    done = subprocess.run([sys.executable, "scripts/build_image.py"], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"^error: .* is not a Git repository .* run git init", done.stderr, re.M)
    assert "Traceback" not in done.stderr


@pytest.fixture
def smoke_test(image: LocalImage, free_port: int) -> Iterator[subprocess.Popen[str]]:
    """A smoke test that has got as far as its first container."""
    before = ours()
    command = [
        sys.executable,
        str(ROOT / "scripts/smoke_test.py"),
        "--image",
        image.reference,
        "--port",
        str(free_port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(ours() - before) >= 3, seconds=60, what="the containers")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_broken_off(smoke_test: subprocess.Popen[str], number: signal.Signals, status: int) -> None:
    """Ctrl-C, or a runner that gives up, leaves nothing behind."""
    mine = f"{containers.LABEL}={smoke_test.pid}-"
    smoke_test.send_signal(number)
    smoke_test.communicate(timeout=60)
    assert smoke_test.returncode == status
    listing = ["docker", "container", "ls", "--all", "--format", "{{.Labels}}"]
    assert mine not in run(listing).stdout
    assert mine not in run(["docker", "network", "ls", "--format", "{{.Labels}}"]).stdout


def test_killed(smoke_test: subprocess.Popen[str]) -> None:
    """What a killed run left is removed by the next one."""
    mine = f"{containers.LABEL}={smoke_test.pid}-"
    smoke_test.kill()
    smoke_test.communicate()
    assert mine in run(["docker", "container", "ls", "--all", "--format", "{{.Labels}}"]).stdout
    containers.remove_leftovers()
    assert mine not in run(["docker", "container", "ls", "--all", "--format", "{{.Labels}}"]).stdout
    assert mine not in run(["docker", "network", "ls", "--format", "{{.Labels}}"]).stdout


@pytest.mark.parametrize("holder", ["container", "program"])
def test_a_port_that_is_taken(image: LocalImage, free_port: int, holder: str) -> None:
    """The sentence says who has it and what to do; nothing is left running."""
    before = ours()
    test = [sys.executable, str(ROOT / "scripts/smoke_test.py"), "--image", image.reference, "--port", str(free_port)]
    if holder == "container":
        name = f"friendlyhello-test-holder-{os.getpid()}"
        run(["docker", "run", "--detach", "--name", name, "--publish", f"{free_port}:80", image.reference])
        try:
            done = subprocess.run(test, capture_output=True, text=True)
        finally:
            run(["docker", "rm", "--force", name])
        assert f"port {free_port} is taken by the container {name}; run docker rm --force {name}" in done.stderr
    else:
        serve = [sys.executable, "-m", "http.server", str(free_port)]
        with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            url = f"http://localhost:{free_port}/"
            wait_until(lambda: run(["curl", "--silent", url], check=False).returncode == 0, seconds=20, what=url)
            done = subprocess.run(test, capture_output=True, text=True)
            server.terminate()
        assert f"port {free_port} is taken by another program" in done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ours() == before


def test_compose_counts_and_keeps_its_count(image: LocalImage, free_port: int) -> None:
    """docker compose up serves the counter; down and up again goes on where it was."""
    project = f"friendlyhello-test-{os.getpid()}"
    compose = ["docker", "compose", "--project-name", project, "--file", str(ROOT / "compose.yaml")]
    env = {"IMAGE": image.reference, "PORT": str(free_port)}
    curl = ["curl", "--fail", "--silent", f"http://localhost:{free_port}/"]
    visits = []
    try:
        for _ in range(2):
            run([*compose, "up", "--detach", "--wait", "--no-build"], env=env)
            visits += [int(run(curl).stdout.rpartition("</b> ")[2]) for _ in range(2)]
            run([*compose, "down"], env=env)
        assert visits == [1, 2, 3, 4]
    finally:
        run([*compose, "down", "--volumes"], env=env)
