"""A repository of the tests' own: this pipeline, carrying the service of tests/fixtures/service."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lib.images import without_digest

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests/fixtures/service"
DATE = "2026-01-02T03:04:05+00:00"  # one date for every commit: layers that do not change are built once
YOURS = (
    "src/",
    "tests/",
    "benchmarks/",
    "service.toml",
    "smoke.py",
    "requirements",
    "Dockerfile",
    ".dockerignore",
    "compose.yaml",
)
"""What begins like this belongs to the service that this repository carries, or to the tests."""


def git(folder: Path, *arguments: str) -> str:
    """Run git somewhere, with an author of the tests' own, always at the same date."""
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Octo"), ("EMAIL", "octo@example.com"), ("DATE", DATE))
    }
    done = subprocess.run(
        ["git", "-C", folder, *arguments], env={**os.environ, **identity}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"git {arguments}: {done.stderr}"
    return done.stdout.strip()


def files() -> list[str]:
    """Return every file of the work tree, those included that are not committed yet."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True, encoding="utf-8").stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def pipeline_files() -> list[str]:
    """Return the pipeline's files, without its tests."""
    return [name for name in files() if not name.startswith(YOURS)]


def fill(folder: Path, name: str = "fixture", port: int = 4000) -> None:
    """Put the pipeline and the fixture's service into a folder; NAME:ci on PORT is what it tests its image as.

    Several of these are tested at once, and port 4000 belongs to whoever uses this machine.
    """
    for file in pipeline_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    shutil.copytree(FIXTURE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    # A digest is that of the official image, and the tests' engines may stand in for it.
    for path in folder.glob("deploy/*.yaml"):
        path.write_text(without_digest(path.read_text("utf-8")), "utf-8")
    replace(folder / "service.toml", {'name = "fixture"': f'name = "{name}"', "publish = 4000": f"publish = {port}"})
    replace(folder / "service.toml", {"[backing.redis]": 'start = ["python", "-m", "fixture"]\n\n[backing.redis]'})
    replace(folder / "Dockerfile", {'title="fixture"': f'title="{name}"'})


def replace(file: Path, changes: Mapping[str, str]) -> None:
    """Replace what stands in a file; what does not stand there is a fault of the test."""
    text = file.read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in {file}"
        text = text.replace(old, new)
    file.write_text(text, "utf-8")


def commit(folder: Path) -> None:
    """Make a folder a repository with one commit."""
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Start")
