"""Standing in for Docker Hub: which images, from where, and when."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from conftest import need
from lib import apt, standin
from lib.daemon import Daemon
from lib.standin import RECIPES, Recipe
from support.ports import free_port
from support.programs import Programs

SOURCE = ("http://deb.example.com/debian", "")
PYTHON = "python:3.13-slim-trixie"


ROOT = Path(__file__).resolve().parents[2]


def test_every_base_image_of_the_project_has_a_stand_in() -> None:
    """What the Dockerfile, compose.yaml and the stack start from simply resolves, whatever its tag."""
    images = standin.images(ROOT)
    assert images[0].startswith("python:")
    assert {name.partition(":")[0] for name in images} == set(RECIPES)
    assert set(standin.bases((ROOT / "Dockerfile").read_text("utf-8"))) <= set(images)


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("FROM python:3.14-slim-trixie AS bytecode\nFROM bytecode AS application\n", ["python:3.14-slim-trixie"]),
        ("FROM --platform=$BUILDPLATFORM python:3.13-slim AS a\nFROM python:3.12-slim\n", ["3.13-slim", "3.12-slim"]),
        ("FROM python:3.13-slim\nFROM python:3.13-slim\n", ["python:3.13-slim"]),
        ("ARG PYTHON=3.13\nFROM python:${PYTHON}-slim-trixie\n", ["python:3.13-slim-trixie"]),
        ('ARG BASE="python:3.14-slim"\nFROM $BASE AS base\nFROM base\n', ["python:3.14-slim"]),
        ("ARG PYTHON=3.13\nFROM python:${PYTHON:-3.12}-slim\n", ["python:3.13-slim"]),
        ("from python as a\nFROM scratch\n", ["python:latest"]),
        ("FROM docker.io/library/python:3.13\nFROM library/python:3.12\n", ["python:3.13", "python:3.12"]),
        (f"FROM python:3.13-slim@sha256:{64 * '0'}\nFROM python@sha256:{64 * '1'}\n", ["3.13-slim", "python:latest"]),
        ("FROM ghcr.io/octo/python:3.13\nFROM octo/python:1\n", []),
        ("# FROM python:3.9\nFROM node:22\n", []),
    ],
)
def test_the_tags_are_the_projects_own(tmp_path: Path, dockerfile: str, expected: list[str]) -> None:
    """A new tag in the Dockerfile, such as Dependabot's, needs no change here."""
    (tmp_path / "Dockerfile").write_text(dockerfile, "utf-8")
    wanted = [name if name.startswith("python") else f"python:{name}" for name in expected]
    assert standin.images(tmp_path) == [*wanted, standin.REGISTRY]


def test_the_images_of_compose_and_the_stack(tmp_path: Path) -> None:
    """A backing service's image is made for the tag that compose.yaml and the stack name."""
    (tmp_path / "deploy").mkdir()
    compose = "services:\n  web:\n    image: hello:ci\n  redis:\n    image: redis:7-alpine  # what counts\n"
    (tmp_path / "compose.yaml").write_text(compose, "utf-8")
    stack = 'services:\n  edge:\n    image: "caddy:2.8"\n  web:\n    image: ${IMAGE:?}\n  db:\n    image: postgres:17\n'
    (tmp_path / "deploy/compose.stack.yaml").write_text(stack, "utf-8")
    toml = 'name = "shop"\n[backing.redis]\nimage = "redis:8.2"\n[backing.db]\nimage = "postgres:17"\n'
    (tmp_path / "service.toml").write_text(toml, "utf-8")
    assert standin.images(tmp_path) == ["redis:8.2", "redis:7-alpine", "caddy:2.8", standin.REGISTRY]


def test_the_images_of_the_tests_own_services(tmp_path: Path) -> None:
    """A copy without Redis, on another Python: the pipeline's tests still find what their services start from."""
    (tmp_path / "tests/fixtures/service").mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text("FROM python:3.14-slim\n", "utf-8")
    (tmp_path / "tests/fixtures/service/Dockerfile").write_text("FROM python:3.13-slim\n", "utf-8")
    (tmp_path / "tests/fixtures/service/compose.yaml").write_text("    image: redis:8\n", "utf-8")
    assert standin.images(tmp_path) == ["python:3.14-slim", "python:3.13-slim", "redis:8", standin.REGISTRY]


