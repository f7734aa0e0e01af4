#!/usr/bin/env python3
"""Write the job summary: how long each stage took, the one digest, its way, and how to run it.

Reads build/stages.jsonl, which the other scripts leave, those that other jobs handed over (build/tested), and from the
environment DIGEST, PUBLISHED (`true` if that digest is in the registry now), and how two steps ended: LOGIN, and
ATTESTED. Prints the summary; on GitHub it becomes the job's. If the login failed, says what to check, and fails.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from hand_over import TESTED
from lib import service
from lib.command import STATE, Failure, add_summary, parser, say, start
from lib.names import ImageName, checked_out, image_name
from lib.registry import layer_sizes
from report_tests import checks_in


def stages_in(text: str) -> list[Mapping[str, Any]]:
    """Return the stages of a stages.jsonl, in the order in which they ended."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the stages with their seconds as a Markdown table, or "" if there was none."""
    if not stages:
        return ""
    rows = [f"| {stage['name']}{'' if stage['ok'] else ' **failed**'} | {stage['seconds']:.1f} |" for stage in stages]
    return "\n".join(["| stage | seconds |", "|---|---:|", *rows])


def way(sha: str, digest: str, stages: Sequence[Mapping[str, Any]]) -> str:
    """Return a Mermaid picture of the stages that the digest went through; a failed one ends it."""
    short = f"{digest[:19]}…"
    lines = [f'  commit(["commit {sha[:7]}"])']
    previous = "commit"
    for number, stage in enumerate(stages, start=1):
        lines.append(f'  {previous} --> s{number}["{stage["name"]}<br/>{short if stage["ok"] else "failed"}"]')
        previous = f"s{number}"
        if not stage["ok"]:
            break
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def commands(image: ImageName, digest: str, run_line: str) -> str:
    """Return, as Markdown, how to run and pull what was published."""
    return f"""```sh
{run_line}
docker pull {image.at(digest)}
```"""


def attested(env: Mapping[str, str]) -> str:
    """Return whether the image was attested, as far as a run that publishes knows."""
    outcome = env.get("ATTESTED", "")
    if outcome == "failure":
        return "Not attested, so not published: run the failed jobs again."
    if outcome == "success":
        return "Attested: how it was built, and that it passed its tests."
    if outcome == "skipped" and env.get("PRIVATE") == "true":
        return "Recorded in a check run of the commit: GitHub attests images of public repositories only."
    return ""


def size_table(sizes: Mapping[str, int]) -> str:
    """Return compressed sizes as a Markdown table; MB are millions of bytes."""
    rows = [f"| {platform} | {size / 1e6:.1f} MB |" for platform, size in sorted(sizes.items())]
    return "\n".join(["| platform | compressed |", "|---|---:|", *rows])


def sizes_of(reference: str) -> dict[str, int]:
    """Return compressed sizes, or none if the registry does not say: a summary is not a check."""
    try:
        return {platform: sum(layers) for platform, layers in layer_sizes(reference).items()}
    except Failure as failure:
        say(f"no sizes: {failure}")
        return {}


def read(name: str) -> str:
    """Return the text of a hand-over file, or "" if no stage wrote it."""
    path = STATE / name
    return path.read_text("utf-8") if path.exists() else ""


def main(argv: Sequence[str]) -> int:
    parser(__doc__).parse_args(argv)
    commit = checked_out()
    digest = os.environ.get("DIGEST", "")
    stages = [*checks_in(TESTED), *stages_in(read("stages.jsonl"))]
    parts = [f"### Image of {commit.sha}", stage_table(stages)]
    if digest:
        parts += [f"Digest: `{digest}`", way(commit.sha, digest, stages)]
    parts.append(attested(os.environ))
    if digest and os.environ.get("PUBLISHED") == "true":
        image = image_name(os.environ, commit.repository)
        parts.append(commands(image, digest, service.load().run_line(image.tagged(commit.sha))))
        sizes = sizes_of(image.at(digest))
        parts.append(size_table(sizes) if sizes else "")
    summary = "\n\n".join(part for part in parts if part)
    print(summary)
    add_summary(summary)
    if os.environ.get("LOGIN") == "failure":
        raise Failure(
            f"cannot log in to {os.environ.get('REGISTRY') or 'Docker Hub'} as"
            f' {os.environ.get("DOCKERHUB_USERNAME", "")!r}: see the step "Log in"; if the registry refused, set'
            " the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN again"
        )
    return 0


if __name__ == "__main__":
    start(main)
