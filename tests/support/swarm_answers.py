"""What docker says about a Swarm, for tests that have none: releases, services and tasks, as objects and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from lib.record import Record
from lib.swarm import Release, Service, Task
from support.programs import Programs

OLD, NEW = (f"sha256:{letter * 64}" for letter in "ab")
COMMIT = "c" * 40
PROVEN = Record(1, Release("1.0.0", "me/hello", OLD, "c" * 40), "2026-01-02T03:04:05Z", "me@here")
RELEASE = Release("1.1.0", "me/hello", NEW, "d" * 40)


def release(version: str = "1.0.0", digest: str = OLD) -> Release:
    """A release of me/hello."""
    return Release(version, "me/hello", digest, COMMIT)


def record(number: int, version: str, digest: str, before: int | None) -> Record:
    """A record of a release."""
    return Record(number, release(version, digest), "2026-01-02T03:04:05Z", "me@here", before=before)


def task(state: str = "running", **more: str) -> Task:
    """A task of the service hello_web."""
    facts = {"id": "t1", "name": "hello_web.1", "image": f"me/hello@{NEW}", "node": "n1", "wanted": "running", **more}
    return Task(**facts, state=state)


def web(**more: object) -> Service:
    """The service hello_web, which is to run the new digest once."""
    return replace(Service("hello_web", f"me/hello@{NEW}", 1), **more)  # type: ignore[arg-type]


def service(digest: str = NEW, update: str = "", message: str = "") -> str:
    """What `docker service inspect` says of hello_web, which is to run once."""
    return json.dumps(
        [
            {
                "Spec": {
                    "Name": "hello_web",
                    "Mode": {"Replicated": {"Replicas": 1}},
                    "TaskTemplate": {"ContainerSpec": {"Image": f"me/hello@{digest}"}},
                },
                "UpdateStatus": {"State": update, "Message": message},
            }
        ]
    )


def tasks(*states: str, error: str = "", wanted: str = "Running", digest: str = NEW) -> str:
    """What `docker service ps` says of tasks, of the new release unless it is another one."""
    return "\n".join(
        json.dumps(
            {
                "ID": f"t{number}",
                "Name": "hello_web.1",
                "Image": f"me/hello@{digest}",
                "Node": "n1",
                "DesiredState": wanted,
                "CurrentState": f"{state} now",
                "Error": error,
            }
        )
        for number, state in enumerate(states)
    )


def deployed(docker: Programs, inspect: str, ps: str = "") -> Programs:
    """Let docker say that the stack is there."""
    docker.answer("^docker service ls", "hello_web\n").answer("^docker service inspect", inspect)
    return docker.answer("^docker service ps", ps)
