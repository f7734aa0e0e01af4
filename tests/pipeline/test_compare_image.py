"""What a change does to the image, without an engine: which commit it is compared with, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import compare_image
from lib import containers, engine, service
from lib.command import Failure
from lib.engine import Engine
from support.programs import Programs
from support.projects import commit, git


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is checked out, with its main at origin, and a change on top."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "service.toml").write_text('name = "hello"\n', "utf-8")
    commit(folder)
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "Change")
    monkeypatch.setattr(compare_image, "ROOT", folder)
    return folder


def test_the_commit_that_it_would_be_merged_into(clone: Path) -> None:
    """Of a branch it is where it left main; of what a merge would make of it, main's newest."""
    left = git(clone, "rev-parse", "origin/main")
    assert compare_image.common_commit("main") == left
    git(clone, "checkout", "--quiet", "-b", "moved", left)
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "Main moves")
    git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(clone, "checkout", "--quiet", "main")
    assert compare_image.common_commit("main") == left
    git(clone, "merge", "--quiet", "--no-ff", "--message", "Merge", "moved")
    assert compare_image.common_commit("main") == git(clone, "rev-parse", "origin/main") != left
    with pytest.raises(Failure, match=r"no commit in common with origin/gone: .*; run git fetch origin gone"):
        compare_image.common_commit("gone")


def test_the_files_of_a_commit(clone: Path) -> None:
    """They are there, also of a commit that is not checked out, and gone afterwards."""
    (clone / "service.toml").write_text('name = "other"\n', "utf-8")
    with compare_image.worktree(git(clone, "rev-parse", "HEAD")) as folder:
        assert (folder / "service.toml").read_text("utf-8") == 'name = "hello"\n'
    assert not folder.exists()
    assert git(clone, "worktree", "list").count("\n") == 0


def test_how_the_times_to_start_are_told() -> None:
    """As what the pairs gave, and not as one figure that is more exact than they are."""
    told = compare_image.ratio([(0.5, 0.6), (0.5, 0.5), (0.4, 0.44)])
    assert told.startswith("It takes 1.00 to 1.20 times as long to start (3 pairs of starts")
    assert "0.44 s at best" in told


def test_a_base_that_cannot_be_built(
    clone: Path, docker: Programs, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line says why, and nothing fails: it is not this change's fault."""
    monkeypatch.setattr(engine, "find", Engine)
    monkeypatch.setattr(containers, "server_version", lambda: "28")
    docker.answer("image inspect", json.dumps([{"Id": f"sha256:{'a' * 64}", "Config": {}}]))
    docker.answer("buildx build", err="#5 0.1 no such package\nERROR: failed to solve\n", status=1)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert compare_image.main([]) == 0
    summary = (tmp_path / "summary").read_text("utf-8")
    assert "Not compared with the image of the base: the build failed: no such package." in summary
    assert docker.called("docker", "image", "rm", "--force", f"{service.load().image.partition(':')[0]}:base")
