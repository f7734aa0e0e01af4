"""Whether the newest release would be another image today, what is known of its packages, and how that is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import check_release
import offer_release
from lib import base, packages, release, vulnerabilities
from lib.base import Base
from lib.command import Failure, UsageError
from lib.distribution import Refused
from lib.github import Statement
from lib.names import ImageName, Version
from lib.packages import Contents, Package
from lib.registry import index_of
from support.hub import Hub, Image, honest
from support.osv import Vulnerabilities
from support.programs import Programs

DIGEST = f"sha256:{'d' * 64}"
PINNED = {"sha256": "d" * 64}
TAG = "pkg:docker/python@3.13-slim?platform=linux%2Farm64"
V1 = {"predicate": {"buildDefinition": {"resolvedDependencies": [{"uri": TAG, "digest": PINNED}]}}}


def statement(uri: str, digest: dict[str, str] | None = None) -> dict[str, Any]:
    """Return provenance in the form of SLSA 0.2, with one material."""
    return {"predicate": {"materials": [{"uri": uri, "digest": PINNED if digest is None else digest}]}}


@pytest.mark.parametrize(
    ("said", "bases"),
    [
        (statement(TAG), [Base("python:3.13-slim", "linux/arm64", DIGEST)]),
        (V1, [Base("python:3.13-slim", "linux/arm64", DIGEST)]),
        (statement("pkg:docker/ghcr.io/octo/base@1"), [Base("ghcr.io/octo/base:1", "", DIGEST)]),
        (statement("pkg:docker/localhost%3A5000/octo/base@1"), [Base("localhost:5000/octo/base:1", "", DIGEST)]),
        (statement("pkg:docker/python"), [Base("python:latest", "", DIGEST)]),
        (statement(f"pkg:docker/python@3?digest=sha256:{'d' * 64}"), []),
        (statement("pkg:github/octo/hello@1"), []),
        (statement("https://example.com/file.tar"), []),
        (statement(TAG, {}), []),
        ({}, []),
        ({"predicate": {}}, []),
        (statement("pkg:docker/python@3?platform=a`@octo"), [Base("python:3", "aocto", DIGEST)]),
    ],
)
def test_what_an_image_was_built_on(said: dict[str, Any], bases: list[Base]) -> None:
    """Its provenance says it, in both of the forms that BuildKit writes; what is pinned by a digest never moves."""
    assert list(base.bases_in(said)) == bases


def put(hub: Hub, tag: str, *platforms: str, **labels: str) -> str:
    """Make a tag point to an image for these platforms, and return its digest."""
    hub.tags.pop(tag, None)
    return hub.put(tag, honest("f" * 40, platforms, **labels))


def test_a_base_that_moves(hub: Hub) -> None:
    """What counts is the image for the platform; if what it was is gone, nobody can tell that it is the same."""
    one = put(hub, "1", "linux/amd64")
    here = Base(f"{hub.host}/octo/base:1", "linux/amd64", one)
    assert base.moved(here) == ""
    more = put(hub, "1", "linux/amd64", "linux/arm64")
    arm64 = honest("f" * 40, ("linux/amd64", "linux/arm64")).entries[1]["digest"]
    assert base.moved(here) == "", "only another platform was added"
    assert base.moved(Base(here.reference, "linux/arm64", one)) == arm64
    put(hub, "1", "linux/amd64", version="2")
    amd64 = honest("f" * 40, ("linux/amd64",), version="2").entries[0]["digest"]
    assert base.moved(here) == base.moved(Base(here.reference, "linux/amd64", DIGEST)) == amd64
    gone = base.moved(Base(here.reference, "linux/arm64", more))
    assert gone == hub.tags["1"][0], "the platform is not there any more: the build will say so"
    hub.tags.clear()
    with pytest.raises(Failure, match=rf"image {hub.host}/octo/base:1 is gone from its registry; name another"):
        base.moved(here)


def released(hub: Hub, *materials: str, tag: str = "1.2.3") -> str:
    """Put a release that was built on these images into the registry; return its digest."""
    image = Image()
    entry = image.platform("linux/amd64", {})
    subject = [{"digest": {"sha256": entry["digest"].removeprefix("sha256:")}}]
    built_on = [{"uri": uri.partition(" ")[0], "digest": {"sha256": uri[-64:]}} for uri in materials]
    said = {"predicateType": release.PROVENANCE[-1], "subject": subject, "predicate": {"materials": built_on}}
    image.entries.extend([entry, image.proof(entry["digest"], said)])
    return hub.put(tag, image)


@pytest.fixture
def ready(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A registry, a repository with a release, and a place for what is handed on."""
    for name, value in {
        "DOCKERHUB_USERNAME": "octo",
        "IMAGE_NAMESPACE": "",
        "IMAGE_REPOSITORY": "hello",
        "REGISTRY": hub.host,
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_REPOSITORY": "octo/hello",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(release, "version_tags", lambda env: {"v1.2.3", "v1.2.2", "v1.3.0-rc.1", "edge", "v1"})
    return hub


def base_material(hub: Hub, digest: str) -> str:
    """Return the material that names the base on the registry, and its digest behind it."""
    return f"pkg:docker/{hub.host.replace(':', '%3A')}/octo/base@1?platform=linux%2Famd64 {digest}"


def test_nothing_has_moved(ready: Hub, state: Path, tmp_path: Path) -> None:
    """In seconds, and with one request that is counted for the index and one for each platform's provenance."""
    now = put(ready, "1", "linux/amd64")
    released(ready, base_material(ready, now))
    assert check_release.main(["look"]) == 0
    assert (tmp_path / "output").read_text("utf-8") == "moved=false\n"
    assert ready.counted == 2


def test_the_base_has_moved(ready: Hub, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built again, unless an open issue says that already, of this release on this base."""
    before = put(ready, "1", "linux/amd64")
    released(ready, base_material(ready, before))
    put(ready, "1", "linux/amd64", version="2")
    now = honest("f" * 40, ("linux/amd64",), version="2").entries[0]["digest"]
    mark = check_release.marker(Version(1, 2, 3), {f"{ready.host}/octo/base:1 (linux/amd64)": now})
    for body, moved in (("", "true"), (mark, "false"), (mark.replace("1.2.3", "1.2.2"), "true")):
        issues = [{"number": "7", "title": "", "body": body}]
        monkeypatch.setattr(check_release, "open_issues", lambda env, url, issues=issues: issues)
        (tmp_path / "output").write_text("", "utf-8")
        assert check_release.main(["look"]) == 0
        assert (tmp_path / "output").read_text("utf-8") == f"moved={moved}\n"


def test_an_image_without_provenance(ready: Hub, state: Path) -> None:
    """Nothing is guessed."""
    image = Image()
    image.entries.append(image.platform("linux/amd64", {}))
    ready.put("1.2.3", image)
    with pytest.raises(Failure, match="has no provenance, so nothing says what it was built on"):
        check_release.main(["look"])


@pytest.mark.parametrize("what", ["look", "scan"])
@pytest.mark.parametrize(
    ("username", "tags", "why"),
    [
        ("", {"v1.2.3"}, "the variable DOCKERHUB_USERNAME is not set, so nothing is released"),
        ("octo", set(), "no Git tag of origin is a final version"),
        ("octo", {"v1.3.0-rc.1", "1.2.3", "v1"}, "no Git tag of origin is a final version"),
        ("octo", {"v9.9.9"}, "the registry shows nobody "),
    ],
)
def test_nothing_to_do(
    ready: Hub,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    username: str,
    tags: set[str],
    why: str,
) -> None:
    """In a fresh copy, before the first release, and for a private image, it says so and succeeds."""
    monkeypatch.setenv("DOCKERHUB_USERNAME", username)
    monkeypatch.setattr(release, "version_tags", lambda env: tags)
    assert check_release.main([what]) == 0
    assert f"nothing to do: {why}" in capsys.readouterr().err


def test_the_newest_release() -> None:
    """The highest final version by precedence, not by its letters."""
    assert check_release.newest({"v1.9.0", "v1.10.0", "v2.0.0-rc.1", "v1.10", "10.0.0"}) == Version(1, 10, 0)
    assert check_release.newest(set()) is None


@pytest.fixture
def osv(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vulnerabilities]:
    """A service that knows vulnerabilities."""
    with Vulnerabilities() as made:
        monkeypatch.setenv("OSV_ADDRESS", f"{made.address}/")
        yield made


FLASK = Package("pypi", "Flask", "3.0")
LIBSTDC = Package("deb", "libstdc++6", "14.2.0-19", "amd64", ("gcc-14", "14.2.0-18"))
LIBGCC = Package("deb", "libgcc-s1", "14.2.0-19", "amd64", ("gcc-14", "14.2.0-18"))
TAR = Package("deb", "tar", "1.35", "amd64")
SOURCES = {("Debian:13", "gcc-14", "14.2.0-18"): ["CVE-1", "CVE-2", "CVE-3"], ("PyPI", "Flask", "3.0"): ["GHSA-1"]}


def test_what_is_asked(osv: Vulnerabilities) -> None:
    """A Debian package by its source, once, page by page; what is of another kind or distribution, not at all."""
    osv.known = SOURCES
    python = Package("generic", "python", "3.13.5")
    images = [Contents((FLASK, LIBSTDC, LIBGCC, TAR, python), "debian-13"), Contents((TAR,), "ubuntu-24.04")]
    assert vulnerabilities.known(images) == {
        ("deb", "gcc-14", "14.2.0-18"): ["CVE-1", "CVE-2", "CVE-3"],
        ("pypi", "Flask", "3.0"): ["GHSA-1"],
    }
    assert len(osv.asked) == 5
    assert osv.known == SOURCES
    assert vulnerabilities.known([Contents()]) == {}
    assert len(osv.asked) == 5


def test_a_service_that_does_not_answer(
    osv: Vulnerabilities, no_pause: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again; what cannot be asked is not called free of vulnerabilities."""
    osv.errors = [503, 429]
    assert vulnerabilities.known([Contents((FLASK,))]) == {}
    osv.errors = [500] * 5
    with pytest.raises(Failure, match=r"cannot ask http://127.0.0.1:\d+ about vulnerabilities: 500"):
        vulnerabilities.known([Contents((FLASK,))])
    monkeypatch.setattr(osv, "answer", lambda question: [])
    with pytest.raises(Failure, match="not an answer for each package"):
        vulnerabilities.known([Contents((FLASK,))])
    monkeypatch.setattr(osv, "answer", lambda question: {"next_page_token": "1"})
    with pytest.raises(Failure, match="has more than 20 pages of them"):
        vulnerabilities.known([Contents((FLASK,))])


def test_a_bill_that_is_read_back() -> None:
    """It says of each package what is asked about it."""
    text = packages.bill(Contents((LIBSTDC, FLASK), "debian-13"), "hello", "1", "linux/amd64")
    found = packages.contents_in(json.loads(text))
    assert found.distribution == "debian-13"
    assert [(each.kind, each.name, each.version, each.source) for each in found.packages] == [
        ("deb", "libstdc++6", "14.2.0-19", ("gcc-14", "14.2.0-18")),
        ("pypi", "Flask", "3.0", ("", "")),
    ]
    wrong: dict[str, Any]
    for wrong in ({}, {"metadata": {}}, {"metadata": json.loads(text)["metadata"], "components": [{}]}):
        with pytest.raises(Failure, match="this is not a bill of materials of this pipeline"):
            packages.contents_in(wrong)


@pytest.fixture
def attested(ready: Hub, monkeypatch: pytest.MonkeyPatch, programs: Programs) -> Programs:
    """A public repository with a release that has an attested list of packages, as `bill` says."""
    released(ready)
    bill = json.loads(packages.bill(Contents((LIBSTDC, FLASK), "debian-13"), "hello", "1", "linux/amd64"))
    monkeypatch.setattr(check_release, "attested", lambda *arguments: [Statement("f" * 40, "CI", bill)])
    return programs.add("gh").answer("repos/octo/hello$", '{"private": false}')


def test_a_python_package_with_a_vulnerability(
    attested: Programs, osv: Vulnerabilities, state: Path, tmp_path: Path
) -> None:
    """The run fails, and says which; Debian's are listed, and fail nothing."""
    osv.known = {**SOURCES}
    with pytest.raises(Failure, match=r":1\.2\.3 has Python packages with known .*: Flask 3\.0 \(GHSA-1\)"):
        check_release.main(["scan"])
    assert "| gcc-14 14.2.0-18 | CVE-1, CVE-2, CVE-3 |" in (tmp_path / "summary").read_text("utf-8")
    del osv.known["PyPI", "Flask", "3.0"]
    assert check_release.main(["scan"]) == 0


def test_a_private_repository_is_not_told_about(
    attested: Programs,
    osv: Vulnerabilities,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The names of its packages go nowhere."""
    Programs(tmp_path / "private").add("gh").answer("repos/octo/hello$", '{"private": true}')
    monkeypatch.setenv("PATH", f"{tmp_path}/private/bin:/usr/bin:/bin")
    assert check_release.main(["scan"]) == 0
    assert "what is in the image of a private repository is told to nobody" in capsys.readouterr().err
    assert osv.asked == []


def test_a_release_without_a_list(
    attested: Programs, osv: Vulnerabilities, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older release has none, which is said; that it cannot be asked fails."""

    def refuse(*arguments: object) -> None:
        raise Refused("GitHub does not confirm it: no attestations found")

    def fail(*arguments: object) -> None:
        raise Failure("HTTP 502")

    monkeypatch.setattr(check_release, "attested", refuse)
    assert check_release.main(["scan"]) == 0
    monkeypatch.setattr(check_release, "attested", fail)
    with pytest.raises(Failure, match="HTTP 502"):
        check_release.main(["scan"])


def test_what_a_rebuild_fixes(attested: Programs, osv: Vulnerabilities, no_pause: list[float]) -> None:
    """What was known of the old packages and is not known of the new ones; if nobody answers, that is said."""
    osv.known = {("Debian:13", "tar", "1.35"): ["CVE-4", "CVE-5"], ("Debian:13", "tar", "1.36"): ["CVE-5"]}
    newer = Package("deb", "tar", "1.36", "amd64")
    before, after = ({"linux/amd64": Contents((package,), "debian-13")} for package in (TAR, newer))
    told = check_release.fixed(before, after)
    assert told == "Known vulnerabilities that this fixes, by https://osv.dev: `CVE-4` (tar)."
    assert check_release.fixed(before, before).endswith("https://osv.dev: none.")
    osv.errors = [500] * 5
    assert check_release.fixed(before, after) == "Whether that fixes known vulnerabilities could not be asked."


OFFER = {"title": "Release 1.2.4: the base image of 1.2.3 has moved", "body": "<!-- onedigest: 1.2.3 on abc -->\nIt."}
MINE = {"number": 7, "user": {"login": "github-actions[bot]"}}


@pytest.mark.parametrize(
    ("issues", "sent"),
    [
        ([], "--method POST"),
        ([{**MINE, **OFFER}], ""),
        ([{**MINE, **OFFER, "body": "<!-- onedigest: 1.2.3 on another -->\nIt."}], "issues/7 --method PATCH"),
        ([{**MINE, **OFFER, "title": "Renamed"}], "issues/7 --method PATCH"),
        ([{**MINE, **OFFER, "user": {"login": "mallory"}}], "--method POST"),
        ([{**MINE, **OFFER, "pull_request": {}}], "--method POST"),
        ([{**MINE, "title": "Another", "body": "Not about this."}], "--method POST"),
    ],
    ids=["none", "the same", "another base", "another title", "a stranger's", "a pull request", "another of ours"],
)
def test_one_issue(ready: Hub, programs: Programs, monkeypatch: pytest.MonkeyPatch, issues: Any, sent: str) -> None:
    """An offer is one issue: it is written, written again, or left as it is; nobody else's is touched.

    https://docs.github.com/rest/issues/issues
    """
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("OFFER", json.dumps(OFFER))
    programs.add("gh").answer("state=open", json.dumps(issues)).answer("--method", '{"html_url": "there"}')
    assert offer_release.main(["--dry-run"]) == 0
    assert not [call for call in programs.called("gh") if "--method" in call]
    assert offer_release.main([]) == 0
    writes = [" ".join(call) for call in programs.called("gh") if "--method" in call]
    assert len(writes) == bool(sent)
    assert sent in "".join(writes)


@pytest.mark.parametrize("offer", ["", "{}", "[]", '{"title": 1, "body": 2}', '{"title": "a", "body": "no mark"}'])
def test_an_offer_that_is_not_one(ready: Hub, monkeypatch: pytest.MonkeyPatch, offer: str) -> None:
    """Nothing but what check_release.py hands on becomes an issue."""
    monkeypatch.setenv("OFFER", offer)
    with pytest.raises(UsageError, match=r"OFFER is .*, expected what check_release.py hands on"):
        offer_release.main([])


def test_what_the_issue_says(hub: Hub) -> None:
    """The base, the difference, and commands for a commit of its own, because 1.2.3 never changes."""
    hub.put("1.2.3", honest("f" * 40))
    index = index_of(f"{hub.host}/octo/hello:1.2.3")
    assert index is not None
    now = check_release.Released(Version(1, 2, 3), ImageName(hub.host, "octo", "hello"), index)
    assert check_release.title(now) == "Release 1.2.4: the base image of 1.2.3 has moved"
    told = check_release.body(now, {"python:3.13 (linux/amd64)": DIGEST}, "The difference.")
    assert told.startswith(offer_release.MARK)
    assert f"- `python:3.13 (linux/amd64)` is `{DIGEST}` now" in told
    assert "The difference." in told
    assert "git switch --create rebuild-1.2.4 v1.2.3\n" in told
    assert "git tag v1.2.4 rebuild-1.2.4\ngit push origin v1.2.4\n" in told
