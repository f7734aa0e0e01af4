#!/usr/bin/env python3
"""Make the GitHub Release of a version: its notes, digest, platforms and how to pull it.

  python3 scripts/announce_release.py 1.2.3

Needs the `gh` command and what promote_image.py left in the registry. A release that exists already
is left as it is, so doing it twice changes nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release, service
from lib.command import STATE, Failure, add_summary, parser, run, say, stage, start
from lib.names import Version, checked_out, image_name, parse_version
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


def view_command(version: Version, repository: str) -> list[str]:
    """Return the command that succeeds where the release exists."""
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
        digest = digest_at(image.tagged(str(version)))
        if not digest:
            raise Failure(
                f"there is no {image.tagged(str(version))} in the registry; run python3 scripts/promote_image.py"
                f" {version} first"
            )
        found = release.verified(image, digest, revision=commit.sha)
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
            is_latest = not version.pre and digest_at(image.tagged("latest")) == digest
            print(run(create_command(version, repository, str(file), is_latest)).stdout.strip())
    add_summary(f"### Release {version}\n{text}")
    return 0


if __name__ == "__main__":
    start(main)
