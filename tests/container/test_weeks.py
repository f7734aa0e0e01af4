"""Twenty weeks of a release whose base image moves in some of them; the registry, the engine and Git are real."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_image
import check_release
import compare_image
import smoke_test
from lib import base, release, service
from lib.command import run
from lib.names import PIPELINE, checked_out
from lib.registry import digest_at
from support.projects import DATE, commit, git

PREFIX = f"{PIPELINE}-test-{os.getpid()}"

# What happens in each week: the base is made again for our platform, or for another one only; it is pushed again as it
# was; or nothing. After an offer the release is made at once, but for the one that is `ignored`.
WEEKS = (
    *("", "ours", "", "other", "same", "ours", "", "", "other", "ours ignored"),
    *("", "other", "ours", "", "same", "", "ours", "other", "", ""),
)


class Place:
    """A repository with a release, and the base image that it was built on, on a registry of their own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.base = f"localhost:{port}/octo/base"
        self.image = f"localhost:{port}/octo/weeks"
        self.content = {"amd64": 0, "arm64": 0}
        self.made: list[str] = []
        self.push_base()
        self.clone = folder / "clone"
        self.clone.mkdir()
        (self.clone / "service.toml").write_text(f'name = "{PREFIX}-weeks"\nplatforms = ["linux/amd64"]\n', "utf-8")
        labels = "ARG REVISION\nLABEL org.opencontainers.image.revision=$REVISION\n"
        dockerfile = f"FROM {self.base}:1\n{labels}COPY service.toml /\n"
        (self.clone / "Dockerfile").write_text(dockerfile, "utf-8")
        commit(self.clone)
        git(folder, "clone", "--quiet", "--bare", str(self.clone), str(folder / "origin.git"))
        git(self.clone, "remote", "add", "origin", str(folder / "origin.git"))
        git(self.clone, "push", "--quiet", "--set-upstream", "origin", "main")
        git(self.clone, "tag", "v1.0.0")
        git(self.clone, "push", "--quiet", "origin", "v1.0.0")
        self.publish("1.0.0")

    def push_base(self) -> None:
        """Push the base for two platforms; each has a Debian package whose version is how often it was made."""
        parts = []
        for machine, number in self.content.items():
            status = f"Package: tool\nArchitecture: {machine}\nVersion: {number}\n".encode()
            tarball = self.folder / f"{machine}.tar"
            with tarfile.open(tarball, "w") as tar:
                member = tarfile.TarInfo("var/lib/dpkg/status")
                member.size = len(status)
                tar.addfile(member, io.BytesIO(status))
            name = f"{self.base}:{machine}{number}"
            if name not in self.made:
                run(["docker", "import", "--platform", f"linux/{machine}", str(tarball), name])
                run(["docker", "push", "--quiet", name])
                self.made.append(name)
            parts.append(name)
        run(["docker", "buildx", "imagetools", "create", "--tag", f"{self.base}:1", *parts])

    def publish(self, version: str) -> None:
        """Build and push a version's commit, as CI would: on what the base is by now."""
        with compare_image.worktree(git(self.clone, "rev-parse", f"v{version}^{{commit}}")) as root:
            name = f"{self.image}:{version}"
            build_image.build(name, ["linux/amd64"], checked_out(root), pull=True, root=root)
            run(["docker", "push", "--quiet", name])
            self.made.append(name)


@pytest.fixture
def place(tmp_path: Path, registry: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """That repository, in which the scripts find themselves."""
    for module in (check_release, compare_image, release):
        monkeypatch.setattr(module, "ROOT", tmp_path / "clone")
    load = service.load
    monkeypatch.setattr(service, "load", lambda root=tmp_path / "clone": load(root, {}))
    for name, value in {
        "DOCKERHUB_USERNAME": "octo",
        "REGISTRY": f"localhost:{registry}",
        "IMAGE_REPOSITORY": "weeks",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }.items():
        monkeypatch.setenv(name, value)
    made = Place(tmp_path, registry)
    yield made
    run(["docker", "image", "rm", "--force", *made.made], check=False)


def said(place: Place, what: str) -> dict[str, str]:
    """Run a part of the weekly look and return what it hands on."""
    output = place.folder / "output"
    output.write_text("", "utf-8")
    assert check_release.main([what]) == 0
    return dict(line.split("=", 1) for line in output.read_text("utf-8").splitlines())


@pytest.mark.full
def test_twenty_weeks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is offered in exactly the weeks in which it would be another image, and nothing else is ever built.

    What the offer says to run makes the next release: of a commit in the history of main, with an image of its own.
    """
    issues: list[dict[str, str]] = []  # as GitHub would keep them
    monkeypatch.setattr(check_release, "open_issues", lambda env, url: issues)
    tested: list[str] = []  # the image cannot run; that the smoke test is asked is enough here
    monkeypatch.setattr(smoke_test, "smoke_test", lambda image, platforms, root: tested.append(image.digest))
    built, offered = [], []
    version, current = "1.0.0", place.content["amd64"]
    for week, event in enumerate(WEEKS):
        if event:
            machine = "arm64" if event == "other" else "amd64"
            place.content[machine] += event != "same"
            place.push_base()
        if said(place, "look")["moved"] == "false":
            continue
        built.append(week)
        issue = json.loads(said(place, "rebuild")["offer"])
        offered.append(week)
        assert f"| tool (deb) | `{current}` | `{place.content['amd64']}` |" in issue["body"]
        issues[:] = [{**issue, "number": "1"}]
        if "ignored" in event:
            continue
        digest = digest_at(f"{place.image}:{version}")
        assert digest
        commands = issue["body"].split("```")[1]
        environment = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Octo"), ("EMAIL", "octo@example.com"), ("DATE", DATE))
        }
        subprocess.run(["sh", "-ec", commands], cwd=place.clone, env={**os.environ, **environment}, check=True)
        released, version = version, issue["title"].split()[1].rstrip(":")
        assert release.is_ancestor(git(place.clone, "rev-parse", f"v{version}"), "origin/main")
        place.publish(version)
        assert digest_at(f"{place.image}:{released}") == digest != digest_at(f"{place.image}:{version}")
        issues.clear()
        current = place.content["amd64"]
    moves = [week for week, event in enumerate(WEEKS) if event.startswith("ours")]
    assert built == offered == moves
    assert len(tested) == len(offered)
    assert version == "1.0.4"


def test_a_base_that_moves_to_the_same_layers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the commit gives the same image again, nothing is offered, and nothing is tested."""
    monkeypatch.setattr(base, "moved", lambda each: f"sha256:{'a' * 64}")
    assert said(place, "look") == {"moved": "true"}
    assert said(place, "rebuild") == {}
