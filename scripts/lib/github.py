"""What GitHub says about a run and its repository, and the statements about images that it keeps for it.

GitHub is the ledger, and a registry is only storage: whoever can write to the registry cannot write a statement that
`gh attestation verify` takes for one of this repository's CI.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.command import Failure, last_line, run
from lib.distribution import Refused
from lib.names import SHA
from lib.registry import retry

GITHUB = "https://github.com"
WORKFLOW = ".github/workflows/ci.yml"
RECORD = "published-image"  # the check run's name
MAIN = "refs/heads/main"
RELEASES = "refs/tags/v"
SLUG = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
INSTALL = "https://cli.github.com"

BUSY = re.compile(r"HTTP 5\d\d|HTTP 429|rate limit|time-?out|timed out|connection re|EOF|no such host|TLS", re.I)
"""What gh says when the same question may be answered a little later."""


def payload(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the event that started the run; empty outside GitHub. Raises Failure if it cannot be read.

    https://docs.github.com/webhooks/webhook-events-and-payloads
    """
    path = env.get("GITHUB_EVENT_PATH", "")
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"cannot read the event that started this run, {path}: {error}") from error
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub: its server's address, and owner/name."""

    server: str
    slug: str

    @property
    def url(self) -> str:
        """Where people find it."""
        return f"{self.server}/{self.slug}"


@dataclass(frozen=True)
class Statement:
    """What GitHub keeps about a digest for a commit: who made the statement, in words, and what it says."""

    commit: str
    by: str
    predicate: Mapping[str, Any]


def repository(env: Mapping[str, str], url: str) -> Repository | None:
    """Return the repository that a run belongs to, or else that a clone's page `url` is; None if not on GitHub."""
    server = (env.get("GITHUB_SERVER_URL") or GITHUB).rstrip("/")
    slug = env.get("GITHUB_REPOSITORY", "") or url.removeprefix(f"{server}/")
    return Repository(server, slug) if SLUG.fullmatch(slug) else None


def keeps_attestations(found: Repository, env: Mapping[str, str]) -> bool:
    """Whether GitHub keeps attestations for a repository on github.com; raises Failure if that cannot be told.

    The variable ATTESTATIONS is `true` for a private repository on GitHub Enterprise Cloud:
    https://docs.github.com/actions/concepts/security/artifact-attestations.
    """
    if env.get("ATTESTATIONS") == "true":
        return True
    if env.get("GITHUB_EVENT_PATH") or env.get("GITHUB_ACTIONS") == "true":
        return not is_private(env)
    return gh(["api", f"repos/{found.slug}", "--jq", ".private"]) == "false"


def verify_command(found: Repository, artifact: str, predicate: str) -> list[str]:
    """Return the arguments of gh that print the statements of a kind about an image, checked against Sigstore."""
    return [
        *("attestation", "verify", f"oci://{artifact}", "--repo", found.slug, "--predicate-type", predicate),
        *("--signer-workflow", f"{found.slug}/{WORKFLOW}", "--deny-self-hosted-runners", "--format", "json"),
    ]


