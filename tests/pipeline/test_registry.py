"""What a registry and the engine say an image is, and when it is worth asking again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib import distribution, registry
from lib.command import Failure, UsageError
from lib.distribution import Refused
from lib.names import FORMER, ImageName
from lib.registry import Index, LocalImage
from support.hub import REVISION, Hub, digest_of, honest
from support.programs import Programs

AMD, ARM, PROOF = (f"sha256:{letter * 64}" for letter in "abc")
SHA = "0123456789abcdef0123456789abcdef01234567"
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


@pytest.fixture
def name(hub: Hub) -> ImageName:
    """An image in the registry."""
    return ImageName(hub.host, "octo", "hello")


def test_index() -> None:
    """Attestations are not platforms."""
    assert Index(AMD, CONTENT).platforms == {"linux/amd64": AMD, "linux/arm64": ARM}
    assert Index(AMD, {}).platforms == {}
    proof = {**CONTENT["manifests"][2], "platform": {"os": "linux", "architecture": "amd64"}}
    assert Index(AMD, {"manifests": [proof]}).platforms == {}


@pytest.fixture
def writer(hub: Hub, docker_config: Path) -> str:
    """The digest of an image that whoever is logged in may write; it is on 1.0.0."""
    hub.login = "Basic b2N0bzp0b2tlbg=="
    text = json.dumps({"auths": {hub.host: {"auth": hub.login.split()[1]}}})
    (docker_config / "config.json").write_text(text, "utf-8")
    return hub.put("1.0.0", honest(SHA))


def test_a_tag_is_the_same_bytes(hub: Hub, name: ImageName, writer: str) -> None:
    """The manifest is asked for once, and sent as what it is; Docker Hub counts one request for any number of tags."""
    for tag in ("1.0", "1", "latest"):
        registry.put_tag(name, writer, tag)
    assert {tag: registry.digest_at(name.tagged(tag)) for tag in hub.tags} == dict.fromkeys(hub.tags, writer)
    assert set(hub.tags) == {"1.0.0", "1.0", "1", "latest"}
    assert hub.counted == 1
    put = [request.split() for request in hub.requests if request.startswith("PUT ")]
    assert {kind for _, _, kind, *_ in put} == {registry.MANIFESTS[0]}
    assert len(put) == 4, "a token that may write is fetched once"


def test_a_tag_that_the_registry_does_not_take(
    hub: Hub, name: ImageName, writer: str, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said which tag; a busy registry is asked again, and one that says no is not."""
    monkeypatch.setenv("RETRY_SECONDS", "0.001")
    registry.put_tag(name, writer, "1.0")
    hub.errors = [503, 429]
    registry.put_tag(name, writer, "1")
    assert hub.tags["1"] == [writer]
    (docker_config / "config.json").write_text("{}", "utf-8")
    distribution._authorizations.clear()
    hub.requests.clear()
    with pytest.raises(Refused, match=f"^cannot put 2 on {hub.host}/octo/hello@{writer}: .* it says 401"):
        registry.put_tag(name, writer, "2")
    assert sum(request.startswith("PUT ") for request in hub.requests) == 2, "once, and once with a token"
    with pytest.raises(Failure, match=f"^cannot put 2 on {hub.host}/octo/hello@{AMD}: there is no "):
        registry.put_tag(name, AMD, "2")


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ({"os": "linux", "architecture": "amd64"}, "linux/amd64"),
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64"),
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, "linux/arm/v7"),
        ({"os": "linux", "architecture": "arm"}, "linux/arm"),
        ({"os": "unknown", "architecture": "unknown"}, ""),
        ({"os": "Linux", "architecture": "amd64"}, ""),
        ({"os": "linux", "architecture": "x86_64"}, ""),
        ({"os": "linux", "architecture": "amd64 | <img>"}, ""),
        ({"os": "windows", "architecture": "amd64"}, ""),
        ({}, ""),
    ],
)
def test_platform_names(platform: dict[str, str], expected: str) -> None:
    """Only what BuildKit writes for Linux is a platform; what an engine might take for one is not."""
    assert registry.platform_name(platform) == expected


