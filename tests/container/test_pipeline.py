"""The whole pipeline, what is left of it when it is broken off, and compose.yaml."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import pipeline
from lib import containers
from lib.command import run, wait_until
from lib.names import PIPELINE, ImageName
from lib.registry import LocalImage, index_of, local_image
from lib.standin import host_platform
from support import ports
from support.projects import ROOT, commit, fill, git

PREFIX = f"{PIPELINE}-test-{os.getpid()}"


def made_by(process: subprocess.Popen[str]) -> list[str]:
    """Return everything in the engine that a run of a script created, by its label."""
    found = []
    for kind in (["container", "ls", "--all"], ["network", "ls"]):
        labels = run(["docker", *kind, "--format", f'{{{{.Label "{containers.LABEL}"}}}}']).stdout.split()
        found += [label for label in labels if f"-{process.pid}-" in label]
    return found


def begin(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a script; its output is kept for communicate()."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *command], cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A repository of one commit that carries the fixture's service, under a name of its own."""
    name = f"{PREFIX}-{tmp_path.name.strip('_').replace('_', '-')}"
    fill(tmp_path / "clone", name)
    commit(tmp_path / "clone")
    yield tmp_path / "clone"
    run(["docker", "image", "rm", "--force", f"{name}:ci"], check=False)


def test_build_to_run(clone: Path, free_port: int) -> None:
    """One command with no account: both platforms tested, published, pulled back and run, by one digest."""
    env = {name: value for name, value in os.environ.items() if name not in ("DOCKERHUB_USERNAME", "REGISTRY")}
    process = begin("scripts/pipeline.py", "--json", "out.json", "--port", str(free_port), cwd=clone, env=env)
    out, err = process.communicate()
    assert process.returncode == 0, err
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
    assert all(0 < size <= 12_000 for size in result["added_bytes"].values())
    assert result["tested_digest"] in out
    assert "docker run --rm -p 4000:8080 --env GREETING=... " in out
    assert not made_by(process)


def test_publish(registry: int, clone: Path, tmp_path: Path) -> None:
    """With --push it goes to the registry that is named, and the login there ends with the run."""
    target = ImageName(f"localhost:{registry}", "me", "hello")
    env = {
        **os.environ,
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "DOCKERHUB_USERNAME": "me",
        "DOCKERHUB_TOKEN": "s3cret",
        "IMAGE_REPOSITORY": "hello",
        "REGISTRY": target.registry,
        "PLATFORMS": host_platform(),
    }
    tag = target.tagged(git(clone, "rev-parse", "HEAD"))
    process = begin("scripts/pipeline.py", "--push", "--port", str(ports.free_port()), cwd=clone, env=env)
    out, err = process.communicate()
    run(["docker", "image", "rm", "--force", tag], check=False)
    assert process.returncode == 0, err
    index = index_of(tag)
    assert index is not None
    assert index.digest in out
    assert f"docker run --rm -p 4000:8080 --env GREETING=... {tag}\n" in out
    assert f"$ docker push {tag}\n" in err
    assert not json.loads((tmp_path / "docker/config.json").read_text("utf-8")).get("auths")
    assert "s3cret" not in out + err


def test_build_alone(clone: Path, tmp_path: Path) -> None:
    """The next step is handed the digest that the engine has, on paper and as the job's output."""
    name = f"{PREFIX}:alone"
    env = {**os.environ, "GITHUB_OUTPUT": str(tmp_path / "output")}
    process = begin("scripts/build_image.py", "--image", name, "--platform", host_platform(), cwd=clone, env=env)
    out, err = process.communicate()
    try:
        assert process.returncode == 0, err
        digest = local_image(name).digest
    finally:
        run(["docker", "image", "rm", "--force", name], check=False)
    assert out == f"{digest}\n"
    assert (tmp_path / "output").read_text("utf-8") == f"digest={digest}\n"


def test_a_dirty_work_tree_is_marked(clone: Path) -> None:
    """It is built all the same, says so, and its revision tells."""
    (clone / "src/fixture/new.py").touch()
    name = f"{PREFIX}:dirty"
    process = begin("scripts/build_image.py", "--image", name, "--platform", "linux/amd64", cwd=clone)
    _, err = process.communicate()
    try:
        assert process.returncode == 0, err
        assert "the work tree has changes that are in no commit" in err
        assert local_image(name).revision.endswith("-dirty")
    finally:
        run(["docker", "image", "rm", "--force", name], check=False)


def test_no_git_repository_is_a_sentence(clone: Path) -> None:
    """Unpacked from an archive, the scripts say what to do."""
    run(["rm", "-rf", str(clone / ".git")])
    process = begin("scripts/build_image.py", cwd=clone)
    _, err = process.communicate()
    assert process.returncode == 1
    assert re.search(r"^error: .* is not a Git repository .* run git init", err, re.M)
    assert "Traceback" not in err


@pytest.fixture
def smoke_test(image: LocalImage, clone: Path, free_port: int) -> Iterator[subprocess.Popen[str]]:
    """A smoke test that has got as far as its first container."""
    process = begin("scripts/smoke_test.py", "--image", image.reference, "--port", str(free_port), cwd=clone)
    wait_until(lambda: len(made_by(process)) >= 3, what="the containers")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_broken_off(smoke_test: subprocess.Popen[str], number: signal.Signals, status: int) -> None:
    """Ctrl-C, or a runner that gives up, leaves nothing behind."""
    smoke_test.send_signal(number)
    smoke_test.communicate(timeout=60)
    assert smoke_test.returncode == status
    assert not made_by(smoke_test)


def test_killed(smoke_test: subprocess.Popen[str]) -> None:
    """What a killed run left is removed by the next one."""
    smoke_test.kill()
    smoke_test.communicate()
    assert made_by(smoke_test)

    def is_removed() -> bool:
        containers.remove_leftovers()
        return not made_by(smoke_test)

    # A docker command that was under way outlives the one that was killed, and may still make a container.
    wait_until(is_removed, what="what was left to be gone")


@pytest.mark.parametrize("holder", ["container", "program"])
def test_a_port_that_is_taken(image: LocalImage, clone: Path, free_port: int, holder: str) -> None:
    """The sentence says who has it and what to do; nothing is left running."""
    test = ("scripts/smoke_test.py", "--image", image.reference, "--port", str(free_port))
    if holder == "container":
        name = f"{PREFIX}-holder"
        run(["docker", "run", "--detach", "--name", name, "--publish", f"127.0.0.1:{free_port}:8080", image.reference])
        try:
            process = begin(*test, cwd=clone)
            _, err = process.communicate()
        finally:
            run(["docker", "rm", "--force", name])
        assert f"port {free_port} is taken by the container {name}; run docker rm --force {name}" in err
    else:
        serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(free_port)]
        with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            url = f"http://127.0.0.1:{free_port}/"
            wait_until(lambda: pipeline.is_up(url), what=url)
            process = begin(*test, cwd=clone)
            _, err = process.communicate()
            server.terminate()
        assert f"port {free_port} is taken by another program" in err
    assert process.returncode == 1
    assert "Traceback" not in err
    assert not made_by(process)
