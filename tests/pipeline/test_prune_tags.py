"""Deleting what nothing needs: what goes, what stays and why, and that nothing else goes."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

import prune_tags
from conftest import need
from lib import distribution, release
from lib.command import Failure, UsageError
from lib.daemon import Daemon
from lib.names import ImageName, checked_out
from lib.record import Unfinished
from lib.registry import digest_at, index_of, tags_of
from lib.standin import start_registry
from prune_tags import Found, Needs, order, verdicts
from support.copies import commit, fork, git, repository
from support.hub import INDEX, MANIFEST, Hub, Image, digest_of, honest, upload
from support.ports import free_port
from support.programs import Programs
from support.swarm_answers import deployed, record, service

OLD, MIDDLE, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abcd")
C1, C2, C3, STRANGE = (letter * 40 for letter in "1234")


def beside(digest: str) -> str:
    """The tag of what is kept beside an image."""
    return digest.replace(":", "-")


@pytest.mark.parametrize(
    ("tags", "kept", "goes"),
    [
        ({C1: OLD, C3: NEW}, {}, {C1}),
        ({C1: OLD, C2: MIDDLE, C3: NEW}, {}, {C1, C2}),
        ({C1: OLD, C3: NEW, "edge": NEW, "latest": NEW}, {}, {C1}),
        # What is needed by another name.
        ({C1: OLD, C3: NEW, "1.0.0": OLD}, {}, set()),
        ({C1: OLD, C3: NEW, "1.0.0-rc.1": OLD}, {}, set()),
        ({C1: OLD, C3: NEW, "1": OLD}, {}, set()),
        ({C1: OLD, C3: NEW, "edge": OLD}, {}, set()),
        ({C1: OLD, C3: NEW, "somebody's": OLD}, {}, set()),
        ({C1: OLD, C2: OLD, C3: OLD}, {}, set()),
        # What runs, or was named.
        ({C1: OLD, C3: NEW}, {OLD: "web runs it"}, set()),
        ({C1: OLD, C2: OLD, C3: NEW}, {C1: "--keep"}, set()),
        ({C1: OLD, C3: NEW}, {OTHER: "web runs it"}, {C1}),
        # What is not understood.
        ({STRANGE: OTHER, "mine": MIDDLE, C3: NEW}, {}, set()),
        ({STRANGE: OLD, C1: OLD, C3: NEW}, {}, set()),
        ({"999.0.0": OTHER, C3: NEW}, {}, set()),
        # What is beside an image goes with it, and with nothing else.
        ({C1: OLD, C3: NEW, beside(OLD): OTHER}, {}, {C1, beside(OLD)}),
        (
            {C1: OLD, C3: NEW, f"{beside(OLD)}.sig": OTHER, f"{beside(OLD)}.att": MIDDLE},
            {},
            {C1, f"{beside(OLD)}.sig", f"{beside(OLD)}.att"},
        ),
        ({C1: OLD, C3: NEW, beside(NEW): OTHER}, {}, {C1}),
        ({C1: OLD, C3: NEW, beside(MIDDLE): OTHER}, {}, {C1}),
        ({C1: OLD, C3: NEW, "1.0.0": OLD, beside(OLD): OTHER}, {}, set()),
        # One list of signatures for two images, of which one stays.
        ({C1: OLD, C3: NEW, beside(OLD): OTHER, beside(NEW): OTHER}, {}, {C1}),
        ({C1: OLD, C3: NEW, beside(OLD)[:-1]: OTHER}, {}, {C1}),
        ({beside(OLD): OLD, C3: NEW}, {}, set()),
        ({}, {}, set()),
    ],
)
def test_what_goes(tags: Mapping[str, str], kept: Mapping[str, str], goes: set[str]) -> None:
    """An image of main that no version, no host and no other tag needs, and that is not among the newest."""
    found = {tag: Found(digest, INDEX) for tag, digest in tags.items()}

    judged = verdicts(found, Needs([C3, C2, C1], 1, kept))

    assert {verdict.tag for verdict in judged if verdict.goes} == goes
    assert [verdict.tag for verdict in judged] == list(tags)
    assert all(verdict.why for verdict in judged)
    left = {tags[verdict.tag] for verdict in judged if not verdict.goes}
    assert not left & {digest for digest, _ in order(judged, found)}, "a digest goes with all of its tags, or not"


@pytest.mark.parametrize("kind", [MANIFEST, "application/vnd.oci.image.config.v1+json", ""])
def test_what_is_not_an_index_stays(kind: str) -> None:
    """The pipeline pushes nothing else, so it could be a part of an image that stays."""
    found = {C1: Found(OLD, kind), C3: Found(NEW, INDEX)}
    assert not any(verdict.goes for verdict in verdicts(found, Needs([C3, C2, C1], 1, {})))


def test_so_many_of_the_newest_stay() -> None:
    """Of those that are published, in main's order; a commit that never was does not count."""
    found = {commit: Found(digest, INDEX) for commit, digest in ((C1, OLD), (C2, MIDDLE), (C3, NEW))}
    for newest, goes in ((1, {C1, C2}), (2, {C1}), (3, set()), (99, set())):
        judged = verdicts(found, Needs([STRANGE, C3, C2, C1], newest, {}))
        assert {verdict.tag for verdict in judged if verdict.goes} == goes


