"""How the job that publishes may log in: with a token, or without a stored one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import check_login
from lib.command import Failure, UsageError

SUBJECT = "repo:octo@1234/hello@5678:environment:publish"
NAMES = ("HAS_TOKEN", "DOCKERHUB_OIDC_CONNECTIONID", "REGISTRY", "ACTIONS_ID_TOKEN_REQUEST_URL")


def token(**claims: str) -> str:
    """Return an ID token with these claims and no signature."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "signature"])


class GitHub(BaseHTTPRequestHandler):
    """Stands in for GitHub's issuer of ID tokens."""

    answer = b""

    def do_GET(self) -> None:
        right = self.headers["Authorization"] == "bearer of-the-run"
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A job with the right to ask for an ID token, and with the connection's ID."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    GitHub.answer = json.dumps({"value": token(sub=SUBJECT)}).encode()
    server = HTTPServer(("127.0.0.1", 0), GitHub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"http://127.0.0.1:{server.server_address[1]}/token?v=2")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-run")
    monkeypatch.setenv("DOCKERHUB_OIDC_CONNECTIONID", "connection")
    monkeypatch.setenv("DOCKERHUB_USERNAME", "octo")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    server.shutdown()
    server.server_close()
    thread.join()


def test_without_a_stored_token(job: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The subject that Docker Hub has to allow is printed exactly as GitHub gives it, and stands in the summary."""
    job.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert check_login.main([]) == 0
    assert capsys.readouterr().out == f"{SUBJECT}\n"
    assert f"has to allow the subject `{SUBJECT}`" in (tmp_path / "summary").read_text("utf-8")


def test_a_token_comes_first(job: pytest.MonkeyPatch) -> None:
    """With a token nothing is asked for."""
    job.setenv("HAS_TOKEN", "true")
    job.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/")
    assert check_login.main([]) == 0


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        (
            {"DOCKERHUB_OIDC_CONNECTIONID": ""},
            UsageError,
            "is 'octo' and the secret DOCKERHUB_TOKEN is not set",
        ),
        ({"REGISTRY": "ghcr.io"}, UsageError, "is for Docker Hub, and REGISTRY is 'ghcr.io'"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": ""}, Failure, "offers this job no ID token: it needs the right `id-token"),
        ({"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "other"}, Failure, "cannot get an ID token from GitHub: .*401"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "http://127.0.0.1:1/"}, Failure, "cannot get an ID token from GitHub"),
    ],
    ids=["nothing", "another registry", "no right", "refused", "no answer"],
)
def test_what_cannot_log_in(
    job: pytest.MonkeyPatch, changes: dict[str, str], kind: type[Exception], sentence: str
) -> None:
    """One sentence says what to set."""
    for name, value in changes.items():
        job.setenv(name, value)
    with pytest.raises(kind, match=sentence):
        check_login.main([])


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"value": "a.b.c"}', b'{"value": ""}', b'{"value": 7}'])
@pytest.mark.usefixtures("job")
def test_an_answer_that_is_not_a_token(answer: bytes) -> None:
    """It fails in one sentence, and shows nothing of it."""
    GitHub.answer = answer
    with pytest.raises(Failure, match="GitHub"):
        check_login.main([])
