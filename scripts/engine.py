#!/usr/bin/env python3
"""Find a Docker Engine that can do what the pipeline needs, or set one up.

The pipeline needs Docker Engine with the containerd image store (it keeps a multi-platform index
and its attestations, so that one digest lasts from build to rollback), buildx, and QEMU for the
platform that this machine is not.

Without --setup, says what is missing and what to run. With --setup, on Debian and Ubuntu, installs
and starts what is missing, as root or through sudo; on a GitHub runner it switches the image store
on. An engine that was there before belongs to its user: anywhere else it is left as it is.

Where Docker Hub cannot be reached (or with --offline), --setup also stands in for it: a registry on
localhost with base images made from Debian's packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib import containers, standin
from lib.command import Failure, parser, run, say, start, wait_until
from lib.daemon import Daemon

# The variable PLATFORMS leaves some out, such as for a dependency that has no wheels for one of them.
PLATFORMS = tuple(os.environ.get("PLATFORMS", "").replace(",", " ").split()) or ("linux/amd64", "linux/arm64")

# Docker's own example and Docker Engine 29's default; see the documentation of the image store:
# https://docs.docker.com/engine/storage/containerd/
IMAGE_STORE = {"features": {"containerd-snapshotter": True}}
OLDEST_BUILDX = (0, 13)  # the oldest that the digest hand-over was tried with

RUN = Path("/run/friendlyhello")
DATA = Path("/var/lib/friendlyhello")
DAEMON_JSON = Path("/etc/docker/daemon.json")
PID_FILES = (Path("/var/run/docker.pid"), Path("/run/docker/containerd/containerd.pid"))
APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
DOCKERD = Daemon("dockerd", RUN)
HUB = Daemon("hub", RUN)

DEBIAN_PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose")
UBUNTU_PACKAGES = ("docker.io", "docker-buildx", "docker-compose-v2")
QEMU_PACKAGES = ("qemu-user-static", "binfmt-support")
STAND_IN_PACKAGES = ("docker-registry", "mmdebstrap")


@dataclass(frozen=True)
class Engine:
    """What `docker info` and `docker buildx inspect` say. `version` is "" where no engine answers."""

    version: str = ""
    why_not: str = ""
    image_store: bool = False
    buildx: tuple[int, ...] = ()
    compose: bool = False
    platforms: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()

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
    return Engine(
        version=str(info.get("ServerVersion") or ""),
        why_not=str(errors[0]) if errors else "",
        image_store=any("containerd.snapshotter" in str(value) for _, value in info.get("DriverStatus") or []),
        buildx=tuple(int(part) for part in buildx.groups() if part) if buildx else (),
        compose="compose" in plugins,
        platforms=tuple(name for name in PLATFORMS if name in seen),
        mirrors=tuple((info.get("RegistryConfig") or {}).get("Mirrors") or ()),
    )


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
    inspect = run(["docker", "buildx", "inspect", "default"], check=False, timeout=60).stdout
    found = parse_info(info, inspect)
    # Some clients write why not into the JSON, some beside it.
    return found if found.version or found.why_not else replace(found, why_not=said)


def problems(engine: Engine) -> list[str]:
    """Return what keeps an engine from running the pipeline, a sentence each with what to do."""
    if "permission denied" in engine.why_not:
        return [
            "you may not talk to the Docker Engine: run sudo usermod -aG docker $USER and log in again;"
            " --setup leaves that to you"
        ]
    if not engine.version:
        return [f"no Docker Engine answers ({engine.why_not or 'no reason given'}): start yours, or run with --setup"]
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
    missing = [platform for platform in PLATFORMS if platform not in engine.platforms]
    if missing and engine.buildx:
        found.append(
            f"the engine cannot run {', '.join(missing)}: install qemu-user-static and binfmt-support, or run"
            " docker run --privileged --rm tonistiigi/binfmt --install all"
        )
    return found


def find() -> Engine:
    """Return an engine that can run the pipeline, or raise Failure with all that is missing."""
    engine = look()
    found = problems(engine)
    if found:
        more = "" if any("--setup" in line for line in found) else "; or run python3 scripts/engine.py --setup"
        raise Failure("; ".join(found) + more)
    return engine


def merged(existing: str, wanted: Mapping[str, Any]) -> str:
    """Return the text of a daemon.json with `wanted` merged in: lists and objects gain, nothing is lost.

    Raises Failure where the file is not a JSON object.
    """
    try:
        config = json.loads(existing) if existing.strip() else {}
    except ValueError as error:
        raise Failure(f"{DAEMON_JSON} is not JSON ({error}); mend it first") from error
    if not isinstance(config, dict):
        raise Failure(f"{DAEMON_JSON} is not a JSON object; mend it first")
    for key, value in wanted.items():
        if isinstance(value, dict):
            config[key] = {**config.get(key, {}), **value}
        elif isinstance(value, list):
            config[key] = [*(item for item in config.get(key, []) if item not in value), *value]
        else:
            config[key] = value
    return json.dumps(config, indent=2) + "\n"


def configure(stand_in: bool) -> bool:
    """Merge what we need into daemon.json and return whether that changed it."""
    wanted: dict[str, Any] = dict(IMAGE_STORE)
    if stand_in:
        wanted["registry-mirrors"] = [f"http://{standin.HOST}"]
    before = DAEMON_JSON.read_text("utf-8") if DAEMON_JSON.exists() else ""
    after = merged(before, wanted)
    if before.strip() and json.loads(before) == json.loads(after):
        return False
    DAEMON_JSON.parent.mkdir(parents=True, exist_ok=True)
    DAEMON_JSON.write_text(after, "utf-8")
    return True


def has_systemd() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def on_github_runner() -> bool:
    """Whether this is a GitHub-hosted runner: thrown away afterwards, so ours to configure."""
    return os.environ.get("RUNNER_ENVIRONMENT") == "github-hosted"


def apt_install(packages: Sequence[str]) -> None:
    """Install Debian packages that are missing, quietly; updates apt's lists only where needed."""
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    # Nobody is there to answer, and a service started by its package would take our ports.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "a"}
    missing = [name for name in packages if not installed(name)]
    if not missing:
        return
    say(f"installing {', '.join(missing)}")
    if run(as_root(command), check=False, env=quiet).returncode:
        run(as_root(["apt-get", "update", "-q"]), env=quiet)
        run(as_root(command), env=quiet)


