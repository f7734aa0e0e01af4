"""What a deploy key may ask of a host, and how that is asked."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from lib import host
from lib.command import Failure, UsageError
from lib.host import Asked, Offer, ask, differing, fingerprints, offered, parse, parse_lent, plain, result, shipped
from support.programs import Programs

DIGEST = f"sha256:{'a' * 64}"
OFFER = Offer("registry.example/me/hello", {})


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("status", Asked("status")),
        ("offer", Asked("offer")),
        ("redeploy 1.2.3", Asked("redeploy", "1.2.3")),
        ("redeploy v1.3.0-rc.1 -", Asked("redeploy", "v1.3.0-rc.1", lends=True)),
        ("redeploy previous", Asked("redeploy", "previous")),
        (f"dry-run {DIGEST} -", Asked("dry-run", DIGEST, lends=True)),
        (f"redeploy {'b' * 40}", Asked("redeploy", "b" * 40)),
    ],
)
def test_what_may_be_asked(line: str, asked: Asked) -> None:
    """A word, and a version where there has to be one."""
    assert parse(line) == asked


@pytest.mark.parametrize(
    "line",
    [
        *("", "sh", "redeploy", "redeploy ", "redeploy  1.2.3", "redeploy 1.2.3 ", "redeploy 1.2.3\n", "status\n"),
        *(
            "status x",
            "redeploy -x",
            "redeploy --unverified",
            "redeploy 1.2.3 -- -",
            "redeploy 1.2.3;id",
            "redeploy $x",
        ),
        *(
            "redeploy a b",
            "redeploy me/hello:1",
            f"redeploy {DIGEST}0",
            "redeploy sha256:a",
            "Redeploy 1.2.3",
            "redeploy .",
        ),
    ],
)
def test_what_may_not_be_asked(line: str) -> None:
    """Everything that is not exactly one of these, and the sentence says which there are."""
    with pytest.raises(UsageError, match=r"is not what this key may do: redeploy VERSION|is not a tag"):
        parse(line)


def test_what_is_lent() -> None:
    """A run's name, who asks, a token and a login: nothing that decides what is deployed, or how."""
    whole = {"run": "a" * 32, "by": "octo[bot]", "token": "ghs_A.b-1", "basic": "bWU6eA==", "identity": "x~!"}
    assert parse_lent(json.dumps(whole).encode()) == whole
    assert parse_lent(b"{}") == {}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{", '{"DOMAIN": "a"}', '{"token": ["a"]}', '{"token": "a b"}', '{"token": ""}'),
        *('{"run": "../x"}', '{"run": "' + "A" * 32 + '"}', '{"by": "a\\nb"}', '{"basic": "a:b"}', "{}" + " " * 65536),
    ],
)
def test_what_is_not_lent(text: str) -> None:
    """It is refused as a whole, and none of it is repeated."""
    with pytest.raises(UsageError, match=r"^standard input is not what .* a JSON object of run, by, token, basic"):
        parse_lent(text.encode())


def test_what_a_host_needs() -> None:
    """All that redeploy.py reads, and nothing that only developers do."""
    files = shipped()
    assert {"scripts/on_host.py", "scripts/redeploy.py", "scripts/lib/host.py", "service.toml"} <= files.keys()
    assert {"deploy/compose.stack.yaml", "deploy/Caddyfile"} <= files.keys()
    assert not [name for name in files if "pycache" in name or name.startswith(("src/", "tests/"))]


def test_files_that_differ() -> None:
    """By their content, and if they are missing on one side."""
    here = fingerprints()
    there = {**here, "service.toml": "another", "deploy/more.yaml": "a"}
    del there["deploy/Caddyfile"]
    assert differing(here, there) == ["deploy/Caddyfile", "deploy/more.yaml", "service.toml"]
    assert differing(here, here) == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("hello\n", "| hello"),
        ("::add-mask::x\r\n", "| ::add-mask::x"),
        ("  ::error::x", "|   ::error::x"),
        ("a ##[error]x", "| a ## [error]x"),
        ("\x1b[2J\x9b1m\u2028", "| ?[2J?1m?"),
    ],
)
def test_what_a_host_says_is_not_a_command(line: str, shown: str) -> None:
    """Neither for a terminal nor for a runner, which skips blanks before `::`."""
    assert plain(line) == shown


