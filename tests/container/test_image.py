"""What the image promises, looked at from outside: what is in it, and that every check of it can fail."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import build_image
from lib import engine
from lib.command import Failure, run
from lib.names import checked_out, git
from lib.registry import Index, LocalImage, is_attestation, local_image
from lib.standin import host_platform
from smoke_test import smoke_test

ROOT = Path(__file__).resolve().parents[2]

# A replacement for the service, with the marks that a broken one can leave out.
APP = """
import html, os, socket
def create_app():
    visits = [0]
    def app(environ, start):
        path = environ["PATH_INFO"]
        status, kind, body = "200 OK", "text/html; charset=utf-8", ""
        if path == "/healthz":
            body = "ok"
        elif path == "/readyz":
            status, body = "503 Service Unavailable", "{{}}"
        else:
            body = ("<h3>Hello " + html.escape(os.environ["NAME"]) + "!</h3><b>Hostname:</b> " + socket.gethostname()
                    + "<br/><b>Visits:</b> <i>cannot connect to Redis, counter disabled</i>")
        headers = [("Content-Type", kind), ("X-Revision", os.environ["REVISION"])]
        headers.append(("X-Content-Type-Options", "nosniff"))
        {change}
        start(status, headers)
        return [body.encode()]
    return app
"""


def with_app(change: str) -> str:
    """Return lines of a Dockerfile that put a replacement for the service in, with a change to its answer."""
    file = APP.format(change=change)
    return f"COPY <<'EOF' /app/broken/broken.py\n{file}\nEOF\nENV PYTHONPATH=/app/broken:/app/lib\n" + (
        'CMD ["python", "-m", "gunicorn", "--no-control-socket", "--bind", "0.0.0.0:80",'
        ' "--worker-tmp-dir", "/dev/shm", "broken:create_app()"]'
    )


def test_both_platforms_and_their_provenance(image: LocalImage, tmp_path: Path) -> None:
    """One index has an image for each platform and an attestation for each."""
    archive = tmp_path / "image.tar"
    run(["docker", "image", "save", "--output", str(archive), image.reference])
    run(["tar", "-x", "-C", str(tmp_path), "-f", str(archive)])
    blob = (tmp_path / "blobs/sha256" / image.digest.removeprefix("sha256:")).read_text("utf-8")
    index = Index(image.digest, json.loads(blob))
    assert set(index.platforms) == set(engine.PLATFORMS)
    assert sum(map(is_attestation, index.entries)) == len(engine.PLATFORMS)


def test_labels(image: LocalImage) -> None:
    """Tools can tell from the image where it comes from."""
    commit = checked_out()
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image.labels.items()}
    assert labels["title"] == "friendlyhello"
    assert labels["licenses"] == "MIT"
    assert labels["revision"] == labels["version"] == commit.revision
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])


def test_nothing_but_what_runs(image: LocalImage) -> None:
    """The added layer has neither pip nor a compiler, no test of a library, and nothing that can be written to."""
    listing = [
        "find",
        "/app",
        "(",
        "-name",
        "pip",
        "-o",
        "-name",
        "*.c",
        "-o",
        "-name",
        "tests",
        "-o",
        "-writable",
        ")",
    ]
    command = ["docker", "run", "--rm", "--no-healthcheck", image.reference, *listing]
    assert run(command).stdout == ""
    last_stage = (ROOT / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    assert "\nRUN " not in last_stage


def files_in(blobs: Path, digest: str) -> dict[str, str]:
    """Return what an image's layers hold: each file's name, and all of it that can differ."""
    found = {}
    for layer in json.loads((blobs / digest.removeprefix("sha256:")).read_text("utf-8"))["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            for file in archive:
                content = archive.extractfile(file) if file.isreg() else None
                hashed = hashlib.sha256(content.read()).hexdigest() if content else file.linkname
                found[file.name] = f"{file.mtime:g} {file.mode:o} {file.uid}:{file.gid} {file.pax_headers} {hashed}"
    return found


@pytest.mark.full  # alone: what other tests build and remove at the same time is none of its business
def test_a_commit_always_gives_the_same_images(tmp_path: Path) -> None:
    """Two clones of one commit, built without any cache, yield the same platform images, byte for byte."""
    digests, blobs = [], {}
    for clone in ("one", "two"):
        run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / clone)])
        name = f"friendlyhello-test-clone:{clone}"
        command = build_image.build_command(
            name,
            engine.PLATFORMS,
            checked_out(tmp_path / clone, {}),
            ca_bundle=build_image.ca_bundle(),
            proxies=build_image.proxies(),
            metadata=tmp_path / f"{clone}.json",
            root=tmp_path / clone,
        )
        output = tmp_path / f"{clone}.tar"
        without_load = [part for part in command if part != "--load"]
        run([*without_load[:3], "--no-cache", "--output", f"type=oci,dest={output}", *without_load[3:]])
        run(["mkdir", str(tmp_path / f"{clone}-oci")])
        run(["tar", "-x", "-C", str(tmp_path / f"{clone}-oci"), "-f", str(output)])
        blobs[clone] = tmp_path / f"{clone}-oci/blobs/sha256"
        digest = build_image.digest_in((tmp_path / f"{clone}.json").read_text("utf-8"))
        digests.append(
            Index(digest, json.loads((blobs[clone] / digest.removeprefix("sha256:")).read_text("utf-8"))).platforms
        )
    assert set(digests[0]) == set(engine.PLATFORMS)
    for platform in engine.PLATFORMS:
        one, two = (index[platform] for index in digests)
        if one != two:  # say which files are to blame
            assert files_in(blobs["one"], one) == files_in(blobs["two"], two)
    assert digests[0] == digests[1]


def test_a_plain_hardened_run_answers_at_once(image: LocalImage, free_port: int) -> None:
    """docker run with every right taken away, and no Redis, serves the page."""
    hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    start = ["docker", "run", "--detach", "--rm", "--publish", f"{free_port}:80", *hardened, image.reference]
    container = run(start).stdout.strip()
    try:
        retry = ["--retry", "20", "--retry-all-errors", "--retry-delay", "1"]
        page = run(["curl", "--fail", "--silent", *retry, f"http://localhost:{free_port}/"]).stdout
        assert page.startswith("<h3>Hello World!</h3><b>Hostname:</b> ")
        assert page.endswith("<b>Visits:</b> <i>cannot connect to Redis, counter disabled</i>")
    finally:
        run(["docker", "rm", "--force", container])


@pytest.mark.parametrize("variable", ["REDIS_URL=http://me:secret@h", "WEB_CONCURRENCY=many", "METRICS_PORT=0"])
def test_a_wrong_setting_stops_the_start_with_a_sentence(image: LocalImage, variable: str) -> None:
    """The container ends at once, says which variable is wrong, and keeps the password to itself."""
    command = ["docker", "run", "--rm", "--no-healthcheck", "--env", variable, image.reference]
    done = run(command, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {variable.partition('=')[0]} must be") or "must start" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_the_good_image_passes(image: LocalImage, free_port: int) -> None:
    """The image of this work tree keeps every promise."""
    smoke_test(image, [host_platform()], free_port)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("USER 0:0", "the image's user is '0:0'"),
        ("USER nobody", "the image's user is 'nobody'"),
        ("ENV NAME=Moon", "the image does not set NAME=World"),
        ("HEALTHCHECK NONE", "HEALTHCHECK"),
        ('CMD ["python", "-c", "raise SystemExit(7)"]', "the service ended at its start, with exit code 7"),
        ('CMD ["python", "-c", "import time; time.sleep(999)"]', "an answer from /healthz"),
        (with_app('status = "500 Internal Server Error"'), "GET / failed: curl: (22)"),
        (with_app('status = "200 OK" if path != "/healthz" else "500 No"'), "GET /healthz failed: curl: (22)"),
        (with_app('status = status if path != "/readyz" else "200 OK"'), "/readyz answered 200, expected 503"),
        (with_app('body = body if path != "/readyz" else "no"'), "/readyz answered 'no', which is not JSON"),
        (with_app('body = body.replace("Hello", "Goodbye")'), "the page is '<h3>Goodbye"),
        (with_app("body = html.unescape(body)"), "the page is '<h3>Hello <b>"),
        (with_app('headers[0] = ("Content-Type", "text/plain")'), "the page's Content-Type is 'text/plain'"),
        (with_app('headers[1] = ("X-Revision", "other")'), "the page's X-Revision is 'other'"),
        (with_app('import gunicorn.http.wsgi as wsgi; wsgi.SERVER = "x/1.2"'), "the Server header tells a version"),
        (with_app("headers.pop()"), "no X-Content-Type-Options"),
        (with_app('body = body.replace("<i>cannot connect to Redis, counter disabled</i>", "1")'), "the page is "),
        (with_app(""), "waited 4 s for the page to count visits"),
    ],
)
def test_every_check_can_fail(
    broken: Callable[[str], str], free_port: int, monkeypatch: pytest.MonkeyPatch, lines: str, says: str
) -> None:
    """An image that breaks a promise is found out, and the sentence says which."""
    monkeypatch.setattr("smoke_test.START_SECONDS", 6)
    monkeypatch.setattr("smoke_test.COUNT_SECONDS", 4)
    with pytest.raises(Failure) as caught:
        smoke_test(local_image(broken(lines)), [host_platform()], free_port)
    assert says in str(caught.value)


COUNTING = """
import html, os, socket
from friendlyhello.counter import Counter, connect, CounterError
def create_app():
    counter = Counter(connect("redis://redis:6379/0")); counter.start()
    def app(environ, start):
        path = environ["PATH_INFO"]
        try:
            visits = counter.add({step} if path == "/" else 0)
        except CounterError:
            visits = "<i>cannot connect to Redis, counter disabled</i>"
        ready = path != "/readyz" or isinstance(visits, int)
        body = ("<h3>Hello " + html.escape(os.environ["NAME"]) + "!</h3><b>Hostname:</b> " + socket.gethostname()
                + "<br/><b>Visits:</b> " + str(visits)) if path == "/" else "{{}}"
        headers = [("Content-Type", "text/html; charset=utf-8"), ("X-Revision", os.environ["REVISION"]),
                   ("X-Content-Type-Options", "nosniff")]
        start("200 OK" if ready else "503 No", headers)
        return [body.encode()]
    return app