def test_what_is_beside_an_image_goes_first() -> None:
    """So nothing is left that would no longer be found, if it ends half-way."""
    found = {C1: Found(OLD, INDEX), beside(OLD): Found(OTHER, INDEX), C2: Found(MIDDLE, INDEX), C3: Found(NEW, INDEX)}
    judged = verdicts(found, Needs([C3, C2, C1], 1, {}))
    assert order(judged, found) == [(OTHER, [beside(OLD)]), (OLD, [C1]), (MIDDLE, [C2])]


# Against a registry.


@pytest.fixture
def commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: Programs) -> list[str]:
    """Five commits of main, oldest first, of which the second is released; and no engine here."""
    origin = repository(tmp_path / "origin", {"service.toml": ""})
    made = [git(origin, "rev-parse", "HEAD"), *(commit(origin, f"Change {number}") for number in range(4))]
    git(origin, "tag", "v1.0.0", made[1])
    clone = fork(origin, tmp_path / "clone")
    for module in (prune_tags, release):
        monkeypatch.setattr(module, "ROOT", clone)
    monkeypatch.setattr(prune_tags, "checked_out", lambda: checked_out(clone))
    for name in ("DEPLOY_HOST", "DOCKER_HOST", "STACK", "IMAGE_NAMESPACE", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKERHUB_USERNAME", "octo")
    monkeypatch.setenv("IMAGE_REPOSITORY", "hello")
    docker.answer("docker info", err="no engine\n", status=1)
    return made


@pytest.fixture
def real(tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageName]:
    """An image in a real registry, with nothing in it."""
    need(shutil.which("docker-registry") is not None, "docker-registry")
    daemon, port = Daemon("registry", tmp_path), free_port()
    start_registry(daemon, tmp_path / "registry", port)
    monkeypatch.setenv("REGISTRY", f"localhost:{port}")
    yield ImageName(f"localhost:{port}", "octo", "hello")
    daemon.stop()


def push(image: ImageName, content: Image, *tags: str) -> str:
    """Put an image on tags."""
    for tag in tags:
        upload(content, image.registry, f"{image.namespace}/{image.repository}", tag, "")
    return content.digest


def signature(subject: str) -> Image:
    """What is kept beside an image."""
    return Image({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"of": subject}})


def is_whole(image: ImageName, tag: str) -> bool:
    """Whether an image is there with all that its index lists."""
    index = index_of(image.tagged(tag))
    return index is not None and all(index_of(image.at(entry["digest"])) for entry in index.entries)


