#!/usr/bin/env python3
"""Decide what this run may do, before it does anything: publish or only test, release or refuse.

  python3 scripts/plan.py

Reads what GitHub says about the run (GITHUB_EVENT_NAME, GITHUB_REF) and what was set for the
repository (DOCKERHUB_USERNAME, IMAGE_NAMESPACE, IMAGE_REPOSITORY, REGISTRY; HAS_TOKEN is `true` if the
secret DOCKERHUB_TOKEN is set for all of it), and hands on:

  publish    true if the tested image is to be pushed
  build      true if it has to be built: false if this commit is published already
  digest     what is published for this commit, or nothing
  subject    registry/namespace/repository, as attestations call it, or nothing
  version    1.2.3 if the run was started by the tag v1.2.3, or nothing
  here       the platforms that the job that builds the image also runs it on
  arm64      true if another job runs it on linux/arm64, on a machine of that kind
  hand-over  true if another job needs the image

A pull request is built and tested, never published. A tag that is not a version, or whose commit is
not in the history of main, is refused. If nothing is set, the run stays green and says what to set.
A private repository's image goes to Docker Hub only once IMAGE_VISIBILITY is `private` or `public`.
GitHub has arm64 machines for public repositories; elsewhere QEMU emulates one. EMULATE (`true` or
`false`) overrides that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release, service
from lib.command import Failure, UsageError, add_summary, annotate, parser, say, set_output, start
from lib.github import is_private
from lib.names import Commit, ImageName, Version, checked_out, image_name, parse_version
from lib.registry import digest_at, is_shown

MAIN = "refs/heads/main"
TAGS = "refs/tags/"
ARM64 = "linux/arm64"


@dataclass(frozen=True)
class Plan:
    """What a run may do: `image` is where it publishes, None if it does not; `why` says so."""

    image: ImageName | None
    version: Version | None
    why: str


def decide(env: Mapping[str, str], repository: str) -> Plan:
    """Return what this run may do, from GitHub's environment and the Git repository's name.

    Raises UsageError that names a variable with a wrong value, or a tag that is not a version. Only
    runs that publish look at the settings, so that a wrong one fails no pull request.
    """
    event, ref = env.get("GITHUB_EVENT_NAME", ""), env.get("GITHUB_REF", "")
    if event.startswith("pull_request"):
        return Plan(None, None, "a pull request is built and tested, never published")
    version = tagged_version(ref.removeprefix(TAGS)) if ref.startswith(TAGS) else None
    if ref != MAIN and version is None:
        return Plan(None, None, f"{ref or 'a run outside GitHub'} is built and tested; only main is published")
    username, has_token = env.get("DOCKERHUB_USERNAME", ""), env.get("HAS_TOKEN", "") == "true"
    if not username and not has_token:
        return Plan(None, version, "")
    if not username:
        raise UsageError(
            "the secret DOCKERHUB_TOKEN is set and the variable DOCKERHUB_USERNAME is not: set it to the name that"
            " the token belongs to"
        )
    # The token may be set for the environment of the job that publishes, and nowhere else: check_login.py looks there.
    image = image_name(env, repository)
    return Plan(image, version, f"the tested image is published as {image}")


def emulates(env: Mapping[str, str], platforms: Sequence[str]) -> bool:
    """Whether the job that builds the image also runs it on linux/arm64, emulated; raises UsageError for EMULATE.

    https://docs.github.com/actions/reference/runners/github-hosted-runners, "Standard GitHub-hosted runners"
    """
    choice = env.get("EMULATE", "")
    if choice not in ("", "true", "false"):
        raise UsageError(f"the variable EMULATE is {choice!r}, expected true or false, or unset")
    if ARM64 not in platforms or len(platforms) < 2:
        return True
    hosted_and_public = env.get("RUNNER_ENVIRONMENT") == "github-hosted" and not is_private(env)
    return choice == "true" or (choice == "" and not hosted_and_public)


def tagged_version(tag: str) -> Version:
    """Return the version that the Git tag `v1.2.3` names, or raise UsageError."""
    try:
        if tag.startswith("v"):
            return parse_version(tag[1:])
    except UsageError:
        pass
    raise UsageError(
        f"the tag {tag!r} is not a version: v1.2.3, or v1.3.0-rc.1 for a pre-release (https://semver.org, without"
        " build metadata); delete it and push another"
    )


def check_history(tag: str, sha: str) -> None:
    """Raise Failure unless the commit is in the history of main: only main is published."""
    if not release.in_main(sha, os.environ):
        raise Failure(
            f"the tag {tag} is on commit {sha}, which is not in the history of main; merge it into main, then move"
            " the tag there"
        )


def published(image: ImageName, sha: str) -> str:
    """Return the digest that is published for a commit, or "" if there is none or no answer.

    It is asked for before the login, so a private image looks like none: it is built again, and
    `push_image.py`, which asks again, keeps the one that is published. Raises Failure if what is
    published is not what this pipeline made of the commit.
    """
    try:
        digest = digest_at(image.tagged(sha))
    except Failure as failure:
        say(f"cannot tell whether {sha} is published: {failure}")
        return ""
    if not digest:
        return ""
    return release.verified(image, sha, platforms=service.load().platforms, revision=sha).digest


def check_visibility(image: ImageName, env: Mapping[str, str]) -> None:
    """Raise Failure unless a private repository's image goes to Docker Hub as its owner wants it, private or public.

    A push makes a repository there that does not exist, public unless the account says otherwise, and whoever is
    logged in cannot tell that from an empty private one: https://docs.docker.com/docker-hub/repos/settings/. This is
    asked before the login, so Docker Hub shows what it shows to everybody.
    """
    wanted = env.get("IMAGE_VISIBILITY", "")
    if wanted not in ("", "private", "public"):
        raise UsageError(f"the variable IMAGE_VISIBILITY is {wanted!r}, expected private or public")
    if image.registry or not is_private(env) or wanted == "public":
        return
    if not wanted:
        raise Failure(
            f"this repository is private, and the first push would make {image} on Docker Hub public; create it as a"
            " private repository at https://hub.docker.com/repository/create and set the variable IMAGE_VISIBILITY to"
            " private, or set it to public if everybody may pull the image"
        )
    if is_shown(image):
        raise Failure(
            f"the variable IMAGE_VISIBILITY is private, but everybody may pull {image} from Docker Hub; make it private"
            " there (Settings, Visibility settings), or set the variable to public"
        )


def what_to_set(url: str) -> str:
    """Return, as Markdown, what to set and where, so that the next run publishes."""
    settings = (
        f"[Settings > Secrets and variables > Actions]({url}/settings/secrets/actions)"
        if url
        else ("Settings > Secrets and variables > Actions")
    )
    return f"""### Tested, not published
