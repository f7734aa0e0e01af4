"""Listing the tags of an image, from registries that want to know who asks."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lib import tags
from lib.command import Failure
from lib.names import ImageName
from lib.registry import Refused

BASIC = "Basic " + base64.b64encode(b"octo:token").decode()


class Registry(BaseHTTPRequestHandler):
    """Answers as Docker Hub does: a token first, then a page at a time."""

    asked: list[str]
    next_page = "/v2/octo/hello/tags/list?n=1000&last=1.0.0"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        login = self.headers.get("Authorization", "")
        self.asked.append(f"{self.path} {login}")
        host = self.headers["Host"]
        if url.path == "/token":
            assert parse_qs(url.query)["service"] == ["hub"]
            assert parse_qs(url.query)["scope"][0].startswith("repository:octo/")
            self.answer(200, {"token": "anybody" if not login else "octo"})
        elif url.path.startswith("/v2/octo/broken/"):
            self.answer(401, {}, {"WWW-Authenticate": "Negotiate"})
        elif url.path == "/v2/octo/text/tags/list":
            self.answer(200, "no object")
        elif url.path == "/v2/octo/busy/tags/list":
            self.answer(503, {})
        elif not login.startswith("Bearer "):
            self.answer(401, {}, {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="hub"'})
        elif url.path != "/v2/octo/hello/tags/list":
            self.answer(404, {})
        elif "last" in url.query:
            self.answer(200, {"name": "octo/hello", "tags": ["latest"]})
        else:
            self.answer(200, {"name": "octo/hello", "tags": ["1.0.0"]}, {"Link": f'<{self.next_page}>; rel="next"'})

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: the requests are kept."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The host and port of a registry, and no login."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    Registry.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_page(registry: str) -> None:
    """All pages are read, with a token that the registry asked for; no login is needed for a public image."""
    assert tags.tags_of(ImageName(registry, "octo", "hello")) == ["1.0.0", "latest"]
    assert [line.rpartition(" ")[2] for line in Registry.asked if "tags" in line] == ["", "anybody", "anybody"]


def test_login_is_used(registry: str, tmp_path: Path) -> None:
    """What docker login left is sent for the token, and to nobody else."""
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry: {"auth": BASIC.split()[1]}}}), "utf-8")
    tags.tags_of(ImageName(registry, "octo", "hello"))
    assert [line.partition(" ")[0].partition("?")[0] for line in Registry.asked if BASIC in line] == ["/token"]
    assert Registry.asked[-1].endswith("Bearer octo")


def test_no_image_has_no_tags(registry: str) -> None:
    """An image that is not there has no tags."""
    assert tags.tags_of(ImageName(registry, "octo", "nothing")) == []


@pytest.mark.parametrize(
    ("repository", "kind", "sentence"),
    [
        ("broken", Failure, "cannot answer the challenge 'Negotiate'"),
        ("busy", Failure, "503"),
        ("text", Failure, "not the answer of a registry"),
    ],
)
def test_other_answers(registry: str, repository: str, kind: type[Failure], sentence: str) -> None:
    """Each other answer is one sentence."""
    with pytest.raises(kind, match=sentence):
        tags.list_tags(ImageName(registry, "octo", repository), "")


def test_pages_stay_where_they_are(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A next page on another host is not followed."""
    monkeypatch.setattr(Registry, "next_page", "http://example.com/v2/x")
    with pytest.raises(Failure, match="the next page is elsewhere"):
        tags.list_tags(ImageName(registry, "octo", "hello"), "")


def test_basic_login_is_wanted() -> None:
    """A registry that wants a login says so; with one, it is sent."""
    image = ImageName("localhost:5000", "octo", "hello")
    with pytest.raises(Refused, match="run docker login first"):
        tags.answer('Basic realm="x"', "", image)
    assert tags.answer('Basic realm="x"', BASIC, image) == BASIC


def test_token_only_over_tls() -> None:
    """A login is not sent in the clear, whatever a registry asks for."""
    with pytest.raises(Failure, match="cannot answer the challenge"):
        tags.answer('Bearer realm="http://example.com/token"', BASIC, ImageName("example.com", "octo", "hello"))


def test_nobody_there() -> None:
    """A registry that does not answer is one sentence."""
    with pytest.raises(Failure, match="cannot read http://localhost:1/"):
        tags.list_tags(ImageName("localhost:1", "octo", "hello"), "")


def test_credential_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where docker keeps logins in a helper program, that is asked."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tags.login(tags.HUB_LOGIN) == ""
    (tmp_path / "config.json").write_text('{"credsStore": "test"}', "utf-8")
    assert tags.login(tags.HUB_LOGIN) == "", "no such program"
    program = tmp_path / "docker-credential-test"
    program.write_text(
        '#!/bin/sh\nread server\necho "{\\"Username\\": \\"octo\\", \\"Secret\\": \\"token\\"}"\n', "utf-8"
    )
    program.chmod(0o755)
    assert tags.login(tags.HUB_LOGIN) == BASIC
    program.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n", "utf-8")
    assert tags.login(tags.HUB_LOGIN) == ""