def as_root(command: list[str]) -> list[str]:
    """Return a command that runs as root: through sudo where we are not."""
    return command if os.geteuid() == 0 else ["sudo", "--preserve-env=DEBIAN_FRONTEND,NEEDRESTART_MODE", *command]


def installed(package: str) -> bool:
    """Whether dpkg has a package installed."""
    done = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], check=False)
    return done.returncode == 0 and done.stdout == "installed"


def newer_debian(source: tuple[str, str]) -> tuple[str, str]:
    """Return an apt source for Debian 13 and a preference that takes only Docker from it.

    Debian 12 has no buildx. Debian 13's Docker packages need nothing newer than Debian 12's libc,
    so everything else keeps coming from the release that is installed.
    """
    address, keyring = source
    sources = f"Types: deb\nURIs: {address}\nSuites: trixie\nComponents: main\n"
    if keyring:
        sources += f"Signed-By: {keyring}\n"
    preferences = (
        "Package: *\nPin: release n=trixie\nPin-Priority: 100\n\n"
        f"Package: {' '.join(DEBIAN_PACKAGES)}\nPin: release n=trixie\nPin-Priority: 990\n"
    )
    return sources, preferences


def install_docker() -> None:
    """Install the engine, buildx and compose from the distribution."""
    if not shutil.which("apt-get"):
        raise Failure(
            "--setup installs on Debian and Ubuntu only; install Docker (https://docs.docker.com/engine/install/)"
            " and run this again"
        )
    release = OS_RELEASE.read_text("utf-8")
    if re.search(r"^ID=ubuntu$", release, re.M):
        apt_install(UBUNTU_PACKAGES)
        return
    if all(installed(name) for name in DEBIAN_PACKAGES):
        return
    policy = run(["apt-cache", "policy", "docker-buildx"], check=False).stdout
    if "Candidate:" not in policy or "Candidate: (none)" in policy:
        sources, preferences = newer_debian(standin.debian_source())
        (APT / "sources.list.d/friendlyhello-trixie.sources").write_text(sources, "utf-8")
        (APT / "preferences.d/friendlyhello-trixie").write_text(preferences, "utf-8")
        run(["apt-get", "update", "-q"])
    apt_install(DEBIAN_PACKAGES)


def install_qemu() -> None:
    """Let this kernel run the other platform's programs (binfmt_misc with flag F)."""
    apt_install(QEMU_PACKAGES)
    binfmt = Path("/proc/sys/fs/binfmt_misc")
    if not (binfmt / "register").exists():
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(binfmt)])
    run(["update-binfmts", "--enable"], check=False)  # says 1 where some other format cannot be enabled


