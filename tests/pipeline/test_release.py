"""The one policy: what is taken for this repository's image, and what is not."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import announce_release
import plan
import promote_image
import push_image
import record_image
import redeploy
import verify_image
from lib import github, names, release
from lib.command import Failure, run
from lib.names import Commit, ImageName, checked_out
from lib.registry import LocalImage
from support.gh_answers import TEST_RESULT, check_run, result_of, verified
from support.hub import BOTH, MANIFEST, PROVENANCE, REVISION, Hub, Image, honest
from support.programs import Programs

OTHER = "f" * 40
SBOM = "https://spdx.dev/Document"


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as somebody."""
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    return run(["git", "-C", str(folder), *identity, *arguments]).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with a commit on main, which hands out every commit by its id, as GitHub does."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of it, in which the policy is asked."""
    folder = tmp_path / "clone"
    run(["git", "clone", "--quiet", str(origin), str(folder)])
    monkeypatch.setattr(release, "ROOT", folder)
    for name in ("GITHUB_TOKEN", "GIT_CONFIG_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def sha(clone: Path) -> str:
    """The commit of main."""
    return git(clone, "rev-parse", "HEAD")


@pytest.fixture
def name(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> ImageName:
    """An image in a registry that counts as another machine's."""
    monkeypatch.setattr(names, "LOCAL_HOSTS", ())
    return ImageName(hub.host, "octo", "hello")


def outcomes(name: ImageName, tag: str) -> dict[str, str]:
    """Return how each check goes."""
    return {line.name: line.outcome for line in release.examined(name, tag)}


def test_the_honest_image(hub: Hub, name: ImageName, sha: str) -> None:
    """What the pipeline makes passes, by its tag and by its digest, and is read once."""
    digest = hub.put("1.0.0", honest(sha))
    found = release.verified(name, "1.0.0", platforms=BOTH, revision=sha)
    assert (found.image, found.digest, found.revision, set(found.platforms)) == (name, digest, sha, set(BOTH))
    assert hub.counted == 5, "the index, two platforms and two attestations"
    assert release.verified(name, digest).digest == digest
    assert set(outcomes(name, "1.0.0").values()) == {"yes", "not offered"}


def forged(change: Callable[[Image, str], None]) -> Callable[[str], Image]:
    """Return what makes an honest image of a commit and then changes it."""

    def make(sha: str) -> Image:
        image = honest(sha)
        change(image, sha)
        return image

    return make


def evil(image: Image, sha: str, platform: str = "linux/amd64", **labels: str) -> dict[str, Any]:
    """Return an entry for another image of a platform; its attestation, which says what is asked, is added."""
    entry = image.platform(platform, {REVISION: sha, "evil": "1", **labels})
    image.entries.append(image.proof(entry["digest"]))
    return entry


def without_proof(image: Image) -> None:
    """Remove the attestations."""
    image.entries[:] = [entry for entry in image.entries if "annotations" not in entry]


def proofs(image: Image, make: Callable[[str], dict[str, Any]]) -> None:
    """Put other attestations in place of the honest ones: what `make` returns for each platform's digest."""
    without_proof(image)
    image.entries.extend([make(entry["digest"]) for entry in image.entries])


def zeros(image: Image, _sha: str) -> None:
    proofs(image, lambda _digest: image.proof(f"sha256:{'0' * 64}", {}))


def empty(image: Image, _sha: str) -> None:
    proofs(image, lambda digest: image.proof(digest, {}))


def of_zeros(image: Image, _sha: str) -> None:
    statement = {"predicateType": PROVENANCE, "subject": [{"digest": {"sha256": "0" * 64}}]}
    proofs(image, lambda digest: image.proof(digest, statement))


def only_prefix(image: Image, _sha: str) -> None:
    proofs(image, lambda digest: image.proof(digest, predicate="https://slsa.dev/provenance/"))


def sbom_only(image: Image, _sha: str) -> None:
    proofs(image, lambda digest: image.proof(digest, predicate=SBOM))


def gone(image: Image, _sha: str) -> None:
    for entry in image.entries:
        if "annotations" in entry:
            del image.manifests[entry["digest"]]


def one_proof(image: Image, sha: str) -> None:
    image.entries[1] = image.platform("linux/arm64", {REVISION: sha, "evil": "1"})
    del image.entries[3]


def proof_of_another(image: Image, sha: str) -> None:
    image.entries[1] = image.platform("linux/arm64", {REVISION: sha, "evil": "1"})


def relabelled(*values: str) -> Callable[[Image, str], None]:
    """Give the platforms other revision labels; "" for none."""

    def change(image: Image, _sha: str) -> None:
        image.entries.clear()
        for platform, value in zip(BOTH, values, strict=True):
            entry = image.platform(platform, {REVISION: value} if value else {})
            image.entries.extend([entry, image.proof(entry["digest"])])

    return change


def stand_in(key: str, value: str) -> Callable[[str], Image]:
    """Return what makes an image with a stand-in's label."""
    return lambda sha: honest(sha, **{key: value})


def entry_of(**changes: object) -> Callable[[Image, str], None]:
    """Change the first platform's entry."""
    return lambda image, _sha: image.entries[0].update(changes)


def hidden_as_attestation(image: Image, sha: str) -> None:
    entry = image.platform("linux/amd64", {REVISION: sha, "evil": "1"})
    image.entries.insert(0, {**entry, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}})


UNVERIFIED = [
    # The fifteen that were tried, and one whose platforms' labels differ.
    ("an attestation of nothing", forged(zeros), "which is not one of its platforms' images"),
    ("an attestation that says nothing", forged(empty), "has no provenance for linux/amd64"),
    ("an attestation of another image", forged(of_zeros), "has no provenance for linux/amd64"),
    ("a predicate without a version", forged(only_prefix), "has no provenance for linux/amd64"),
    ("provenance for one platform", forged(one_proof), "has no provenance for linux/arm64"),
    ("provenance of the image that was there", forged(proof_of_another), "is not one of its platforms' images"),
    (
        "an evil image first",
        forged(lambda image, sha: image.entries.insert(0, evil(image, sha))),
        "has more than one image for linux/amd64",
    ),
    (
        "an evil image last",
        forged(lambda image, sha: image.entries.append(evil(image, sha))),
        "has more than one image for linux/amd64",
    ),
    (
        "an evil variant first",
        forged(lambda image, sha: image.entries.insert(0, evil(image, sha, "linux/amd64/v3"))),
        "has more than one image for linux/amd64",
    ),
    (
        "an evil variant last",
        forged(lambda image, sha: image.entries.append(evil(image, sha, "linux/amd64/v3"))),
        "has more than one image for linux/amd64",
    ),
    ("no label", forged(relabelled("", "")), "has no one revision label on all platforms but ''"),
    ("labels that differ", forged(relabelled(OTHER, "a" * 40)), "has no one revision label"),
    ("no attestation", forged(lambda image, _sha: without_proof(image)), "has no provenance for linux/amd64"),
    ("only an SBOM", forged(sbom_only), "has no provenance for linux/amd64"),
    ("a revision that is nowhere", forged(relabelled(OTHER, OTHER)), "which is not a commit in the history of main"),
    *((f"a stand-in spelt {value!r}", stand_in(f"{names.FORMER}.stand-in", value), "is built on a stand-in")
      for value in ("true", "True", "1", "yes", "TRUE ", "")),
    ("a stand-in of today", stand_in("OneDigest.Stand-In", "true"), "is built on a stand-in"),
    # What an engine takes for a platform, and a reader of the index does not.
    ("a machine's other name", forged(lambda image, sha: image.entries.insert(0, evil(image, sha, "linux/x86_64"))),
     "neither an image for a platform nor an attestation"),
    ("a system in capitals", forged(lambda image, sha: image.entries.insert(0, evil(image, sha, "Linux/amd64"))),
     "neither an image for a platform nor an attestation"),
    ("an image that calls itself an attestation", forged(hidden_as_attestation),
     "neither an image for a platform nor an attestation"),
    ("an image of no platform", forged(entry_of(platform={})), "neither an image for a platform nor an attestation"),
    ("an image without a platform", forged(entry_of(platform=None)), "neither an image for a platform nor an"),
    ("an index in the index", forged(entry_of(mediaType="application/vnd.oci.image.index.v1+json")), "not an image"),
    ("an entry without a type", forged(entry_of(mediaType=None)), "which is not an image"),
    ("an entry that is not a digest", forged(entry_of(digest="latest")), "'latest' of the type"),
    # What has the shape of something else.
    ("nothing in it", lambda _sha: Image(), "is not an image index with platforms"),
    ("one image and no index", forged(lambda image, _sha: image.content.update(mediaType=MANIFEST)), "is not an image"),
    ("a short commit id", forged(relabelled("0123456", "0123456")), "'0123456', which is not a full commit id"),
    ("an option of git", forged(relabelled("--help", "--help")), "'--help', which is not a full commit id"),
    ("a dirty work tree", forged(relabelled(f"{OTHER}-dirty", f"{OTHER}-dirty")), "which is not a full commit id"),
    ("attestations that are gone", forged(gone), "has no provenance for linux/amd64"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in UNVERIFIED], ids=[case[0] for case in UNVERIFIED])
def test_forged_images(hub: Hub, name: ImageName, sha: str, make: Callable[[str], Image], says: str) -> None:
    """Each is refused in one sentence, which names the image and the next command."""
    hub.put("1.0.0", make(sha))
    with pytest.raises(Failure, match=says) as caught:
        release.verified(name, "1.0.0")
    assert str(caught.value).startswith(f"{name}:1.0.0 ")
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value) or ":" in str(caught.value)
    assert "no" in outcomes(name, "1.0.0").values()


