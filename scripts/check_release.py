#!/usr/bin/env python3
"""See whether the newest release would be another image today, and which vulnerabilities are known of its packages.

  python3 scripts/check_release.py look
  python3 scripts/check_release.py rebuild
  python3 scripts/check_release.py scan

look     reads in its provenance which images the release was built on, and asks for what their tags are now; one that
         is named by its digest is left to Dependabot. Nothing is built; hands on `moved`: true if one is another image,
         and no open issue says so already
rebuild  builds the release's own commit again, on what those are now. The same commit on the same base gives the same
         image; if a platform's differs, it is smoke-tested, and `offer` is handed on: an issue for offer_release.py
scan     asks https://osv.dev about the packages in the release's attested bills of materials, and fails if it knows a
         vulnerability of a Python package, because that is for requirements.in to change; of Debian's it counts them

The newest release is the highest final version among the Git tags of origin. DOCKERHUB_USERNAME, IMAGE_NAMESPACE,
IMAGE_REPOSITORY and REGISTRY say which image it is. If nothing is set, nothing is released, or nobody may see the image
without a login, it says so, and there is nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import smoke_test
from compare_image import built, worktree
from hand_over import Archive, save_command
from lib import base, containers, engine, gh, packages, release, service, vulnerabilities
from lib.command import ROOT, Failure, UsageError, add_summary, annotate, parser, run, say, set_output, stage, start
from lib.distribution import Refused
from lib.github import Repository, attested, repository
from lib.names import PIPELINE, ImageName, Version, checked_out, image_name, parse_version
from lib.registry import Index, LocalImage, index_of, run_pulling

BILL = "https://cyclonedx.org/bom"
BOT = "github-actions[bot]"
LONGEST = 60_000
"""Characters of what differs; GitHub takes 65,536 for an issue."""


@dataclass(frozen=True)
class Released:
    """The newest release, and what the registry has for it."""

    version: Version
    image: ImageName
    index: Index

    @property
    def next(self) -> Version:
        """The version that a rebuild of it would get."""
        return Version(self.version.major, self.version.minor, self.version.patch + 1)


class NothingToDo(Exception):
    """There is no release to look at; says why."""


def newest(tags: set[str]) -> Version | None:
    """Return the highest final version among Git tags, None if there is none."""
    found = []
    for tag in tags:
        try:
            version = parse_version(tag.removeprefix("v"))
        except UsageError:
            continue
        if tag.startswith("v") and not version.pre:
            found.append(version)
    return max(found, default=None)


def released(env: Mapping[str, str]) -> Released:
    """Return the newest release; raise NothingToDo if there is none that can be seen."""
    if not env.get("DOCKERHUB_USERNAME") and not env.get("IMAGE_NAMESPACE"):
        raise NothingToDo("the variable DOCKERHUB_USERNAME is not set, so nothing is released")
    version = newest(release.version_tags(env))
    if version is None:
        raise NothingToDo("no Git tag of origin is a final version, so nothing is released")
    image = image_name(env, checked_out(ROOT, env).repository)
    index = index_of(image.tagged(str(version)))
    if index is None:
        raise NothingToDo(f"the registry shows nobody {image.tagged(str(version))} without a login")
    return Released(version, image, index)


def marker(version: Version, moved: Mapping[str, str]) -> str:
    """Return what an issue about a release on these bases (name -> digest) has in it, unseen by readers."""
    bases = hashlib.sha256(json.dumps(sorted(moved.items())).encode()).hexdigest()[:16]
    return f"<!-- {PIPELINE}: {version} on {bases} -->"


def open_issues(env: Mapping[str, str], url: str) -> list[Mapping[str, str]]:
    """Return the open issues of the repository that its own workflows wrote; none outside GitHub."""
    found = repository(env, url)
    if found is None or env.get("GITHUB_ACTIONS") != "true":
        return []
    listed = ledger(found).items(f"issues?state=open&creator={BOT.replace('[', '%5B').replace(']', '%5D')}")
    return [
        {"number": str(each["number"]), "title": str(each["title"]), "body": str(each.get("body") or "")}
        for each in listed
        if (each.get("user") or {}).get("login") == BOT and "pull_request" not in each
    ]


def is_public(found: Repository) -> bool:
    """Whether GitHub shows a repository to everybody; the event of a schedule does not say so in every case."""
    return (ledger(found).get("") or {}).get("private") is False


def ledger(found: Repository) -> gh.GitHub:
    """Return what asks GitHub about a repository."""
    return gh.GitHub(found.slug, found.server.partition("://")[2])


def moved_bases(now: Released) -> dict[str, str]:
    """Return what the release was built on and is another image by now: `reference (platform)` -> today's digest."""
    bases = base.bases_of(now.image, now.index)
    for each in bases:
        say(f"{now.version} was built on {each.reference} ({each.platform}), which was {each.digest}")
    return {f"{each.reference} ({each.platform})": today for each in bases if (today := base.moved(each))}


