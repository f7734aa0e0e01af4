"""Find the Docker Engine that `docker` talks to, and say what keeps it from running the pipeline."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib import standin
from lib.command import Failure, run
from lib.images import without_digest
from lib.service import PLATFORMS

# Docker's own example and Docker Engine 29's default; see the documentation of the image store:
# https://docs.docker.com/engine/storage/containerd/
IMAGE_STORE = {"features": {"containerd-snapshotter": True}}
OLDEST_BUILDX = (0, 13)  # the oldest that the digest hand-over was tried with
DAEMON_JSON = Path("/etc/docker/daemon.json")

# An engine speaks plain HTTP to these, unless its configuration names others: Docker Engine 29.10 then takes its list
# literally (https://github.com/moby/moby/releases/tag/docker-v29.10.0).
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class Engine:
    """What `docker info` and `docker buildx inspect` say. `version` is "" if no engine answers.

    `platforms` are those that it can run of all that a service may be built for.
    """

    version: str = ""
    why_not: str = ""
    image_store: bool = False
    buildx: tuple[int, ...] = ()
    platforms: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    loopback: bool = True
    """Whether it takes and gives images by plain HTTP at 127.0.0.1."""

    @property
    def stands_in(self) -> bool:
        """Whether this engine takes its base images from the stand-in for Docker Hub."""
        return any(standin.HOST in mirror for mirror in self.mirrors)

    def __str__(self) -> str:
        hub = f"base images: STAND-INS from {standin.HOST}, not Docker Hub's" if self.stands_in else ""
        parts = (f"Docker Engine {self.version}", f"buildx {'.'.join(map(str, self.buildx))}", *self.platforms, hub)
        return ", ".join(part for part in parts if part)


def parse_info(info: Mapping[str, Any], inspect: str) -> Engine:
    """Return what `docker info` (as JSON) and the text of `docker buildx inspect` say."""
    plugins = {plugin.get("Name"): plugin for plugin in (info.get("ClientInfo") or {}).get("Plugins") or []}
    buildx = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", str(plugins.get("buildx", {}).get("Version", "")))
    found = re.search(r"^Platforms:\s*(.+)$", inspect, re.M)
    # buildx marks the platforms that somebody asked for with a star.
    seen = [name.strip().rstrip("*") for name in found[1].split(",")] if found else []
    errors = info.get("ServerErrors") or []
    registries = info.get("RegistryConfig") or {}
    return Engine(
        version=str(info.get("ServerVersion") or ""),
        why_not=str(errors[0]) if errors else "",
        image_store=any("containerd.snapshotter" in str(value) for _, value in info.get("DriverStatus") or []),
        buildx=tuple(int(part) for part in buildx.groups() if part) if buildx else (),
        platforms=tuple(name for name in PLATFORMS if name in seen),
        mirrors=tuple(registries.get("Mirrors") or ()),
        loopback="InsecureRegistryCIDRs" not in registries
        or any(is_loopback(network) for network in registries["InsecureRegistryCIDRs"] or ()),
    )


def is_loopback(network: str) -> bool:
    """Whether an engine's list of addresses without TLS, such as 127.0.0.0/8, has 127.0.0.1 in it."""
    return ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(network, strict=False)


def builder() -> str:
    """Return the builder of the engine that `docker` talks to: it has the name of the current context.

    `default` is another engine if the context is Colima's, OrbStack's or a rootless engine's.
    https://docs.docker.com/build/builders/#default-builder
    """
    return run(["docker", "context", "show"], check=False, timeout=60).stdout.strip() or "default"


def look() -> Engine:
    """Return the engine that `docker` talks to; never raises for one that is missing."""
    if not shutil.which("docker"):
        return Engine(why_not="there is no docker command")
    done = run(["docker", "info", "--format", "{{json .}}"], check=False, timeout=60)
    said = (done.stderr.strip().splitlines() or ["docker info said nothing"])[-1]
    try:
        info = json.loads(done.stdout)
    except ValueError:
        return Engine(why_not=said)
    inspect = run(["docker", "buildx", "inspect", builder()], check=False, timeout=60).stdout
    found = parse_info(info, inspect)
    # Some clients write why not into the JSON, some beside it.
    return found if found.version or found.why_not else replace(found, why_not=said)


def here(reference: str) -> str:
    """Return a reference as the engine that `docker` talks to has it: a stand-in has another digest."""
    plain = without_digest(reference)
    return plain if plain != reference and look().stands_in else reference


def problems(engine: Engine, platforms: Sequence[str]) -> list[str]:
    """Return what keeps an engine from running the pipeline, a sentence each with what to do.

    It has to run images for `platforms`; it can build for others too, as nothing is run there.
    """
    if "permission denied" in engine.why_not:
        return [
            "you may not talk to the Docker Engine: run sudo usermod -aG docker $USER and log in again;"
            " --setup leaves that to you"
        ]
    if not engine.version:
        return [
            f"no Docker Engine is reachable ({engine.why_not or 'no reason given'}); start it, or rerun with --setup"
        ]
    found = []
    if not engine.image_store:
        found.append(
            f"the engine's containerd image store is off: add {json.dumps(IMAGE_STORE)} to {DAEMON_JSON}"
            " (in Docker Desktop: Settings, General) and restart the engine"
        )
    if engine.buildx < OLDEST_BUILDX:
        found.append(
            "docker buildx 0.13 or newer is missing: install the package docker-buildx or docker-buildx-plugin"
        )
    missing = [platform for platform in platforms if platform not in engine.platforms]
    if missing and engine.buildx:
        found.append(
            f"the engine cannot run {', '.join(missing)}: install qemu-user-static and binfmt-support from your"
            " distribution; Docker Desktop has them"
        )
    return found


def without_loopback(engine: Engine) -> str:
    """Return why an engine cannot use a registry on this machine and what to do, or ""."""
    if engine.loopback or not engine.version:
        return ""
    return (
        f"the engine wants TLS of a registry on localhost, because its insecure-registries name others only:"
        f' add {", ".join(json.dumps(network) for network in LOOPBACK)} to "insecure-registries" in {DAEMON_JSON}'
        " and restart the engine"
    )


def find(platforms: Sequence[str]) -> Engine:
    """Return an engine that can run the pipeline for `platforms`, or raise Failure with all that is missing."""
    engine = look()
    found = problems(engine, platforms)
    if found:
        more = "" if any("--setup" in line for line in found) else "; or run python3 scripts/engine.py --setup"
        raise Failure("; ".join(found) + more)
    return engine
