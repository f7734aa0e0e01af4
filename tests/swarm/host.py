"""Hosts of a Swarm that versions are redeployed to, and visitors that never stop: what its tests share."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from lib.command import run
from lib.registry import index_of
from swarm.own_engine import OwnEngine

ROOT = Path(__file__).resolve().parents[2]
LOAD = Path(__file__).with_name("load.py")
IMAGE = f"friendlyhello-test-swarm-{os.getpid()}"


@dataclass
class Host:
    """A host of a Swarm with its registry. `commits` are this repository's, newest first."""

    own: OwnEngine
    port: int
    commits: list[str]

    def environment(self) -> dict[str, str]:
        """What a redeploy to this host is told."""
        return {
            **os.environ,
            **self.own.env,
            "DOCKERHUB_USERNAME": "me",
            "IMAGE_REPOSITORY": "hello",
            "REGISTRY": f"localhost:{self.port}",
            "DEPLOY_URL": f"http://{self.own.address}:4000/",
            "GITHUB_ACTIONS": "",
        }

    def redeploy(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the script as a user does, with `more` in its environment."""
        command = [sys.executable, str(ROOT / "scripts/redeploy.py"), *arguments]
        return subprocess.run(command, env={**self.environment(), **more}, capture_output=True, text=True)

    def digest(self, tag: str) -> str:
        """The digest that a tag has in the registry."""
        index = index_of(f"localhost:{self.port}/me/hello:{tag}")
        assert index is not None
        return index.digest

    def publish(self, tag: str, commit: str, lines: str = "") -> None:
        """Publish the image as a commit's, with some lines of a Dockerfile more."""
        labels = f'LABEL org.opencontainers.image.revision="{commit}"\nENV REVISION="{commit}"\n'
        dockerfile = f"FROM {IMAGE}:good\n{labels}{lines}\n".encode()
        context = BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(dockerfile)
            archive.addfile(entry, BytesIO(dockerfile))
        name = f"localhost:{self.port}/me/hello:{tag}"
        build = [
            "docker",
            "buildx",
            "build",
            "--builder",
            "default",
            "--load",
            "--provenance",
            "mode=max",
            "--tag",
            name,
            "-",
        ]
        done = subprocess.run(build, input=context.getvalue(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        run(["docker", "push", "--quiet", name])
        run(["docker", "image", "rm", "--force", name])

    def serving(self) -> str:
        """The revision that answers."""
        headers = run(["curl", "--fail", "--silent", "--head", f"http://{self.own.address}:4000/"]).stdout
        found = re.search(r"(?im)^x-revision: (\S+)", headers)
        assert found is not None
        return found[1]


@dataclass
class Seen:
    """What the visitors saw."""

    requests: int
    failed: int
    reasons: list[str]
    went_down: int
    repeated: int
    uncounted: int
    longest_gap: float


class Load:
    """Visitors at a constant rate, until the `with` block ends."""

    def __init__(self, host: Host) -> None:
        command = [sys.executable, str(LOAD), host.own.address, "4000", "--connections", "8", "--rate", "400"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen: Seen | None = None

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        output = json.loads(self.process.communicate("\n", timeout=60)[0])
        self.seen = Seen(**{name: output[name] for name in Seen.__dataclass_fields__})
        print(f"visitors saw {self.seen}")

    def check(self) -> None:
        """Nobody noticed anything."""
        assert self.seen is not None
        assert self.seen.requests > 0
        assert (self.seen.failed, self.seen.reasons) == (0, [])
        assert (self.seen.went_down, self.seen.repeated) == (0, 0)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
