#!/usr/bin/env python3
"""The whole pipeline on this machine: build, smoke-test, push, pull back by digest, run.

With no account it publishes to a registry on localhost, which is removed afterwards. With --push it
publishes to Docker Hub for real, as DOCKERHUB_USERNAME, with DOCKERHUB_TOKEN or after docker login.
Prints what a user gets: the seconds of each stage, the one digest, sizes, and the docker run.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import build_image
import push_image
import smoke_test
from engine import setup as set_up
from lib import containers, engine, service, standin
from lib.client import ask
from lib.command import (
    STATE,
    Failure,
    Progress,
    UsageError,
    last_line,
    parser,
    port_number,
    run,
    say,
    stage,
    start,
    wait_until,
)
from lib.names import PIPELINE, Commit, ImageName, checked_out, image_name
from lib.registry import LocalImage, check_same, layer_sizes, local_image, run_pulling
from lib.service import Service

REGISTRY_IMAGE = "registry:3"


@dataclass(frozen=True)
class Result:
    """What the run yielded; digests are of the index, sizes in bytes by platform."""

    tested_digest: str
    published_digest: str
    reference: str
    platforms: Sequence[str]
    compressed_bytes: Mapping[str, int]
    added_bytes: Mapping[str, int]


def registry_command() -> list[str]:
    """Return the command that starts a registry on a free port of localhost."""
    return ["docker", "run", "--detach", "--publish", "127.0.0.1::5000", "--label", containers.label(), REGISTRY_IMAGE]


@contextlib.contextmanager
def local_registry() -> Iterator[str]:
    """A registry on localhost, gone at the end."""
    container = run_pulling(registry_command(), show=True).stdout.strip()
    try:
        port = smoke_test.published_port(container, 5000)
        wait_until(lambda: standin.answers(port), what=f"the registry on localhost:{port}")
        yield f"localhost:{port}"
    finally:
        run(["docker", "rm", "--force", "--volumes", container], check=False)


@contextlib.contextmanager
def logged_in(username: str, token: str, registry: str) -> Iterator[None]:
    """Log in with a token if there is one, and out again at the end; else trust an earlier docker login."""
    if not token:
        yield
        return
    server = [registry] if registry else []
    done = run(["docker", "login", "--username", username, "--password-stdin", *server], stdin=token, check=False)
    if done.returncode != 0:
        raise Failure(
            f"cannot log in as {username}{last_line(done)}; check that DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"
            " belong together"
        )
    try:
        yield
    finally:
        run(["docker", "logout", *server], check=False)


def pull_back(
    image: LocalImage, target: ImageName, commit: Commit, digest: str, platforms: Sequence[str] = service.PLATFORMS
) -> None:
    """Remove the image here and get it from the registry again, by its digest."""
    for name in (image.reference, target.tagged(commit.revision)):
        run(["docker", "image", "rm", "--force", name], check=False)
    reference = target.at(digest)
    for platform in platforms:  # without --platform a pull brings the host's only
        run_pulling(["docker", "pull", "--quiet", "--platform", platform, reference], show=True)
    pulled = local_image(reference)
    check_same(f"{reference}, pulled back,", digest, pulled.digest)
    # The names that the image had here, so that a later step or a user finds it.
    for name in (image.reference, target.tagged(commit.revision)):
        run(["docker", "tag", reference, name])


def plain_run_command(this: Service, reference: str, port: int, network: str = "") -> list[str]:
    """Return the command that users start the image with, in the background."""
    return [
        *("docker", "run", "--detach", "--publish", f"{port}:{this.port}"),
        *(["--network", network] if network else []),
        *smoke_test.variables(this.environment if network else this.secrets),
        *("--label", containers.label(), reference),
    ]


def run_as_users_do(this: Service, smoke: ModuleType | None, reference: str, port: int) -> str:
    """Run a published image as the README says, alone if it can be; check smoke.py's promises and return the page."""
    alone, complete = getattr(smoke, "alone", None), getattr(smoke, "complete", None)
    network, started = "", []
    if complete and not alone and this.backing:
        network = f"{PIPELINE}-run-{containers.run_id()}"
        run(["docker", "network", "create", "--label", containers.label(), network])
        started = [run_pulling(smoke_test.backing_command(backing, network)).stdout.strip() for backing in this.backing]
    container = containers.start(plain_run_command(this, reference, port, network))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(
            lambda: is_up(f"{address}{this.health}"), seconds=smoke_test.START_SECONDS, what=f"an answer on port {port}"
        )
        environment = this.environment if network else this.secrets
        visitor = smoke_test.Visitor(port, container[:12], environment)
        if promise := alone or complete:
            smoke_test.keep(promise, visitor)
        answer = visitor.get(this.page)
        if answer.status >= 400:
            raise Failure(f"GET {this.page} answered {answer.status}")
    except Failure:
        say(f"the service wrote:\n{containers.logs(container)}")
        raise
    else:
        return answer.text
    finally:
        run(["docker", "rm", "--force", "--volumes", container, *started], check=False)


def is_up(address: str) -> bool:
    """Whether a server answers at an address."""
    try:
        return ask(address).status < 500
    except Failure:
        return False


