#!/usr/bin/env python3
"""Write build/test-result.json: what the image passed, for actions/attest to sign.

  python3 scripts/report_tests.py

Reads what the jobs that tested the image handed over (build/tested: the image and each job's stages.jsonl), and NEEDS,
GitHub's `toJSON(needs)`: how each job ended. Fails unless every platform of the image was smoke-tested, and everything
passed. The statement is in-toto's test result; the fields beside its own are

  commit     the commit that the image was built from
  platforms  platform -> digest of its image
  checks     what was done, in order: name, job, seconds

https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md

Hands on the digest of each platform's image, as linux-amd64 and linux-arm64.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from hand_over import TAKEN, TESTED, Archive
from lib.command import STATE, Failure, UsageError, parser, say, set_output, start
from lib.github import WORKFLOW
from lib.names import Commit, checked_out
from lib.release import SMOKE_TEST


def predicate(
    commit: Commit,
    platforms: Mapping[str, str],
    checks: Sequence[Mapping[str, Any]],
    jobs: Mapping[str, str],
    run: str,
) -> dict[str, Any]:
    """Return the statement about an image with these platforms, or raise Failure for one that did not pass.

    `checks` are stages with the job that each ran in, `jobs` are name -> result, and `run` is the run's address.
    """
    failed = [f"{check['name']} ({check['job']})" for check in checks if not check["ok"]]
    failed += [f"{job} ({result})" for job, result in jobs.items() if result not in ("success", "skipped")]
    if failed:
        raise Failure(
            f"the image did not pass {', '.join(failed)}, so no test result is attested; see those jobs' logs"
        )
    passed = [job for job, result in jobs.items() if result == "success"] + [check["name"] for check in checks]
    untested = [platform for platform in platforms if SMOKE_TEST.format(platform) not in passed]
    if untested or not platforms:
        raise Failure(f"nothing says that the image was smoke-tested on {', '.join(untested) or 'any platform'}")
    return {
        "result": "PASSED",
        "configuration": [{"name": WORKFLOW, "uri": f"git+{commit.url}", "digest": {"gitCommit": commit.sha}}],
        "url": run,
        "passedTests": passed,
        "failedTests": [],
        "commit": commit.sha,
        "platforms": dict(platforms),
        "checks": [{name: check[name] for name in ("name", "job", "seconds")} for check in checks],
    }


def checks_in(folder: Path) -> list[dict[str, Any]]:
    """Return every stage that other jobs handed over, with the job's name; the image's own job comes first."""
    files = sorted(folder.glob("*/stages.jsonl"), key=lambda file: (file.parent.name != "image", file))
    return [
        {**json.loads(line), "job": file.parent.name} for file in files for line in file.read_text("utf-8").splitlines()
    ]


def results(needs: str) -> dict[str, str]:
    """Return job -> result from GitHub's `toJSON(needs)`."""
    try:
        return {str(job): str(found["result"]) for job, found in json.loads(needs).items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"NEEDS is {needs!r}, expected GitHub's toJSON(needs)") from error


def main(argv: Sequence[str]) -> int:
    parser(__doc__).parse_args(argv)
    commit = checked_out()
    run = f"{commit.url}/actions/runs/{os.environ.get('GITHUB_RUN_ID', '')}"
    index = Archive(TAKEN).index
    content = predicate(commit, index.platforms, checks_in(TESTED), results(os.environ.get("NEEDS", "")), run)
    STATE.mkdir(exist_ok=True)
    file = STATE / "test-result.json"
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    for platform, digest in index.platforms.items():
        set_output(platform.replace("/", "-"), digest)
    say(f"{index.digest} passed {len(content['passedTests'])} checks on {', '.join(index.platforms)}")
    print(file)
    return 0


if __name__ == "__main__":
    start(main)
