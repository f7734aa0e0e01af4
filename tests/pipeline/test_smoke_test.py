"""What the smoke test asks of an image, what it takes for an answer, and how it reads smoke.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import smoke_test
from lib import containers, service
from lib.client import Answer
from lib.command import Failure
from lib.registry import LocalImage
from lib.service import Backing, Service
from lib.standin import host_platform
from smoke_test import SmokeTest, Visitor
from support.programs import Programs
from support.projects import FIXTURE

SHA = "0123456789abcdef0123456789abcdef01234567"
HEADERS = {"x-revision": SHA, "server": "gunicorn", "x-content-type-options": "nosniff"}
OTHER_PLATFORM = "linux/arm64" if host_platform() == "linux/amd64" else "linux/amd64"
THIS = service.load(FIXTURE, {})
IMAGE = LocalImage("hello:ci", "", {})


def command(this: Service = THIS, platform: str = "", publish: int = 4000) -> list[str]:
    """The command that starts the image."""
    environment = {"NAME": "a b"}
    return smoke_test.run_command(
        this, "hello:ci", platform or host_platform(), publish=publish, network="net", environment=environment
    )


def test_run_command() -> None:
    """As hardened as the README says, on one address of this machine, on a network and with a label of its own."""
    assert command() == [
        *("docker", "run", "--detach", "--publish", "127.0.0.1:4000:8080", "--platform", host_platform()),
        *("--network", "net", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--health-timeout", "30s", "--env", "NAME=a b", "--label", containers.label(), "hello:ci"),
    ]


def test_run_command_of_another_port_and_with_volumes() -> None:
    """The engine chooses the port of every platform but the first; what is kept is on a volume."""
    assert command(publish=0)[4] == "127.0.0.1::8080"
    kept = command(replace(THIS, port=80, volumes=("/data",)))
    assert kept[4] == "127.0.0.1:4000:80"
    assert kept[kept.index("--mount") + 1] == "type=volume,dst=/data"


def test_run_command_under_emulation() -> None:
    """A Python that is emulated starts slower than a health check may take."""
    assert "--no-healthcheck" in command(platform=OTHER_PLATFORM)


def test_backing_command() -> None:
    """The service finds it under its name."""
    backing = Backing("store", "redis:8", environment={"A": "b"})
    assert smoke_test.backing_command(backing, "net") == [
        *("docker", "run", "--detach", "--network", "net", "--network-alias", "store", "--env", "A=b"),
        *("--label", containers.label(), "redis:8"),
    ]


def test_curl_command() -> None:
    """The line to repeat by hand."""
    assert smoke_test.curl_command(4000, "/") == ["curl", "--include", "http://127.0.0.1:4000/"]
    assert smoke_test.curl_command(1, "/x", "POST", {"A": "b"}, "c") == [
        *("curl", "--include", "--header", "A: b", "--data-binary", "c", "http://127.0.0.1:1/x"),
    ]


def test_the_right_headers() -> None:
    """The revision, a server without a version, and no guessing of types."""
    smoke_test.check_headers(THIS, Answer(200, HEADERS, ""), SHA)


@pytest.mark.parametrize(
    ("changed", "sentence", "check"),
    [
        ({"x-revision": "unknown"}, f"X-Revision is 'unknown', and the image was built from '{SHA}'", "revision"),
        ({"server": "gunicorn/23.0"}, "the Server header reveals a version: 'gunicorn/23.0'", "server"),
        ({"x-content-type-options": ""}, "no X-Content-Type-Options: nosniff", "nosniff"),
    ],
)
def test_wrong_headers(changed: dict[str, str], sentence: str, check: str) -> None:
    """A header that is wrong is named, unless service.toml says that this check is off."""
    answer = Answer(200, {**HEADERS, **changed}, "")
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_headers(THIS, answer, SHA)
    smoke_test.check_headers(replace(THIS, off={check: "no reason"}), answer, SHA)


def test_a_page_that_fails() -> None:
    """A page that answers with a server's error does not serve; one that wants a login does."""
    with pytest.raises(Failure, match="GET /page answered 500"):
        smoke_test.check_headers(THIS, Answer(500, HEADERS, ""), SHA)
    smoke_test.check_headers(THIS, Answer(401, HEADERS, ""), SHA)


