"""Ask a registry, and the engine, what an image really is. One digest is all that is believed.

`docker buildx imagetools inspect --raw` gives the bytes of a manifest with the credentials that
`docker login` left; their SHA-256 is the digest (OCI image specification, "Digests"), so it is
computed here and not taken on trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lib.command import Failure, UsageError, last_line, run, say

T = TypeVar("T")

# What registries and the engine say when there is no such image. Docker Hub answers "denied" for
# a repository that does not exist yet, to those who may not know.
ABSENT = re.compile(
    r"not found|manifest unknown|name unknown|MANIFEST_UNKNOWN|NAME_UNKNOWN|repository does not exist|"
    r"insufficient_scope|requested access to the resource is denied|pull access denied",
)
REFUSED = re.compile(
    r"unauthori[sz]ed|authentication required|incorrect username or password|\b401\b|\b403\b|denied", re.I
)

ATTESTATION = "vnd.docker.reference.type"  # https://docs.docker.com/build/metadata/attestations/attestation-storage/


class Refused(Failure):
    """The registry knows us, or wants to, and says no: trying again cannot help."""


@dataclass(frozen=True)
class Index:
    """An image index as a registry keeps it: its digest, and the manifests that it lists."""

    digest: str
    content: Mapping[str, Any]

    @property
    def platforms(self) -> dict[str, str]:
        """Platform -> digest of its manifest; attestations are not platforms."""
        return {
            name: entry["digest"]
            for entry in self.content.get("manifests", [])
            if (name := platform_name(entry.get("platform") or {})) and not is_attestation(entry)
        }

    @property
    def attestations(self) -> int:
        """How many manifests hold attestations (shown as `unknown/unknown` by many tools)."""
        return sum(1 for entry in self.content.get("manifests", []) if is_attestation(entry))


def is_attestation(entry: Mapping[str, Any]) -> bool:
    """Whether an index entry holds attestations and not an image."""
    return (entry.get("annotations") or {}).get(ATTESTATION) == "attestation-manifest"


def platform_name(platform: Mapping[str, str]) -> str:
    """Return `linux/arm64` for a platform of an index, or "" for an unknown one."""
    if platform.get("os", "unknown") == "unknown":
        return ""
    # arm64's variant v8 is the only one there is, so nobody writes it.
    return f"{platform['os']}/{platform.get('architecture', '')}"


def raw_command(reference: str) -> list[str]:
    """Return the command that prints a manifest exactly as the registry keeps it."""
    return ["docker", "buildx", "imagetools", "inspect", "--raw", reference]


def index_of(reference: str) -> Index | None:
    """Return what a registry keeps under a reference, or None where it has no such image.

    Tries again where the registry cannot be reached; raises Failure where that does not help.
    """

    def ask() -> Index | None:
        done = run(raw_command(reference), check=False, timeout=60)
        if done.returncode == 0:
            return Index(digest_of(done.stdout), json.loads(done.stdout))
        if ABSENT.search(done.stderr):
            return None
        kind = Refused if REFUSED.search(done.stderr) else Failure
        raise kind(f"cannot ask the registry about {reference}{last_line(done)}")

    return retry(ask)


def layer_sizes(reference: str) -> dict[str, list[int]]:
    """Return platform -> compressed bytes of each of the image's layers, the base's first, as its manifests say."""
    index = index_of(reference)
    if index is None:
        raise Failure(f"there is no {reference} in the registry")
    name = reference.partition("@")[0] if "@" in reference else reference.rpartition(":")[0]
    sizes = {}
    for platform, digest in index.platforms.items():
        manifest = index_of(f"{name}@{digest}")
        if manifest is None:
            raise Failure(f"{reference} lists {digest} for {platform}, and the registry does not have it")
        sizes[platform] = [layer["size"] for layer in manifest.content["layers"]]
    return sizes


def labels_of(reference: str) -> list[dict[str, str]]:
    """Return the labels of each platform's image under a reference in a registry."""

    def ask() -> list[dict[str, str]]:
        command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Image}}", reference]
        done = run(command, check=False, timeout=60)
        if done.returncode != 0:
            raise Failure(f"cannot ask the registry about {reference}{last_line(done)}")
        images = json.loads(done.stdout) or {}
        # By platform, unless there is only one.
        images = [images] if "config" in images else list(images.values())
        return [(image.get("config") or {}).get("Labels") or {} for image in images]

    return retry(ask)


def digest_of(manifest: str) -> str:
    """Return a manifest's digest."""
    return "sha256:" + hashlib.sha256(manifest.encode("utf-8")).hexdigest()


def retry_seconds(env: Mapping[str, str]) -> float:
    """Return the first pause in seconds: RETRY_SECONDS, or 1. Raises UsageError if that is not a positive number."""
    text = env.get("RETRY_SECONDS", "") or "1"
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not float(text):
        raise UsageError(
            f"RETRY_SECONDS is {text!r}, which is not a number of seconds from 0.001 to 999.999; unset it, or set it to"
            " 1"
        )
    return float(text)


def retry(action: Callable[[], T], *, attempts: int = 5, first_pause: float | None = None) -> T:
    """Return what `action` returns; after a Failure wait and try again, longer each time.

    Pauses double from `first_pause` seconds (default: `retry_seconds`), with up to a half more at random so that
    many clients do not come back at once. Refused is not tried again.
    """
    first_pause = retry_seconds(os.environ) if first_pause is None else first_pause
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Refused:
            raise
        except Failure as failure:
            if attempt == attempts:
                raise Failure(f"{failure} (tried {attempts} times)") from failure
            pause = first_pause * 2 ** (attempt - 1) * (1 + random.random() / 2)  # noqa: S311  no secret
            say(f"attempt {attempt} of {attempts} failed: {failure}; trying again in {pause:.1f} s")
            time.sleep(pause)
    raise AssertionError("not reached")


@dataclass(frozen=True)
class LocalImage:
    """An image in the engine. `digest` is that of its index; `labels` are those of one platform."""

    reference: str
    digest: str
    labels: Mapping[str, str]

    @property
    def revision(self) -> str:
        """The commit that it was built from, by its label; "" where it has none."""
        return self.labels.get("org.opencontainers.image.revision", "")

    @property
    def stand_in(self) -> bool:
        """Whether it was built on a stand-in for an official base image."""
        return self.labels.get("friendlyhello.stand-in") == "true"


def local_image(reference: str) -> LocalImage:
    """Return an image of the engine, or raise Failure that names the next command."""
    done = run(["docker", "image", "inspect", reference], check=False)
    if done.returncode != 0:
        if re.search(r"no such image|not found", done.stderr, re.I):
            raise Failure(f"no image {reference} on this engine; run python3 scripts/build_image.py first")
        raise Failure(f"cannot inspect {reference}{last_line(done)}")
    # With the containerd image store an image's ID is the digest of its index; newer engines say so by name.
    facts = json.loads(done.stdout)[0]
    digest = (facts.get("Descriptor") or {}).get("digest") or facts["Id"]
    return LocalImage(reference, digest, (facts.get("Config") or {}).get("Labels") or {})


def check_same(what: str, expected: str, found: str) -> None:
    """Raise Failure unless two digests are the same: the one rule that holds the pipeline together."""
    if expected != found:
        raise Failure(f"{what} is {found}, and {expected} was tested: not going on with another image")


def missing_platforms(index: Index, platforms: Sequence[str]) -> list[str]:
    """Return those of `platforms` that an index does not have."""
    return [platform for platform in platforms if platform not in index.platforms]
