"""What a registry and the engine say an image is, and when it is worth asking again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from lib import registry
from lib.command import Failure, UsageError
from lib.registry import Index, LocalImage, Refused
from programs import Programs

NAME = "localhost:5000/octo/hello"
AMD, ARM, PROOF = (f"sha256:{letter * 64}" for letter in "abc")
CONTENT: dict[str, Any] = {
    "manifests": [
        {"digest": AMD, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": ARM, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {
            "digest": PROOF,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        },
        {"digest": PROOF},
    ]
}


def sha256(text: str) -> str:
    """Return a text's digest, computed apart from the code under test."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_index() -> None:
    """Attestations are counted apart; they are no platforms."""
    index = Index(AMD, CONTENT)
    assert index.platforms == {"linux/amd64": AMD, "linux/arm64": ARM}
    assert index.attestations == 1
    assert Index(AMD, {}).platforms == {}
    proof = {**CONTENT["manifests"][2], "platform": {"os": "linux", "architecture": "amd64"}}
    assert Index(AMD, {"manifests": [proof]}).platforms == {}
    assert registry.missing_platforms(index, ["linux/s390x", "linux/arm64"]) == ["linux/s390x"]


def test_index_of_computes_the_digest(docker: Programs) -> None:
    """The digest comes from the bytes that the registry sent, not from what it claims."""
    raw = json.dumps(CONTENT, indent=3)
    docker.answer("imagetools inspect", raw)
    index = registry.index_of(f"{NAME}:edge")
    assert index == Index(sha256(raw), CONTENT)
    assert docker.calls == [["docker", "buildx", "imagetools", "inspect", "--raw", f"{NAME}:edge"]]


@pytest.mark.parametrize(
    "said",
    [
        f"ERROR: {NAME}:edge: not found",
        "manifest unknown",
        "pull access denied, repository does not exist or may require authorization: insufficient_scope",
        "requested access to the resource is denied",
    ],
)
def test_an_image_that_is_not_there(docker: Programs, said: str) -> None:
    """However a registry says that it has no such image: asked once, and no failure."""
    docker.answer("imagetools inspect", err=said, status=1)
    assert registry.index_of(f"{NAME}:edge") is None
    assert len(docker.calls) == 1


def test_a_registry_that_recovers_is_asked_again(
    docker: Programs, no_pause: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two errors of a server are lived through, and said."""
    for _ in range(2):
        docker.answer("imagetools inspect", err="unexpected status: 500 Internal Server Error", status=1, once=True)
    docker.answer("imagetools inspect", "{}")
    assert registry.index_of(f"{NAME}:edge") == Index(sha256("{}"), {})
    assert "attempt 2 of 5 failed: cannot ask the registry" in capsys.readouterr().err


def test_a_registry_that_stays_down(docker: Programs, no_pause: list[float]) -> None:
    """In the end it is said what was asked, what came, and how often it was tried."""
    docker.answer("imagetools inspect", err="dial tcp 127.0.0.1:9: connect: connection refused", status=1)
    with pytest.raises(Failure, match=rf"about {NAME}:edge: dial tcp .* refused \(tried 5 times\)$"):
        registry.index_of(f"{NAME}:edge")


def test_a_registry_that_refuses_is_asked_once(docker: Programs, no_pause: list[float]) -> None:
    """A wrong password does not get better by repeating it."""
    docker.answer("imagetools inspect", err="unauthorized: incorrect username or password", status=1)
    with pytest.raises(Refused, match="incorrect username or password"):
        registry.index_of(f"{NAME}:edge")
    assert (len(docker.calls), no_pause) == (1, [])


def test_retry_pauses(no_pause: list[float]) -> None:
    """Each pause doubles, with up to a half more at random so that clients do not come back at once."""

    def action() -> None:
        raise Failure("down")

    with pytest.raises(Failure, match=r"down \(tried 4 times\)"):
        registry.retry(action, attempts=4, first_pause=2)
    assert len(no_pause) == 3
    for pause, least in zip(no_pause, (2, 4, 8), strict=True):
        assert least <= pause <= least * 1.5


def test_the_first_pause_can_be_set(monkeypatch: pytest.MonkeyPatch, no_pause: list[float]) -> None:
    """RETRY_SECONDS replaces the second before the second attempt."""
    monkeypatch.setenv("RETRY_SECONDS", "0.1")
    answers = iter([Failure("down"), None])

    def action() -> None:
        if failure := next(answers):
            raise failure

    registry.retry(action)
    assert 0.1 <= no_pause[0] <= 0.15


@pytest.mark.parametrize(
    ("value", "seconds"), [("", 1.0), ("1", 1.0), ("0.1", 0.1), ("30", 30.0), ("999.999", 999.999), ("0.001", 0.001)]
)
def test_retry_seconds(value: str, seconds: float) -> None:
    """A positive number of seconds; an empty variable is not set."""
    assert registry.retry_seconds({"RETRY_SECONDS": value}) == seconds
    assert registry.retry_seconds({}) == 1.0


@pytest.mark.parametrize(
    "value",
    ["0", "0.0", "-1", "x", "nan", "inf", "1e3", "1 ", " ", "1000", "0.0001", "\N{ARABIC-INDIC DIGIT ONE}", "1\n"],
)
def test_retry_seconds_that_are_not_a_number(value: str) -> None:
    """Anything else is named with its value."""
    with pytest.raises(UsageError, match=r"^RETRY_SECONDS is .*, which is not a number of seconds"):
        registry.retry_seconds({"RETRY_SECONDS": value})


def test_layer_sizes(docker: Programs) -> None:
    """What each platform's layers weigh, compressed, by tag and by digest."""
    for digest, sizes in ((AMD, (1, 20)), (ARM, (300,))):
        docker.answer(f"{NAME}@{digest}", json.dumps({"layers": [{"size": size} for size in sizes]}))
    docker.answer(f"{NAME}[:@]", json.dumps(CONTENT))
    expected = {"linux/amd64": [1, 20], "linux/arm64": [300]}
    assert registry.layer_sizes(f"{NAME}:edge") == expected
    assert registry.layer_sizes(f"{NAME}@{PROOF}") == expected


def test_layer_sizes_of_what_is_not_there(docker: Programs) -> None:
    """A missing image and a missing part of one are told apart."""
    docker.answer(f"{NAME}@", err="not found", status=1)
    docker.answer(f"{NAME}:edge", json.dumps(CONTENT))
    docker.answer("", err="not found", status=1)
    with pytest.raises(Failure, match=f"there is no {NAME}:other in the registry"):
        registry.layer_sizes(f"{NAME}:other")
    with pytest.raises(Failure, match=f"{NAME}:edge lists {AMD} for linux/amd64, and the registry does not have it"):
        registry.layer_sizes(f"{NAME}:edge")


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ({"linux/amd64": {"config": {"Labels": {"a": "1"}}}, "linux/arm64": {"config": {}}}, [{"a": "1"}, {}]),
        ({"config": {"Labels": {"a": "1"}}}, [{"a": "1"}]),
        ({"linux/amd64": {}}, [{}]),
        (None, []),
    ],
)
def test_labels_of(docker: Programs, image: object, labels: list[dict[str, str]]) -> None:
    """One platform or several, with labels or without."""
    docker.answer("imagetools inspect", json.dumps(image))
    assert registry.labels_of(f"{NAME}:edge") == labels
    assert docker.calls[0][-3:] == ["--format", "{{json .Image}}", f"{NAME}:edge"]


