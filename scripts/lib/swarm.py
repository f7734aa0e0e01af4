"""What a Docker Swarm says about a stack: its services, its tasks, and the nodes that they run on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import subprocess
import threading
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

from lib.command import Failure, last_line, run, say
from lib.names import PIPELINE

if TYPE_CHECKING:
    import socket

NAMESPACE = "com.docker.stack.namespace"
"""The label by which Docker knows what belongs to a stack."""

LONGEST_STACK = 41
LONGEST_NAME = 63
"""Characters that Swarm takes in the name of a service (63), a secret or a config (64). What is made of a stack's name
has up to 22 more than that."""

# What `docker node inspect` calls an architecture -> what an image index calls it.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# The states of an update that ended badly, and those of one that has not ended:
# https://docs.docker.com/reference/api/engine/, "ServiceInspect", UpdateStatus.
FAILED_UPDATE = ("paused", "rollback_started", "rollback_paused", "rollback_completed")
MOVING = ("updating", "rollback_started")
PAUSED = ("paused", "rollback_paused")  # until the next update, even if tasks are left over
FAILED = ("failed", "rejected")
ENDED = (*FAILED, "complete")  # by itself; "shutdown" is what Swarm did to it


def docker(*arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run docker against the Swarm's manager and return what it printed."""
    return run(["docker", *arguments], stdin=stdin, timeout=timeout).stdout


@dataclass(frozen=True)
class Service:
    """A service as it is meant to be.

    `update` is the state of its last update, "" if there was none; `secrets` are the names of Docker secrets by the
    file that each is mounted as, and `ports` the published ports by the container's.
    """

    name: str
    image: str
    replicas: int | None
    update: str = ""
    message: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest that the service runs, "" if its image has none."""
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
    """A version of the image that can be deployed: what was asked for, and the one digest that it is.

    `revision` is the commit that it was built from, "" if that is not known; `proof` is what was verified, by name.
    `unverified` is why somebody deployed it although not everything was, "" if nobody had to.
    """

    version: str
    image: str
    digest: str
    revision: str
    proof: Mapping[str, str] = field(default_factory=dict)
    unverified: str = ""

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.digest}"

    def __str__(self) -> str:
        known = f"revision {self.revision[:12]}, " if self.revision else ""
        return f"{self.version} ({known}{self.digest[:19]}{', UNVERIFIED' if self.unverified else ''})"


def short(image: str) -> str:
    """Return an image's name without its registry and with its digest cut short, for a line of progress."""
    name, _, digest = image.partition("@")
    return name.rpartition("/")[2] + (f"@{digest[:19]}" if digest else "")


def parse_services(inspect: str) -> dict[str, Service]:
    """Return the services in the output of `docker service inspect`, by name."""
    return read_services(json.loads(inspect))


