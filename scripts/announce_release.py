#!/usr/bin/env python3
"""Make the GitHub Release of a version: its notes, digest, platforms and how to pull it.

  python3 scripts/announce_release.py 1.2.3

Needs the `gh` command. RELEASE is what promote_image.py handed on; without it, the registry is asked. A
release that exists already is left as it is, so doing it twice changes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release, service
from lib.command import STATE, Failure, UsageError, add_summary, parser, run, say, stage, start
from lib.names import ImageName, Version, check_digest, checked_out, image_name, parse_version
from lib.registry import digest_at


def notes(version: Version, found: release.Verified, run_line: str) -> str:
    """Return, as Markdown, what a user of this version needs; GitHub adds what changed."""
    reference = found.image.tagged(str(version))
    return f"""```sh
{run_line}
```

| | |
|---|---|
| pull | `docker pull {reference}` |
| pull exactly this | `docker pull {found.image.at(found.digest)}` |
| platforms | {", ".join(sorted(found.platforms))} |
| commit | {found.revision} |

This is the image that was built and tested for this commit; it was given this name without being built again.
"""


def handed_on(facts: str, image: ImageName, sha: str) -> tuple[release.Verified, bool]:
    """Return what promote_image.py handed on, and whether it is the latest; this job needs no login to the registry."""
    try:
        found = json.loads(facts)
        platforms = {str(platform): check_digest(digest) for platform, digest in found["platforms"].items()}
        return release.Verified(image, check_digest(found["digest"]), sha, platforms), bool(found["latest"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"RELEASE is {facts!r}, expected what promote_image.py hands on") from error


def asked_for(image: ImageName, version: Version, sha: str) -> tuple[release.Verified, bool]:
    """Return what the registry has as a version, verified, and whether it is the latest."""
    digest = digest_at(image.tagged(str(version)))
    if not digest:
        raise Failure(
            f"there is no {image.tagged(str(version))} in the registry; run python3 scripts/promote_image.py"
            f" {version} first"
        )
    is_latest = not version.pre and digest_at(image.tagged("latest")) == digest
    return release.verified(image, digest, revision=sha), is_latest


def view_command(version: Version, repository: str) -> list[str]:
    """Return the command that succeeds if the release exists."""
    return ["gh", "release", "view", f"v{version}", "--repo", repository]


def create_command(version: Version, repository: str, notes_file: str, latest: bool) -> list[str]:
    """Return the command that makes the release; GitHub's own list of changes follows our notes."""
    return [
        *("gh", "release", "create", f"v{version}", "--repo", repository, "--verify-tag"),
        *("--title", str(version), "--notes-file", notes_file, "--generate-notes"),
        *(["--prerelease"] if version.pre else []),
        f"--latest={'true' if latest else 'false'}",
    ]


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("version", metavar="VERSION", help="such as 1.2.3")
    arguments.add_argument("--dry-run", action="store_true", help="print the notes, and release nothing")
    options = arguments.parse_args(argv)
    version = parse_version(options.version)
    commit = checked_out()
    image = image_name(os.environ, commit.repository)
    with stage(f"Announce release {version}"):
        facts = os.environ.get("RELEASE", "")
        found, is_latest = handed_on(facts, image, commit.sha) if facts else asked_for(image, version, commit.sha)
        text = notes(version, found, service.load().run_line(image.tagged(str(version))))
        if options.dry_run:
            print(text)
            return 0
        repository = os.environ.get("GITHUB_REPOSITORY", "")
        if not repository:
            raise Failure("GITHUB_REPOSITORY is not set: the release belongs to a repository on GitHub, as owner/name")
        STATE.mkdir(exist_ok=True)
        file = STATE / "notes.md"
        file.write_text(text, "utf-8")
        if run(view_command(version, repository), check=False).returncode == 0:
            say(f"the release v{version} exists already; it is left as it is")
        else:
            print(run(create_command(version, repository, str(file), is_latest)).stdout.strip())
    add_summary(f"### Release {version}\n{text}")
    return 0


if __name__ == "__main__":
    start(main)
