"""Which tags a version may move, and how."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import promote_image
from lib import release
from lib.command import Failure
from lib.names import ImageName, Version, parse_version
from promote_image import EDGE, Move, to_move

IMAGE = ImageName("localhost:5000", "octo", "hello")
SHA = "0123456789abcdef0123456789abcdef01234567"
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


@pytest.mark.parametrize(
    ("version", "tags", "expected"),
    [
        ("1.2.3", [], ["1.2.3", "1.2", "1", "latest"]),
        ("1.2.3", ["1.2.2", "1.2", "1", "latest"], ["1.2.3", "1.2", "1", "latest"]),
        ("1.2.3", ["1.2.3", "1.2", "1", "latest"], ["1.2.3", "1.2", "1", "latest"]),
        ("1.1.9", ["1.1.8", "1.2.0"], ["1.1.9", "1.1"]),
        ("1.9.0", ["2.0.0"], ["1.9.0", "1.9", "1"]),
        ("1.2.9", ["1.2.10"], ["1.2.9"]),
        ("1.10.0", ["1.9.0"], ["1.10.0", "1.10", "1", "latest"]),
        ("1.3.0-rc.1", ["1.2.0"], ["1.3.0-rc.1"]),
        ("1.3.0", ["1.3.0-rc.1", "2.0.0-beta"], ["1.3.0", "1.3", "1", "latest"]),
        ("0.1.0", ["edge", "latest", "f" * 40, "9", "9.9", "v9.9.9", "9.9.9.9"], ["0.1.0", "0.1", "0", "latest"]),
    ],
)
def test_tags_that_move(version: str, tags: list[str], expected: list[str]) -> None:
    """1.2, 1 and latest follow the highest final version of their range; nothing else counts."""
    assert to_move(parse_version(version), tags) == expected


def test_only_what_was_released_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """A version without its Git tag was put there by somebody else; all other tags stay in the list."""
    tags = ["edge", "999.0.0", "1.2.3", "1.2", "2.0.0-rc.1", "v9.9.9"]
    assert promote_image.released(tags, {"v1.2.3"}) == ["edge", "1.2.3", "1.2", "2.0.0-rc.1", "v9.9.9"]
    assert capsys.readouterr().err == "ignoring 999.0.0 in the registry: there is no Git tag v999.0.0\n"


def test_newest_published() -> None:
    """The first commit that has an image, from the newest on."""
    images = {"two": B, "one": A}
    assert promote_image.newest_published(["three", "two", "one"], lambda sha: images.get(sha, "")) == ("two", B)
    assert promote_image.newest_published(["three"], lambda sha: images.get(sha, "")) == ("", "")


class Registry:
    """A registry in memory; another run may come in between."""

    def __init__(self, tags: dict[str, str], later: Sequence[dict[str, str]] = ()) -> None:
        self.tags = tags
        self.later = list(later)

    def digest_at(self, _image: ImageName, tag: str) -> str:
        return self.tags.get(tag, "")

    def tags_of(self, _image: ImageName, *, known: Sequence[str]) -> list[str]:
        found = list(self.tags)
        assert set(known) <= {*found, SHA}
        if self.later:
            self.tags.update(self.later.pop(0))
        return found

    def put(self, _image: ImageName, digest: str, tag: str, dry_run: bool) -> Move:
        move = Move(tag, self.tags.get(tag, ""), digest)
        if not dry_run:
            self.tags[tag] = digest
        return move


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> object:
    """Put a registry in memory in place of the real one."""

    def install(registry: Registry) -> Registry:
        for name in ("digest_at", "tags_of", "put"):
            monkeypatch.setattr(promote_image, name, getattr(registry, name))
        monkeypatch.setattr(release, "version_tags", lambda _env: {f"v{tag}" for tag in registry.tags})
        return registry

    return install


def test_two_releases_at_once(use: object) -> None:
    """A higher version that is released meanwhile has latest in the end, whoever wrote last."""
    registry = use(Registry({"1.0.0": A}, later=[{"1.2.0": C, "latest": C}]))  # type: ignore[operator]
    promote_image.promote_version(IMAGE, SHA, B, Version(1, 1, 0), False)
    assert registry.tags == {"1.0.0": A, "1.1.0": B, "1.1": B, "1": C, "latest": C, "1.2.0": C}


def test_a_version_never_moves(use: object) -> None:
    """A version that has another digest is refused before anything moves."""
    registry = use(Registry({"1.0.0": A}))  # type: ignore[operator]
    with pytest.raises(Failure, match="a version never moves"):
        promote_image.promote_version(IMAGE, SHA, B, Version(1, 0, 0), False)
    assert registry.tags == {"1.0.0": A}


def test_dry_run_moves_nothing(use: object) -> None:
    """A dry run says what would move."""
    registry = use(Registry({"1.0.0": A, "latest": A}))  # type: ignore[operator]
    moves = promote_image.promote_version(IMAGE, SHA, B, Version(1, 1, 0), True)
    assert [str(move) for move in moves] == [
        f"1.1.0: new -> {B}",
        f"1.1: new -> {B}",
        f"1: new -> {B}",
        f"latest: {A} -> {B}",
    ]
    assert registry.tags == {"1.0.0": A, "latest": A}


def test_edge_looks_again(use: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer commit that is published while edge moves has it in the end."""
    registry = use(Registry({"old": A, EDGE: C}))  # type: ignore[operator]
    history = iter([["old"], ["new", "old"], ["new", "old"]])

    def commits() -> list[str]:
        found = next(history)
        if "new" in found:
            registry.tags["new"] = B
        return found

    verified: list[object] = []
    monkeypatch.setattr(release, "verified", lambda *arguments, **more: verified.append((*arguments, more)))
    monkeypatch.setattr(promote_image, "newest_commits", commits)
    assert promote_image.promote_edge(IMAGE, False) == [Move(EDGE, C, B)]
    assert registry.tags[EDGE] == B
    assert verified == [(IMAGE, A, {"revision": "old"}), (IMAGE, B, {"revision": "new"})]


def test_table() -> None:
    """The summary says which tags moved from what to what."""
    lines = promote_image.table(IMAGE, [Move("1.0.0", "", A), Move("1", B, A), Move("latest", A, A)]).splitlines()
    assert lines[3:] == [f"| `1.0.0` | new | `{A}` |", f"| `1` | `{B}` | `{A}` |", f"| `latest` | `{A}` | stays |"]
