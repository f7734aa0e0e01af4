"""The whole pipeline's own part: its registry, its login, pulling back, and the report."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

import pipeline
import smoke_test
from lib import containers, service, standin
from lib.client import Answer
from lib.command import Failure, UsageError
from lib.names import Commit, ImageName
from lib.registry import LocalImage
from pipeline import Result
from support.programs import Programs
from support.projects import FIXTURE

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Commit(SHA, False, 0, "hello", "")
DIGEST, OTHER = (f"sha256:{letter * 64}" for letter in "ab")
TARGET = ImageName("localhost:5000", "octo", "hello")
IMAGE = LocalImage("hello:ci", DIGEST, {})
THIS = service.load(FIXTURE, {})
SMOKE = smoke_test.promises(FIXTURE)


def test_commands() -> None:
    """The registry on a free port of this machine alone; the image as users run it, with what it cannot be without."""
    assert pipeline.registry_command() == [
        *("docker", "run", "--detach", "--publish", "127.0.0.1::5000", "--label", containers.label(), "registry:3"),
    ]
    assert pipeline.plain_run_command(THIS, "octo/hello:1", 4000) == [
        *("docker", "run", "--detach", "--publish", "4000:8080", "--env", "GREETING=good day"),
        *("--label", containers.label(), "octo/hello:1"),
    ]
    assert pipeline.plain_run_command(THIS, "octo/hello:1", 4000, "net")[5:11] == [
        *("--network", "net", "--env", "STORE_URL=redis://redis:6379/0", "--env", "GREETING=good day"),
    ]


def test_local_registry(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there on the port that the engine chose, and gone at the end, also of a failure."""
    docker.answer("^docker run", "r1\n").answer("^docker port", "127.0.0.1:49153\n")
    monkeypatch.setattr(standin, "answers", lambda port: port == 49153)
    with contextlib.suppress(Failure), pipeline.local_registry() as host:
        assert host == "localhost:49153"
        raise Failure("no room")
    assert docker.calls[-1] == ["docker", "rm", "--force", "--volumes", "r1"]


def test_logged_in(docker: Programs) -> None:
    """In with the token, which no list of processes shows, and out again."""
    with pipeline.logged_in("octo", "s3cret", ""):
        assert docker.calls == [["docker", "login", "--username", "octo", "--password-stdin"]]
    with pipeline.logged_in("octo", "s3cret", "ghcr.io"):
        pass
    assert docker.calls[1:] == [
        ["docker", "logout"],
        ["docker", "login", "--username", "octo", "--password-stdin", "ghcr.io"],
        ["docker", "logout", "ghcr.io"],
    ]


def test_logged_in_before(docker: Programs) -> None:
    """Without a token an earlier `docker login` counts, and is left as it is."""
    with pipeline.logged_in("octo", "", ""):
        pass
    assert docker.calls == []


def test_a_token_that_is_wrong(docker: Programs) -> None:
    """The sentence names the variables, and never the token."""
    docker.answer("^docker login", err="unauthorized: incorrect username or password\n", status=1)
    sentence = "cannot log in as octo: unauthorized: .*; check that DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"
    with pytest.raises(Failure, match=sentence) as raised, pipeline.logged_in("octo", "s3cret", ""):
        pass
    assert "s3cret" not in str(raised.value)


def test_pull_back(docker: Programs) -> None:
    """Both names go, every platform is pulled by digest, and the names come back."""
    docker.answer("image inspect", json.dumps([{"Id": DIGEST, "Config": {}}]))
    pipeline.pull_back(IMAGE, TARGET, COMMIT, DIGEST)
    tag, pulled = f"localhost:5000/octo/hello:{SHA}", f"localhost:5000/octo/hello@{DIGEST}"
    assert [call[1:] for call in docker.calls] == [
        ["image", "rm", "--force", "hello:ci"],
        ["image", "rm", "--force", tag],
        ["pull", "--quiet", "--platform", "linux/amd64", pulled],
        ["pull", "--quiet", "--platform", "linux/arm64", pulled],
        ["image", "inspect", pulled],
        ["tag", pulled, "hello:ci"],
        ["tag", pulled, tag],
    ]


def test_pulling_something_else_back(docker: Programs) -> None:
    """What comes back has to be what was tested."""
    docker.answer("image inspect", json.dumps([{"Id": OTHER, "Config": {}}]))
    with pytest.raises(Failure, match=f"pulled back, is {OTHER}, but {DIGEST} was tested"):
        pipeline.pull_back(IMAGE, TARGET, COMMIT, DIGEST)
    assert not docker.called("docker", "tag")


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """What the service answers, by path."""
    found = {"/up": Answer(200, {}, "up"), "/page": Answer(200, {}, "good day from 0123456789ab, no count")}

    def ask(address: str, **_: object) -> Answer:
        return found[urlsplit(address).path]

    monkeypatch.setattr(pipeline, "ask", ask)
    monkeypatch.setattr(smoke_test, "ask", ask)
    return found


def test_run_as_users_do(docker: Programs, pages: dict[str, Answer]) -> None:
    """The page comes from the published image alone; the container is removed."""
    docker.answer("^docker run", "0123456789abcdef\n")
    assert pipeline.run_as_users_do(THIS, SMOKE, "octo/hello:1", 4000) == pages["/page"].text
    assert docker.calls[-1] == ["docker", "rm", "--force", "--volumes", "0123456789abcdef"]


