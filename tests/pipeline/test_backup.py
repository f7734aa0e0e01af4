"""What backup.py finds, and what it refuses, before it touches anything."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

import backup
from lib.command import Failure, UsageError
from support.programs import Programs

DATA = {"Type": "volume", "Name": "one_counter", "Destination": "/data"}


def container(labels: dict[str, str], *mounts: dict[str, str], running: bool = True) -> dict[str, Any]:
    """Return what `docker inspect` says of a container."""
    config = {"Labels": labels, "Image": "redis:8"}
    return {"Id": "c0ffee", "Config": config, "Mounts": list(mounts), "State": {"Running": running}}


def composed(project: str, service: str = "redis") -> dict[str, str]:
    """Return the labels that compose gives."""
    return {"com.docker.compose.project": project, "com.docker.compose.service": service}


def deployed(stack: str, service: str = "redis") -> dict[str, str]:
    """Return the labels that a Swarm gives."""
    return {"com.docker.stack.namespace": stack, "com.docker.swarm.service.name": f"{stack}_{service}"}


FOUND = backup.Store("c0ffee", "one", "", "redis:8", "one_counter", "/data")
OF_SWARM = backup.Store("c0ffee", "one", "one_redis", "redis:8", "one_counter", "/data")


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ([], []),
        ([container(composed("one"), DATA)], [FOUND]),
        ([container(composed("one"), DATA, running=False)], [FOUND]),
        ([container(deployed("one"), DATA)], [OF_SWARM]),
        ([container(deployed("one"), DATA, running=False)], []),  # a task that has ended
        ([container(composed("one", "web"), DATA)], []),
        ([container(deployed("one", "other_redis"), DATA)], []),
        ([container({}, DATA)], []),
        ([{**container({}, DATA), "Config": {"Labels": None, "Image": "redis:8"}}], []),
        ([{**container(composed("one")), "Mounts": None}], []),
        ([container({"com.docker.compose.service": "redis"}, DATA)], []),
        ([container({"com.docker.swarm.service.name": "_redis"}, DATA)], []),
        ([container(composed("one"))], []),
        ([container(composed("one"), {"Type": "bind", "Destination": "/data"})], []),
    ],
)
def test_what_keeps_something_is_found(there: list[dict[str, Any]], found: list[backup.Store]) -> None:
    """A container of compose, running or not, or a running task of a stack, with a volume."""
    assert backup.parse(json.dumps(there), "redis") == found


@pytest.mark.parametrize(
    ("stores", "project", "said"),
    [
        ([], "", "no redis with a volume on this engine; run docker compose up --detach first"),
        ([FOUND], "two", "no redis with a volume in the project 'two' on this engine; run docker compose up"),
        ([FOUND, FOUND], "", r"there is more than one redis with a volume \(one\); choose one with --project"),
    ],
)
def test_one_has_to_be_meant(stores: list[backup.Store], project: str, said: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(Failure, match=said):
        backup.choose(stores, "redis", project)


def archive(path: Path, *names: str) -> Path:
    """Write an archive of empty files."""
    with tarfile.open(path, "w") as made:
        for name in names:
            made.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def test_a_backup_is_what_it_should_be(tmp_path: Path) -> None:
    """An archive with a file in it."""
    backup.check_backup(archive(tmp_path / "good.tar", "./appendonly.aof"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read '.*' \\(No such file or directory\\); give the file that backup.py wrote"),
        (b"", "is not a backup; give the file"),
        (b"rubbish" * 1000, "is not a backup; give the file"),
        ([], "is not a backup of a volume; give the file"),
        (["../etc/passwd"], "is not a backup of a volume; give the file"),
        (["/etc/passwd"], "is not a backup of a volume; give the file"),
    ],
)
def test_what_is_not_a_backup_is_refused_before_anything_stops(
    content: bytes | list[str] | None, said: str, tmp_path: Path, docker: Programs
) -> None:
    """A missing, broken or empty file, or one that would be written elsewhere."""
    file = tmp_path / "count.tar"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        archive(file, *content)
    with pytest.raises(UsageError, match=said):
        backup.main(["--restore", str(file)])

    assert docker.calls == []


@pytest.mark.parametrize("options", [[], ["--restore"]])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_what_is_not_a_file_is_refused(tmp_path: Path, docker: Programs, kind: str, options: list[str]) -> None:
    """It is neither written to, nor put aside for a backup, nor waited for, and Redis is not asked."""
    os.mkfifo(tmp_path / "pipe")
    ours, theirs = os.openpty()  # in a file system that lets nobody put a file in a device's place
    device = os.ttyname(theirs)
    name = {"folder": str(tmp_path), "pipe": str(tmp_path / "pipe"), "device": device, "nothing": ""}[kind]
    with pytest.raises(UsageError, match="is not a file"):
        backup.main([name, *options])
    assert docker.calls == []
    os.close(ours)
    os.close(theirs)


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path, docker: Programs) -> None:
    """Before Redis is paused."""
    with pytest.raises(UsageError, match=r"there is no folder for '.*count.tar'; make it first"):
        backup.main([str(tmp_path / "missing" / "count.tar")])

    assert docker.calls == []


@pytest.mark.parametrize("of_swarm", [True, False])
def test_a_failed_copy_leaves_redis_running_and_no_half_a_backup(
    of_swarm: bool, tmp_path: Path, docker: Programs
) -> None:
    """A full disk or a lost engine: the one sentence says what failed, and the former backup is still there."""
    file = archive(tmp_path / "count.tar", "appendonly.aof")
    before = file.read_bytes()
    labels = deployed("one") if of_swarm else composed("one")
    docker.answer("container ls", "c0ffee\n").answer("inspect", json.dumps([container(labels, DATA)]))
    docker.answer("docker create", "helper\n").answer("docker cp", err="noise\nno space left on device\n", status=1)
    for options in ([str(file)], ["--restore", str(file)]):
        with pytest.raises(Failure, match="docker cp failed: no space left on device"):
            backup.main(options)

    calls = [" ".join(call) for call in docker.calls]
    scale = "service scale --detach=false one_redis="
    begin, end = (f"{scale}0", f"{scale}1") if of_swarm else ("stop c0ffee", "start c0ffee")
    assert calls.index("docker unpause c0ffee") > calls.index("docker pause c0ffee")
    assert calls.index(f"docker {end}") > calls.index("docker rm --force helper") > calls.index(f"docker {begin}")
    assert file.read_bytes() == before
    assert list(tmp_path.glob("*.part")) == []
