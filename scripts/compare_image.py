#!/usr/bin/env python3
"""Say what a change does to the image: its size, its packages and their licences, and how long it takes to start.

  python3 scripts/compare_image.py
  python3 scripts/compare_image.py --base release-1

Builds the newest commit that this one and the base branch (GITHUB_BASE_REF, or main) have in common, and compares its
image with the one on this engine; the same commit always gives the same image, so nothing has to be kept or pulled for
that. Prints Markdown; on GitHub it becomes a part of the job's summary. This is information: if that commit cannot be
built, one line says so, and nothing fails.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import build_image
import smoke_test
from lib import containers, engine, packages, service
from lib.client import ask
from lib.command import ROOT, Failure, add_summary, last_line, parser, run, say, stage, start, wait_until
from lib.names import check_sha, checked_out
from lib.registry import LocalImage, local_image
from lib.standin import host_platform

PAIRS = 3
"""So often each image is started, one after the other: the machine is as busy for the one as for the other."""


def common_commit(branch: str) -> str:
    """Return the newest commit that HEAD and a branch of origin have in common; raise Failure if there is none.

    HEAD of a pull request is what a merge would make of it, so this is the commit that it would be merged into.
    """
    command = ["git", "-C", str(ROOT), "merge-base", "HEAD", f"refs/remotes/origin/{branch}"]
    done = run(command, check=False, timeout=60)
    if done.returncode:
        raise Failure(f"no commit in common with origin/{branch}{last_line(done)}; run git fetch origin {branch}")
    return check_sha(done.stdout.strip())


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The files of a commit, in a folder that goes again."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ROOT.name
        run([*git, "add", "--quiet", "--detach", str(path), commit])
        try:
            yield path
        finally:
            run([*git, "remove", "--force", str(path)], check=False)


@contextlib.contextmanager
def built(image: str, platforms: Sequence[str], root: Path, *, pull: bool = False) -> Iterator[LocalImage]:
    """The image of the commit that is checked out at `root`, on this engine until the block ends."""
    try:
        yield build_image.build(image, platforms, checked_out(root), pull=pull, root=root)
    finally:
        run(["docker", "image", "rm", "--force", image], check=False)


def start_seconds(image: LocalImage, root: Path) -> float:
    """Return the seconds from the start of an image's process to the service's first answer."""
    this = service.load(root)
    test = smoke_test.SmokeTest(this, smoke_test.promises(root), image, host_platform(), 0)
    try:
        test.start()
        port = smoke_test.published_port(test.container, this.port)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}{this.health}"), what="an answer", every=0.01)
        answered = time.time()
        began = datetime.datetime.fromisoformat(test.inspect("{{.State.StartedAt}}")[:26].rstrip("Z") + "+00:00")
        return answered - began.timestamp()
    finally:
        containers.remove(containers.label())


def answers(address: str) -> bool:
    """Whether a service answers."""
    try:
        ask(address)
    except Failure:
        return False
    return True


def start_times(before: LocalImage, root: Path, after: LocalImage) -> str:
    """Return how the times differ that two images take to start, as a sentence with what several tries gave."""
    try:
        pairs = [(start_seconds(before, root), start_seconds(after, ROOT)) for _ in range(PAIRS)]
    except Failure as failure:
        return f"How long it takes to start cannot be compared: {failure}."
    return ratio(pairs)


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Return what pairs of seconds, before and after, say of the time to start."""
    ratios = sorted(after / before for before, after in pairs)
    return (
        f"It takes {ratios[0]:.2f} to {ratios[-1]:.2f} times as long to start ({len(ratios)} pairs of starts, one after"
        f" the other on one machine; {min(after for _, after in pairs):.2f} s at best)."
    )


def compared(this: service.Service, image: LocalImage, commit: str) -> str:
    """Return, as Markdown, what differs between a commit's image and this one."""
    with worktree(commit) as root:
        there = service.load(root).platforms
        platforms = [platform for platform in this.platforms if platform in there]
        with built(f"{this.name}:base", platforms, root) as base:
            before = {platform: packages.contents_of(base.reference, platform) for platform in platforms}
            after = {platform: packages.contents_of(image.reference, platform) for platform in platforms}
            return "\n\n".join((packages.described(before, after), start_times(base, root, image)))


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=this.image, help="the image on this engine (default: %(default)s)")
    branch = os.environ.get("GITHUB_BASE_REF") or "main"
    arguments.add_argument("--base", default=branch, metavar="BRANCH", help="of origin (default: %(default)s)")
    options = arguments.parse_args(argv)
    engine.find((host_platform(),))
    image = local_image(options.image)
    with stage("Compare image"), containers.cleaned_up():
        try:
            commit = common_commit(options.base)
            text = f"Compared with {commit}; sizes are unpacked.\n\n{compared(this, image, commit)}"
        except Failure as failure:
            text = f"Not compared with the image of the base: {failure}."
            say(text)
    print(text)
    add_summary(f"### What this changes in the image\n\n{text}")
    return 0


if __name__ == "__main__":
    start(main)
