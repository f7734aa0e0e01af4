"""What `gh attestation verify --format json` prints about a statement; the fields are those of gh and Fulcio."""

from __future__ import annotations

import json
from typing import Any

PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
GITHUB = "https://github.com"


def verified(
    slug: str,
    digest: str,
    commit: str,
    *,
    kind: str = PROVENANCE,
    ref: str = "refs/heads/main",
    predicate: object = None,
    workflow: str = ".github/workflows/ci.yml",
    runner: str = "github-hosted",
) -> dict[str, Any]:
    """Return one result: a statement about a digest, signed by a run of a workflow of a repository on a ref."""
    certificate = {
        "certificateIssuer": "CN=sigstore-intermediate,O=sigstore.dev",
        "subjectAlternativeName": f"{GITHUB}/{slug}/{workflow}@{ref}",
        "issuer": "https://token.actions.githubusercontent.com",
        "buildSignerURI": f"{GITHUB}/{slug}/{workflow}@{ref}",
        "buildSignerDigest": commit,
        "runnerEnvironment": runner,
        "sourceRepositoryURI": f"{GITHUB}/{slug}",
        "sourceRepositoryDigest": commit,
        "sourceRepositoryRef": ref,
    }
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "image", "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": kind,
        "predicate": predicate if predicate is not None else {},
    }
    return {"verificationResult": {"signature": {"certificate": certificate}, "statement": statement}}


def check_run(commit: str, digest: str, predicate: object, **changes: object) -> dict[str, object]:
    """Return a check run that records an image as a commit's, as GitHub's API lists it, with some of it changed."""
    return {
        "name": "published-image",
        "head_sha": commit,
        "status": "completed",
        "conclusion": "success",
        "output": {"title": digest, "summary": "", "text": json.dumps(predicate)},
        "app": {"slug": "github-actions"},
        **changes,
    }


def result_of(platforms: dict[str, str], /, **changes: object) -> dict[str, object]:
    """Return the predicate of a test that every platform passed, with some of it changed."""
    return {
        "result": "PASSED",
        "configuration": [],
        "passedTests": ["check", "service", *(f"Smoke-test {platform}" for platform in platforms)],
        "failedTests": [],
        "platforms": platforms,
        **changes,
    }
