"""Forks and copies of a template, made as GitHub and their owners make them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import adopt as scripts_adopt
from lib.command import run
from lib.template import RECORD, is_yours, name_in, named

NAMED = ("service.toml", "pyproject.toml")
WHO = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(root: Path, *arguments: str) -> str:
    """Run git in a repository, as nobody in particular, and return what it printed."""
    return run(["git", "-C", str(root), *arguments], env=WHO).stdout.strip()


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files, with their line endings as they are."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)


def commit(root: Path, message: str, files: Mapping[str, str | bytes] | None = None) -> str:
    """Write files, commit everything, and return the commit's id."""
    write(root, files or {})
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(root, "rev-parse", "HEAD")


def repository(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make a repository with one commit."""
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "core.autocrlf", "false")
    for key in ("user.name", "user.email"):
        git(root, "config", key, "test")
    commit(root, "First", files)
    return root


def fork(template: Path, root: Path, at: str = "HEAD") -> Path:
    """Clone a template as it was at a commit: the history is the same."""
    run(["git", "clone", "--quiet", "--no-tags", str(template), str(root)])
    git(root, "checkout", "--quiet", "-B", "main", at)
    for key in ("user.name", "user.email"):
        git(root, "config", key, "test")
    return root


def copy(template: Path, root: Path, at: str = "HEAD") -> Path:
    """Make what "Use this template" makes: the same files, and a history of its own."""
    repository(root, {})
    archive = root.with_name(f"{root.name}.tar")
    git(template, "archive", "--output", str(archive), at)
    run(["tar", "-xf", str(archive), "-C", str(root)])  # Debian 12's Python 3.11.2 extracts with no filter
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--amend", "--message", "Initial commit")
    return root


def adopt(root: Path, name: str, origin: Path, at: str) -> None:
    """Rename a copy's own files as scripts/adopt.py does, and record where it came from."""
    paths = [path for path in git(root, "ls-files").splitlines() if is_yours(path)]
    before = {path: (root / path).read_bytes() for path in paths}
    old = name_in({path: before[path].decode() for path in NAMED if path in before})
    assert old
    new = named(name)
    after = scripts_adopt.renamed(before, old, new)
    if "README.md" in after:
        after["README.md"] = scripts_adopt.with_head(after["README.md"].decode(), new).encode()
    for path in before.keys() - after.keys():
        (root / path).unlink()
    write(root, after)
    tidy(root, [path for path in after if before.get(path) != after[path]])
    record = {"origin": str(origin), "commit": git(origin, "rev-parse", at), "name": name}
    commit(root, f"Adopt as {name}", {RECORD: json.dumps(record)})


def tidy(root: Path, paths: Iterable[str]) -> None:
    """Sort imports and break lines, as scripts/adopt.py does."""
    python = [path for path in paths if path.endswith(".py")]
    ruff = str(Path(sys.executable).with_name("ruff"))
    if python:
        sort = ["check", "--quiet", "--fix-only", "--select", "I", "--force-exclude"]
        # What is not Python at all stays as it is.
        run([ruff, *sort, *python], cwd=root, check=False)
        run([ruff, "format", "--quiet", "--force-exclude", *python], cwd=root, check=False)


@dataclass
class Edits:
    """What the owner of a copy changed: paths with the line that they wrote there, and what they removed."""

    lines: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    def replace(self, root: Path, path: str, old: str, new: str) -> None:
        """Replace the first occurrence in a file, if it is there."""
        file = root / path
        text = file.read_text("utf-8") if file.exists() else ""
        if old in text:
            file.write_text(text.replace(old, new, 1), "utf-8")
            self.lines[path] = new

    def remove(self, root: Path, *paths: str) -> None:
        """Remove files and folders that are there."""
        for path in paths:
            if (root / path).is_dir():
                shutil.rmtree(root / path)
            else:
                (root / path).unlink(missing_ok=True)
            self.removed.append(path)
