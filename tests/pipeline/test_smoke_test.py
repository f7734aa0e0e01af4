"""What the smoke test asks of an image, and what it takes for an answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import smoke_test
from lib import containers
from lib.command import Failure
from lib.registry import LocalImage
from lib.standin import host_platform
from programs import Programs
from smoke_test import NO_REDIS, Response, SmokeTest

SHA = "0123456789abcdef0123456789abcdef01234567"
ESCAPED = "&lt;b&gt;&quot;World&quot; &amp; &#x27;friends&#x27;&lt;/b&gt;"
HTML = {"content-type": "text/html; charset=utf-8"}
HEADERS = {"x-revision": SHA, "server": "gunicorn", "x-content-type-options": "nosniff"}
OTHER_PLATFORM = "linux/arm64" if host_platform() == "linux/amd64" else "linux/amd64"


def test_run_command() -> None:
    """As hardened as the README says, on a network and with a label of its own, and with a NAME that bites."""
    assert smoke_test.run_command("hello:ci", host_platform(), "4000:80", "net") == [
        *("docker", "run", "--detach", "--publish", "4000:80", "--platform", host_platform(), "--network", "net"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--env", """NAME=<b>"World" & 'friends'</b>""", "--label", containers.label(), "hello:ci"),
    ]


def test_run_command_under_emulation() -> None:
    """A Python that is emulated starts slower than a health check may take."""
    assert "--no-healthcheck" in smoke_test.run_command("hello:ci", OTHER_PLATFORM, "80", "net")


def test_redis_command() -> None:
    """The service finds it under the name `redis`."""
    assert smoke_test.redis_command("net") == [
        *("docker", "run", "--detach", "--network", "net", "--network-alias", "redis"),
        *("--label", containers.label(), "redis:8"),
    ]


def test_curl_command() -> None:
    """As a user would ask; a status that is expected is no error."""
    options = ["--silent", "--show-error", "--include", "--max-time", "20"]
    assert smoke_test.curl_command(4000, "/") == ["curl", "--fail", *options, "http://localhost:4000/"]
    assert smoke_test.curl_command(1, "/x", fail=False) == ["curl", *options, "http://localhost:1/x"]


def test_parse_response() -> None:
    """Status, headers in lower case, and the body with its line breaks."""
    text = "HTTP/1.1 200 OK\r\nX-Revision: a:b \r\nServer:gunicorn\r\n\r\none\n\ntwo"
    assert smoke_test.parse_response(text) == Response(200, {"x-revision": "a:b", "server": "gunicorn"}, "one\n\ntwo")


@pytest.mark.parametrize("text", ["", "hello", "HTTP/1.1 OK\n\n"])
def test_parse_what_is_no_response(text: str) -> None:
    """Something that does not speak HTTP is quoted."""
    with pytest.raises(Failure, match="not an HTTP response"):
        smoke_test.parse_response(text)


def page(name: str = ESCAPED, hostname: str = "h", visits: str = NO_REDIS) -> str:
    """The page, written out here once more."""
    return f"<h3>Hello {name}!</h3><b>Hostname:</b> {hostname}<br/><b>Visits:</b> {visits}"


@pytest.mark.parametrize("name", [ESCAPED, ESCAPED.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")])
def test_the_right_page(name: str) -> None:
    """Both spellings of an escaped quotation mark are right."""
    smoke_test.check_page(Response(200, HTML, page(name)), "h", NO_REDIS)


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (Response(500, HTML, page()), "GET / answered 500, expected 200"),
        (Response(200, HTML, page("""<b>"World" & 'friends'</b>""")), "the page is '<h3>Hello <b>"),
        (Response(200, HTML, page(hostname="other")), "the page is .*other.*, expected .*</b> h<br/>"),
        (Response(200, HTML, page(visits="1")), "the page is .*, expected .*cannot connect to Redis"),
        (Response(200, HTML, page() + "\n"), "the page is"),
        (Response(200, {"content-type": "text/html"}, page()), "Content-Type is 'text/html', expected"),
        (Response(200, {}, page()), "Content-Type is None, expected"),
    ],
)
def test_a_wrong_page(response: Response, sentence: str) -> None:
    """Anything but the exact page fails, and is quoted."""
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_page(response, "h", NO_REDIS)


def test_the_right_headers() -> None:
    """The revision, a server without a version, and no guessing of types."""
    smoke_test.check_headers(Response(200, HEADERS, ""), SHA)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x-revision": "unknown"}, f"X-Revision is 'unknown', and the image was built from '{SHA}'"),
        ({"server": "gunicorn/23.0"}, "the Server header tells a version: 'gunicorn/23.0'"),
        ({"x-content-type-options": ""}, "no X-Content-Type-Options: nosniff"),
    ],
)
def test_wrong_headers(changed: dict[str, str], sentence: str) -> None:
    """A header that is wrong is named."""
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_headers(Response(200, {**HEADERS, **changed}, ""), SHA)


def test_probes() -> None:
    """/healthz is 200; /readyz what is expected of it, as JSON."""
    smoke_test.check_health(Response(200, {}, "ok"))
    smoke_test.check_ready(Response(503, {}, '{"reason": "no Redis"}'), 503)


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda: smoke_test.check_health(Response(503, {}, "")), "/healthz answered 503, expected 200"),
        (lambda: smoke_test.check_ready(Response(200, {}, "{}"), 503), "/readyz answered 200, expected 503"),
        (lambda: smoke_test.check_ready(Response(503, {}, "no"), 503), "/readyz answered 'no', which is not JSON"),
    ],
)
def test_wrong_probes(check: Callable[[], None], sentence: str) -> None:
    """A probe that says the wrong thing is quoted."""
    with pytest.raises(Failure, match=sentence):
        check()


@pytest.mark.parametrize(("visits", "count"), [("12", 12), (NO_REDIS, None), ("12 or so", None)])
def test_visits_in(visits: str, count: int | None) -> None:
    """The count on the page, where there is one."""
    assert smoke_test.visits_in(Response(200, {}, page(visits=visits))) == count


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


CONFIG = {
    "User": "65532:65532",
    "Env": ["PATH=/bin", "NAME=World"],
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"]},
}


def test_the_right_configuration() -> None:
    """A numeric user, NAME, port 80, a health check."""
    smoke_test.check_image(CONFIG)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"User": "root"}, "user is 'root', expected a number"),
        ({"User": "0:0"}, "user is '0:0'"),
        ({"User": "65532:0"}, "user is '65532:0'"),
        ({"User": None}, "user is ''"),
        ({"Env": ["NAME=Moon"]}, "does not set NAME=World"),
        ({"Env": None}, "does not set NAME=World"),
        ({"ExposedPorts": {"8080/tcp": {}}}, "does not expose port 80"),
        ({"ExposedPorts": None}, "does not expose port 80"),
        ({"Healthcheck": None}, "has no HEALTHCHECK"),
    ],
)
def test_a_wrong_configuration(changed: dict[str, object], sentence: str) -> None:
    """Each promise of the README that an image breaks is named."""
    with pytest.raises(Failure, match=sentence):
        smoke_test.check_image({**CONFIG, **changed})


def counting(*visits: str) -> SmokeTest:
    """A smoke test of a service that answers with these counts."""
    answers = iter(visits)

    class Counting(SmokeTest):
        def get(self, path: str, *, fail: bool = True, show: bool = True) -> Response:
            return Response(200, HTML, page(visits=next(answers)))

    return Counting(LocalImage("hello:ci", "", {}), host_platform(), "80")


@pytest.mark.parametrize(("last", "visits"), [(None, "7"), (6, "7"), (None, "1")])
def test_the_next_visit(last: int | None, visits: str) -> None:
    """One more than the last."""
    assert smoke_test.visits_in(counting(visits).next_visit(last)) == int(visits)


def test_the_next_visit_after_pages_without_a_count() -> None:
    """Another worker had yet to find the Redis: a visit there may have counted or not."""
    assert smoke_test.visits_in(counting(NO_REDIS, NO_REDIS, "9").next_visit(6)) == 9


@pytest.mark.parametrize(("last", "visits"), [(6, ["8"]), (6, ["6"]), (6, ["5"]), (6, [NO_REDIS, "6"])])
def test_visits_that_are_not_counted_one_at_a_time(last: int, visits: list[str]) -> None:
    """Counting twice, not at all, or anew is found."""
    with pytest.raises(Failure, match=f"the page counted {visits[-1]} after {last}"):
        counting(*visits).next_visit(last)


def test_a_service_that_ended_at_its_start(docker: Programs) -> None:
    """It is not waited for: its exit code is said."""
    docker.answer("State.Running", "false\n").answer("State.ExitCode", "3\n")
    test = SmokeTest(LocalImage("hello:ci", "", {}), host_platform(), "80")
    with pytest.raises(Failure, match="ended at its start, with exit code 3"):
        test.wait_for_answer()


def test_a_service_that_ends_while_it_is_looked_at(docker: Programs) -> None:
    """It ran, and is gone before its port is asked for: its exit code is said all the same."""
    docker.answer("State.Running", "true\n", once=True).answer("State.Running", "false\n")
    docker.answer("State.ExitCode", "3\n").answer("^docker port", err="Error: No public port '80/tcp'\n", status=1)
    with pytest.raises(Failure, match="ended at its start, with exit code 3"):
        SmokeTest(LocalImage("hello:ci", "", {}), host_platform(), "80").wait_for_answer()


def test_a_failed_smoke_test_shows_the_log(docker: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """What the service wrote comes before the sentence, which names the platform."""
    docker.answer("State.Running", "false\n").answer("State.ExitCode", "1\n").answer("^docker logs", "no such module")
    with pytest.raises(Failure, match=f"smoke test on {host_platform()}: the service ended"):
        SmokeTest(LocalImage("hello:ci", "", {}), host_platform(), "80").check_all()
    assert "the service wrote:\nno such module\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "read", "listening"),
    [
        ("01 00000000:00000000", True, False),
        ("01 00000000:00000012", False, False),
        ("0A 00000000:00000000", False, True),
    ],
)
def test_sockets(docker: Programs, state: str, read: bool, listening: bool) -> None:
    """An open connection on port 80 with nothing left to read is a request; one that listens is none."""
    docker.answer("/proc/net/tcp", f"  sl  local_address\n   1: 020011AC:0050 010011AC:D2F4 {state} 00:00000000\n")
    test = SmokeTest(LocalImage("hello:ci", "", {}), host_platform(), "80")
    assert (test.has_read_a_request(), test.is_listening()) == (read, listening)


def test_a_request_that_fails(docker: Programs) -> None:
    """curl's own sentence is quoted."""
    test = SmokeTest(LocalImage("hello:ci", "", {}), host_platform(), "80")
    docker.add("curl").answer("^curl", err="curl: (52) Empty reply from server\n", status=52)
    with pytest.raises(Failure, match=r"GET / failed: curl: \(52\) Empty reply from server"):
        test.get("/")
