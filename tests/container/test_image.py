"""That the smoke test passes a good image, and that every check of it can fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lib import service
from lib.command import Failure, run
from lib.names import checked_out, git
from lib.registry import Index, LocalImage, is_attestation, local_image
from lib.standin import host_platform
from smoke_test import smoke_test
from support.projects import FIXTURE, ROOT


def test_both_platforms_and_their_provenance(image: LocalImage, tmp_path: Path) -> None:
    """One index has an image for each platform and an attestation for each."""
    archive = tmp_path / "image.tar"
    run(["docker", "image", "save", "--output", str(archive), image.reference])
    run(["tar", "-x", "-C", str(tmp_path), "-f", str(archive)])
    blob = (tmp_path / "blobs/sha256" / image.digest.removeprefix("sha256:")).read_text("utf-8")
    index = Index(image.digest, json.loads(blob))
    assert set(index.platforms) == set(service.PLATFORMS)
    assert sum(map(is_attestation, index.entries)) == len(service.PLATFORMS)


def test_the_good_image_passes(image: LocalImage, free_port: int) -> None:
    """An image that keeps every promise passes."""
    smoke_test(image, [host_platform()], free_port, root=FIXTURE)


@pytest.mark.parametrize(
    ("lines", "says"),
    [  # a check that waits in vain waits for the seconds that it names
        ("USER 0:0", "the image's user is '0:0'"),
        ("USER nobody", "the image's user is 'nobody'"),
        ("HEALTHCHECK NONE", "HEALTHCHECK"),
        ("ENV BREAK=start", "the service exited during startup with code 7"),
        ('CMD ["python", "-c", "import time; time.sleep(999)"]', "waited 6 s for an answer from /up"),
        ("ENV BREAK=health", "GET /up answered 503, expected 200"),
        ("ENV BREAK=page", "GET /page answered 500"),
        ("ENV BREAK=revision", "the page's X-Revision is None"),
        ("ENV BREAK=server", "the Server header reveals a version: 'fixture/1.0"),
        ("ENV BREAK=nosniff", "no X-Content-Type-Options"),
        ("ENV BREAK=text", "good day of "),
        ("ENV BREAK=count", "waited 4 s for the right answer from /page; the last one was 200: 'good day from "),
        ("ENV BREAK=twice", "waited 4 s for the right answer from /page; the last one was 200: 'good day from "),
        ("ENV BREAK=finish", "SIGTERM"),
        ("ENV BREAK=stop", "waited 3 s for the service to react to SIGTERM"),
    ],
)
def test_every_check_can_fail(
    broken: Callable[[str], str], free_port: int, monkeypatch: pytest.MonkeyPatch, lines: str, says: str
) -> None:
    """An image that breaks a promise is found out, and the sentence says which."""
    for name, seconds in (("START", 6), ("PROMISE", 4), ("STOP", 3)):
        if f"waited {seconds} s" in says:
            monkeypatch.setattr(f"smoke_test.{name}_SECONDS", seconds)
    with pytest.raises(Failure) as caught:
        smoke_test(local_image(broken(lines)), [host_platform()], free_port, root=FIXTURE)
    assert says in str(caught.value)


def test_the_wrong_digest_is_not_tested(image: LocalImage) -> None:
    """What is tested is what was built, and nothing that has taken its name since."""
    other = "sha256:" + "0" * 64
    command = ["python3", str(ROOT / "scripts/smoke_test.py"), "--image", image.reference, "--digest", other]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"is {image.digest}, but {other} was tested" in done.stderr


def test_the_work_tree_is_a_commit() -> None:
    """The tests look at what git has, so that a dirty tree is seen as one."""
    assert checked_out().sha == git("rev-parse", "HEAD")