def test_a_host_that_offers(programs: Programs) -> None:
    """It says which image it redeploys, and with which files; what answers otherwise is an engine, or a shell."""
    programs.add("ssh").answer("h offer", json.dumps({"onedigest": "me/hello", "files": {"a": "b"}}))
    assert offered(["ssh", "h"]) == Offer("me/hello", {"a": "b"})
    for text in ("", "sh: 1: offer: not found", "[]", "{}", '{"onedigest": "me/hello"}', "HTTP/1.1 400 Bad Request"):
        programs.answer("other offer", text, once=True)
        assert offered(["ssh", "other"]) is None


def test_what_the_host_does_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are not these, and settings that it does not take: a sentence each, without any value."""
    host.warn_of_differences(Offer("me/hello", fingerprints()), {"GITHUB_TOKEN": "x"}, "h")
    assert capsys.readouterr().err == ""
    host.warn_of_differences(
        Offer("me/hello", {**fingerprints(), "service.toml": ""}), {"SERVICE_SECRETS": "A=1", "DOMAIN": "d.e"}, "h"
    )
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.search(r"its own service\.toml, which differ.* python3 scripts/prepare_host\.py root@h$", first)
    assert "does not take DOMAIN, SERVICE_SECRETS from here" in second
    assert "A=1" not in second
    assert "no GITHUB_TOKEN to lend" in third


@pytest.fixture
def asking(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A host that answers from a table, no login, and no time between two questions."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return programs.add("ssh")


def test_a_broken_connection(asking: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    """The run of that name is asked about again; what was said before is not said twice, half a line included."""
    asking.answer("redeploy", "one\ntwo\nthr", "client_loop: send disconnect\n", 255, once=True)
    asking.answer("redeploy", "", "connect to host h: Connection refused\n", 255, once=True)
    asking.answer("redeploy", f'one\ntwo\nthree\nonedigest: {{"outputs": {{"digest": "{DIGEST}"}}}}\n')
    assert ask(["ssh", "h"], OFFER, "redeploy", "1.2.3", {"GITHUB_TOKEN": "t"}) == DIGEST
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line in ("| one", "| two", "| three")] == ["| one", "| two", "| three"]
    assert len([line for line in said if line.startswith("the connection broke")]) == 2
    assert asking.called("ssh") == [["ssh", "h", "redeploy 1.2.3 -"]] * 3


def test_a_connection_that_stays_broken(asking: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is said that the outcome is not known, and how to ask for it."""
    monkeypatch.setattr(host, "PATIENCE", -1)
    asking.answer("redeploy", status=255)
    with pytest.raises(Failure, match=r"cannot reach the host again; .*redeploy\.py --status says what serves there"):
        ask(["ssh", "h"], OFFER, "redeploy", "1.2.3", {})


@pytest.mark.parametrize(
    ("status", "error", "seen", "kind", "says"),
    [
        (1, "", ["error: 1.2.3 was not deployed\n", "onedigest: {}\n"], Failure, "^1.2.3 was not deployed$"),
        (2, "error: 'x' is not what this key may do", [], UsageError, "^'x' is not what"),
        (3, "", [], Failure, "^it says 3$"),
    ],
)
def test_a_redeploy_that_fails_there(status: int, error: str, seen: list[str], kind: type[Failure], says: str) -> None:
    """In the host's own words."""
    with pytest.raises(kind, match=says):
        result(status, error, seen)


def test_what_a_workflow_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs that redeploy.py has, if they are what they should be, and the summary."""
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    outputs = {"digest": DIGEST, "revision": "b" * 40, "before": "a\nPATH=/evil", "path": "x"}
    line = f"onedigest: {json.dumps({'outputs': outputs, 'summary': '### Redeploy'})}\n"
    assert result(0, "", ["| said\n", line]) == DIGEST
    assert (tmp_path / "GITHUB_OUTPUT").read_text("utf-8") == f"digest={DIGEST}\nrevision={'b' * 40}\n"
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text("utf-8") == "### Redeploy\n\n"