MALFORMED: list[tuple[str, object]] = [
    ("manifests", "text"),
    ("manifests", {"a": 1}),
    ("manifests", ["text"]),
    ("manifests", [None]),
    ("manifests", [[]]),
    ("mediaType", []),
    ("platform", "linux/amd64"),
    ("platform", ["linux", "amd64"]),
    ("platform", {"os": ["linux"], "architecture": {}}),
    ("annotations", "text"),
    ("annotations", [1]),
    ("digest", ["sha256:"]),
    ("digest", None),
]


@pytest.mark.parametrize(("key", "value"), MALFORMED)
def test_what_is_not_even_an_index(hub: Hub, name: ImageName, sha: str, key: str, value: object) -> None:
    """A registry may send anything: it is refused in a sentence, at whatever place it is wrong."""
    for number in range(4):
        image = honest(sha)
        if key in image.content:
            image.content[key] = value
        else:
            image.entries[number][key] = value
        hub.put(f"{number}.0.0", image)
        with pytest.raises(Failure) as caught:
            release.verified(name, f"{number}.0.0")
        assert str(caught.value).startswith(f"{name}:{number}.0.0 ")
        assert "no" in outcomes(name, f"{number}.0.0").values()


@pytest.mark.parametrize("config", [{}, {"config": []}, {"config": {"Labels": "x"}}, {"config": {"Labels": [1]}}])
def test_what_is_not_even_a_configuration(hub: Hub, name: ImageName, sha: str, config: dict[str, Any]) -> None:
    """The same for what a platform's image says of itself."""
    image = honest(sha)
    entry = {**image.manifest(config, []), "platform": {"os": "linux", "architecture": "amd64"}}
    image.entries[:] = [entry, image.proof(entry["digest"])]
    hub.put("1.0.0", image)
    with pytest.raises(Failure):
        release.verified(name, "1.0.0")