def read_services(inspected: Iterable[Mapping[str, Any]], stack: str = "") -> dict[str, Service]:
    """Return services, as the engine describes them, by name without the stack's, such as `web`."""
    found = {}
    for facts in inspected:
        spec = facts["Spec"]
        container = spec["TaskTemplate"]["ContainerSpec"]
        status = facts.get("UpdateStatus") or {}
        pairs = (pair.partition("=") for pair in container.get("Env") or [])
        ports = (spec.get("EndpointSpec") or {}).get("Ports") or []
        found[spec["Name"].removeprefix(f"{stack}_")] = Service(
            name=spec["Name"],
            image=container["Image"],
            replicas=((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas"),
            update=status.get("State", ""),
            message=status.get("Message", ""),
            environment={name: value for name, _, value in pairs},
            secrets={secret["File"]["Name"]: secret["SecretName"] for secret in container.get("Secrets") or []},
            ports={port["TargetPort"]: port["PublishedPort"] for port in ports if port.get("PublishedPort")},
            labels=spec.get("Labels") or {},
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
    """Return the services of a stack by name without the stack's, such as `web`; none if it is not deployed."""
    label = f"label={NAMESPACE}={stack}"
    names = docker("service", "ls", "--filter", label, "--format", "{{.Name}}").split()
    if not names:
        return {}
    done = run(["docker", "service", "inspect", *names], check=False, timeout=60)
    if done.returncode and "no such service" not in done.stderr:  # one that was just removed
        raise Failure(f"cannot inspect the services of {stack}{last_line(done)}")
    return {name.removeprefix(f"{stack}_"): service for name, service in parse_services(done.stdout or "[]").items()}


def ask_engine(method: str, path: str, content: object = None) -> Any:
    """Ask the engine's own interface (https://docs.docker.com/reference/api/engine/) what `docker` has no word for.

    Returns what it answers, from JSON; raises Failure with its reason. `docker system dial-stdio` leads there, wherever
    `docker` finds the engine.
    """
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\n"
    command = ["docker", "system", "dial-stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        timer = threading.Timer(60, process.kill)
        timer.start()
        there, back = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        try:
            there.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            # Not closed before the answer is there: an engine takes that for a client that has left.
            there.flush()
            with http.client.HTTPResponse(cast("socket.socket", Pipe(back))) as response:
                response.begin()
                text = response.read()
            answered = json.loads(text) if text.strip() else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            process.kill()
            said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
            raise Failure(f"the engine does not answer {method} {path}: {said or error}") from error
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(OSError):  # what could not be written is tried once more, and fails once more
                there.close()
    if response.status >= 400:
        reason = answered.get("message", "") if isinstance(answered, dict) else ""
        raise Failure(f"the engine answers {method} {path} with {response.status}: {reason}")
    return answered


@dataclass(frozen=True)
class Pipe:
    """What an HTTP response is read from, if there is no socket."""

    file: IO[bytes]

    def makefile(self, *_: object) -> IO[bytes]:
        return self.file


def inspected(stack: str) -> list[dict[str, Any]]:
    """Return a stack's services, by name, in the engine's own words: all that is needed to put them back."""
    filters = urllib.parse.quote(json.dumps({"label": [f"{NAMESPACE}={stack}"]}))
    found: list[dict[str, Any]] = ask_engine("GET", f"/services?filters={filters}") or []
    return sorted(found, key=lambda facts: facts["Spec"]["Name"])


def put_back(stack: str, services: Sequence[Mapping[str, Any]]) -> None:
    """Make a stack's services what `inspected` returned earlier; what is as it was, and not paused, stays untouched.

    Networks, secrets and configs are still there: a deployment removes none.
    """
    now = {facts["Spec"]["Name"]: facts for facts in inspected(stack)}
    for facts in services:
        spec = facts["Spec"]
        there = now.pop(spec["Name"], None)
        if there is None:
            say(f"  {spec['Name']} is created again")
            ask_engine("POST", "/services/create", spec)
        elif there["Spec"] != spec or (there.get("UpdateStatus") or {}).get("State") in PAUSED:
            say(f"  {spec['Name']} is put back")
            ask_engine("POST", f"/services/{there['ID']}/update?version={there['Version']['Index']}", spec)
    for name, facts in now.items():
        say(f"  {name} is removed again")
        ask_engine("DELETE", f"/services/{facts['ID']}")


def plain_networks(stack: str) -> list[str]:
    """Return the stack's networks that hosts talk over in plain text; none if there is only one host.

    A deployment never changes a network that is there.
    """
    if len(run(["docker", "node", "ls", "--quiet"], check=False, timeout=60).stdout.split()) < 2:
        return []
    label = ("--filter", f"label={NAMESPACE}={stack}")
    names = docker("network", "ls", "--quiet", "--filter", "driver=overlay", *label).split()
    found = json.loads(docker("network", "inspect", *names)) if names else []
    return sorted(network["Name"] for network in found if "encrypted" not in (network.get("Options") or {}))


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
    """Whether two references are the same image; the digests decide if both have one."""
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


def valid_stack(name: str, more: str = "") -> str:
    """Return a repository's name as a stack's, with `more` at its end.

    Letters, digits and dashes, so that `_` separates the parts of what is made of it; short enough for these.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or PIPELINE
    return fitting(plain + more, LONGEST_STACK)


def fitting(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name as it is, or the first part of it with a hash of the whole, so that no two become the same."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 9].rstrip('-_')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