def test_labels_of_a_silent_registry(docker: Programs, no_pause: list[float]) -> None:
    """A registry that does not answer is asked again, and named in the end."""
    docker.answer("imagetools inspect", err="EOF", status=1)
    with pytest.raises(Failure, match=r"cannot ask the registry about .*:edge: EOF \(tried 5 times\)"):
        registry.labels_of(f"{NAME}:edge")


@pytest.mark.parametrize("facts", [{"Descriptor": {"digest": AMD}, "Id": ARM}, {"Id": AMD}])
def test_local_image(docker: Programs, facts: dict[str, object]) -> None:
    """The digest of an image in the engine is its index's, however the engine's age names it."""
    labels = {"org.opencontainers.image.revision": "f" * 40, "friendlyhello.stand-in": "true"}
    docker.answer("image inspect", json.dumps([{**facts, "Config": {"Labels": labels}}]))
    image = registry.local_image("hello:ci")
    assert image == LocalImage("hello:ci", AMD, labels)
    assert (image.revision, image.stand_in) == ("f" * 40, True)


def test_local_image_without_labels(docker: Programs) -> None:
    """An image of somebody else's has no revision, and is no stand-in."""
    docker.answer("image inspect", json.dumps([{"Id": AMD, "Config": {"Labels": None}}]))
    image = registry.local_image("hello:ci")
    assert (image.revision, image.stand_in) == ("", False)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "Error: No such image: hello:ci",
            "^no image hello:ci on this engine; run python3 scripts/build_image.py first$",
        ),
        ("Cannot connect to the Docker daemon", "^cannot inspect hello:ci: Cannot connect to the Docker daemon$"),
    ],
)
def test_no_local_image(docker: Programs, said: str, sentence: str) -> None:
    """A missing image names the next command; a missing engine is not taken for one."""
    docker.answer("image inspect", err=said, status=1)
    with pytest.raises(Failure, match=sentence):
        registry.local_image("hello:ci")


def test_check_same() -> None:
    """Another digest than the tested one goes no further."""
    registry.check_same("the tag", AMD, AMD)
    with pytest.raises(Failure, match=f"the tag is {ARM}, and {AMD} was tested: not going on"):
        registry.check_same("the tag", AMD, ARM)