@pytest.mark.parametrize("raw", ['{"a": 1}', '{\r\n  "a": "\\u00e9 é"\r\n}\r\n', '{"a":\n\n1}\n'])
def test_a_digest_is_of_bytes(hub: Hub, name: ImageName, raw: str) -> None:
    """Line ends and other characters are part of a manifest; the digest comes from what the registry sent."""
    body = raw.encode()
    hub.manifests[digest_of(body)] = body
    hub.tags["edge"] = [digest_of(body)]
    assert registry.index_of(name.tagged("edge")) == Index(digest_of(body), json.loads(raw))
    assert registry.digest_at(name.tagged("edge")) == digest_of(body)


def test_a_head_is_enough_for_a_digest(hub: Hub, name: ImageName) -> None:
    """Docker Hub counts no HEAD; a registry that does not say the digest there is read."""
    digest = hub.put("edge", honest(SHA))
    assert registry.digest_at(name.tagged("edge")) == digest
    assert registry.digest_at(name.tagged("other")) == ""
    assert registry.digest_at(name.at(digest)) == digest
    assert hub.counted == 0
    hub.sends_digest = False
    assert registry.digest_at(name.tagged("edge")) == digest
    assert registry.digest_at(name.tagged("other")) == ""
    assert hub.counted == 1


def test_an_image_that_is_not_there(hub: Hub, name: ImageName, no_pause: list[float]) -> None:
    """A tag that is missing, and an image that is not shown to everybody: asked once, and no failure."""
    assert registry.index_of(name.tagged("edge")) is None
    hub.private = True
    assert registry.index_of(name.tagged("edge")) is None
    assert no_pause == []


def test_another_manifest_than_was_asked_for(hub: Hub, name: ImageName, no_pause: list[float]) -> None:
    """A registry cannot give us other bytes under a digest, for a manifest or a blob."""
    other = honest(SHA)
    hub.manifests[AMD], hub.blobs[ARM] = other.raw, b"{}"
    with pytest.raises(Failure, match=f"the registry sent {other.digest} for {name.at(AMD)}"):
        registry.index_of(name.at(AMD))
    with pytest.raises(Failure, match=f"the registry sent sha256:.* for {name.at(ARM)}"):
        registry.blob(name, ARM)
    with pytest.raises(Failure, match=f"the registry does not have {AMD}, which {name} refers to"):
        registry.blob(name, AMD)


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b'"text"', b"\xff", b"", b"[" * 100_000])
def test_something_else_than_a_manifest(hub: Hub, name: ImageName, raw: bytes, no_pause: list[float]) -> None:
    """What a portal or a proxy sends is one sentence."""
    hub.manifests[digest_of(raw)] = raw
    hub.tags["edge"] = [digest_of(raw)]
    with pytest.raises(Failure, match="the registry sent something else than"):
        registry.index_of(name.tagged("edge"))