def look(env: Mapping[str, str], now: Released) -> bool:
    """Say whether the release has to be built again to see what it would be today."""
    moved = moved_bases(now)
    for name, digest in moved.items():
        say(f"{name} is {digest} now")
    if not moved:
        say(f"nothing that {now.version} was built on has moved")
        return False
    mark = marker(now.version, moved)
    for issue in open_issues(env, checked_out(ROOT, env).url):
        if mark in issue["body"]:
            say(f"issue #{issue['number']} says so already")
            return False
    return True


def platforms_of(image: LocalImage) -> dict[str, str]:
    """Return platform -> digest of an image on this engine: only its archive says them all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.tar"
        run(save_command(image.reference, file))
        return Archive(file).index.platforms


def rebuild(now: Released) -> str:
    """Build the release's commit again; return the issue that offers it, as JSON, or "" if it is the same image."""
    this, tag = service.load(), f"v{now.version}"
    commit = run(["git", "-C", str(ROOT), "rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}"]).stdout.strip()
    platforms = list(now.index.platforms)
    moved = moved_bases(now)
    with worktree(commit) as root, built(f"{this.name}:rebuilt", platforms, root, pull=True) as image:
        there = platforms_of(image)
        differ = [platform for platform in platforms if there.get(platform) != now.index.platforms[platform]]
        if not differ:
            say(f"{now.version} would be the same image today")
            return ""
        say(f"{now.version} would be another image today, on {', '.join(differ)}")
        smoke_test.smoke_test(image, [name for name in platforms if name in engine.look().platforms], root=root)
        reference = now.image.at(now.index.digest)
        with pulled(reference, differ):
            before = {platform: packages.contents_of(reference, platform) for platform in differ}
        after = {platform: packages.contents_of(image.reference, platform) for platform in differ}
    text = "\n\n".join(part for part in (packages.described(before, after), fixed(before, after)) if part)
    return json.dumps({"title": title(now), "body": body(now, moved, text)})


@contextlib.contextmanager
def pulled(reference: str, platforms: Sequence[str]) -> Iterator[None]:
    """Have an image of a registry on this engine, for these platforms, until the block ends."""
    try:
        for platform in platforms:
            run_pulling(["docker", "pull", "--quiet", "--platform", platform, reference], show=True)
        yield
    finally:
        run(["docker", "image", "rm", "--force", reference], check=False)


def fixed(before: Mapping[str, packages.Contents], after: Mapping[str, packages.Contents]) -> str:
    """Return, as Markdown, which known vulnerabilities the rebuild is without."""
    found = repository(os.environ, checked_out(ROOT).url)
    if found is None or not is_public(found):
        return ""  # what is in a private image is told to nobody
    try:
        old, new = (
            {name: set(ids) for name, ids in vulnerabilities.known(list(contents.values())).items()}
            for contents in (before, after)
        )
    except Failure as failure:
        say(str(failure))
        return "Whether that fixes known vulnerabilities could not be asked."
    still = set().union(*new.values())
    gone = {(name, each) for (_, name, _), ids in old.items() for each in ids - still}
    listed = ", ".join(f"{packages.code(each)} ({packages.text(name)})" for name, each in sorted(gone))
    return f"Known vulnerabilities that this fixes, by https://osv.dev: {listed or 'none'}."