No setting says where to publish. Under {settings} set:

| kind | name | value |
|---|---|---|
| variable | `DOCKERHUB_USERNAME` | the name you log in to Docker Hub with |
| secret | `DOCKERHUB_TOKEN` | an access token of it with the right to read and write |
| variable, optional | `IMAGE_NAMESPACE` | the account that the image belongs to, if it is another one |
| variable, optional | `IMAGE_REPOSITORY` | the image's name, if it is not the repository's |
| variable, optional | `REGISTRY` | another registry's host name, such as `ghcr.io` |
| variable, optional | `PLATFORMS` | fewer platforms, such as `linux/amd64` |

Then run this workflow again."""


def report(plan: Plan, commit: Commit) -> None:
    """Say what this run will do; say what to set if nothing is."""
    if plan.why:
        say(f"plan: {plan.why}")
        return
    sentence = (
        "tested, not published: to publish, set the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN under"
        " Settings > Secrets and variables > Actions, and run this workflow again"
    )
    say(f"plan: {sentence}")
    annotate("notice", sentence)
    add_summary(what_to_set(commit.url))


def main(argv: Sequence[str]) -> int:
    parser(__doc__).parse_args(argv)
    commit = checked_out()
    plan = decide(os.environ, commit.repository)
    platforms = service.load().platforms
    emulated = emulates(os.environ, platforms)
    if plan.version:
        check_history(f"v{plan.version}", commit.sha)
    report(plan, commit)
    if plan.image:
        check_visibility(plan.image, os.environ)
    digest = published(plan.image, commit.sha) if plan.image else ""
    if digest:
        say(f"plan: {commit.sha} is already published as {digest}; that image is used again, and nothing is built")
    set_output("publish", "true" if plan.image else "false")
    set_output("build", "false" if digest else "true")
    set_output("digest", digest)
    set_output("subject", f"{'' if plan.image.registry else 'docker.io/'}{plan.image}" if plan.image else "")
    set_output("version", str(plan.version or ""))
    elsewhere = not digest and not emulated
    set_output("here", " ".join(platform for platform in platforms if emulated or platform != ARM64))
    set_output("arm64", "true" if elsewhere else "false")
    set_output("hand-over", "true" if elsewhere or (plan.image and not digest) else "false")
    return 0


if __name__ == "__main__":
    start(main)