def test_run_with_what_it_needs(docker: Programs, pages: dict[str, Answer]) -> None:
    """A service that promises nothing alone is run with what belongs beside it, and both are removed."""
    docker.answer("^docker run.*redis:8", "r1\n").answer("^docker run", "w1\n")
    smoke = SimpleNamespace(complete=lambda service: None)
    pipeline.run_as_users_do(THIS, smoke, "octo/hello:1", 4000)  # type: ignore[arg-type]
    assert docker.called("docker", "network", "create")
    assert docker.calls[-1] == ["docker", "rm", "--force", "--volumes", "w1", "r1"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(200, {}, "hello"), r"^hello.* \(smoke.py, line "),
        (Answer(500, {}, "oh"), "GET /page answered 500"),
    ],
)
def test_running_a_wrong_page(
    docker: Programs,
    pages: dict[str, Answer],
    answer: Answer,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another page than the promised one is quoted, what the service wrote is shown, and the container is removed."""
    docker.answer("^docker run", "0123456789abcdef\n").answer("^docker logs", "listening\n")
    pages["/page"] = answer
    with pytest.raises(Failure, match=sentence):
        pipeline.run_as_users_do(THIS, SMOKE, "octo/hello:1", 4000)
    assert docker.calls[-1] == ["docker", "rm", "--force", "--volumes", "0123456789abcdef"]
    assert "the service wrote:\nlistening" in capsys.readouterr().err


FIRST = {"created_by": 'LABEL org.opencontainers.image.title="shop" org…', "empty_layer": True}


@pytest.mark.parametrize(
    ("history", "layers"),
    [
        ([{"created_by": "base"}, {"created_by": "CMD", "empty_layer": True}, FIRST, {"created_by": "COPY"}], 1),
        ([{}, {}, FIRST, {}], 2),
        ([FIRST, {}], 0),
    ],
)
def test_base_layers(history: list[dict[str, object]], layers: int) -> None:
    """The image's history tells where our Dockerfile begins; entries without a layer do not count."""
    assert pipeline.base_layers(history, "shop") == layers


@pytest.mark.parametrize("title", ["sho", "shop-api", "op"])
def test_an_image_of_another_title(title: str) -> None:
    """Its own layers cannot be told from its base's, so this is a failure and not a wrong number."""
    with pytest.raises(Failure, match=f"no instruction of the image sets .*title={title}, which service.toml names"):
        pipeline.base_layers([{}, FIRST, {}], title)


@pytest.mark.parametrize("one_platform", [True, False])
def test_added_bytes(docker: Programs, one_platform: bool) -> None:
    """What the layers after the base's weigh, compressed."""
    config = {"config": {}, "history": [{}, FIRST, {}, {}]}
    reference = f"localhost:5000/octo/hello@{DIGEST}"
    docker.answer("--format", json.dumps(config if one_platform else {"linux/amd64": config}))
    assert pipeline.added_bytes(reference, {"linux/amd64": [1000, 20, 3]}, "shop") == {"linux/amd64": 23}
    assert len(docker.calls) == 1


RESULT = Result(
    DIGEST, DIGEST, f"octo/hello@{DIGEST}", ["linux/amd64"], {"linux/amd64": 50_100_000}, {"linux/amd64": 9_960_000}
)


def test_report() -> None:
    """Stages with their seconds, the one digest, sizes, and what to run."""
    done = [{"name": "Build image", "seconds": 5.25}, {"name": "Push", "seconds": 10.0}]
    assert pipeline.report(RESULT, done, "docker run --rm -p 4000:80 hello:ci", 4000) == (
        "stage        seconds\n"
        "Build image      5.2\n"
        "Push            10.0\n"
        "all             15.2\n"
        "\n"
        f"digest     {DIGEST}\n"
        "           identical after build, test, push and pull\n"
        "linux/amd64  50.1 MB compressed, 10.0 MB of it on top of the base image\n"
        "\n"
        "run it:    docker run --rm -p 4000:80 hello:ci\n"
        "then open http://localhost:4000"
    )


def test_push_needs_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """--push without an account to push to is a usage mistake, found before anything is built."""
    monkeypatch.setattr(pipeline, "checked_out", lambda: COMMIT)
    monkeypatch.delenv("DOCKERHUB_USERNAME", raising=False)
    with pytest.raises(UsageError, match="--push needs DOCKERHUB_USERNAME"):
        pipeline.main(["--push"])


def test_main_writes_json(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For machines: the digests, the reference, sizes, and the stages of this run."""
    state.mkdir()
    (state / "stages.jsonl").write_text('{"name": "Build image", "seconds": 1.5, "ok": true}\n', "utf-8")
    monkeypatch.setattr(pipeline, "pipeline", lambda _this, **_: (RESULT, "docker run"))
    assert pipeline.main(["--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == {
        "tested_digest": DIGEST,
        "published_digest": DIGEST,
        "reference": f"octo/hello@{DIGEST}",
        "platforms": ["linux/amd64"],
        "compressed_bytes": {"linux/amd64": 50_100_000},
        "added_bytes": {"linux/amd64": 9_960_000},
        "stages": [{"name": "Build image", "seconds": 1.5}],
    }
