"""The one policy: which published image may be used again, released or deployed, and why.

`plan.py`, `push_image.py`, `promote_image.py`, `announce_release.py` and `redeploy.py` ask `verified`, and
`verify_image.py` prints `examined`. Whoever can write to a registry can write labels and annotations there, so
those are only compared with what cannot be written there: digests, the history of main, and what GitHub signed.
"""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.command import ROOT, Failure, last_line, run
from lib.github import (
    GITHUB,
    Repository,
    Statement,
    attested,
    is_before_main,
    keeps_attestations,
    recorded,
    repository,
)
from lib.host import on_host
from lib.names import DIGEST, SHA, ImageName, checked_out
from lib.registry import (
    INDEXES,
    MANIFESTS,
    Index,
    blob,
    configs_of,
    index_of,
    is_attestation,
    is_stand_in,
    parsed,
    platform_name,
)

MAIN = "refs/remotes/origin/main"
REVISION = "org.opencontainers.image.revision"
PROVENANCE = ("https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1")  # what BuildKit writes
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SMOKE_TEST = "Smoke-test {}"  # the stage that tests a platform
YES, NO, NOT_OFFERED, WAIVED = "yes", "no", "not offered", "waived"


class NotOffered(Exception):
    """What would be checked does not exist here, such as signatures on a laptop; says why."""


@dataclass(frozen=True)
class Line:
    """One thing that was checked, how it went (yes, no, not offered, or waived), and why."""

    name: str
    outcome: str
    why: str


@dataclass(frozen=True)
class Verified:
    """A published image that was verified: its index digest, the commit that it was built from, and what was seen."""

    image: ImageName
    digest: str
    revision: str
    platforms: Mapping[str, str]
    lines: tuple[Line, ...] = ()


@dataclass
class Candidate:
    """A published image that is being looked at; what a check needs is read once.

    `name` is its tag or digest. `wanted` are platforms that it must have, and `revision` is the one that it must be of
    ("" for any).
    """

    image: ImageName
    name: str
    wanted: Sequence[str] = ()
    revision: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def reference(self) -> str:
        """What people call it."""
        return self.image.at(self.name) if DIGEST.fullmatch(self.name) else self.image.tagged(self.name)

    @functools.cached_property
    def index(self) -> Index:
        found = index_of(self.reference)
        if found is None:
            raise Failure(
                f"there is no {self.reference} in the registry; push it first, or see its tags in the registry"
            )
        return found

    @functools.cached_property
    def ledger(self) -> Repository:
        """The repository on GitHub whose statements decide; raises NotOffered if there are none."""
        if on_host():  # where nothing is believed that nobody vouches for
            return Repository(GITHUB, self.env["GITHUB_REPOSITORY"])
        if self.image.is_local and self.env.get("GITHUB_ACTIONS") != "true":
            raise NotOffered("the registry is on this machine")
        found = repository(self.env, checked_out(ROOT, self.env).url)
        if found is None:
            raise NotOffered("this repository is not on GitHub")
        if found.server != GITHUB:
            raise NotOffered(f"statements are kept on {GITHUB} only, and this repository is on {found.server}")
        return found

    @functools.cached_property
    def labels(self) -> dict[str, Mapping[str, str]]:
        """Platform -> labels of its image."""
        configs = configs_of(self.reference, self.index)
        return {platform: (content.get("config") or {}).get("Labels") or {} for platform, content in configs.items()}

    @functools.cached_property
    def label(self) -> str:
        """The revision that every platform's label names."""
        revisions = {labels.get(REVISION, "") for labels in self.labels.values()}
        if len(revisions) != 1 or revisions == {""}:
            found = ", ".join(repr(revision) for revision in sorted(revisions)) or "none"
            raise Failure(
                f"{self.reference} has no one revision label on all platforms but {found}, so this pipeline did not"
                " build it; remove that tag from the registry, and run the workflow of its commit again"
            )
        return revisions.pop()


def answered(check: Callable[[Candidate], str], it: Candidate) -> str:
    """Return what a check says; content that is not even of the kind that it looks for is a Failure."""
    try:
        return check(it)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Failure(
            f"{it.reference} is not made as an image index is ({type(error).__name__}: {error}); remove that tag from"
            " the registry, and run the workflow of its commit again"
        ) from error


