#!/usr/bin/env python3
"""Find a Docker Engine that can do what the pipeline needs, or set one up.

The pipeline needs Docker Engine with the containerd image store (it keeps a multi-platform index
and its attestations, so that one digest lasts from build to rollback), buildx, and QEMU for the
platform that this machine is not.

Without --setup, says what is missing and what to run. With --setup, on Debian and Ubuntu, installs
and starts what is missing, as root or through sudo; on a GitHub runner it switches the image store
on. An engine that was there before belongs to its user: anywhere else it is left as it is.

If Docker Hub cannot be reached (or with --offline), --setup also stands in for it: a registry on
localhost with base images made from Debian's packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import apt, containers, service, standin
from lib.command import Failure, parser, run, say, start, wait_until
from lib.daemon import Daemon
from lib.engine import (
    DAEMON_JSON,
    IMAGE_STORE,
    LOOPBACK,
    OLDEST_BUILDX,
    Engine,
    find,
    look,
    problems,
    without_loopback,
)
from lib.names import FORMER, PIPELINE


def own(folder: str) -> Path:
    """Return our part of a system folder; an earlier version's, if it is there and ours is not."""
    ours, former = Path(folder) / PIPELINE, Path(folder) / FORMER
    return former if former.is_dir() and not ours.is_dir() else ours


RUN = own("/run")
DATA = own("/var/lib")
PID_FILES = (Path("/var/run/docker.pid"), Path("/run/docker/containerd/containerd.pid"))
OS_RELEASE = Path("/etc/os-release")
DOCKERD = Daemon("dockerd", RUN)
HUB = Daemon("hub", RUN)

DEBIAN_PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose")
UBUNTU_PACKAGES = ("docker.io", "docker-buildx", "docker-compose-v2")
QEMU_PACKAGES = ("qemu-user-static", "binfmt-support")
STAND_IN_PACKAGES = ("docker-registry", "mmdebstrap")


def merged(existing: str, wanted: Mapping[str, Any]) -> str:
    """Return the text of a daemon.json with `wanted` merged in: lists and objects gain, nothing is lost.

    Raises Failure if the file is not a JSON object.
    """
    try:
        config = json.loads(existing) if existing.strip() else {}
    except ValueError as error:
        raise Failure(f"{DAEMON_JSON} is not JSON ({error}); fix it first") from error
    if not isinstance(config, dict):
        raise Failure(f"{DAEMON_JSON} is not a JSON object; fix it first")
    for key, value in wanted.items():
        if isinstance(value, dict):
            config[key] = {**config.get(key, {}), **value}
        elif isinstance(value, list):
            config[key] = [*(item for item in config.get(key, []) if item not in value), *value]
        else:
            config[key] = value
    return json.dumps(config, indent=2) + "\n"


def settings(engine: Engine, stand_in: bool) -> dict[str, Any]:
    """Return what an engine's daemon.json must say."""
    wanted: dict[str, Any] = dict(IMAGE_STORE)
    if stand_in:
        wanted["registry-mirrors"] = [f"http://{standin.HOST}"]
        if not engine.loopback:
            wanted["insecure-registries"] = list(LOOPBACK)
    return wanted


def configure(wanted: Mapping[str, Any]) -> bool:
    """Merge what we need into daemon.json and return whether that changed it."""
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
        apt.install(UBUNTU_PACKAGES)
        return
    if all(apt.installed(name) for name in DEBIAN_PACKAGES):
        return
    if not apt.available(["docker-buildx"]):
        apt.update()
    if not apt.available(["docker-buildx"]):
        sources, preferences = newer_debian(apt.debian_source())
        (apt.FOLDER / f"sources.list.d/{PIPELINE}-trixie.sources").write_text(sources, "utf-8")
        (apt.FOLDER / f"preferences.d/{PIPELINE}-trixie").write_text(preferences, "utf-8")
        apt.update()
    apt.install(DEBIAN_PACKAGES)


def install_qemu() -> None:
    """Let this kernel run the other platform's programs (binfmt_misc with flag F)."""
    apt.install(QEMU_PACKAGES)
    binfmt = Path("/proc/sys/fs/binfmt_misc")
    if not (binfmt / "register").exists():
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(binfmt)])
    run(["update-binfmts", "--enable"], check=False)  # says 1 if some other format cannot be enabled