def title(now: Released) -> str:
    """Return the issue's title."""
    return f"Release {now.next}: the base image of {now.version} has moved"


def commands(version: Version, next_: Version) -> str:
    """Return what releases a version again as the next one, with nothing new in it but its base image.

    A release is on a commit in the history of main, and a commit's image never changes: so it takes a commit that is
    new, on top of what was released, and merged as it is.
    """
    return f"""git fetch origin --tags
git switch --create rebuild-{next_} v{version}
git commit --allow-empty --message "Rebuild {version} on its new base image"
git switch main
git pull origin main
git merge --no-ff --no-edit rebuild-{next_}
git push origin main
git tag v{next_} rebuild-{next_}
git push origin v{next_}"""


def body(now: Released, moved: Mapping[str, str], difference: str) -> str:
    """Return the issue, with what to run."""
    bases = "\n".join(f"- `{name}` is `{digest}` now" for name, digest in sorted(moved.items()))
    return f"""{marker(now.version, moved)}
{now.version} was built on an image that is another one by now:

{bases}

Its own commit, built again, gives another image, which passed the smoke test. {now.version} itself never changes.

{difference[:LONGEST]}

This releases it as {now.next}, and nothing that `main` has got since:

```
{commands(now.version, now.next)}
```

If `main` takes no pushes, push `rebuild-{now.next}` instead, and merge it by a pull request before you push the tag.
That takes a merge commit: squashed or rebased, it would be another commit than the tag's, and not be released.
Close this once {now.next} is released. If the base moves before that, this text follows."""


def scan(env: Mapping[str, str], now: Released) -> None:
    """Say which vulnerabilities are known of the release's packages; raise Failure if any is a Python package's."""
    reference = now.image.tagged(str(now.version))
    found = repository(env, checked_out(ROOT, env).url)
    if found is None or not is_public(found):
        raise NothingToDo("what is in the image of a private repository is told to nobody")
    images = []
    for digest in now.index.platforms.values():
        artifact = f"{'' if now.image.registry else 'docker.io/'}{now.image.at(digest)}"
        try:
            images.append(packages.contents_in(attested(found, artifact, BILL)[0].predicate))
        except Refused as refused:
            raise NothingToDo(f"there is no attested list of the packages of {reference} ({refused})") from refused
    known = vulnerabilities.known(images)
    if known:
        rows = [
            f"| {packages.text(name)} {packages.text(version)} | {packages.text(', '.join(ids))} |"
            for (_, name, version), ids in known.items()
        ]
        add_summary(
            "\n".join((f"### Known vulnerabilities of {now.version}", "| package | known |", "|---|---|", *rows))
        )
    debian = sum(len(ids) for (kind, _, _), ids in known.items() if kind == "deb")
    say(f"{debian} known vulnerabilities of Debian's packages; a moved base image is what fixes those that can be")
    python = [f"{name} {version} ({', '.join(ids)})" for (kind, name, version), ids in known.items() if kind == "pypi"]
    if python:
        raise Failure(
            f"{reference} has Python packages with known vulnerabilities: {', '.join(python)}; pin newer ones as"
            " CONTRIBUTING.md says, and release that"
        )
    say(f"{reference} has no Python package with a known vulnerability")


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("look", "rebuild", "scan"))
    options = arguments.parse_args(argv)
    builds = options.what == "rebuild"
    if builds:
        engine.find(())  # what this engine cannot run is built all the same
    with stage(f"{options.what.capitalize()} release"), containers.cleaned_up() if builds else contextlib.nullcontext():
        try:
            now = released(os.environ)
            if options.what == "look":
                set_output("moved", "true" if look(os.environ, now) else "false")
            elif options.what == "scan":
                scan(os.environ, now)
            elif offer := rebuild(now):
                set_output("offer", offer)
                print(json.loads(offer)["body"])
                add_summary(f"### {json.loads(offer)['title']}\n\n{json.loads(offer)['body']}")
        except NothingToDo as nothing:
            say(f"nothing to do: {nothing}")
            annotate("notice", f"nothing to do: {nothing}")
    return 0


if __name__ == "__main__":
    start(main)