def is_index(it: Candidate) -> str:
    """An image index of image manifests, and nothing else: what the pipeline pushes."""
    content = it.index.content
    if content.get("mediaType", INDEXES[0]) not in INDEXES or not it.index.entries:
        raise Failure(
            f"{it.reference} is not an image index with platforms, so this pipeline did not push it; remove that tag"
            " from the registry, and run the workflow of its commit again"
        )
    for entry in it.index.entries:
        if entry.get("mediaType") not in MANIFESTS[2:] or not DIGEST.fullmatch(str(entry.get("digest"))):
            raise Failure(
                f"{it.reference} lists {str(entry.get('digest'))!r} of the type {str(entry.get('mediaType'))!r}, which"
                " is not an image; remove that tag from the registry"
            )
    return f"{it.index.digest} lists {len(it.index.entries)} manifests"


def has_platforms(it: Candidate) -> str:
    """Each entry is for one known platform or an attestation for none; no platform twice; none missing."""
    seen: set[tuple[str, str, str]] = set()
    for entry in it.index.entries:
        platform = entry.get("platform") or {}
        known = platform_name(platform)
        # An engine that looks for a platform does not read annotations.
        of_none = platform == {"os": "unknown", "architecture": "unknown"}
        if not (of_none if is_attestation(entry) else known):
            raise Failure(
                f"{it.reference} lists {entry['digest']}, which is neither an image for a platform nor an attestation;"
                " remove that tag from the registry"
            )
        if is_attestation(entry):
            continue
        # Of two variants of one architecture an engine takes the one that it likes best; 32-bit ARM's are apart.
        system, machine = str(platform.get("os")), str(platform.get("architecture"))
        key = (system, machine, str(platform.get("variant", "")) if machine == "arm" else "")
        if key in seen:
            raise Failure(
                f"{it.reference} has more than one image for {known}, and an engine runs the first; remove that tag"
                " from the registry"
            )
        seen.add(key)
    if not seen:
        raise Failure(f"{it.reference} has no image for any platform; remove that tag from the registry")
    missing = [platform for platform in it.wanted if platform not in it.index.platforms]
    if missing:
        raise Failure(
            f"{it.reference} has no image for {', '.join(missing)}, which is needed here; build it for that platform"
            " too (PLATFORMS), under another commit, or choose another version"
        )
    return ", ".join(sorted(it.index.platforms))


def has_provenance(it: Candidate) -> str:
    """An attestation for each platform's digest, and provenance in it that is about that very digest."""
    attested: dict[str, list[str]] = {}
    for entry in it.index.entries:
        if is_attestation(entry):
            subject = str((entry.get("annotations") or {}).get("vnd.docker.reference.digest", ""))
            attested.setdefault(subject, []).append(entry["digest"])
    digests = set(it.index.platforms.values())
    for subject in sorted(set(attested) - digests):
        raise Failure(
            f"{it.reference} has an attestation for {subject or 'nothing'!r}, which is not one of its platforms'"
            " images; remove that tag from the registry"
        )
    for platform, digest in sorted(it.index.platforms.items()):
        if not any(is_provenance(it, proof, digest) for proof in attested.get(digest, ())):
            raise Failure(
                f"{it.reference} has no provenance for {platform} ({digest}), so nothing says how it was built; push it"
                " with this project"
            )
    return f"one for each of {', '.join(sorted(it.index.platforms))}"


def is_provenance(it: Candidate, proof: str, subject: str) -> bool:
    """Whether an attestation manifest holds a provenance statement about a digest."""
    manifest = index_of(it.image.at(proof))
    for layer in (manifest.content.get("layers") or []) if manifest else []:
        if (layer.get("annotations") or {}).get("in-toto.io/predicate-type") in PROVENANCE:
            statement = parsed(it.image.at(proof), blob(it.image, str(layer.get("digest"))))
            if statement.get("predicateType") in PROVENANCE and subject in subjects_of(statement):
                return True
    return False


def subjects_of(statement: Mapping[str, Any]) -> set[str]:
    """Return the digests that an in-toto statement is about: https://in-toto.io/Statement/v1."""
    found = set()
    for subject in statement.get("subject") or []:
        digest = (subject.get("digest") or {}).get("sha256") if isinstance(subject, dict) else None
        found.add(f"sha256:{digest}")
    return found