def attested(found: Repository, artifact: str, predicate: str) -> list[Statement]:
    """Return the statements of a kind about an image (`name@digest`), signed by ci.yml on main or a version's tag.

    Raises Failure if there is none, or if it cannot be asked. What gh has verified is looked at here once more: a
    flag that an older gh does not know, or reads otherwise, must not decide alone.
    """
    text = retry(lambda: gh(verify_command(found, artifact, predicate)))
    try:
        results = [result["verificationResult"] for result in json.loads(text)]
        kept = [statement for result in results if (statement := believed(found, artifact, predicate, result))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(
            f"cannot read what gh says about {artifact} ({type(error).__name__}); update it: {INSTALL}"
        ) from error
    if not kept:
        raise Failure(
            f"of the statements about {artifact} none is by {WORKFLOW} of {found.slug} on main or a version's tag"
        )
    return kept


def believed(found: Repository, artifact: str, predicate: str, result: Mapping[str, Any]) -> Statement | None:
    """Return the statement of a verification result if it is about this digest, by our CI; else None.

    The fields are the certificate's: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.
    """
    signer, statement = result["signature"]["certificate"], result["statement"]
    ref, commit = str(signer["sourceRepositoryRef"]), str(signer["sourceRepositoryDigest"])
    digest = artifact.rpartition("@sha256:")[2]
    right = (
        str(signer["sourceRepositoryURI"]).casefold() == found.url.casefold()
        and str(signer["buildSignerURI"]).casefold() == f"{found.url}/{WORKFLOW}@{ref}".casefold()
        and signer["runnerEnvironment"] == "github-hosted"
        and (ref == MAIN or ref.startswith(RELEASES))
        and SHA.fullmatch(commit)
        and statement["predicateType"] == predicate
        and digest in [subject["digest"].get("sha256") for subject in statement["subject"]]
    )
    return Statement(commit, f"{WORKFLOW} on {ref}", statement.get("predicate") or {}) if right else None


def record_body(commit: str, digest: str, predicate: str) -> str:
    """Return the check run that records an image as a commit's; `predicate` is the JSON of its test result.

    https://docs.github.com/rest/checks/runs#create-a-check-run
    """
    output = {"title": digest, "summary": "This image was built from this commit and passed its tests."}
    return json.dumps(
        {
            "name": RECORD,
            "head_sha": commit,
            "status": "completed",
            "conclusion": "success",
            "output": {**output, "text": predicate},
        }
    )


def record(found: Repository, commit: str, digest: str, predicate: str) -> None:
    """Record an image as a commit's, with a check run."""
    body = record_body(commit, digest, predicate)
    retry(lambda: gh(["api", "--method", "POST", f"repos/{found.slug}/check-runs", "--input", "-"], body))


def recorded(found: Repository, commit: str, digest: str) -> list[Statement]:
    """Return what check runs on a commit say about an image: the ledger of a repository without attestations.

    A key of the repository's own would have to be kept, handed out and replaced; a check run needs none. Whoever can
    only write to the registry cannot write one; whoever can push a branch can, and has the token for the registry
    anyway. Raises Failure if there is none, or if it cannot be asked.
    """
    path = f"repos/{found.slug}/commits/{commit}/check-runs?check_name={RECORD}&filter=all&per_page=100"
    text = retry(lambda: gh(["api", path]))
    try:
        kept = [
            Statement(commit, f"a check run of {WORKFLOW}", json.loads(each["output"]["text"]))
            for each in json.loads(text)["check_runs"]
            if (each["name"], each["head_sha"], each["conclusion"]) == (RECORD, commit, "success")
            and each["app"]["slug"] == "github-actions"
            and each["output"]["title"] == digest
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"cannot read what gh says about commit {commit} ({type(error).__name__})") from error
    if not kept:
        raise Failure(f"no check run {RECORD} of commit {commit} names {digest}")
    return kept


def is_before_main(slug: str, commit: str) -> bool:
    """Whether GitHub says that a commit is in the history of main: https://docs.github.com/rest/commits/commits.

    Raises Failure if it cannot be asked.
    """
    status = retry(lambda: gh(["api", f"repos/{slug}/compare/{commit}...main", "--jq", ".status"]))
    return status in ("ahead", "identical")


def gh(arguments: Sequence[str], stdin: str | None = None) -> str:
    """Return what the `gh` command prints; Refused if it says no, Failure if another try may help."""
    if not shutil.which("gh"):
        raise Refused(f"cannot ask GitHub: there is no program gh; install it ({INSTALL}) and run gh auth login")
    done = run(["gh", *arguments], show=True, check=False, timeout=120, stdin=stdin)
    if done.returncode == 0:
        return done.stdout.strip()
    if re.search(r"unknown (?:command|flag)", done.stderr):
        raise Refused(f"cannot ask GitHub: this gh is too old{last_line(done)}; update it: {INSTALL}")
    kind = Failure if BUSY.search(done.stderr) else Refused
    raise kind(f"GitHub does not confirm it{last_line(done)}")


def is_private(env: Mapping[str, str]) -> bool:
    """Whether the run's repository is not public; an internal one is private, too. False outside GitHub.

    A run on GitHub whose event does not say so counts as a private repository's.
    """
    repository = payload(env).get("repository")
    if isinstance(repository, dict) and isinstance(repository.get("private"), bool):
        return bool(repository["private"])
    return env.get("GITHUB_ACTIONS") == "true"