def added_bytes(reference: str, layers: Mapping[str, Sequence[int]], title: str) -> dict[str, int]:
    """Return platform -> compressed bytes of those of the `layers` that the Dockerfile adds to its base image.

    The first instruction of its last stage tells where they begin in the image's history (OCI image
    configuration, "history").
    """
    images = json.loads(
        run(["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Image}}", reference]).stdout
    )
    # By platform, unless there is only one.
    return {
        platform: sum(sizes[base_layers(images.get(platform, images)["history"], title) :])
        for platform, sizes in layers.items()
    }


def base_layers(history: Sequence[Mapping[str, Any]], title: str) -> int:
    """Return how many layers of an image come from its base image: those before the one that sets its title.

    Raises Failure if none sets it.
    """
    count = 0
    for entry in history:
        if f"org.opencontainers.image.title={title} " in entry.get("created_by", "").replace('"', "") + " ":
            return count
        count += not entry.get("empty_layer", False)
    raise Failure(
        f"no instruction of the image sets org.opencontainers.image.title={title}, which service.toml names; see LABEL"
        " in Dockerfile"
    )


def stages() -> list[dict[str, Any]]:
    """Return this run's stages: name and seconds."""
    lines = (STATE / "stages.jsonl").read_text("utf-8").splitlines()
    return [{"name": entry["name"], "seconds": entry["seconds"]} for entry in map(json.loads, lines)]


def report(result: Result, done: Sequence[Mapping[str, Any]], run_line: str, port: int) -> str:
    """Return the table at the end."""
    width = max(len(entry["name"]) for entry in done)
    total = sum(entry["seconds"] for entry in done)
    lines = [f"{'stage':<{width}}  seconds", *(f"{entry['name']:<{width}}  {entry['seconds']:7.1f}" for entry in done)]
    lines += [f"{'all':<{width}}  {total:7.1f}", "", f"digest     {result.tested_digest}"]
    lines += ["           identical after build, test, push and pull"]
    for platform in result.platforms:
        whole, added = result.compressed_bytes[platform] / 1e6, result.added_bytes[platform] / 1e6
        lines.append(f"{platform}  {whole:.1f} MB compressed, {added:.1f} MB of it on top of the base image")
    return "\n".join([*lines, "", f"run it:    {run_line}", f"then open http://localhost:{port}"])


def pipeline(this: Service, *, setup: bool, offline: bool, push: bool, port: int) -> tuple[Result, str]:
    """Run every stage; return the result and the line that runs the image."""
    commit = checked_out()
    smoke = smoke_test.promises()
    env = dict(os.environ)
    if push and not env.get("DOCKERHUB_USERNAME"):
        raise UsageError("--push needs DOCKERHUB_USERNAME: set it to the name you log in to the registry with")
    env.setdefault("DOCKERHUB_USERNAME", "local")
    target = image_name(env, commit.repository)
    STATE.mkdir(exist_ok=True)
    (STATE / "stages.jsonl").unlink(missing_ok=True)
    Progress.begun, Progress.total = 0, 6 + len(this.platforms)
    with stage("Find a Docker Engine"):
        found = set_up(offline, this.platforms) if setup or offline else engine.find(this.platforms)
        say(str(found))
        if not push and engine.without_loopback(found):
            raise Failure(engine.without_loopback(found))
    with containers.cleaned_up(), contextlib.ExitStack() as cleanup:
        with stage("Build image"):
            image = build_image.build(this.image, this.platforms, commit)
        smoke_test.smoke_test(image, this.platforms, port)
        with stage("Push image"):
            if push:
                cleanup.enter_context(
                    logged_in(env["DOCKERHUB_USERNAME"], env.get("DOCKERHUB_TOKEN", ""), target.registry)
                )
            else:
                host = cleanup.enter_context(local_registry())
                target = ImageName(host, target.namespace, target.repository)
            digest = push_image.publish(image, target, commit)
        with stage("Pull image back by digest"):
            pull_back(image, target, commit, digest, this.platforms)
        with stage(f"Run it on port {port}"):
            page = run_as_users_do(this, smoke, target.at(digest), port)
        say(f"the page: {page[:500]}")
        layers = layer_sizes(target.at(digest))
        result = Result(
            image.digest,
            digest,
            target.at(digest),
            this.platforms,
            {platform: sum(sizes) for platform, sizes in layers.items()},
            added_bytes(target.at(digest), layers, this.name),
        )
    name = target.tagged(commit.revision) if push else this.image
    return result, this.run_line(name)


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument("--setup", action="store_true", help="install, configure and start what is missing")
    arguments.add_argument(
        "--offline", action="store_true", help="stand in for Docker Hub in any case; implies --setup"
    )
    arguments.add_argument("--push", action="store_true", help="publish to Docker Hub, or to REGISTRY, for real")
    arguments.add_argument(
        "--port", type=port_number, default=this.publish, help="the port to publish (default: %(default)s)"
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines, too")
    options = arguments.parse_args(argv)
    result, line = pipeline(this, setup=options.setup, offline=options.offline, push=options.push, port=options.port)
    if options.json:
        options.json.write_text(json.dumps({**vars(result), "stages": stages()}, indent=2) + "\n", "utf-8")
    print(report(result, stages(), line, this.publish))
    return 0


if __name__ == "__main__":
    start(main)