def is_official(it: Candidate) -> str:
    """Not built on a stand-in for an official base image, unless it stays on this machine."""
    stand_ins = [platform for platform, labels in sorted(it.labels.items()) if is_stand_in(labels)]
    if stand_ins and not it.image.is_local:
        raise Failure(
            f"{it.reference} is built on a stand-in for its base image ({', '.join(stand_ins)}); only localhost may"
            " have such an image: remove that tag from the registry"
        )
    return "on a stand-in, and on localhost" if stand_ins else "no platform is"


def has_revision(it: Candidate) -> str:
    """One commit for all platforms, the expected one if there is one."""
    if it.revision and it.label != it.revision:
        raise Failure(
            f"{it.reference} has the revision label {it.label!r}, so this pipeline did not build it; remove that tag"
            " from the registry, and run this workflow again"
        )
    commit = it.label.removesuffix("-dirty") if it.image.is_local else it.label
    if not SHA.fullmatch(commit):
        raise Failure(
            f"{it.reference} has the revision label {it.label!r}, which is not a full commit id; push it with this"
            " project"
        )
    return it.label


def in_history(it: Candidate) -> str:
    """Of a commit of main; on this machine, of the branch that is checked out will do."""
    commit = it.label.removesuffix("-dirty")
    if it.image.is_local and is_ancestor(commit, "HEAD"):
        return "in the history of the commit that is checked out"
    if not in_main(commit, it.env):
        raise Failure(
            f"{it.reference} was built from {it.label!r}, which is not a commit in the history of main; merge it first,"
            " or choose another version"
        )
    return "in the history of main"


def stated(it: Candidate, predicate: str) -> list[Statement]:
    """Return the statements of a kind about this very index, by our CI, for the commit that the labels name."""
    found = it.ledger
    artifact = f"{'' if it.image.registry else 'docker.io/'}{it.image.at(it.index.digest)}"
    try:
        if keeps_attestations(found, it.env):
            kept = attested(found, artifact, predicate)
        else:
            kept = recorded(found, it.label, it.index.digest)
    except Failure as failure:
        raise Failure(
            f"{it.reference} has no {predicate} that this repository's CI signed: {failure}; run the workflow of its"
            " commit again, or choose another version"
        ) from failure
    ours = [statement for statement in kept if statement.commit == it.label]
    if not ours:
        raise Failure(
            f"{it.reference} has the revision label {it.label!r}, but it was signed for {kept[0].commit}; remove that"
            " tag from the registry, and run the workflow of its commit again"
        )
    return ours


def is_signed(it: Candidate) -> str:
    """Built by this repository's ci.yml, on main or a version's tag; attestations say on a machine of GitHub's, too."""
    return f"by {stated(it, PROVENANCE[-1])[0].by}"


def is_tested(it: Candidate) -> str:
    """A statement that this image passed every test, its smoke test on each of its platforms included."""
    for statement in stated(it, TEST_RESULT):
        result = statement.predicate
        passed = result.get("passedTests") or []
        if (
            result.get("result") == "PASSED"
            and not result.get("failedTests")
            and result.get("platforms") == it.index.platforms
            and all(SMOKE_TEST.format(platform) in passed for platform in it.index.platforms)
        ):
            return f"{len(passed)} checks passed, on {', '.join(sorted(it.index.platforms))}"
    raise Failure(
        f"{it.reference} has no signed statement that it passed its tests on {', '.join(sorted(it.index.platforms))};"
        " run the workflow of its commit again, or choose another version"
    )


POLICY: tuple[tuple[str, Callable[[Candidate], str]], ...] = (
    ("image index", is_index),
    ("platforms", has_platforms),
    ("provenance", has_provenance),
    ("official base", is_official),
    ("revision", has_revision),
    ("history", in_history),
    ("signature", is_signed),
    ("test result", is_tested),
)
"""What is checked, in this order: what costs nothing first."""

WAIVABLE = ("history", "signature", "test result")
"""What only GitHub can say. All else is about the image itself: without it, nobody could say what was deployed."""