def start_hub() -> None:
    """Start the stand-in for Docker Hub, or find it running."""
    say(f"Docker Hub is not used: standing in for it at {standin.HOST}, with base images made from Debian's packages")
    apt.install(STAND_IN_PACKAGES)
    if HUB.pid is None:
        if standin.answers(standin.PORT):
            raise Failure(
                f"something else answers on {standin.HOST}, where Docker Hub's stand-in belongs; end it first"
            )
        standin.start_registry(HUB, DATA / "hub", standin.PORT)


def start_dockerd() -> None:
    """Start dockerd ourselves if there is no systemd to do it; remove what a killed one left."""
    if DOCKERD.pid is not None:
        say("a half-started engine is in the way: stopping it")
        DOCKERD.stop()
    for stale in PID_FILES:
        if stale.exists() and not is_running(stale, ("dockerd", "containerd")):
            stale.unlink()
    DOCKERD.start(["dockerd"], ready=answers)


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
    """Start the engine, or restart it if its configuration changed."""
    if has_systemd():
        if changed or not answers():
            run(["systemctl", "reset-failed", "docker"], check=False)
            run(["systemctl", "restart", "docker"])
        wait_until(answers, what="the engine to start")
    elif changed or not answers():
        DOCKERD.stop()
        start_dockerd()


def is_ours() -> bool:
    """Whether the engine may be configured: started by us, a GitHub runner's, or not there yet."""
    return DOCKERD.pid is not None or on_github_runner() or not answers()


def run_as_root(*options: str) -> None:
    """Run this script through sudo, with what it needs to know of its environment."""
    if not shutil.which("sudo"):
        raise Failure(f"{options[0]} needs root, and there is no sudo; run it as root")
    kept = "PLATFORMS,RUNNER_ENVIRONMENT,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,http_proxy,https_proxy,no_proxy"
    run(["sudo", f"--preserve-env={kept}", sys.executable, __file__, *options], show=True, passthrough=True)


def setup(offline: bool, platforms: Sequence[str]) -> Engine:
    """Install, configure and start what is missing for `platforms`; return the engine.

    Does nothing twice, and nothing as root then.
    """
    engine = look()
    missing = problems(engine, platforms)
    if not missing and engine.stands_in and all(map(standin.has, standin.images())):
        return engine
    # A GitHub runner always reaches Docker Hub, or should say so: what it builds is published.
    stand_in = offline or not (on_github_runner() or standin.hub_reachable())
    if not missing and not engine.stands_in and not stand_in:
        return engine
    if sys.platform != "linux":
        raise Failure(f"--setup works on Linux; here: {'; '.join(missing) or 'Docker Hub cannot be reached'}")
    if os.geteuid() != 0:
        run_as_root("--setup", *(["--offline"] if offline else []))
        return find(platforms)
    if stand_in:
        apt.debian_source()  # missing on an Ubuntu: said before anything is installed
    if not missing and engine.stands_in and engine.loopback:
        start_hub()
        standin.make_missing(platforms)
        return engine
    wanted = settings(engine, stand_in)
    if not is_ours():
        if not engine.image_store or (stand_in and not (engine.stands_in and engine.loopback)):
            raise Failure(
                f"this engine was not set up by this script, so it is left alone; add {json.dumps(wanted)} to"
                f" {DAEMON_JSON}, restart it, and run this again"
            )
    else:
        if not (shutil.which("dockerd") and shutil.which("docker") and engine.buildx >= OLDEST_BUILDX):
            install_docker()
        if stand_in:
            start_hub()
        restart(configure(wanted))
    if set(platforms) - set(look().platforms):
        install_qemu()
    engine = find(platforms)
    if stand_in:
        if without_loopback(engine):
            raise Failure(without_loopback(engine))
        standin.make_missing(platforms)
    return engine


def stop() -> None:
    """Stop what an earlier --setup started on this machine, and nothing else; as root, if that had to be."""
    if os.geteuid() != 0 and any(daemon.pid is not None for daemon in (DOCKERD, HUB)):
        run_as_root("--stop")
        return
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
    platforms = service.load().platforms
    engine = setup(options.offline, platforms) if options.setup else find(platforms)
    if without_loopback(engine):
        say(f"note: {without_loopback(engine)}")
    print(engine)
    return 0


if __name__ == "__main__":
    start(main)
