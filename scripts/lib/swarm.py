"""What a Docker Swarm says about a stack: its services, its tasks, and the nodes that they run on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lib.command import Failure, last_line, run

# What `docker node inspect` calls an architecture -> what an image index calls it.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# The states of an update that ended badly, and those of one that has not ended:
# https://docs.docker.com/reference/api/engine/, "ServiceInspect", UpdateStatus.
FAILED_UPDATE = ("paused", "rollback_started", "rollback_paused", "rollback_completed")
MOVING = ("updating", "rollback_started")
FAILED = ("failed", "rejected")
ENDED = (*FAILED, "complete")  # by itself; "shutdown" is what Swarm did to it


def docker(*arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run docker against the Swarm's manager and return what it printed."""
    return run(["docker", *arguments], stdin=stdin, timeout=timeout).stdout


@dataclass(frozen=True)
class Service:
    """A service as it is meant to be. `update` is the state of its last update, "" where there was none."""

    name: str
    image: str
    replicas: int | None
    update: str = ""
    message: str = ""
    environment: Mapping[str, str] | None = None
    secrets: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """The digest that the service runs, "" where its image has none."""
        return self.image.partition("@")[2]


@dataclass(frozen=True)
class Task:
    """One container of a service, or what is left of it. `state` is a word, `since` what docker says after it."""

    id: str
    name: str
    image: str
    node: str
    wanted: str
    state: str
    since: str = ""
    error: str = ""

    @property
    def service(self) -> str:
        return self.name.rpartition(".")[0]

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        why = f": {self.error}" if self.error else ""
        return f"{self.name}{where} {self.state}, {short(self.image)}{why}"


@dataclass(frozen=True)
class Release:
    """A version of the image that can be deployed: what was asked for, and the one digest that it is."""

    version: str
    image: str
    digest: str
    revision: str

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.digest}"

    def __str__(self) -> str:
        known = f"revision {self.revision[:12]}, " if self.revision else ""
        return f"{self.version} ({known}{self.digest[:19]})"


def short(image: str) -> str:
    """Return an image's name without its registry and with its digest cut short, for a line of progress."""
    name, _, digest = image.partition("@")
    return name.rpartition("/")[2] + (f"@{digest[:19]}" if digest else "")


def parse_services(inspect: str) -> dict[str, Service]:
    """Return the services in the output of `docker service inspect`, by name."""
    found = {}
    for facts in json.loads(inspect):
        spec = facts["Spec"]
        container = spec["TaskTemplate"]["ContainerSpec"]
        status = facts.get("UpdateStatus") or {}
        pairs = (pair.partition("=") for pair in container.get("Env") or [])
        ports = (spec.get("EndpointSpec") or {}).get("Ports") or []
        found[spec["Name"]] = Service(
            name=spec["Name"],
            image=container["Image"],
            replicas=((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas"),
            update=status.get("State", ""),
            message=status.get("Message", ""),
            environment={name: value for name, _, value in pairs},
            secrets=tuple(secret["SecretName"] for secret in container.get("Secrets") or []),
            ports=tuple(port["PublishedPort"] for port in ports if port.get("PublishedPort")),
        )
    return found


def parse_tasks(lines: str) -> list[Task]:
    """Return the tasks in the output of `docker service ps --no-trunc --format json`, newest of a slot first."""
    tasks = []
    for line in lines.splitlines():
        facts = json.loads(line)
        state, _, since = facts["CurrentState"].partition(" ")
        tasks.append(
            Task(
                id=facts["ID"],
                name=facts["Name"].strip(" \\_"),
                image=facts["Image"],
                node=facts["Node"],
                wanted=facts["DesiredState"].lower(),
                state=state.lower(),
                since=since,
                error=facts["Error"].strip('"'),
            )
        )
    return tasks


def services(stack: str) -> dict[str, Service]:
    """Return the services of a stack by name without the stack's, such as `web`; none where it is not deployed."""
    label = f"label=com.docker.stack.namespace={stack}"
    names = docker("service", "ls", "--filter", label, "--format", "{{.Name}}").split()
    if not names:
        return {}
    done = run(["docker", "service", "inspect", *names], check=False, timeout=60)
    if done.returncode and "no such service" not in done.stderr:  # one that was just removed
        raise Failure(f"cannot inspect the services of {stack}{last_line(done)}")
    return {name.removeprefix(f"{stack}_"): service for name, service in parse_services(done.stdout or "[]").items()}


def tasks_of(found: Iterable[Service]) -> list[Task]:
    """Return the tasks of services, those of the past included."""
    names = [service.name for service in found]
    if not names:
        return []
    return parse_tasks(docker("service", "ps", "--no-trunc", "--format", "json", *names))


def behind(service: Service, tasks: Sequence[Task]) -> str:
    """Return what a service still waits for, in words, or "" when everything runs as it is meant to.

    Running means healthy: Swarm calls a task `starting` until its health check passes.
    """
    own = [task for task in tasks if task.service == service.name and task.wanted in ("running", "ready", "complete")]
    # A global service's tasks are named after their nodes: as many as there are nodes for it.
    expected = len(own) if service.replicas is None else service.replicas
    good = [task for task in own if task.state == "running" and same_image(task.image, service.image)]
    if service.update in MOVING:
        return f"{service.name} is {service.update}"
    if len(good) != expected or len(own) != expected or (service.replicas is None and not own):
        return f"{service.name} has {len(good)} of {expected} running"
    return ""


def same_image(one: str, other: str) -> bool:
    """Whether two references are the same image; a digest decides where both have one."""
    if "@" in one and "@" in other:
        return one.partition("@")[2] == other.partition("@")[2]
    return one.partition("@")[0] == other.partition("@")[0]


def node_platforms(inspect: str) -> list[str]:
    """Return the platforms of the nodes that take tasks, from the output of `docker node inspect`."""
    found = set()
    for node in json.loads(inspect):
        if node["Spec"]["Availability"] == "active" and node["Status"]["State"] == "ready":
            platform = node["Description"]["Platform"]
            found.add(f"{platform['OS']}/{ARCHITECTURES.get(platform['Architecture'], platform['Architecture'])}")
    return sorted(found)


def changes(before: Mapping[str, Task], tasks: Sequence[Task]) -> list[str]:
    """Return a line for each task that is new or in another state than before."""
    return [
        str(task)
        for task in tasks
        if (old := before.get(task.id)) is None or (old.state, old.error) != (task.state, task.error)
    ]


def valid_stack(name: str) -> str:
    """Return a repository's name as a stack's: letters, digits and dashes, so that `_` separates its parts."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "friendlyhello"