def verified(
    image: ImageName, name: str, *, platforms: Sequence[str] = (), revision: str = "", waive: bool = False
) -> Verified:
    """Return what a tag or digest was verified to be; raise Failure that says why it must not be used.

    It has to have `platforms`, and be of `revision` if there is one. What cannot be asked is not verified. With
    `waive`, what is WAIVABLE is only noted.
    """
    it = Candidate(image, name, platforms, revision)
    lines = []
    for what, check in POLICY:
        try:
            lines.append(Line(what, YES, answered(check, it)))
        except NotOffered as why:
            lines.append(Line(what, NOT_OFFERED, str(why)))
        except Failure as failure:
            if not waive:
                raise
            if what not in WAIVABLE:
                raise Failure(
                    f"{failure}; --unverified waives {', '.join(WAIVABLE)} only, and this is {what}"
                ) from failure
            lines.append(Line(what, WAIVED, str(failure)))
    return Verified(image, it.index.digest, it.label, it.index.platforms, tuple(lines))


def examined(image: ImageName, name: str) -> list[Line]:
    """Return how each check goes for a tag or digest, also after one that fails."""
    it = Candidate(image, name)
    lines = []
    for what, check in POLICY:
        try:
            lines.append(Line(what, YES, answered(check, it)))
        except NotOffered as why:
            lines.append(Line(what, NOT_OFFERED, str(why)))
        except Failure as failure:
            lines.append(Line(what, NO, str(failure)))
    return lines


def is_ancestor(commit: str, of: str) -> bool:
    """Whether a commit is in the history of another one; False for what is not there."""
    if not SHA.fullmatch(commit):
        return False
    command = ["git", "-C", str(ROOT), "merge-base", "--is-ancestor", commit, of]
    return run(command, check=False, timeout=60).returncode == 0


def in_main(commit: str, env: Mapping[str, str]) -> bool:
    """Whether a commit is in the history of main. Fetches main if it is not known here, and never a commit by its id.

    GitHub gives out any commit of any fork by its id, those of pull requests that were never merged included:
    https://docs.github.com/pull-requests/collaborating-with-pull-requests/working-with-forks/about-permissions-and-visibility-of-forks
    Raises Failure if main cannot be had. A host has no clone, so GitHub is asked.
    """
    if on_host():
        return bool(SHA.fullmatch(commit)) and is_before_main(env["GITHUB_REPOSITORY"], commit)
    if is_ancestor(commit, MAIN):
        return True
    fetch_main(env)
    return is_ancestor(commit, MAIN)


def fetch_main(env: Mapping[str, str]) -> None:
    """Fetch main with its whole history; a run may have begun with the newest commit only."""
    git = ["git", "-C", str(ROOT)]
    shallow = run([*git, "rev-parse", "--is-shallow-repository"]).stdout.strip() == "true"
    branch = f"+refs/heads/main:{MAIN}"
    fetch = [*git, "fetch", "--quiet", *(["--unshallow"] if shallow else []), "origin", branch]
    done = run(fetch, check=False, env=fetch_settings(env), timeout=120)
    if done.returncode:
        raise Failure(f"cannot fetch the history of main{last_line(done)}; run git fetch origin main")


def version_tags(env: Mapping[str, str]) -> set[str]:
    """Return the Git tags `v…` of origin; raise Failure if they cannot be had."""
    command = ["git", "-C", str(ROOT), "ls-remote", "--tags", "--refs", "origin", "v*"]
    done = run(command, check=False, env=fetch_settings(env), timeout=120)
    if done.returncode:
        raise Failure(f"cannot list the Git tags of origin{last_line(done)}; run git ls-remote --tags origin")
    return {line.partition("refs/tags/")[2] for line in done.stdout.splitlines()}


def fetch_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which git may read a private repository on GitHub, without asking anybody.

    GITHUB_TOKEN stays in this one command's environment; it is not written to the runner's disk. What the environment
    configures for git already stays: git-config(1), GIT_CONFIG_COUNT.
    """
    settings = {"GIT_TERMINAL_PROMPT": "0"}
    if token := env.get("GITHUB_TOKEN", ""):
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode("ascii")
        server = (env.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/")
        count = env.get("GIT_CONFIG_COUNT", "") or "0"
        if not count.isdecimal():
            raise Failure(f"GIT_CONFIG_COUNT is {count!r}, which is not a number; unset it")
        settings |= {
            "GIT_CONFIG_COUNT": str(int(count) + 1),
            f"GIT_CONFIG_KEY_{int(count)}": f"http.{server}/.extraheader",
            f"GIT_CONFIG_VALUE_{int(count)}": f"AUTHORIZATION: basic {basic}",
        }
    return settings
