#!/usr/bin/env python3
"""Save what Redis keeps in a file, or put it back: backup.py FILE, backup.py --restore FILE.

Finds the Redis of `docker compose up`, or of the stack that redeploy.py deployed, on the engine that docker talks to
(DOCKER_HOST). For a backup it is paused while it is copied, so the file holds what a power cut would have left, which
Redis recovers from; pages go without a count for that moment. For a restore it is stopped, what it keeps is replaced,
and it is started again.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import Failure, UsageError, parser, run, say, shown, start

COMPOSE = ("com.docker.compose.project", "com.docker.compose.service")
SWARM = ("com.docker.stack.namespace", "com.docker.swarm.service.name")


@dataclass(frozen=True)
class Store:
    """A container that keeps its data on a volume. `service` is its name in a Swarm, and empty with compose."""

    container: str
    project: str
    service: str
    image: str
    volume: str
    folder: str


def parse(inspect: str, name: str) -> list[Store]:
    """Return the containers of the service `name` that keep something, from what `docker inspect` says of all."""
    found = []
    for container in json.loads(inspect):
        labels: Mapping[str, str] = container["Config"]["Labels"] or {}
        stack, project = labels.get(SWARM[0], ""), labels.get(COMPOSE[0], "")
        of_swarm = bool(stack) and labels.get(SWARM[1]) == f"{stack}_{name}" and container["State"]["Running"]
        if not of_swarm and (not project or labels.get(COMPOSE[1]) != name):
            continue
        project, service = (stack, labels[SWARM[1]]) if of_swarm else (project, "")
        volumes: list[Mapping[str, Any]] = [mount for mount in container["Mounts"] or [] if mount["Type"] == "volume"]
        found += [
            Store(
                container["Id"], project, service, container["Config"]["Image"], volume["Name"], volume["Destination"]
            )
            for volume in volumes
        ]
    return found


def choose(stores: Sequence[Store], name: str, project: str) -> Store:
    """Return the only store, or the one of `project`; raise Failure if that is none or several."""
    chosen = [store for store in stores if project in ("", store.project)]
    if not chosen:
        where = f" in the project {project!r}" if project else ""
        raise Failure(f"no {name} with a volume{where} on this engine; run docker compose up --detach first")
    if len(chosen) > 1:
        projects = ", ".join(sorted({store.project for store in chosen}))
        raise Failure(f"there is more than one {name} with a volume ({projects}); choose one with --project")
    return chosen[0]


def find(name: str, project: str) -> Store:
    """Return the store that this engine has."""
    listed = run(["docker", "container", "ls", "--all", "--quiet"]).stdout.split()
    inspect = run(["docker", "container", "inspect", *listed]).stdout if listed else "[]"
    return choose(parse(inspect, name), name, project)


def check_backup(file: Path) -> None:
    """Raise UsageError unless `file` is an archive with something in it, all of it inside the folder it is put into."""
    if file.exists() and not file.is_file():
        raise UsageError(f"{str(file)!r} is not a file; give the file that backup.py wrote")
    try:
        with tarfile.open(file, "r:") as archive:
            members = archive.getmembers()
    except OSError as error:
        raise UsageError(f"cannot read {str(file)!r} ({error.strerror}); give the file that backup.py wrote") from None
    except tarfile.TarError:
        raise UsageError(f"{str(file)!r} is not a backup; give the file that backup.py wrote") from None
    paths = [PurePosixPath(member.name) for member in members]
    if not any(member.isfile() for member in members) or any(
        path.is_absolute() or ".." in path.parts for path in paths
    ):
        raise UsageError(f"{str(file)!r} is not a backup of a volume; give the file that backup.py wrote")


def copy(command: Sequence[str], **streams: Any) -> None:
    """Run a `docker cp` whose archive comes from or goes to a file."""
    say(f"$ {shown(command)}")
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, **streams)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Failure(f"docker cp failed: {said[-1] if said else done.returncode}")


def back_up(store: Store, file: Path) -> None:
    """Write what the store keeps to `file`, which is only there once it is complete."""
    part = file.with_name(f"{file.name}.part")
    try:
        run(["docker", "pause", store.container])
        try:
            with part.open("wb") as archive:
                part.chmod(0o600)
                copy(["docker", "cp", f"{store.container}:{store.folder}/.", "-"], stdout=archive)
        finally:
            run(["docker", "unpause", store.container])
        check_backup(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def stopped(store: Store) -> Iterator[None]:
    """Have the store stopped, and started again afterwards, whatever happens."""
    scale = ["docker", "service", "scale", "--detach=false"]
    run([*scale, f"{store.service}=0"] if store.service else ["docker", "stop", store.container], show=True)
    try:
        yield
    finally:
        run([*scale, f"{store.service}=1"] if store.service else ["docker", "start", store.container], show=True)


def restore(store: Store, file: Path) -> None:
    """Replace what the store keeps by what is in `file`."""
    folder = shlex.quote(store.folder)
    empty = f"rm -rf {folder}/* {folder}/.[!.]* {folder}/..?*"
    helper = ["docker", "create", "--user", "0", "--network", "none", "--entrypoint", "sh"]
    with stopped(store):
        volume = ["--volume", f"{store.volume}:{store.folder}"]
        container = run([*helper, *volume, store.image, "-c", empty]).stdout.strip()
        try:
            run(["docker", "start", "--attach", container])
            with file.open("rb") as archive:
                copy(["docker", "cp", "-", f"{container}:{store.folder}"], stdin=archive, stdout=subprocess.DEVNULL)
        finally:
            run(["docker", "rm", "--force", container])


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("file", type=Path, metavar="FILE", help="the archive to write or to read, such as count.tar")
    arguments.add_argument("--restore", action="store_true", help="put it back")
    arguments.add_argument("--service", default="redis", help="whose volume it is (default: %(default)s)")
    arguments.add_argument("--project", default="", help="which stack or compose project, if there is more than one")
    options = arguments.parse_args(argv)
    if options.restore:
        check_backup(options.file)
    elif not options.file.resolve().parent.is_dir():
        raise UsageError(f"there is no folder for {str(options.file)!r}; make it first")
    elif options.file.exists() and not options.file.is_file():
        raise UsageError(f"{str(options.file)!r} is not a file; give the name of one to write, such as count.tar")
    store = find(options.service, options.project)
    if options.restore:
        restore(store, options.file)
        say(f"put {options.file} back into {store.volume}")
    else:
        back_up(store, options.file)
        say(f"saved {store.volume} in {options.file}; put it back with backup.py --restore {options.file}")
    return 0


if __name__ == "__main__":
    start(main)
