"""A stand-in for Docker Hub, if it cannot be reached: a registry on localhost, base images from Debian.

The Dockerfile, compose.yaml and the stack stay as they are: the engine takes this registry as its
mirror, so that `FROM python:3.13-slim-trixie` simply resolves, whatever tag it is. Each image carries
the label `onedigest.stand-in=true`, which every image built on it inherits, and push_image.py refuses
those anywhere but on localhost.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib import apt
from lib.command import ROOT, run, say
from lib.daemon import Daemon
from lib.images import stage_bases, without_digest
from lib.names import PIPELINE

PORT = 5055
HOST = f"localhost:{PORT}"
REGISTRY = "registry:3"
IMAGE = r"^\s*(?:-\s+)?image\s*[:=]\s*[\"']?([^\s\"'#]+)"  # in YAML and in TOML
LABEL = f"{PIPELINE}.stand-in"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

# Debian's names for the architectures of the platforms that we build for.
DEBIAN_ARCHITECTURES = {"linux/amd64": "amd64", "linux/arm64": "arm64"}
MACHINES = {"x86_64": "linux/amd64", "amd64": "linux/amd64", "aarch64": "linux/arm64", "arm64": "linux/arm64"}


def locally() -> urllib.request.OpenerDirector:
    """Return what asks this machine: never through a proxy, whatever the environment says."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Recipe:
    """How a base image is made: Debian packages, then shell commands with its root in $1.

    `version` is what Debian 13 has of it, whatever the image's tag says; no image depends on it.
    """

    packages: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    every_platform: bool = False
    version: str = field(default="", repr=False)


def registry_config(folder: str, address: str) -> str:
    """Return the configuration of a registry that stores in `folder` and listens on `address`."""
    return json.dumps(
        {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": folder}, "delete": {"enabled": True}},
            "http": {"addr": address},
        }
    )


BASIC = ("base-files", "base-passwd", "dash", "coreutils", "ca-certificates")
ACCOUNTS = (
    'cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"',
    'cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"',
    'ln -sf dash "$1/usr/bin/sh"',
    'mkdir -p "$1/tmp" "$1/usr/local/bin" "$1/usr/local/sbin" && chmod 1777 "$1/tmp"',
    # Downloads may pass a proxy with an authority of its own: trust what this machine trusts.
    'cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"',
)
# By the image's name, for every tag.
RECIPES = {
    "python": Recipe(
        packages=(
            *(*BASIC, "apt", "bash", "dpkg", "findutils", "grep", "libstdc++6", "sed", "tar"),
            *("python3", "python3-venv", "python3-pip"),
        ),
        hooks=(
            # apt, with which the Dockerfile adds packages, has to know which are here.
            'for package in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$package" &&'
            ' printf "Status: install ok installed\\n\\n"; done >> "$1/var/lib/dpkg/status"',
            'ln -sf /usr/bin/python3 "$1/usr/local/bin/python"',
            'ln -sf /usr/bin/python3 "$1/usr/local/bin/python3"',
            'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        ),
        changes=('CMD ["python3"]',),
        every_platform=True,
        version="3.13",
    ),
    "redis": Recipe(
        packages=(*BASIC, "redis-server", "redis-tools"),
        hooks=(
            'echo "redis:x:999:999::/data:/usr/sbin/nologin" >> "$1/etc/passwd"',
            'echo "redis:x:999:" >> "$1/etc/group"',
            'mkdir -p "$1/data" && chown 999:999 "$1/data"',
            # Like the official image's, this Redis answers other containers.
            'printf \'#!/bin/sh\\nif [ "$1" = redis-server ]; then set -- "$@" --protected-mode no; fi\\nexec "$@"\\n\''
            ' > "$1/usr/local/bin/docker-entrypoint.sh" && chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"',
        ),
        changes=(
            "WORKDIR /data",
            "VOLUME /data",
            'ENTRYPOINT ["docker-entrypoint.sh"]',
            'CMD ["redis-server"]',
        ),
        version="8.0",
    ),
    "registry": Recipe(
        packages=(*BASIC, "docker-registry"),
        hooks=(
            'mkdir -p "$1/etc/distribution" "$1/var/lib/registry"',
            f"echo '{registry_config('/var/lib/registry', ':5000')}' > \"$1/etc/distribution/config.yml\"",
        ),
        changes=(
            "VOLUME /var/lib/registry",
            'ENTRYPOINT ["docker-registry", "serve"]',
            'CMD ["/etc/distribution/config.yml"]',
        ),
    ),
    "caddy": Recipe(
        packages=(*BASIC, "caddy"),
        hooks=('mkdir -p "$1/config/caddy" "$1/data/caddy" "$1/srv"',),
        changes=(
            "WORKDIR /srv",
            "ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data",
            'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
        ),
    ),
}


def host_platform() -> str:
    """Return this machine's platform as `linux/amd64`."""
    machine = platform.machine().lower()
    return MACHINES.get(machine, f"linux/{machine}")


def hub_reachable(seconds: float = 5) -> bool:
    """Whether Docker Hub answers from this machine within `seconds`."""
    try:
        with urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 429)  # who are you, or not so fast: it is there
    except OSError:
        return False