def test_a_registry_that_recovers_is_asked_again(
    hub: Hub, name: ImageName, no_pause: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two errors of a server are lived through, and said."""
    digest = hub.put("edge", honest(SHA))
    hub.errors = [500, 429]
    assert registry.digest_at(name.tagged("edge")) == digest
    assert "attempt 2 of 5 failed: cannot ask the registry about" in capsys.readouterr().err
    assert len(no_pause) == 2


def test_a_registry_that_stays_down(hub: Hub, name: ImageName, no_pause: list[float]) -> None:
    """In the end it is said what was asked, what came, and how often it was tried."""
    hub.errors = [503] * 5
    with pytest.raises(Failure, match=rf"about {name}: it says 503 Service Unavailable \(tried 5 times\)$"):
        registry.index_of(name.tagged("edge"))


def test_a_registry_that_refuses_is_asked_once(hub: Hub, name: ImageName, no_pause: list[float]) -> None:
    """A missing login does not come by asking again."""
    hub.wants = "Basic"
    with pytest.raises(Refused, match="it wants a login"):
        registry.index_of(name.tagged("edge"))
    assert (len(hub.requests), no_pause) == (1, [])


def test_every_page_of_tags(hub: Hub, name: ImageName) -> None:
    """Pages are followed by their links, relative or with the host."""
    path = "/v2/octo/hello/tags/list"
    hub.pages = [
        ({"tags": ["1"]}, f"{path}?n=1&last=1"),
        ({"tags": ["2"]}, f"http://{hub.host}{path}?n=1&last=2"),
        ({"tags": ["3"]}, ""),
    ]
    assert registry.tags_of(name, known=["3"]) == ["1", "2", "3"]
    assert [request.split()[1] for request in hub.requests if "tags/list?" in request][-1] == f"{path}?n=1&last=2"


def test_a_full_page_without_a_link_is_not_the_last(hub: Hub, name: ImageName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A front that drops the Link header does not shorten the list; one that repeats itself ends it."""
    monkeypatch.setattr(registry, "PAGE", 2)
    hub.pages = [({"tags": ["1", "2"]}, ""), ({"tags": ["3"]}, "")]
    assert registry.tags_of(name, known=()) == ["1", "2", "3"]
    assert hub.requests[-1].split()[1] == "/v2/octo/hello/tags/list?n=2&last=2"
    hub.pages = [({"tags": ["1", "2"]}, ""), ({"tags": ["1", "2"]}, "")]
    assert registry.tags_of(name, known=()) == ["1", "2"]


HERE = "/v2/octo/hello/tags/list?last=1"


@pytest.mark.parametrize(
    ("pages", "says"),
    [
        ([(b'{"tags": ["1"', "")], "something else than a list"),
        ([({"tags": ["1"]}, HERE), (b'{"tags": ["2"', "")], "something else than a list"),
        ([({"tags": ["1"]}, HERE), ({"tags": ["1"]}, HERE)], "lead in a circle"),
        ([({"tags": ["1"]}, HERE), ({"tags": []}, HERE)], "lead in a circle"),
        ([({"tags": [str(page)]}, f"{HERE}{page}") for page in range(9)], "more than 5 pages"),
        ([({"tags": ["1"]}, "http://example.com/v2/octo/hello/tags/list")], "is elsewhere"),
        ([({"tags": ["1"]}, "/v2/octo/other/tags/list")], "is elsewhere"),
        ([({"tags": ["1"]}, "/token")], "is elsewhere"),
        ([([], "")], "something else than a list"),
        ([({"tags": "1"}, "")], "something else than a list"),
        ([({"tags": [1]}, "")], "something else than a list"),
        ([({"tags": None}, "")], "is not complete, known is not in it"),
        ([({}, "")], "something else than a list"),
        ([({"tags": ["1"]}, "")], "is not complete, known is not in it"),
    ],
)
def test_a_list_that_is_not_whole(
    hub: Hub, name: ImageName, monkeypatch: pytest.MonkeyPatch, pages: list[tuple[object, str]], says: str
) -> None:
    """Whatever a registry sends instead of all tags: a failure, after a bounded number of questions."""
    monkeypatch.setattr(registry, "PAGES", 5)
    monkeypatch.setattr(registry, "retry", lambda action: action())
    hub.pages = [*pages, *[({"tags": ["known"]}, "")]]
    with pytest.raises(Failure, match=says):
        registry.tags_of(name, known=["known"])


def test_a_list_that_is_not_there(hub: Hub, name: ImageName, no_pause: list[float]) -> None:
    """An image whose tags the registry does not list, or cuts off, does not have none."""
    hub.put("1.0.0", honest(SHA))
    for hub.private, hub.cut, says in ((True, 0, "no such image"), (False, 3, "cut off")):
        with pytest.raises(Failure, match=says):
            registry.tags_of(name, known=())


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


def test_layer_sizes(hub: Hub, name: ImageName) -> None:
    """What each platform's layers weigh, compressed, by tag and by digest."""
    digest = hub.put("edge", honest(SHA))
    size = len('"a layer of linux/amd64"')
    expected = {"linux/amd64": [size], "linux/arm64": [size]}
    assert registry.layer_sizes(name.tagged("edge")) == expected
    assert registry.layer_sizes(name.at(digest)) == expected


def test_layer_sizes_of_what_is_not_there(hub: Hub, name: ImageName) -> None:
    """A missing image and a missing part of one are told apart."""
    with pytest.raises(Failure, match=f"there is no {name}:other in the registry"):
        registry.layer_sizes(name.tagged("other"))
    image = honest(SHA)
    hub.put("edge", image)
    missing = image.entries[0]["digest"]
    del hub.manifests[missing]
    with pytest.raises(Failure, match=f"{name}:edge lists {missing} for linux/amd64, and the registry does not have"):
        registry.layer_sizes(name.tagged("edge"))


def test_configs_of(hub: Hub, name: ImageName) -> None:
    """What each platform's image says of itself."""
    hub.put("edge", honest(SHA, labels="1"))
    index = registry.index_of(name.tagged("edge"))
    assert index is not None
    configs = registry.configs_of(name.tagged("edge"), index)
    assert {platform: content["config"]["Labels"][REVISION] for platform, content in configs.items()} == {
        "linux/amd64": SHA,
        "linux/arm64": SHA,
    }


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: failed to solve: python:3.13-slim: failed to resolve source metadata: unexpected status from HEAD"
        " request to https://registry-1.docker.io/v2/library/python/manifests/3.13-slim: 429 Too Many Requests",
        "docker: Error response from daemon: toomanyrequests: You have reached your unauthenticated pull rate limit.",
        "failed to fetch anonymous token: unexpected status from GET request to https://auth.docker.io/token: 401",
        "Error response from daemon: received unexpected HTTP status: 503 Service Unavailable",
        'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout',
    ],
)
def test_a_pull_is_tried_again(docker: Programs, no_pause: list[float], said: str) -> None:
    """Docker Hub's refusals of pulls without a login pass; the command is run again, not the whole pipeline."""
    docker.answer("run redis:8", err=f"{said}\n", status=125, once=True).answer("run redis:8", "id")
    assert registry.run_pulling(["docker", "run", "redis:8"]).stdout == "id"
    assert len(docker.calls) == 2
    docker.answer("pull", err=said, status=1)
    with pytest.raises(Failure, match=r"cannot pull: .* \(tried 5 times\)"):
        registry.run_pulling(["docker", "pull", "redis:9"])