def test_a_real_registry(commits: list[str], real: ImageName, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes is gone, all else is whole, and doing it again changes nothing; without --delete nothing changes."""
    images = {commit: honest(commit) for commit in commits}
    images[commits[2]].entries.append(images[commits[4]].entries[0])  # what an index that stays lists, too
    images[commits[0]].entries.append(images[commits[1]].entries[0])
    for sha, content in reversed(images.items()):
        push(real, content, sha)
    push(real, images[commits[1]], "1.0.0", "1.0", "1", "latest")
    push(real, images[commits[4]], "edge")
    push(real, signature(images[commits[0]].digest), beside(images[commits[0]].digest))
    push(real, signature(images[commits[1]].digest), beside(images[commits[1]].digest))
    push(real, honest("e" * 40), "e" * 40, "mine")
    before = set(tags_of(real, known=()))
    goes = {commits[0], commits[2], beside(images[commits[0]].digest)}

    assert prune_tags.main(["--newest", "2"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"\n3 of {len(before)} tags of {real} would go; --delete deletes them\n")
    assert {line.split()[1] for line in said.splitlines() if line.startswith("delete ")} == goes
    assert prune_tags.main(["--newest", "2", "--delete", "--dry-run"]) == 0
    assert set(tags_of(real, known=())) == before

    assert prune_tags.main(["--newest", "2", "--delete", "--keep", "none"]) == 0
    said = capsys.readouterr().err
    assert "\n[3/3] deleted sha256:" in said
    assert set(tags_of(real, known=())) == before - goes
    assert all(is_whole(real, tag) for tag in before - goes)
    assert not any(digest_at(real.tagged(tag)) for tag in goes)
    assert prune_tags.main(["--newest", "2", "--delete", "--keep", "none"]) == 0
    assert set(tags_of(real, known=())) == before - goes


def test_an_interrupted_run(commits: list[str], real: ImageName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two: the first is gone, the second is whole, and the next run continues."""
    digests = [push(real, honest(commit), commit) for commit in commits]
    deletions: list[str] = []
    delete = prune_tags.delete_manifest

    def interrupted(image: ImageName, digest: str) -> None:
        if deletions:
            raise KeyboardInterrupt
        deletions.append(digest)
        delete(image, digest)

    monkeypatch.setattr(prune_tags, "delete_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune_tags.main(["--newest", "1", "--delete", "--keep", commits[1]])
    left = set(tags_of(real, known=()))
    assert len(left) == 4
    assert all(is_whole(real, tag) for tag in left)
    monkeypatch.setattr(prune_tags, "delete_manifest", delete)
    assert prune_tags.main(["--newest", "1", "--delete", "--keep", digests[1]]) == 0
    assert set(tags_of(real, known=())) == {commits[1], commits[4]}


def test_what_is_published_meanwhile(commits: list[str], real: ImageName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that gives an old image a name in the meantime keeps it: nothing is deleted."""
    images = {commit: honest(commit) for commit in commits}
    for sha, content in images.items():
        push(real, content, sha)
    order = prune_tags.order

    def released(*arguments: object) -> list[tuple[str, list[str]]]:
        push(real, images[commits[0]], "0.9.0")
        return order(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prune_tags, "order", released)
    with pytest.raises(Failure, match=r"^somebody published 0\.9\.0 meanwhile; run this again$"):
        prune_tags.main(["--newest", "1", "--delete", "--keep", "none"])
    assert set(tags_of(real, known=())) == {*commits, "0.9.0"}


def test_a_registry_that_deletes_nothing(
    commits: list[str], hub: Hub, monkeypatch: pytest.MonkeyPatch, no_pause: list[float]
) -> None:
    """It is a failure, also where a registry hides what it denies."""
    for number in (0, 4):
        hub.put(commits[number], honest(commits[number]))
    monkeypatch.setenv("REGISTRY", hub.host)
    for status in (403, 405, 500):
        hub.requests.clear()
        hub.delete_errors = [status] * 9
        with pytest.raises(Failure, match=f"cannot delete .* it says {status} .*; log in with a token that may delete"):
            prune_tags.main(["--newest", "1", "--delete", "--keep", "none"])
    assert set(hub.tags) == {commits[0], commits[4]}


# Docker Hub.

LOGIN = "Basic " + base64.b64encode(b"octo:dckr_pat_x").decode()


@pytest.fixture
def docker_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, docker_config: Path) -> Hub:
    """The stand-in, as Docker Hub, with a login that may delete."""
    monkeypatch.delenv("REGISTRY", raising=False)
    monkeypatch.setattr(distribution, "HUB", hub.host)
    monkeypatch.setattr(prune_tags, "HUB_API", f"http://{hub.host}")
    hub.login, hub.deletes = LOGIN, "a-token"
    logins = {distribution.HUB_LOGIN: {"auth": LOGIN.split()[1]}}
    (docker_config / "config.json").write_text(json.dumps({"auths": logins}), "utf-8")
    return hub


def test_docker_hub(commits: list[str], docker_hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """Tags go one by one, through its own interface; manifests with a tag cannot, and nothing is counted."""
    for sha in commits:
        docker_hub.put(sha, honest(sha))
    docker_hub.put("1.0.0", honest(commits[1]))

    assert prune_tags.main(["--newest", "1", "--delete", "--keep", "none"]) == 0

    assert set(docker_hub.tags) == {commits[1], "1.0.0", commits[4]}
    gone = {request for request in docker_hub.requests if request.startswith("DELETE ")}
    assert gone == {f"DELETE /v2/repositories/octo/hello/tags/{commits[number]}/" for number in (0, 2, 3)}
    assert docker_hub.counted == 0
    assert "dckr_pat_x" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"deletes": "", "login": "Basic other"}, r"refuses the login|incorrect username"),
        ({"delete_errors": [403]}, r"does not delete octo/hello:\w{40} \(403 .*permission Read, Write, Delete"),
        ({"delete_errors": [500] * 5}, r"does not delete octo/hello:\w{40} \(500"),
    ],
)
def test_docker_hub_says_no(
    commits: list[str], docker_hub: Hub, no_pause: list[float], change: Mapping[str, object], says: str
) -> None:
    """In one sentence, with the permission that is missing."""
    for sha in commits:
        docker_hub.put(sha, honest(sha))
    for name, value in change.items():
        setattr(docker_hub, name, value)
    with pytest.raises(Failure, match=says):
        prune_tags.main(["--newest", "1", "--delete", "--keep", "none"])
    assert set(docker_hub.tags) == set(commits)


def test_docker_hub_without_a_login(commits: list[str], docker_hub: Hub, docker_config: Path) -> None:
    """The sentence says how to log in."""
    docker_hub.put(commits[0], honest(commits[0]))
    (docker_config / "config.json").unlink()
    with pytest.raises(Failure, match=r"run docker login --username NAME with a token that has the permission"):
        prune_tags.main(["--delete", "--keep", "none"])


# What is asked first.

MANAGER = '{"LocalNodeState": "active", "ControlAvailable": true}'


def test_what_a_host_may_go_back_to_stays(
    commits: list[str], real: ImageName, docker: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs, what ran before, and what a redeploy that was cut off left."""
    digests = [push(real, honest(commit), commit) for commit in commits]
    docker._answers.clear()
    deployed(docker, service(digests[1])).answer("docker info", MANAGER)
    monkeypatch.setattr(prune_tags, "history", lambda _: [record(1, "1", digests[0], None)])
    web = {"Name": "hello_web", "TaskTemplate": {"ContainerSpec": {"Image": f"octo/hello@{digests[2]}"}}}
    cut_off = Unfinished(**asdict(Unfinished("2", "2026", "me", [{"Spec": web}])))
    monkeypatch.setattr(prune_tags, "unfinished", lambda _: cut_off)

    assert prune_tags.main(["--newest", "1", "--delete"]) == 0

    assert set(tags_of(real, known=())) == {commits[0], commits[1], commits[2], commits[4]}


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--newest", "0"], {}, "--newest is '0', which is not a number from 1 to 99999"),
        (["--newest", "x"], {}, "--newest is 'x'"),
        (["--delete"], {}, "--delete has to know what is deployed: set DEPLOY_HOST or DOCKER_HOST"),
        (["--delete"], {"DOCKER_HOST": "unix:///nowhere.sock"}, "no Docker Engine answers"),
        (["--keep", "1.2.3"], {}, "--keep is '1.2.3', and the registry has no such tag or digest"),
        (["--keep", OLD], {}, f"--keep is '{OLD}', and the registry has no such tag or digest"),
        ([], {"DOCKERHUB_USERNAME": "No"}, "DOCKERHUB_USERNAME is 'No'"),
    ],
)
def test_what_is_wrong_is_said_first(
    commits: list[str],
    docker_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: dict[str, str],
    says: str,
) -> None:
    """Before anything goes: a wrong option, and a host that is set and does not answer."""
    docker_hub.put(commits[0], honest(commits[0]))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((UsageError, Failure), match=says):
        prune_tags.main(arguments)
    assert not any(request.startswith("DELETE") for request in docker_hub.requests)


def test_a_list_that_is_not_complete(commits: list[str], docker_hub: Hub, no_pause: list[float]) -> None:
    """A version that is there and not in the registry's list: its image could go with another tag of it."""
    docker_hub.put(commits[1], honest(commits[1]))
    docker_hub.put("1.0.0", honest(commits[1]))
    docker_hub.pages = [({"tags": [commits[1]]}, "")] * 5
    with pytest.raises(Failure, match=r"the registry's list is not complete, 1\.0\.0 is not in it"):
        prune_tags.main(["--newest", "1", "--delete", "--keep", "none"])


def test_what_cannot_be_asked(commits: list[str], docker_hub: Hub, no_pause: list[float], tmp_path: Path) -> None:
    """A registry, a host or a repository that does not answer is a failure, and not an empty list."""
    docker_hub.put(commits[0], honest(commits[0]))
    docker_hub.errors = [503] * 99
    with pytest.raises(Failure, match="503"):
        prune_tags.main([])
    (tmp_path / "origin").rename(tmp_path / "gone")
    with pytest.raises(Failure, match="cannot fetch the history of main"):
        prune_tags.main([])


def test_referrers(commits: list[str], hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a registry lists as belonging to an image goes before it; what is not such a list is a failure."""
    image = ImageName(hub.host, "octo", "hello")
    assert prune_tags.referrers(image, OLD) == []
    for body, found in (({"manifests": [{"digest": NEW}]}, [NEW]), ({"manifests": None}, []), ({}, [])):
        hub.referrers = json.dumps(body).encode()
        assert prune_tags.referrers(image, OLD) == found
    for listed in ("x", {"digest": "x"}):
        hub.referrers = json.dumps({"manifests": [listed]}).encode()
        with pytest.raises(Failure, match="something else than a list of referrers"):
            prune_tags.referrers(image, OLD)
    gone: list[str] = []
    monkeypatch.setattr(prune_tags, "delete_manifest", lambda _, digest: gone.append(digest))
    monkeypatch.setattr(prune_tags, "look", lambda *_: None)
    hub.referrers = json.dumps({"manifests": [{"digest": NEW}, {"digest": OTHER}]}).encode()
    tags = {C1: Found(OLD, INDEX), C3: Found(OTHER, INDEX)}
    assert list(prune_tags.delete(image, [(OLD, [C1])], tags)) == [f"[1/1] deleted {OLD}: {C1}"]
    assert gone == [NEW, OLD], "the one that has a tag stays"


def test_a_registry_that_does_not_name_the_digest(hub: Hub) -> None:
    """Then it is computed from the manifest."""
    hub.sends_digest = False
    digest = hub.put("x", honest(C1))
    assert prune_tags.look(ImageName(hub.host, "octo", "hello"), "x") == Found(digest, INDEX)
    assert digest == digest_of(hub.manifests[digest])