"""


@pytest.mark.parametrize(
    ("step", "options", "says"),
    [
        (2, "", "the page counted "),
        (1, '"--graceful-timeout", "0",', "SIGTERM"),
    ],
)
def test_counting_and_stopping_can_fail(
    broken: Callable[[str], str], free_port: int, step: int, options: str, says: str
) -> None:
    """A service that counts twice is found out, and so is one that cuts a request off at SIGTERM."""
    command = (
        f'CMD ["python", "-m", "gunicorn", "--no-control-socket", {options} "--bind", "0.0.0.0:80", "--threads", "4",'
        ' "--worker-tmp-dir", "/dev/shm", "broken:create_app()"]'
    )
    lines = f"COPY <<'EOF' /app/broken/broken.py\n{COUNTING.format(step=step)}\nEOF\n"
    lines += f"ENV PYTHONPATH=/app/broken:/app/src:/app/lib\n{command}"
    with pytest.raises(Failure) as caught:
        smoke_test(local_image(broken(lines)), [host_platform()], free_port)
    assert says in str(caught.value)


def test_a_service_that_ignores_sigterm_is_found_out(
    broken: Callable[[str], str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has to be killed does not pass."""
    monkeypatch.setattr("smoke_test.STOP_SECONDS", 3)
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-m', 'friendlyhello'])\n"
        "while True: time.sleep(1)\n"
    )
    lines = f'COPY <<\'EOF\' /app/stubborn.py\n{stubborn}EOF\nCMD ["python", "/app/stubborn.py"]'
    with pytest.raises(Failure, match="SIGTERM"):
        smoke_test(local_image(broken(lines)), [host_platform()], free_port)


def test_the_wrong_digest_is_not_tested(image: LocalImage) -> None:
    """What is tested is what was built, and nothing that has taken its name since."""
    other = "sha256:" + "0" * 64
    command = ["python3", str(ROOT / "scripts/smoke_test.py"), "--image", image.reference, "--digest", other]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"is {image.digest}, and {other} was tested" in done.stderr


def test_the_work_tree_is_a_commit() -> None:
    """The tests look at what git has, so that a dirty tree is seen as one."""
    assert checked_out().sha == git("rev-parse", "HEAD")