STATUS = """Name:\tpython
Uid:\t65532\t65532\t65532\t65532
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
NoNewPrivs:\t1
"""


def test_the_right_privileges() -> None:
    """An ordinary user without powers, and no way to any."""
    smoke_test.check_privileges(STATUS)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("Uid:\t65532", "Uid:\t0", "the service runs as root"),
        ("CapEff:\t0000000000000000", "CapEff:\t00000000a80425fb", "has capabilities: 00000000a80425fb"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400", "the service has capabilities"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "can gain new privileges"),
        (STATUS, "", "the service runs as root"),  # what says nothing proves nothing
    ],
)
def test_wrong_privileges(old: str, new: str, sentence: str) -> None:
    """Each power too many is found."""
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_privileges(STATUS.replace(old, new))


CONFIG = {"User": "65532:65532", "ExposedPorts": {"8080/tcp": {}}, "Healthcheck": {"Test": ["CMD", "true"]}}


def test_the_right_configuration() -> None:
    """A numeric user, the port, a health check."""
    smoke_test.check_image(THIS, CONFIG)


@pytest.mark.parametrize(
    ("changed", "sentence", "check"),
    [
        ({"User": "root"}, "user is 'root', expected a number", "user"),
        ({"User": "0:0"}, "user is '0:0'", "user"),
        ({"User": "65532:0"}, "user is '65532:0'", "user"),
        ({"User": None}, "user is ''", "user"),
        ({"ExposedPorts": {"80/tcp": {}}}, "does not expose port 8080, which service.toml names", ""),
        ({"ExposedPorts": None}, "does not expose port 8080", ""),
        ({"Healthcheck": None}, "has no HEALTHCHECK", "healthcheck"),
    ],
)
def test_a_wrong_configuration(changed: dict[str, object], sentence: str, check: str) -> None:
    """Each promise that an image breaks is named, unless that check is off."""
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_image(THIS, {**CONFIG, **changed})
    if check:
        smoke_test.check_image(replace(THIS, off={check: "no reason"}), {**CONFIG, **changed})


def test_no_promises(tmp_path: Path) -> None:
    """A repository without smoke.py promises nothing of its own."""
    assert smoke_test.promises(tmp_path) is None


def test_promises() -> None:
    """smoke.py is read as a module."""
    smoke = smoke_test.promises(FIXTURE)
    assert callable(getattr(smoke, "alone", None))
    assert getattr(smoke, "ENVIRONMENT", {}) == {"MARK": "smoke"}


def test_promises_that_cannot_be_read(tmp_path: Path) -> None:
    """The fault is named, in one sentence."""
    (tmp_path / "smoke.py").write_text("import nothing_of_this_name\n", "utf-8")
    with pytest.raises(Failure, match=r"cannot read .*smoke\.py: ModuleNotFoundError: No module named"):
        smoke_test.promises(tmp_path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("assert 1 == 2, 'the page is wrong'", r"^the page is wrong \(smoke.py, line 2\)$"),
        ("assert 1 == 2", r"^assert 1 == 2 \(smoke.py, line 2\)$"),
        ("{}['count']", r"^KeyError: 'count' \(smoke.py, line 2\)$"),
    ],
)
def test_a_promise_that_is_not_kept(tmp_path: Path, line: str, sentence: str) -> None:
    """Its own words are the sentence, or the line that does not hold."""
    (tmp_path / "smoke.py").write_text(f"def alone(service):\n    {line}\n", "utf-8")
    smoke = smoke_test.promises(tmp_path)
    with pytest.raises(Failure, match=sentence):
        smoke_test.keep(getattr(smoke, "alone", print), Visitor(1, "h", {}))