def start_hub() -> None:
    """Start the stand-in for Docker Hub, or find it running."""
    say(f"Docker Hub is not used: standing in for it at {standin.HOST}, with base images made from Debian's packages")
    apt_install(STAND_IN_PACKAGES)
    if HUB.pid is None:
        if standin.answers(standin.PORT):
            raise Failure(
                f"something else answers on {standin.HOST}, where Docker Hub's stand-in belongs; end it first"
            )
        standin.start_registry(HUB, DATA / "hub", standin.PORT)


def start_dockerd() -> None:
    """Start dockerd ourselves, where there is no systemd to do it; mend what a killed one left."""
    if DOCKERD.pid is not None:
        say("a half-started engine is in the way: stopping it")
        DOCKERD.stop()
    for stale in PID_FILES:
        if stale.exists() and not is_running(stale, ("dockerd", "containerd")):
            stale.unlink()
    DOCKERD.start(["dockerd"], ready=answers, seconds=90)


def is_running(pid_file: Path, names: Sequence[str]) -> bool:
    """Whether a PID file names a live process of one of these names, and not a stranger's."""
    try:
        pid = int(pid_file.read_text("utf-8"))
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip() in names
    except (OSError, ValueError):
        return False


def answers() -> bool:
    """Whether the engine answers."""
    return bool(containers.server_version())


def restart(changed: bool) -> None:
    """Start the engine, or restart it where its configuration changed."""
    if has_systemd():
        if changed or not answers():
            run(["systemctl", "reset-failed", "docker"], check=False)
            run(["systemctl", "restart", "docker"])
        wait_until(answers, seconds=90, what="the engine to start")
    elif changed or not answers():
        DOCKERD.stop()
        start_dockerd()


def is_ours() -> bool:
    """Whether the engine may be configured: started by us, a GitHub runner's, or not there yet."""
    return DOCKERD.pid is not None or on_github_runner() or not answers()


def setup(offline: bool) -> Engine:
    """Install, configure and start what is missing; return the engine. Does nothing twice, and nothing as root then."""
    engine = look()
    missing = problems(engine)
    if not missing and engine.stands_in and all(map(standin.has, standin.RECIPES)):
        return engine
    # A GitHub runner always reaches Docker Hub, or should say so: what it builds is published.
    stand_in = offline or not (on_github_runner() or standin.hub_reachable())
    if not missing and not engine.stands_in and not stand_in:
        return engine
    if sys.platform != "linux":
        raise Failure(f"--setup works on Linux; here: {'; '.join(missing) or 'Docker Hub cannot be reached'}")
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            raise Failure("--setup needs root, and there is no sudo; run it as root")
        kept = "PLATFORMS,RUNNER_ENVIRONMENT,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,http_proxy,https_proxy,no_proxy"
        again = ["sudo", f"--preserve-env={kept}", sys.executable, __file__, "--setup"]
        run([*again, *(["--offline"] if offline else [])], show=True, passthrough=True)
        return find()
    if not missing and engine.stands_in:
        start_hub()
        standin.make_missing(PLATFORMS)
        return engine
    if not is_ours():
        if not engine.image_store or (stand_in and not engine.stands_in):
            wanted = {**IMAGE_STORE, **({"registry-mirrors": [f"http://{standin.HOST}"]} if stand_in else {})}
            raise Failure(
                f"this engine was there before, so it is left as it is; add {json.dumps(wanted)} to {DAEMON_JSON},"
                " restart it, and run this again"
            )
    else:
        if not (shutil.which("dockerd") and shutil.which("docker") and engine.buildx >= OLDEST_BUILDX):
            install_docker()
        if stand_in:
            start_hub()
        restart(configure(stand_in))
    if set(PLATFORMS) - set(look().platforms):
        install_qemu()
    engine = find()
    if stand_in:
        standin.make_missing(PLATFORMS)
    return engine


def stop() -> None:
    """Stop what an earlier --setup started on this machine, and nothing else."""
    for daemon in (DOCKERD, HUB):
        if daemon.stop():
            say(f"stopped {daemon.name}")


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--setup", action="store_true", help="install, configure and start what is missing")
    arguments.add_argument("--offline", action="store_true", help="with --setup: stand in for Docker Hub in any case")
    arguments.add_argument("--stop", action="store_true", help="stop what --setup started on this machine")
    options = arguments.parse_args(argv)
    if options.stop:
        stop()
        return 0
    engine = setup(options.offline) if options.setup else find()
    print(engine)
    return 0


if __name__ == "__main__":
    start(main)
