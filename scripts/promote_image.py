#!/usr/bin/env python3
"""Give a published image more names, in the registry only: nothing is built, pulled or pushed.

  python3 scripts/promote_image.py edge     the newest published commit of main
  python3 scripts/promote_image.py 1.2.3    this commit's image, as 1.2.3 and, if it is the highest
                                            of their range, as 1.2, 1 and latest

1.2.3 never moves: another digest is refused. A pre-release such as 1.3.0-rc.1 moves nothing else.
edge moves forward only. The digest is compared before and after. Doing it twice changes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import registry, release
from lib.command import ROOT, Failure, UsageError, add_summary, parser, run, say, set_output, stage, start
from lib.names import ImageName, Version, check_digest, checked_out, image_name, parse_version
from lib.registry import check_same, put_tag, tags_of

EDGE = "edge"
LATEST = "latest"


@dataclass(frozen=True)
class Move:
    """A tag, the digest that it had ("" for none) and the digest that it has now."""

    tag: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.tag}: stays at {self.after}"
        return f"{self.tag}: {self.before or 'new'} -> {self.after}"


def ranges(version: Version) -> tuple[str, ...]:
    """Return the tags that follow the highest version of a range: 1.2, 1 and latest for 1.2.3."""
    if version.pre:
        return ()
    return (f"{version.major}.{version.minor}", f"{version.major}", LATEST)


def versions_in(tags: Iterable[str]) -> list[Version]:
    """Return the final versions among tags, lowest first; other tags are ignored."""
    found = []
    for tag in tags:
        try:
            version = parse_version(tag)
        except UsageError:
            continue
        if not version.pre:
            found.append(version)
    return sorted(found)


def released(tags: Iterable[str], git_tags: Collection[str]) -> list[str]:
    """Return the tags without those final versions that no Git tag `v1.2.3` names: no release of ours made them.

    Whoever can write to the registry could keep `latest` where it is with a 999.0.0; the Git tags are GitHub's.
    """
    unknown = [str(version) for version in versions_in(tags) if f"v{version}" not in git_tags]
    for version in unknown:
        say(f"ignoring {version} in the registry: there is no Git tag v{version}")
    return [tag for tag in tags if tag not in unknown]


def highest(tag: str, tags: Iterable[str]) -> Version | None:
    """Return the highest final version that a range's tag can stand for, None if there is none."""
    members = [version for version in versions_in(tags) if tag in ranges(version)]
    return members[-1] if members else None


def to_move(version: Version, tags: Iterable[str]) -> list[str]:
    """Return the tags to put on a version's image, given the tags that the registry has.

    >>> to_move(Version(1, 1, 9), ["1.1.8", "1.2.0"])
    ['1.1.9', '1.1']
    """
    existing = [*tags, str(version)]
    return [str(version), *(tag for tag in ranges(version) if highest(tag, existing) == version)]


def newest_published(commits: Iterable[str], published: Callable[[str], str]) -> tuple[str, str]:
    """Return the first commit that is published, and its digest; ("", "") if none is."""
    for commit in commits:
        digest = published(commit)
        if digest:
            return commit, digest
    return "", ""


def not_published(image: ImageName, sha: str) -> Failure:
    """Return what to say if a commit has no image."""
    return Failure(f"there is no {image.tagged(sha)} in the registry; run python3 scripts/push_image.py first")


def digest_at(image: ImageName, tag: str) -> str:
    """Return the digest that a tag has in the registry, or "" if there is no such tag."""
    return registry.digest_at(image.tagged(tag))


def put(image: ImageName, digest: str, tag: str, dry_run: bool) -> Move:
    """Put a tag on a digest unless it is there already; check that it is there afterwards."""
    before = digest_at(image, tag)
    if dry_run:
        say(f"would put {tag} on {digest}")
    elif before != digest:
        put_tag(image, digest, tag)
        check_same(image.tagged(tag), digest, digest_at(image, tag))
    return Move(tag, before, digest)