@pytest.mark.parametrize("statement", [[], "text", {"predicateType": PROVENANCE, "subject": "x"}, {"subject": [1]}])
def test_what_is_not_even_a_statement(hub: Hub, name: ImageName, sha: str, statement: object) -> None:
    """The same for provenance."""
    image = honest(sha, ["linux/amd64"])
    image.entries[1] = image.proof(image.entries[0]["digest"], statement)
    hub.put("1.0.0", image)
    with pytest.raises(Failure):
        release.verified(name, "1.0.0")


def test_what_a_run_needs(hub: Hub, name: ImageName, sha: str) -> None:
    """A platform that is missing, another commit than this run's, and an image that is not there."""
    hub.put("1.0.0", honest(sha, ["linux/amd64"]))
    assert release.verified(name, "1.0.0", platforms=["linux/amd64"]).revision == sha
    with pytest.raises(Failure, match="has no image for linux/arm64, which is needed here"):
        release.verified(name, "1.0.0", platforms=BOTH)
    with pytest.raises(Failure, match=f"has the revision label '{sha}', so"):
        release.verified(name, "1.0.0", revision=OTHER)
    with pytest.raises(Failure, match=f"there is no {name}:2.0.0 in the registry"):
        release.verified(name, "2.0.0")


def test_what_cannot_be_asked_is_not_verified(hub: Hub, name: ImageName, sha: str, no_pause: list[float]) -> None:
    """A registry that falls silent in the middle."""
    hub.put("1.0.0", honest(sha))
    hub.errors = []
    hub.blobs.clear()
    with pytest.raises(Failure, match="the registry does not have"):
        release.verified(name, "1.0.0")
    hub.errors = [503] * 100
    with pytest.raises(Failure, match="503"):
        release.verified(name, "1.0.0")
    assert set(outcomes(name, "1.0.0").values()) == {"no", "not offered"}


def test_on_this_machine(hub: Hub, clone: Path, sha: str) -> None:
    """A registry on localhost may have a stand-in's image, of a dirty work tree, of a commit that is only here."""
    name = ImageName(hub.host, "octo", "hello")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "two")
    here = git(clone, "rev-parse", "HEAD")
    for number, revision in enumerate((sha, here, f"{here}-dirty")):
        hub.put(str(number), honest(revision, **{"onedigest.stand-in": "true"}))
        assert release.verified(name, str(number)).revision == revision
    hub.put("other", honest(OTHER))
    with pytest.raises(Failure, match="not a commit in the history of main"):
        release.verified(name, "other")


