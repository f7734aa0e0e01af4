#!/usr/bin/env python3
"""Tag the tested image username/repository:sha and push it; the digest is compared before and after.

DOCKERHUB_USERNAME, IMAGE_REPOSITORY and REGISTRY say where to; docker login must have been run. A
commit that is published already keeps the image that it has: nothing is pushed, and the digest of the
published image is handed on. Prints username/repository@digest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release, service
from lib.command import Failure, last_line, parser, run, say, set_output, shown, stage, start
from lib.distribution import Refused
from lib.names import Commit, ImageName, check_digest, checked_out, image_name
from lib.registry import REFUSED, LocalImage, check_same, digest_at, local_image, retry


def tag_command(image: str, reference: str) -> list[str]:
    """Return the command that gives a local image the name that it is pushed by."""
    return ["docker", "tag", image, reference]


def push_command(reference: str) -> list[str]:
    """Return the command that pushes a local image."""
    return ["docker", "push", reference]


def check_allowed(image: LocalImage, target: ImageName, commit: Commit) -> None:
    """Raise Failure for an image that must not be published there."""
    if image.stand_in and not target.is_local:
        raise Failure(
            f"{image.reference} is built on a stand-in for an official base image, and {target} is not on localhost;"
            " refusing to push it: build it on a machine that can reach Docker Hub"
        )
    if commit.dirty and not target.is_local:
        raise Failure("the work tree has uncommitted changes, so its image is not published; commit them first")
    if image.revision != commit.revision:
        raise Failure(
            f"{image.reference} was built from {image.revision or 'an unknown revision'}, and {commit.revision} is"
            " checked out; run python3 scripts/build_image.py first"
        )


def push(reference: str) -> None:
    """Push a tag; Refused if the registry says no, Failure if another try may help."""
    done = run(push_command(reference), show=True, check=False)
    if done.returncode == 0:
        return
    if REFUSED.search(done.stderr):
        raise Refused(
            f"the registry refuses {reference}{last_line(done)}; check that DOCKERHUB_USERNAME and"
            " DOCKERHUB_TOKEN belong together, that the token may write, and that the repository (IMAGE_REPOSITORY)"
            " exists"
        )
    raise Failure(f"cannot push {reference}{last_line(done)}")


def publish(
    image: LocalImage, target: ImageName, commit: Commit, *, platforms: Sequence[str] = (), dry_run: bool = False
) -> str:
    """Publish an image as its commit's and return the digest that the registry has for it.

    A commit that is published already keeps its image, if that is verified and has `platforms`.
    """
    check_allowed(image, target, commit)
    reference = target.tagged(commit.revision)
    existing = digest_at(reference)
    if existing == image.digest:
        say(f"{reference} already exists, skipping")
        return existing
    if existing and not commit.dirty:
        existing = release.verified(target, commit.revision, platforms=platforms, revision=commit.revision).digest
        say(f"{reference} is already published as {existing}, which was verified; using that one")
        return existing
    if dry_run:
        say(f"would run: {shown(tag_command(image.reference, reference))} && {shown(push_command(reference))}")
        return image.digest
    run(tag_command(image.reference, reference), show=True)
    retry(lambda: push(reference))
    check_same(reference, image.digest, digest_at(reference) or "missing")
    return image.digest


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=service.load().image, help="the tested image (default: %(default)s)")
    arguments.add_argument("--digest", help="the digest that was tested: no other is pushed")
    arguments.add_argument("--dry-run", action="store_true", help="say what would be pushed, and push nothing")
    options = arguments.parse_args(argv)
    commit = checked_out()
    target = image_name(os.environ, commit.repository)
    image = local_image(options.image)
    if options.digest:
        check_same(f"{options.image} on this engine", check_digest(options.digest), image.digest)
    with stage("Look at registry" if options.dry_run else "Push image"):
        digest = publish(image, target, commit, platforms=service.load().platforms, dry_run=options.dry_run)
    set_output("digest", digest)
    print(target.at(digest))
    return 0


if __name__ == "__main__":
    start(main)