def promote_version(image: ImageName, sha: str, digest: str, version: Version, dry_run: bool) -> list[Move]:
    """Put a version's tags on a commit's digest; raise Failure if the version has another one already."""
    taken = digest_at(image, str(version))
    if taken not in ("", digest):
        raise Failure(
            f"{image.tagged(str(version))} is already published as {taken}, and this commit is {digest}; a version"
            " never moves: delete the Git tag and release the next version"
        )
    there = released(tags_of(image, known=[sha]), release.version_tags(os.environ))
    moves = [put(image, digest, tag, dry_run) for tag in to_move(version, there)]
    # Another release may have moved the same tags meanwhile: the highest has the last word in both.
    known = [sha] if dry_run else [sha, str(version)]
    now = released(tags_of(image, known=known), release.version_tags(os.environ))
    for number, move in enumerate(moves[1:], start=1):
        winner = highest(move.tag, [*now, str(version)])
        if winner and winner != version and not dry_run:
            say(f"{winner} was released meanwhile: {move.tag} belongs to it")
            moves[number] = Move(
                move.tag, move.before, put(image, digest_at(image, str(winner)), move.tag, False).after
            )
    return moves


def newest_commits() -> list[str]:
    """Return main's commits from its tip back to this one, newest first; this one is the last."""
    git = ["git", "-C", str(ROOT)]
    # Another run may have published a newer commit since this one was checked out.
    release.fetch_main(os.environ)
    newer = run([*git, "rev-list", "--first-parent", "--max-count=50", f"HEAD..{release.MAIN}"]).stdout
    return [*newer.split(), checked_out().sha]


def promote_edge(image: ImageName, dry_run: bool) -> list[Move]:
    """Put edge on the newest published commit of main, once that is verified, until that is true."""
    move = None
    for _ in range(3):
        commit, digest = newest_published(newest_commits(), lambda sha: digest_at(image, sha))
        if not commit:
            raise not_published(image, checked_out().sha)
        before = move.before if move else digest_at(image, EDGE)
        if move and move.after == digest:
            break
        release.verified(image, digest, revision=commit)
        put(image, digest, EDGE, dry_run)
        move = Move(EDGE, before, digest)
        if dry_run:
            break
    return [move] if move else []


def table(image: ImageName, moves: Sequence[Move]) -> str:
    """Return, as Markdown, which tags moved from what to what."""
    rows = [
        f"| `{move.tag}` | {f'`{move.before}`' if move.before else 'new'} |"
        f" {'stays' if move.before == move.after else f'`{move.after}`'} |"
        for move in moves
    ]
    return "\n".join([f"### Tags of `{image}`", "| tag | from | to |", "|---|---|---|", *rows])


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("name", metavar="edge|VERSION", help="what to call the image")
    arguments.add_argument("--digest", default="", help="the digest that must be the published one")
    arguments.add_argument("--dry-run", action="store_true", help="say what would move, and move nothing")
    options = arguments.parse_args(argv)
    version = None if options.name == EDGE else parse_version(options.name)
    commit = checked_out()
    image = image_name(os.environ, commit.repository)
    with stage(f"Promote image to {options.name}"):
        digest = digest_at(image, commit.sha)
        if not digest:
            raise not_published(image, commit.sha)
        if options.digest:
            check_same(image.tagged(commit.sha), check_digest(options.digest), digest)
        if version:
            found = release.verified(image, digest, revision=commit.sha)
            moves = promote_version(image, commit.sha, digest, version, options.dry_run)
            latest = any(move.tag == LATEST and move.after == digest for move in moves)
            facts = {"digest": digest, "platforms": dict(found.platforms), "latest": latest}
            set_output("release", json.dumps(facts))
        else:
            moves = promote_edge(image, options.dry_run)
    for move in moves:
        print(move)
    add_summary(table(image, moves))
    return 0


if __name__ == "__main__":
    start(main)
