"""The one policy: what is taken for this repository's image, and what is not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub import BOTH, MANIFEST, PROVENANCE, REVISION, Hub, Image, honest
from lib import names, release
from lib.command import Failure, run
from lib.names import ImageName

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
    assert set(outcomes(name, "1.0.0").values()) == {"yes"}


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
    *((f"a stand-in spelt {value!r}", stand_in("friendlyhello.stand-in", value), "is built on a stand-in")
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
    ("an entry that is no digest", forged(entry_of(digest="latest")), "'latest' of the type"),
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
    assert set(outcomes(name, "1.0.0").values()) == {"no"}


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
    """Main is fetched, whole where the clone is shallow."""
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
    assert not release.in_main(stranger, {}), "not even where it is here"


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
    ("env", "server"),
    [
        ({"GITHUB_TOKEN": "secret"}, "https://github.com"),
        ({"GITHUB_TOKEN": "secret", "GITHUB_SERVER_URL": "https://git.example.com"}, "https://git.example.com"),
        ({"GITHUB_TOKEN": "secret", "GITHUB_SERVER_URL": "https://git.example.com/"}, "https://git.example.com"),
    ],
)
def test_the_token_stays_in_the_environment(env: dict[str, str], server: str) -> None:
    """Git gets the token for one command and for GitHub's own host, through its environment, and asks nobody."""
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


def test_reports_are_json(hub: Hub, name: ImageName, sha: str) -> None:
    """A line can be handed on as JSON."""
    hub.put("1.0.0", honest(sha))
    assert json.loads(json.dumps([vars(line) for line in release.examined(name, "1.0.0")]))