def test_a_commit_of_main_that_is_not_here_yet(origin: Path, clone: Path, sha: str) -> None:
    """Main is fetched, all of it if the clone is shallow."""
    git(origin, "commit", "--quiet", "--allow-empty", "--message", "two")
    new = git(origin, "rev-parse", "HEAD")
    assert release.in_main(new, {})
    git(origin, "commit", "--quiet", "--allow-empty", "--message", "three")
    shallow = clone.parent / "shallow"
    run(["git", "clone", "--quiet", "--depth=1", f"file://{origin}", str(shallow)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "ROOT", shallow)
        assert release.in_main(sha, {})


def test_a_strangers_commit_is_never_fetched(origin: Path, clone: Path) -> None:
    """GitHub hands out the commits of pull requests that were never merged; they are not of this repository."""
    git(origin, "checkout", "--quiet", "--orphan", "stranger")
    git(origin, "commit", "--quiet", "--allow-empty", "--message", "evil")
    git(origin, "update-ref", "refs/pull/7/head", "HEAD")
    stranger = git(origin, "rev-parse", "HEAD")
    git(origin, "checkout", "--quiet", "main")
    git(origin, "branch", "--delete", "--force", "stranger")
    assert not release.in_main(stranger, {})
    git(clone, "fetch", "--quiet", "origin", "refs/pull/7/head")
    assert not release.in_main(stranger, {}), "not even if it is here"


@pytest.mark.parametrize("commit", ["HEAD", "main", "--help", "", "0123456"])
def test_only_a_full_id_is_a_commit(clone: Path, commit: str) -> None:
    """Whatever else git would understand."""
    assert not release.is_ancestor(commit, "HEAD")
    assert not release.in_main(commit, {})


def test_a_repository_that_cannot_be_asked(origin: Path, clone: Path) -> None:
    """Without main nobody knows what is in its history: a failure, not a no."""
    git(clone, "remote", "set-url", "origin", str(origin.parent / "nowhere"))
    with pytest.raises(Failure, match=r"cannot fetch the history of main: .*; run git fetch origin main"):
        release.in_main(OTHER, {})


@pytest.mark.parametrize(
    ("said", "is_of_main"), [("ahead", True), ("identical", True), ("diverged", False), ("behind", False)]
)
def test_a_host_without_a_clone(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, said: str, is_of_main: bool
) -> None:
    """GitHub is asked for the history and for statements, also about an image in a registry on the host itself."""
    monkeypatch.setattr(release, "on_host", lambda: True)
    programs.add("gh").answer("compare", f"{said}\n")
    env = {"GITHUB_REPOSITORY": "octo/hello"}
    assert release.in_main("a" * 40, env) is is_of_main
    assert programs.calls == [["gh", "api", f"repos/octo/hello/compare/{'a' * 40}...main", "--jq", ".status"]]
    it = release.Candidate(ImageName("localhost:5000", "me", "hello"), "1.2.3", env=env)
    assert it.ledger == github.Repository(github.GITHUB, "octo/hello")


def test_a_commit_that_github_does_not_know(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not verified; nor is what is not a full id, and then nobody is asked."""
    monkeypatch.setattr(release, "on_host", lambda: True)
    programs.add("gh").answer("compare", err="gh: Not Found (HTTP 404)\n", status=1)
    assert not release.in_main("main", {"GITHUB_REPOSITORY": "octo/hello"})
    assert programs.calls == []
    with pytest.raises(Failure, match="GitHub does not confirm it"):
        release.in_main("a" * 40, {"GITHUB_REPOSITORY": "octo/hello"})


def test_version_tags(origin: Path, clone: Path) -> None:
    """The Git tags of origin, annotated ones once; without an answer nobody knows them."""
    git(origin, "tag", "v1.0.0")
    git(origin, "tag", "--annotate", "--message", "two", "v2.0.0")
    git(origin, "tag", "other")
    assert release.version_tags({}) == {"v1.0.0", "v2.0.0"}
    git(clone, "remote", "remove", "origin")
    with pytest.raises(Failure, match=r"cannot list the Git tags of origin: .* run git ls-remote"):
        release.version_tags({})


@pytest.mark.parametrize(
    ("env", "server"),
    [
        ({"GITHUB_TOKEN": "secret"}, "https://github.com"),
        ({"GITHUB_TOKEN": "secret", "GITHUB_SERVER_URL": "https://git.example.com"}, "https://git.example.com"),
        ({"GITHUB_TOKEN": "secret", "GITHUB_SERVER_URL": "https://git.example.com/"}, "https://git.example.com"),
    ],
)
def test_the_token_stays_in_the_environment(env: dict[str, str], server: str) -> None:
    """Git gets the token for one command and for GitHub's own host, through its environment, and never prompts."""
    settings = release.fetch_settings(env)
    assert settings["GIT_CONFIG_KEY_0"] == f"http.{server}/.extraheader"
    assert base64.b64decode(settings["GIT_CONFIG_VALUE_0"].split()[-1]) == b"x-access-token:secret"
    assert release.fetch_settings({}) == {"GIT_TERMINAL_PROMPT": "0"}


def test_what_git_is_told_already_stays(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that came with the environment are extended, and git reads both."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "/somewhere")
    settings = release.fetch_settings({"GITHUB_TOKEN": "secret", "GIT_CONFIG_COUNT": "1"})
    assert (settings["GIT_CONFIG_COUNT"], settings["GIT_CONFIG_KEY_1"]) == ("2", "http.https://github.com/.extraheader")
    said = run(["git", "-C", str(clone), "config", "--list"], env=settings).stdout
    assert "safe.directory=/somewhere" in said
    assert "http.https://github.com/.extraheader=AUTHORIZATION: basic" in said
    for count in ("x", "-1"):
        with pytest.raises(Failure, match=f"GIT_CONFIG_COUNT is '{count}'"):
            release.fetch_settings({"GITHUB_TOKEN": "secret", "GIT_CONFIG_COUNT": count})


SLUG = "octo/hello"


class Ledger:
    """What GitHub has signed about an image: the honest statements, until a test changes them."""

    def __init__(self, image: Image, commit: str) -> None:
        platforms = {
            f"{entry['platform']['os']}/{entry['platform']['architecture']}": entry["digest"]
            for entry in image.entries
            if "annotations" not in entry
        }
        self.provenance = [verified(SLUG, image.digest, commit)]
        self.platforms = platforms
        self.tests = [self.tested(image.digest, commit)]

    def tested(self, digest: str, commit: str, **changes: object) -> dict[str, Any]:
        """Return a statement about a test."""
        return verified(SLUG, digest, commit, kind=TEST_RESULT, predicate=result_of(self.platforms, **changes))


@pytest.fixture
def on_github(programs: Programs, clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Programs:
    """A run on GitHub of a public repository, with a `gh` that answers from a table."""
    (tmp_path / "event.json").write_text('{"repository": {"private": false}}', "utf-8")
    environment = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": SLUG,
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_SERVER_URL": "https://github.com",
        "ATTESTATIONS": "",
    }
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return programs.add("gh")


def answer(gh: Programs, ledger: Ledger) -> None:
    """Let gh answer with what GitHub has signed."""
    for kind, results in ((PROVENANCE, ledger.provenance), (TEST_RESULT, ledger.tests)):
        when = f"attestation verify .* --predicate-type {kind} "
        if results:
            gh.answer(when, json.dumps(results))
        else:
            gh.answer(when, err="Error: no attestations found for subject sha256:...", status=1)


def test_a_signed_image(hub: Hub, name: ImageName, sha: str, on_github: Programs) -> None:
    """What CI built, tested and signed passes; gh is asked about this digest, this repository and this workflow."""
    image = honest(sha)
    digest = hub.put("1.0.0", image)
    answer(on_github, Ledger(image, sha))
    found = release.verified(name, "1.0.0", platforms=BOTH, revision=sha)
    assert {line.outcome for line in found.lines} == {"yes"}
    assert [line.why for line in found.lines][-2:] == [
        "by .github/workflows/ci.yml on refs/heads/main",
        "4 checks passed, on linux/amd64, linux/arm64",
    ]
    assert on_github.calls[0] == [
        *("gh", "attestation", "verify", f"oci://{name}@{digest}", "--repo", SLUG, "--predicate-type", PROVENANCE),
        *("--signer-workflow", f"{SLUG}/.github/workflows/ci.yml", "--deny-self-hosted-runners", "--format", "json"),
    ]
    assert [call[6:8] for call in on_github.calls] == [["--predicate-type", kind] for kind in (PROVENANCE, TEST_RESULT)]


def test_a_release_is_signed_on_its_tag(hub: Hub, name: ImageName, sha: str, on_github: Programs) -> None:
    """An image that a release had to build; one of several statements is enough."""
    image = honest(sha)
    hub.put("1.0.0", image)
    ledger = Ledger(image, sha)
    ledger.provenance = [
        verified(SLUG, image.digest, OTHER, ref="refs/heads/topic"),
        verified(SLUG.upper(), image.digest, sha, ref="refs/tags/v1.0.0"),
    ]
    answer(on_github, ledger)
    assert release.verified(name, "1.0.0").revision == sha


def signed(**changes: object) -> Callable[[Ledger, str, str], None]:
    """Put another signer's provenance in place of ours."""

    def change(ledger: Ledger, digest: str, commit: str) -> None:
        given: dict[str, Any] = {"slug": SLUG, "digest": digest, "commit": commit, **changes}
        ledger.provenance = [verified(given.pop("slug"), given.pop("digest"), given.pop("commit"), **given)]

    return change


def after_test(**changes: object) -> Callable[[Ledger, str, str], None]:
    """Put another test result in place of ours."""

    def change(ledger: Ledger, digest: str, commit: str) -> None:
        ledger.tests = [ledger.tested(digest, commit, **changes)]

    return change


def replayed(ledger: Ledger, digest: str, commit: str) -> None:
    ledger.tests = ledger.provenance


def stripped(ledger: Ledger, _digest: str, _commit: str) -> None:
    ledger.provenance = []


def untested(ledger: Ledger, _digest: str, _commit: str) -> None:
    ledger.tests = []


NOT_OURS = "none is by .github/workflows/ci.yml of octo/hello on main or a version's tag"
NOT_TESTED = "has no signed statement that it passed its tests on linux/amd64, linux/arm64"
UNSIGNED = [
    ("stripped", stripped, "no attestations found"),
    ("swapped for another digest's", signed(digest=f"sha256:{'0' * 64}"), NOT_OURS),
    ("by another repository", signed(slug="evil/hello"), NOT_OURS),
    ("by a repository whose name begins so", signed(slug="octo/hello-evil"), NOT_OURS),
    ("by another workflow", signed(workflow=".github/workflows/evil.yml"), NOT_OURS),
    ("on a branch", signed(ref="refs/heads/topic"), NOT_OURS),
    ("on a branch like main", signed(ref="refs/heads/main2"), NOT_OURS),
    ("in a pull request", signed(ref="refs/pull/7/merge"), NOT_OURS),
    ("on another tag", signed(ref="refs/tags/1.0.0"), NOT_OURS),
    ("on a machine of their own", signed(runner="self-hosted"), NOT_OURS),
    ("another kind of statement", signed(kind="https://example.com/anything"), NOT_OURS),
    ("for another commit", signed(commit=OTHER), f"but it was signed for {OTHER}"),
    ("for no commit", signed(commit="main"), NOT_OURS),
    ("no test result", untested, "no attestations found"),
    ("provenance in place of a test result", replayed, NOT_OURS),
    ("a failed test", after_test(result="FAILED"), NOT_TESTED),
    ("a warning", after_test(result="WARNED"), NOT_TESTED),
    ("a failed check among the passed ones", after_test(failedTests=["service"]), NOT_TESTED),
    ("a test without its smoke test", after_test(passedTests=["check"]), NOT_TESTED),
    ("a smoke test on one platform", after_test(passedTests=["Smoke-test linux/amd64"]), NOT_TESTED),
    ("a test of other platforms", after_test(platforms={"linux/amd64": f"sha256:{'0' * 64}"}), NOT_TESTED),
    ("nothing about platforms", after_test(platforms=None), NOT_TESTED),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in UNSIGNED], ids=[case[0] for case in UNSIGNED])
def test_what_ci_did_not_sign(
    hub: Hub,
    name: ImageName,
    sha: str,
    on_github: Programs,
    change: Callable[[Ledger, str, str], None],
    says: str,
) -> None:
    """An image with the right labels and the right shape is still not ours, nor tested, unless GitHub says so."""
    image = honest(sha)
    hub.put("1.0.0", image)
    ledger = Ledger(image, sha)
    change(ledger, image.digest, sha)
    answer(on_github, ledger)
    with pytest.raises(Failure, match=re.escape(says)) as caught:
        release.verified(name, "1.0.0")
    assert str(caught.value).startswith(f"{name}:1.0.0 ")
    assert "\n" not in str(caught.value)
    assert "again" in str(caught.value), "the next command"


@pytest.mark.parametrize(
    ("said", "status", "says", "asked"),
    [
        ("HTTP 503: Service Unavailable (https://api.github.com/)", 1, r"503: .*\(tried 5 times\)", 5),
        ("dial tcp: lookup api.github.com: no such host", 1, r"no such host .*\(tried 5 times\)", 5),
        ("set the GH_TOKEN environment variable", 4, "set the GH_TOKEN environment variable", 1),
        ('unknown command "attestation" for "gh"', 1, "this gh is too old: unknown command", 1),
        ("unknown flag: --signer-workflow", 1, "this gh is too old: unknown flag", 1),
    ],
)
def test_a_ledger_that_does_not_answer(
    hub: Hub,
    name: ImageName,
    sha: str,
    on_github: Programs,
    no_pause: list[float],
    said: str,
    status: int,
    says: str,
    asked: int,
) -> None:
    """What cannot be asked is not verified; it is asked again if that may help."""
    hub.put("1.0.0", honest(sha))
    on_github.answer("attestation", err=said, status=status)
    with pytest.raises(Failure, match=says):
        release.verified(name, "1.0.0")
    assert len(on_github.calls) == asked


@pytest.mark.parametrize("said", ["", "[", "{}", "[{}]", '[{"verificationResult": null}]', "null", "verified"])
def test_an_answer_that_is_not_one(hub: Hub, name: ImageName, sha: str, on_github: Programs, said: str) -> None:
    """Whatever else gh prints is not a proof."""
    hub.put("1.0.0", honest(sha))
    on_github.answer("attestation", said)
    with pytest.raises(Failure, match=r"cannot read what gh says|none is by"):
        release.verified(name, "1.0.0")


def test_without_gh(hub: Hub, name: ImageName, sha: str, on_github: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says where to get it."""
    hub.put("1.0.0", honest(sha))
    (on_github.bin / "gh").unlink()
    monkeypatch.setattr("lib.github.shutil.which", lambda _name: None)
    with pytest.raises(Failure, match=r"there is no program gh; install it \(https://cli.github.com\)"):
        release.verified(name, "1.0.0")


@pytest.mark.parametrize(
    ("env", "why"),
    [
        (
            {"GITHUB_SERVER_URL": "https://git.example.com"},
            "on https://github.com only, and this repository is on https",
        ),
        ({"GITHUB_REPOSITORY": ""}, "this repository is not on GitHub"),
    ],
)
def test_where_github_keeps_no_statements(
    hub: Hub,
    name: ImageName,
    sha: str,
    on_github: Programs,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    why: str,
) -> None:
    """It is said, with the reason; the shape of the image counts all the same."""
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    hub.put("1.0.0", honest(sha))
    found = release.verified(name, "1.0.0")
    assert [(line.name, line.outcome) for line in found.lines if why in line.why] == [
        ("signature", "not offered"),
        ("test result", "not offered"),
    ]
    assert on_github.calls == []
    hub.tags["1.0.0"] = []
    hub.put("1.0.0", honest(OTHER))
    with pytest.raises(Failure, match="not a commit in the history of main"):
        release.verified(name, "1.0.0")


@pytest.fixture
def private(on_github: Programs, tmp_path: Path) -> Programs:
    """The same in a private repository, for which GitHub keeps no attestations."""
    (tmp_path / "event.json").write_text('{"repository": {"private": true}}', "utf-8")
    return on_github


def test_a_recorded_image(hub: Hub, name: ImageName, sha: str, private: Programs) -> None:
    """A private repository's CI records an image in a check run of its commit, with its test result."""
    image = honest(sha)
    digest = hub.put("1.0.0", image)
    ledger = Ledger(image, sha)
    runs = [check_run(sha, f"sha256:{'0' * 64}", {}), check_run(sha, digest, result_of(ledger.platforms))]
    private.answer("gh api", json.dumps({"check_runs": runs}))
    found = release.verified(name, "1.0.0")
    assert {line.outcome for line in found.lines} == {"yes"}
    assert found.lines[-2].why == "by a check run of .github/workflows/ci.yml"
    path = f"repos/{SLUG}/commits/{sha}/check-runs?check_name=published-image&filter=all&per_page=100"
    assert private.calls == [["gh", "api", path]] * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output": {"title": f"sha256:{'0' * 64}", "text": "{}"}}, "names sha256:"),
        ({"conclusion": "failure"}, "no check run published-image of commit"),
        ({"conclusion": None}, "no check run published-image of commit"),
        ({"app": {"slug": "evil"}}, "no check run published-image of commit"),
        ({"name": "image"}, "no check run published-image of commit"),
        ({"head_sha": OTHER}, "no check run published-image of commit"),
        ({"app": None}, "cannot read what gh says about commit"),
        ({"output": None}, "cannot read what gh says about commit"),
    ],
)
def test_what_ci_did_not_record(
    hub: Hub, name: ImageName, sha: str, private: Programs, changes: dict[str, object], says: str
) -> None:
    """Another digest, another commit, another app, or a run that failed is not a record of this image."""
    image = honest(sha)
    digest = hub.put("1.0.0", image)
    run = check_run(sha, digest, result_of(Ledger(image, sha).platforms), **changes)
    private.answer("gh api", json.dumps({"check_runs": [run]}))
    with pytest.raises(Failure, match=says) as caught:
        release.verified(name, "1.0.0")
    assert "run the workflow of its commit again" in str(caught.value)


@pytest.mark.parametrize("result", [{}, {"result": "FAILED"}])
def test_a_record_without_a_test_result(
    hub: Hub, name: ImageName, sha: str, private: Programs, result: dict[str, object]
) -> None:
    """The test result counts as it does in an attestation."""
    digest = hub.put("1.0.0", honest(sha))
    private.answer("gh api", json.dumps({"check_runs": [check_run(sha, digest, result)]}))
    with pytest.raises(Failure, match="has no signed statement that it passed its tests"):
        release.verified(name, "1.0.0")


def test_a_record_is_written_as_it_is_read(
    hub: Hub,
    name: ImageName,
    sha: str,
    private: Programs,
    clone: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What record_image.py sends to GitHub is what the policy asks for."""
    image = honest(sha)
    digest = hub.put("1.0.0", image)
    monkeypatch.setattr(record_image, "STATE", tmp_path)
    monkeypatch.setattr(record_image, "checked_out", lambda: checked_out(clone))
    with pytest.raises(Failure, match=r"test-result.json; run python3 scripts/report_tests.py first"):
        record_image.main(["--digest", digest])
    result = json.dumps(result_of(Ledger(image, sha).platforms))
    (tmp_path / "test-result.json").write_text(result, "utf-8")
    assert record_image.main(["--digest", digest]) == 0
    assert private.calls[-1] == ["gh", "api", "--method", "POST", f"repos/{SLUG}/check-runs", "--input", "-"]
    body = json.loads(github.record_body(sha, digest, result))
    private.answer("check_name=", json.dumps({"check_runs": [{**body, "app": {"slug": "github-actions"}}]}))
    assert release.verified(name, "1.0.0").digest == digest


def test_a_private_repository_with_attestations(
    hub: Hub, name: ImageName, sha: str, on_github: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On Enterprise Cloud they are there, and the variable ATTESTATIONS says so: then they are asked for."""
    (tmp_path / "event.json").write_text('{"repository": {"private": true}}', "utf-8")
    monkeypatch.setenv("ATTESTATIONS", "true")
    hub.put("1.0.0", honest(sha))
    on_github.answer("attestation", err="no attestations found", status=1)
    with pytest.raises(Failure, match="no attestations found"):
        release.verified(name, "1.0.0")


@pytest.mark.parametrize(
    ("private", "says"), [("true", "no check run published-image"), ("false", "no attestations found")]
)
def test_on_a_laptop_github_is_asked(
    hub: Hub,
    name: ImageName,
    sha: str,
    clone: Path,
    on_github: Programs,
    monkeypatch: pytest.MonkeyPatch,
    private: str,
    says: str,
) -> None:
    """A clone of a repository on GitHub knows where the statements are; whether there are any, GitHub says."""
    for variable in ("GITHUB_ACTIONS", "GITHUB_REPOSITORY", "GITHUB_EVENT_PATH", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(variable)
    git(clone, "remote", "set-url", "origin", "git@github.com:octo/hello.git")
    monkeypatch.setattr(release, "in_main", lambda commit, env: commit == sha)
    hub.put("1.0.0", honest(sha))
    on_github.answer("gh api repos/octo/hello --jq .private", private)
    on_github.answer("attestation", err="no attestations found", status=1)
    on_github.answer("check-runs", '{"check_runs": []}')
    with pytest.raises(Failure, match=says):
        release.verified(name, "1.0.0")


def test_verify_image(
    hub: Hub, name: ImageName, sha: str, on_github: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody can ask; each check has a line, for people or for machines."""
    image = honest(sha)
    digest = hub.put("1.0.0", image)
    answer(on_github, Ledger(image, sha))
    assert verify_image.main([f"{name}:1.0.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["yes"] * 8
    assert lines[-1] == f"{name}:1.0.0 is verified"
    assert verify_image.main(["--json", f"{name}@{digest}"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["verified"], len(facts["checks"])) == (True, 8)
    hub.put("evil", honest(OTHER))
    assert verify_image.main([f"{name}:evil"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"{name}:evil is not verified: history, signature, test result"
    assert "\nno           history        " in out


def test_verify_image_on_this_machine(hub: Hub, sha: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without GitHub the structural checks hold, and what is missing is said."""
    name = ImageName(hub.host, "octo", "hello")
    hub.put("1.0.0", honest(sha))
    assert verify_image.main([f"{name}:1.0.0"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{name}:1.0.0 is verified, but for what is not offered here: signature, test result"


def test_reports_are_json(hub: Hub, name: ImageName, sha: str) -> None:
    """A line can be handed on as JSON."""
    hub.put("1.0.0", honest(sha))
    assert json.loads(json.dumps([vars(line) for line in release.examined(name, "1.0.0")]))


# Each verb asks it.

Verbs = dict[str, Callable[[], str]]


@pytest.fixture
def verbs(
    hub: Hub, name: ImageName, sha: str, state: Path, on_github: Programs, monkeypatch: pytest.MonkeyPatch
) -> Verbs:
    """What uses a published image, each as a call that returns the digest that it would use."""
    built = LocalImage("hello:ci", f"sha256:{'0' * 64}", {REVISION: sha})
    here = Commit(sha, False, 0, "hello", "")
    named: list[str] = []

    def put(_image: ImageName, digest: str, tag: str, _dry_run: bool) -> promote_image.Move:
        named.append(digest)
        return promote_image.Move(tag, "", digest)

    def promote(what: str) -> str:
        named.clear()
        assert promote_image.main([what]) == 0
        assert len(set(named)) == 1
        return named[0]

    def gh(arguments: list[str], stdin: str | None = None) -> str:
        status, out, err = on_github.call(["gh", *arguments])
        if status:
            raise Failure(err)
        return out

    monkeypatch.setattr(github, "gh", gh)
    monkeypatch.setattr(github, "retry", lambda ask: ask())
    monkeypatch.setattr(promote_image, "put", put)
    monkeypatch.setattr(promote_image, "checked_out", lambda: here)
    monkeypatch.setattr(promote_image, "newest_commits", lambda: [sha])
    for variable, value in (("REGISTRY", hub.host), ("DOCKERHUB_USERNAME", "octo"), ("IMAGE_REPOSITORY", "hello")):
        monkeypatch.setenv(variable, value)
    return {
        "plan": lambda: plan.published(name, sha),
        "push": lambda: push_image.publish(built, name, here),
        "promote to edge": lambda: promote("edge"),
        "promote to a version": lambda: promote("1.0.0"),
        "announce": lambda: announce_release.asked_for(name, names.parse_version("1.0.0"), sha)[0].digest,
        "redeploy a version": lambda: redeploy.verified(name, "1.0.0", ()).digest,
        "redeploy a commit": lambda: redeploy.verified(name, sha, ()).digest,
    }


def published(hub: Hub, gh: Programs, image: Image, ledger: Ledger, sha: str) -> str:
    """Put an image on the commit's tag and on the version's, with what GitHub signed."""
    answer(gh, ledger)
    hub.put("1.0.0", image)
    return hub.put(sha, image)


def test_every_verb_takes_the_honest_image(hub: Hub, sha: str, on_github: Programs, verbs: Verbs) -> None:
    """The one that CI built, tested and signed, and no other digest."""
    image = honest(sha)
    digest = published(hub, on_github, image, Ledger(image, sha), sha)
    assert {what: use() for what, use in verbs.items()} == dict.fromkeys(verbs, digest)


def refused(verbs: Verbs) -> list[str]:
    """Return the sentence with which each verb refuses what is there."""
    sentences = []
    for what, use in verbs.items():
        with pytest.raises(Failure) as caught:
            pytest.fail(f"{what} takes {use()}")
        sentences.append(str(caught.value))
        assert "\n" not in sentences[-1], what
    return sentences


@pytest.mark.parametrize("make", [case[1] for case in UNVERIFIED], ids=[case[0] for case in UNVERIFIED])
def test_no_verb_takes_a_forged_image(
    hub: Hub, name: ImageName, sha: str, on_github: Programs, verbs: Verbs, make: Callable[[str], Image]
) -> None:
    """Even if GitHub had signed it: its shape alone is refused."""
    image, ledger = make(sha), Ledger(honest(sha), sha)
    ledger.provenance, ledger.tests = [verified(SLUG, image.digest, sha)], [ledger.tested(image.digest, sha)]
    digest = published(hub, on_github, image, ledger, sha)
    assert all(sentence.startswith((f"{name}:", f"{name}@{digest} ")) for sentence in refused(verbs))


@pytest.mark.parametrize("change", [case[1] for case in UNSIGNED], ids=[case[0] for case in UNSIGNED])
def test_no_verb_takes_what_ci_did_not_sign(
    hub: Hub, sha: str, on_github: Programs, verbs: Verbs, change: Callable[[Ledger, str, str], None]
) -> None:
    """Whoever made it, wherever it ran, and whatever was left out."""
    image = honest(sha)
    ledger = Ledger(image, sha)
    change(ledger, image.digest, sha)
    published(hub, on_github, image, ledger, sha)
    refused(verbs)


def test_a_tag_that_moves_after_it_was_verified(hub: Hub, sha: str, on_github: Programs, verbs: Verbs) -> None:
    """Whatever a tag points to at the next question: each verb uses the digest that it verified, or none."""
    image, evil = honest(sha), honest(sha, evil="1")
    for first in range(1, 4):
        for what, use in verbs.items():
            hub.tags = {}
            digest = published(hub, on_github, image, Ledger(image, sha), sha)
            for tag in ("1.0.0", sha):
                hub.tags[tag] = [image.digest] * first
                hub.put(tag, evil)
            used = digest
            with contextlib.suppress(Failure):
                used = use()
            assert used == digest, what
