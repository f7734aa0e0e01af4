"""What is attested about the tests that an image passed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import report_tests
from lib.command import Failure, UsageError
from lib.names import Commit
from lib.registry import Index

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Commit(SHA, False, 0, "hello", "https://github.com/octo/hello")
PLATFORMS = {"linux/amd64": "sha256:" + "a" * 64, "linux/arm64": "sha256:" + "b" * 64}
CHECKS: list[dict[str, Any]] = [
    {"name": "Build image", "seconds": 1.5, "ok": True, "job": "image"},
    {"name": "Smoke-test linux/amd64", "seconds": 2.5, "ok": True, "job": "image"},
    {"name": "Smoke-test linux/arm64", "seconds": 3.5, "ok": True, "job": "arm64"},
]
JOBS = {"check": "success", "service": "success", "image": "success", "arm64": "skipped"}
RUN = "https://github.com/octo/hello/actions/runs/7"


def test_what_is_stated() -> None:
    """The commit, each platform's digest, what passed where and in how many seconds, and the run."""
    stated = report_tests.predicate(COMMIT, PLATFORMS, CHECKS, JOBS, RUN)
    assert stated == {
        "result": "PASSED",
        "configuration": [
            {
                "name": ".github/workflows/ci.yml",
                "uri": "git+https://github.com/octo/hello",
                "digest": {"gitCommit": SHA},
            }
        ],
        "url": RUN,
        "passedTests": [
            *("check", "service", "image", "Build image", "Smoke-test linux/amd64", "Smoke-test linux/arm64")
        ],
        "failedTests": [],
        "commit": SHA,
        "platforms": PLATFORMS,
        "checks": [
            {"name": "Build image", "job": "image", "seconds": 1.5},
            {"name": "Smoke-test linux/amd64", "job": "image", "seconds": 2.5},
            {"name": "Smoke-test linux/arm64", "job": "arm64", "seconds": 3.5},
        ],
    }


@pytest.mark.parametrize(
    ("platforms", "checks", "jobs", "sentence"),
    [
        (PLATFORMS, CHECKS[:2], JOBS, "nothing says that the image was smoke-tested on linux/arm64"),
        (PLATFORMS, [], JOBS, "smoke-tested on linux/amd64, linux/arm64"),
        ({}, CHECKS, JOBS, "smoke-tested on any platform"),
        (PLATFORMS, [*CHECKS, {**CHECKS[0], "ok": False}], JOBS, r"did not pass Build image \(image\), so no"),
        (PLATFORMS, CHECKS, {**JOBS, "check": "failure"}, r"did not pass check \(failure\)"),
        (PLATFORMS, CHECKS, {**JOBS, "service": "cancelled"}, r"did not pass service \(cancelled\)"),
    ],
    ids=["one platform", "no test", "no platform", "a failed stage", "a failed job", "a cancelled job"],
)
def test_what_is_never_stated(
    platforms: dict[str, str], checks: list[dict[str, Any]], jobs: dict[str, str], sentence: str
) -> None:
    """An image that did not pass everywhere gets no statement."""
    with pytest.raises(Failure, match=sentence):
        report_tests.predicate(COMMIT, platforms, checks, jobs, RUN)


@pytest.mark.parametrize("needs", ["", "null", "[]", '{"check": {}}', '{"check": "success"}', "{"])
def test_needs_that_are_not_github_s(needs: str) -> None:
    """It is named."""
    with pytest.raises(UsageError, match=r"NEEDS is .*, expected GitHub's toJSON\(needs\)"):
        report_tests.results(needs)


def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads what the jobs handed over, the image's own job first, and writes the statement."""
    for job, stages in (("image", CHECKS[:2]), ("arm64", CHECKS[2:])):
        (tmp_path / "tested" / job).mkdir(parents=True)
        lines = [json.dumps({name: stage[name] for name in ("name", "seconds", "ok")}) for stage in stages]
        (tmp_path / "tested" / job / "stages.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    entries = [
        {"digest": digest, "platform": dict(zip(("os", "architecture"), name.split("/"), strict=True))}
        for name, digest in PLATFORMS.items()
    ]

    class Archive:
        index = Index("sha256:" + "c" * 64, {"manifests": entries})

        def __init__(self, path: Path) -> None:
            assert path.name == "image.tar"

    for name, value in {
        "STATE": tmp_path,
        "TESTED": tmp_path / "tested",
        "Archive": Archive,
        "checked_out": lambda: COMMIT,
    }.items():
        monkeypatch.setattr(report_tests, name, value)
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("NEEDS", json.dumps({job: {"result": result, "outputs": {}} for job, result in JOBS.items()}))
    assert report_tests.main([]) == 0
    stated = json.loads((tmp_path / "test-result.json").read_text("utf-8"))
    assert stated == report_tests.predicate(COMMIT, PLATFORMS, CHECKS, JOBS, RUN)
    outputs = dict(line.split("=") for line in (tmp_path / "output").read_text("utf-8").splitlines())
    assert outputs == {platform.replace("/", "-"): digest for platform, digest in PLATFORMS.items()}