@pytest.mark.parametrize(
    ("image", "instead"),
    [
        ("python:3.13-slim-trixie", ""),
        ("python:3.13.5", ""),
        ("python:3", ""),
        ("python:slim", ""),
        ("python:3.14-slim-trixie", "3.13"),
        ("python:3.1-slim", "3.13"),
        ("python:4", "3.13"),
        ("redis:8", ""),
        ("redis:7-alpine", "8.0"),
        ("caddy:2", ""),
    ],
)
def test_a_version_that_debian_does_not_have_is_said(
    image: str, instead: str, programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in has Debian 13's version; if its tag says another, so does the line that tells of its making."""
    programs.add("mmdebstrap", "docker")
    monkeypatch.setattr(apt, "debian_source", lambda: SOURCE)
    assert standin.differs(image) == instead
    standin.make(image, ["linux/amd64"])
    said = f"from Debian 13's packages, which has {instead} of it\n" if instead else "from Debian 13's packages\n"
    assert capsys.readouterr().err.endswith(said)


def test_registry_config() -> None:
    """It stores in a folder, listens where it is told, and can delete."""
    config = json.loads(standin.registry_config("/data", "127.0.0.1:5055"))
    assert config["storage"] == {"filesystem": {"rootdirectory": "/data"}, "delete": {"enabled": True}}
    assert config["http"] == {"addr": "127.0.0.1:5055"}


@pytest.mark.parametrize(
    ("machine", "platform"),
    [("x86_64", "linux/amd64"), ("AMD64", "linux/amd64"), ("aarch64", "linux/arm64"), ("riscv64", "linux/riscv64")],
)
def test_host_platform(monkeypatch: pytest.MonkeyPatch, machine: str, platform: str) -> None:
    """Each system has its own name for the same machine."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert standin.host_platform() == platform


@pytest.mark.parametrize(
    ("answer", "reachable"),
    [(200, True), (401, True), (429, True), (403, False), (503, False), (None, False)],
)
def test_hub_reachable(monkeypatch: pytest.MonkeyPatch, answer: int | None, reachable: bool) -> None:
    """It is there if it asks who we are, or for patience; a proxy that forbids it is not Docker Hub."""

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url == "https://registry-1.docker.io/v2/"
        if answer is None:
            raise urllib.error.URLError("no route to host")
        if answer != 200:
            raise urllib.error.HTTPError(url, answer, "", Message(), None)
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert standin.hub_reachable() is reachable


def test_debootstrap_command() -> None:
    """A recipe's packages for another platform, unpacked without running anything of it."""
    recipe = Recipe(packages=("dash", "caddy"), hooks=("true",))
    command = standin.debootstrap_command(recipe, "linux/arm64", Path("root.tar"), ("http://d/debian", "/k.gpg"))
    hooks = [f"--extract-hook={hook}" for hook in (*standin.ACCOUNTS, "true")]
    assert command == [
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=extract"),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--architectures=arm64", "--include=dash,caddy"),
        *(*hooks, "--keyring=/k.gpg", "trixie", "root.tar", "http://d/debian"),
    ]
    assert not any(
        "--keyring" in word for word in standin.debootstrap_command(recipe, "linux/amd64", Path("x"), SOURCE)
    )


def test_import_command() -> None:
    """Each image is marked as a stand-in, and what is built on it inherits the mark."""
    command = standin.import_command(Recipe(("dash",), changes=('CMD ["sh"]',)), "linux/amd64", Path("root.tar"), "x:1")
    assert command == [
        *("docker", "import", "--platform", "linux/amd64", "--change", "LABEL onedigest.stand-in=true"),
        *("--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "--change", 'CMD ["sh"]'),
        *("root.tar", "x:1"),
    ]


def test_fingerprint() -> None:
    """A recipe that changes makes another tag, so that the image is made again."""
    before = standin.fingerprinted(PYTHON)
    assert re.fullmatch(r"python:3\.13-slim-trixie-[0-9a-f]{12}", before)
    assert before == standin.fingerprinted(PYTHON)


def test_make(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every platform: unpacked, imported, pushed; then one index under the official name."""
    programs.add("mmdebstrap", "docker")
    monkeypatch.setattr(apt, "debian_source", lambda: SOURCE)
    standin.make(PYTHON, ["linux/amd64", "linux/arm64"])
    name = f"localhost:5055/library/{PYTHON}"
    assert [call[1] for call in programs.called("docker")] == ["import", "push", "image"] * 2 + ["buildx"]
    assert programs.calls[-1] == [
        *("docker", "buildx", "imagetools", "create", "--tag", name),
        *("--tag", f"localhost:5055/library/{standin.fingerprinted(PYTHON)}", f"{name}-amd64", f"{name}-arm64"),
    ]


def test_make_for_this_machine_only(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only run here and never built on needs no other platform."""
    programs.add("mmdebstrap", "docker")
    monkeypatch.setattr(apt, "debian_source", lambda: SOURCE)
    standin.make("redis:8", ["linux/amd64", "linux/arm64"])
    assert len(programs.called("mmdebstrap")) == 1


def test_make_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not there yet, or was made by an older recipe."""
    made: list[str] = []
    monkeypatch.setattr(standin, "has", lambda image: image != "redis:8")
    monkeypatch.setattr(standin, "make", lambda image, _platforms: made.append(image))
    standin.make_missing(["linux/amd64"])
    assert made == ["redis:8"]


class Hub(BaseHTTPRequestHandler):
    """A registry that has some manifests."""

    manifests: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        self.answer(200 if self.path in self.manifests and "image.index" in self.headers["Accept"] else 404)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A registry where the stand-in belongs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        monkeypatch.setattr(standin, "PORT", server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Hub
        server.shutdown()
        thread.join()


def test_has(hub: type[Hub]) -> None:
    """An image counts only if it was made by today's recipe."""
    name, tag = standin.fingerprinted(PYTHON).split(":")
    hub.manifests.add(f"/v2/library/{name}/manifests/3.13-slim-trixie")
    assert not standin.has(PYTHON)
    hub.manifests.add(f"/v2/library/{name}/manifests/{tag}")
    assert standin.has(PYTHON)


def test_this_machine_is_not_asked_through_a_proxy(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of proxies: nobody else can know what is on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    name, tag = standin.fingerprinted(PYTHON).split(":")
    hub.manifests.add(f"/v2/library/{name}/manifests/{tag}")
    assert standin.answers(standin.PORT)
    assert standin.has(PYTHON)


def test_start_registry(tmp_path: Path) -> None:
    """Debian's registry answers on its port, and is gone when it is stopped."""
    need(shutil.which("docker-registry") is not None, "docker-registry")
    daemon, port = Daemon("registry", tmp_path), free_port()
    assert not standin.answers(port)
    try:
        standin.start_registry(daemon, tmp_path / "registry", port)
        assert standin.answers(port)
    finally:
        daemon.stop()
    assert not standin.answers(port)