@pytest.mark.parametrize(
    "said", ["ERROR: process /bin/sh -c pip did not complete: exit code: 1", "#12 429.1 429 bytes", ""]
)
def test_other_ends_are_not(docker: Programs, said: str) -> None:
    """What is wrong with a build or a container does not pass."""
    docker.answer("run", err=said, status=1)
    assert registry.run_pulling(["docker", "run", "redis:8"], check=False).returncode == 1
    assert len(docker.calls) == 1
    with pytest.raises(Failure, match="exit 1 from docker run redis:8"):
        registry.run_pulling(["docker", "run", "redis:8"])


@pytest.mark.parametrize("facts", [{"Descriptor": {"digest": AMD}, "Id": ARM}, {"Id": AMD}])
def test_local_image(docker: Programs, facts: dict[str, object]) -> None:
    """The digest of an image in the engine is its index's, however the engine's age names it."""
    labels = {"org.opencontainers.image.revision": "f" * 40, f"{FORMER}.stand-in": "true"}
    docker.answer("image inspect", json.dumps([{**facts, "Config": {"Labels": labels}}]))
    image = registry.local_image("hello:ci")
    assert image == LocalImage("hello:ci", AMD, labels)
    assert (image.revision, image.stand_in) == ("f" * 40, True)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"onedigest.stand-in": "true"}, True),
        ({f"{FORMER}.stand-in": "True"}, True),
        ({"onedigest.stand-in": "1"}, True),
        ({"OneDigest.Stand-In": "TRUE "}, True),
        ({"onedigest.stand-in": ""}, True),
        ({"onedigest.run": "1"}, False),
        ({}, False),
    ],
)
def test_a_stand_in_however_it_is_spelt(labels: dict[str, str], expected: bool) -> None:
    """An official image has no such label, so any value of it says that this is none."""
    assert registry.is_stand_in(labels) is expected


def test_local_image_without_labels(docker: Programs) -> None:
    """An image of somebody else's has no revision, and is not a stand-in."""
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
    with pytest.raises(Failure, match=f"the tag is {ARM}, but {AMD} was tested; refusing to continue"):
        registry.check_same("the tag", AMD, ARM)