def test_visitor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It asks at one address, and says the line that asks the same by hand."""
    asked: list[object] = []

    def ask(address: str, **how: object) -> Answer:
        asked.append((address, how))
        return Answer(200, {}, str(len(asked)))

    monkeypatch.setattr(smoke_test, "ask", ask)
    visitor = Visitor(4000, "h", {})
    assert visitor.get("/a", {"A": "b"}).text == "1"
    assert visitor.post("/b", "c").text == "2"
    assert [answer.text for answer in visitor.until("/c", lambda answer: answer.text == "5")] == ["3", "4", "5"]
    assert asked[:2] == [
        ("http://127.0.0.1:4000/a", {"headers": {"A": "b"}}),
        ("http://127.0.0.1:4000/b", {"method": "POST", "body": "c", "headers": None}),
    ]
    assert "$ curl --include --header 'A: b' http://127.0.0.1:4000/a\n" in capsys.readouterr().err


def test_waiting_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last answer is quoted."""
    monkeypatch.setattr(smoke_test, "PROMISE_SECONDS", 0)
    monkeypatch.setattr(smoke_test, "ask", lambda _: Answer(503, {}, "no Redis"))
    with pytest.raises(Failure, match="the right answer from /a; the last one was 503: 'no Redis'"):
        Visitor(4000, "h", {}).until("/a", lambda answer: False)


def test(*promises: str) -> SmokeTest:
    """A smoke test of the fixture with these functions in smoke.py."""
    smoke = SimpleNamespace(**{name: (lambda _service: None) for name in promises})
    return SmokeTest(THIS, smoke, IMAGE, host_platform(), 0)  # type: ignore[arg-type]


test.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("promises", "order"),
    [(["alone", "complete"], ["hello:ci", "redis:8"]), (["complete"], ["redis:8", "hello:ci"]), ([], ["hello:ci"])],
)
def test_what_is_started(docker: Programs, promises: list[str], order: list[str]) -> None:
    """A service that promises something alone is alone at first; another one is not without what it needs."""
    docker.answer("^docker run", "c1\n")
    one = test(*promises)
    one.start()
    one.check_promises(Visitor(1, "h", {}))
    assert [call[-1] for call in docker.called("docker", "run")] == order


def test_its_environment(docker: Programs) -> None:
    """It has the addresses of what is beside it, the secrets' values for tests, and what smoke.py says."""
    one = SmokeTest(THIS, smoke_test.promises(FIXTURE), IMAGE, host_platform(), 0)
    assert one.environment == {"STORE_URL": "redis://redis:6379/0", "GREETING": "good day", "MARK": "smoke"}


def test_a_service_that_exits_during_startup(docker: Programs) -> None:
    """The test does not wait for it, and says its exit code."""
    docker.answer("State.Running", "false\n").answer("State.ExitCode", "3\n")
    with pytest.raises(Failure, match="exited during startup with code 3"):
        test().wait_for_answer()


def test_a_service_that_exits_while_it_is_looked_at(docker: Programs) -> None:
    """It ran, and is gone before its port is asked for: the test says its exit code all the same."""
    docker.answer("State.Running", "true\n", once=True).answer("State.Running", "false\n")
    docker.answer("State.ExitCode", "3\n").answer("^docker port", err="Error: No public port '80/tcp'\n", status=1)
    with pytest.raises(Failure, match="exited during startup with code 3"):
        test().wait_for_answer()


def test_a_failed_smoke_test_shows_the_log(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """What the service wrote comes before the sentence, which names the platform."""
    docker.answer("State.Running", "false\n").answer("State.ExitCode", "1\n").answer("^docker logs", "no such module")
    with pytest.raises(Failure, match=f"smoke test on {host_platform()}: the service exited"):
        test().check_all()
    assert "the service wrote:\nno such module\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "read", "listening"),
    [
        ("01 00000000:00000000", True, False),
        ("01 00000000:00000012", False, False),
        ("0A 00000000:00000000", False, True),
    ],
)
@pytest.mark.parametrize("address", ["020011AC", "0000000000000000FFFF0000020011AC"])
def test_sockets(docker: Programs, state: str, read: bool, listening: bool, address: str) -> None:
    """An open connection on the service's port with nothing left to read is a request; one that listens is not."""
    docker.answer("/proc/net/tcp", f"  sl  local_address\n   1: {address}:1F90 010011AC:D2F4 {state} 00:00000000\n")
    assert (test().has_read_a_request(), test().is_listening()) == (read, listening)
