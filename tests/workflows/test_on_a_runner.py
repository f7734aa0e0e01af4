"""The tests as a job of GitHub's runs them: its summary and its outputs are the job's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.projects import ROOT


def test_the_tests_write_nothing_into_the_run(tmp_path: Path) -> None:
    """What a script tells a run in a test is not told the run that runs the test."""
    tests = ["tests/pipeline/test_summarize.py", "tests/pipeline/test_push_image.py"]
    files = {name: tmp_path / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")}
    for file in files.values():
        file.touch()
    run = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_REPOSITORY": "octo/hello-world",
        "GITHUB_SHA": "0" * 40,
        "RUNNER_ENVIRONMENT": "github-hosted",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", *tests],
        cwd=ROOT, env={**os.environ, **run, **{name: str(file) for name, file in files.items()}},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout  # whether they pass is tested where they run by themselves
    assert {name: file.read_text("utf-8") for name, file in files.items()} == dict.fromkeys(files, "")