def start_registry(daemon: Daemon, folder: Path, port: int) -> None:
    """Start Debian's docker-registry on localhost:`port`, storing in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(registry_config(str(folder / "data"), f"127.0.0.1:{port}"), "utf-8")
    daemon.start(["docker-registry", "serve", str(config)], ready=lambda: answers(port))


def answers(port: int) -> bool:
    """Whether a registry answers on localhost:`port`."""
    try:
        with locally().open(f"http://127.0.0.1:{port}/v2/", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def images(root: Path = ROOT) -> list[str]:
    """Return the images that a project starts from and that can be made, as `name:tag`, each once.

    They are named in its Dockerfile, its service.toml, its compose.yaml and its deploy folder, and in those of its
    tests' services; the registry is pipeline.py's. A digest is that of the official image, so it is left out: where
    the engine takes stand-ins, `lib.engine.here` leaves it out as well.
    """
    named: list[str] = []
    for folder in (root, *sorted(file.parent for file in root.glob("tests/**/Dockerfile"))):
        files = [folder / name for name in ("Dockerfile", "service.toml", "compose.yaml")]
        for file in filter(Path.is_file, (*files, *sorted(folder.glob("deploy/*.yaml")))):
            text = file.read_text("utf-8")
            named += bases(text) if file.name == "Dockerfile" else re.findall(IMAGE, text, re.M)
    found = []
    for name in (*named, REGISTRY):
        plain = re.sub(r"^(docker\.io/)?(library/)?", "", without_digest(name))
        repository, _, tag = plain.partition(":")
        if repository in RECIPES:
            found.append(f"{repository}:{tag or 'latest'}")
    return list(dict.fromkeys(found))


def bases(dockerfile: str) -> list[str]:
    """Return the images that a Dockerfile's stages start from, with the defaults of its arguments filled in."""
    arguments = dict(re.findall(r"^ARG\s+(\w+)=[\"']?([^\s\"']+)", dockerfile, re.M | re.I))

    def filled(name: str) -> str:
        return re.sub(r"\$(?:\{(\w+)[^}]*\}|(\w+))", lambda match: arguments.get(match[1] or match[2], ""), name)

    return [filled(match[1]) for match in stage_bases(dockerfile, filled)]


def differs(image: str) -> str:
    """Return the version that a stand-in has instead of the one that its tag names, or "" if they agree."""
    name, _, tag = image.partition(":")
    asked = re.match(r"\d+(?:\.\d+)*", tag)
    parts = zip(asked[0].split("."), RECIPES[name].version.split("."), strict=False) if asked else ()
    return RECIPES[name].version if any(one != other for one, other in parts if other) else ""


def fingerprinted(image: str) -> str:
    """Return `name:tag-FINGERPRINT`: the tag that tells which recipe an image was made by."""
    recipe = RECIPES[image.partition(":")[0]]
    return f"{image}-{hashlib.sha256(repr((ACCOUNTS, recipe)).encode()).hexdigest()[:12]}"


def has(image: str) -> bool:
    """Whether the stand-in registry has `name:tag`, made by today's recipe."""
    name, tag = fingerprinted(image).split(":")
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v2/library/{name}/manifests/{tag}",
        method="HEAD",
        headers={"Accept": ", ".join(INDEX_TYPES)},
    )
    try:
        with locally().open(request, timeout=5):
            return True
    except OSError:
        return False


def debootstrap_command(recipe: Recipe, platform: str, target: Path, source: tuple[str, str]) -> list[str]:
    """Return the command that unpacks a recipe's packages for a platform into a tar file."""
    address, keyring = source
    return [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=extract",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        f"--architectures={DEBIAN_ARCHITECTURES[platform]}",
        f"--include={','.join(recipe.packages)}",
        *(f"--extract-hook={hook}" for hook in (*ACCOUNTS, *recipe.hooks)),
        *([f"--keyring={keyring}"] if keyring else []),
        "trixie",
        str(target),
        address,
    ]


def import_command(recipe: Recipe, platform: str, tarball: Path, reference: str) -> list[str]:
    """Return the command that makes an image of a tar file."""
    changes = (f"LABEL {LABEL}=true", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", *recipe.changes)
    return [
        *("docker", "import", "--platform", platform),
        *(part for change in changes for part in ("--change", change)),
        *(str(tarball), reference),
    ]


def make(image: str, platforms: Sequence[str]) -> None:
    """Make one base image for the platforms and put it into the stand-in registry."""
    recipe = RECIPES[image.partition(":")[0]]
    name = f"{HOST}/library/{image}"
    source = apt.debian_source()
    parts = []
    instead = f", which has {differs(image)} of it" if differs(image) else ""
    with tempfile.TemporaryDirectory() as folder:
        for wanted in platforms if recipe.every_platform else [host_platform()]:
            tarball = Path(folder) / "root.tar"
            part = f"{name}-{DEBIAN_ARCHITECTURES[wanted]}"
            say(f"making a stand-in for {image} ({wanted}) from Debian 13's packages{instead}")
            run(debootstrap_command(recipe, wanted, tarball, source))
            run(import_command(recipe, wanted, tarball, part))
            run(["docker", "push", "--quiet", part])
            run(["docker", "image", "rm", part])
            parts.append(part)
    marked = f"{HOST}/library/{fingerprinted(image)}"
    run(["docker", "buildx", "imagetools", "create", "--tag", name, "--tag", marked, *parts])


def make_missing(platforms: Sequence[str], root: Path = ROOT) -> None:
    """Make the base images that the stand-in registry does not have yet."""
    for image in images(root):
        if not has(image):
            make(image, platforms)
