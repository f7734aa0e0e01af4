"""Ask a registry, and the engine, what an image really is. One digest is all that is believed.

A digest is the SHA-256 of a manifest's bytes (OCI image specification, "Digests"), so it is computed here and not
taken on trust. `digest_at` alone believes the registry, and what is then read by that digest is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from lib.command import Failure, UsageError, last_line, run, say, shown
from lib.distribution import HUB, Answer, Refused, ask, json_of, tags_in
from lib.names import DIGEST, FORMER, PIPELINE, ImageName, parse_reference

T = TypeVar("T")

REFUSED = re.compile(
    r"unauthori[sz]ed|authentication required|incorrect username or password|no basic auth credentials|"
    r"\b401\b|\b403\b|denied",
    re.I,
)
"""What `docker push` says when the registry does not take what it is sent, and never will."""

BUSY = re.compile(
    r"toomanyrequests|too many requests|failed to fetch anonymous token|TLS handshake timeout|connection reset by peer|"
    r"(?:unexpected|received unexpected HTTP) status[^\n]*\b(?:429|50[0234])\b",
    re.I,
)
"""What docker and BuildKit say when a pull may work a little later."""

STAND_IN = (f"{PIPELINE}.stand-in", f"{FORMER}.stand-in")
"""The label of such images: an official image has none of that name, so its value says nothing."""

ATTESTATION = "vnd.docker.reference.type"  # https://docs.docker.com/build/metadata/attestations/attestation-storage/
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""The kinds of manifests: first those that list one for each platform. OCI image specification, "Media Types"."""
INDEXES = MANIFESTS[:2]

ARCHITECTURES = ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x")
"""Go's names of the machines that Linux images are built for."""

PAGE = 1000  # tags to ask for at once
PAGES = 500  # so many pages are not a list of tags any more


@dataclass(frozen=True)
class Index:
    """A manifest as a registry keeps it: its digest and its content, for most of ours an image index."""

    digest: str
    content: Mapping[str, Any]

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The manifests that it lists."""
        return list(self.content.get("manifests") or [])

    @property
    def platforms(self) -> dict[str, str]:
        """Platform -> digest of its manifest; attestations are not platforms."""
        return {
            name: entry["digest"]
            for entry in self.entries
            if (name := platform_name(entry.get("platform") or {})) and not is_attestation(entry)
        }


def is_attestation(entry: Mapping[str, Any]) -> bool:
    """Whether an index entry holds attestations and not an image."""
    return (entry.get("annotations") or {}).get(ATTESTATION) == "attestation-manifest"


def platform_name(platform: Mapping[str, str]) -> str:
    """Return `linux/arm64` for a platform of an index, or "" for an unknown one.

    Only names that BuildKit writes are known. An engine knows more, and takes x86_64 or AMD64 for amd64:
    https://pkg.go.dev/github.com/containerd/platforms#Normalize
    """
    machine, variant = platform.get("architecture", ""), platform.get("variant", "")
    if platform.get("os") != "linux" or machine not in ARCHITECTURES:
        return ""
    # Of 64-bit ARM there is only v8, so it is not written.
    return f"linux/{machine}/{variant}" if machine == "arm" and variant else f"linux/{machine}"


def index_of(reference: str) -> Index | None:
    """Return what a registry keeps under a reference, or None if it has no such image.

    Tries again if the registry cannot be reached; raises Failure if that does not help.
    """
    image, name = parse_reference(reference)

    def read() -> Index | None:
        answer = ask(image, f"manifests/{name}", accept=", ".join(MANIFESTS))
        if answer is None:
            return None
        return Index(checked(reference, name, answer.body), parsed(reference, answer.body))

    return retry(read)


def digest_at(reference: str) -> str:
    """Return the digest that a registry has for a reference, or "" if it has no such image; no limit counts it."""
    image, name = parse_reference(reference)

    def read() -> str | None:
        answer = ask(image, f"manifests/{name}", method="HEAD", accept=", ".join(MANIFESTS))
        return None if answer is None else answer.headers.get("docker-content-digest", "")

    digest = retry(read)
    if digest is None:
        return ""
    if not DIGEST.fullmatch(digest):  # "SHOULD" be there, says the specification
        found = index_of(reference)
        return found.digest if found else ""
    return digest


@cache
def manifest_at(image: ImageName, digest: str) -> Answer:
    """Return a manifest as the registry sends it; raise Failure if it has none of that digest, or another one."""
    answer = ask(image, f"manifests/{digest}", accept=", ".join(MANIFESTS))
    if answer is None:
        raise Failure(f"there is no {image.at(digest)} in the registry")
    checked(image.at(digest), digest, answer.body)
    return answer


def put_tag(image: ImageName, digest: str, tag: str) -> None:
    """Put a tag on a digest: the very bytes once more, under another name, so that nothing can be made of them.

    Tries again if the registry cannot be reached; raises Failure if that does not help.
    """

    def put() -> None:
        try:
            manifest = manifest_at(image, digest)
            media = manifest.headers.get("content-type", "")
            answer = ask(image, f"manifests/{tag}", method="PUT", data=manifest.body, media=media)
        except Failure as failure:
            raise type(failure)(f"cannot put {tag} on {image.at(digest)}: {failure}") from failure
        if answer is None:
            raise Failure(f"cannot put {tag} on {image.at(digest)}: the registry says that there is no {image}")

    retry(put)


def blob(image: ImageName, digest: str) -> bytes:
    """Return a blob of an image, such as its configuration; raise Failure if it is not there or not what it says."""

    def read() -> bytes:
        answer = ask(image, f"blobs/{digest}")
        if answer is None:
            raise Failure(f"the registry does not have {digest}, which {image} refers to")
        checked(f"{image}@{digest}", digest, answer.body)
        return answer.body

    return retry(read)


def checked(reference: str, name: str, content: bytes) -> str:
    """Return the digest of what a registry sent; raise Failure if it was asked for by another one."""
    digest = digest_of(content)
    if DIGEST.fullmatch(name) and digest != name:
        raise Failure(f"the registry sent {digest} for {reference}")
    return digest


def parsed(reference: str, content: bytes) -> dict[str, Any]:
    """Return what a registry sent as a JSON object, or raise Failure."""
    try:
        found = json_of(content)
    except ValueError as error:
        raise Failure(f"the registry sent something else than JSON for {reference}") from error
    if not isinstance(found, dict):
        raise Failure(f"the registry sent something else than a JSON object for {reference}")
    return found


def manifests_of(reference: str, index: Index) -> dict[str, Mapping[str, Any]]:
    """Return platform -> manifest of an index; one that is not an index has none."""
    image, _ = parse_reference(reference)
    found = {}
    for platform, digest in index.platforms.items():
        manifest = index_of(image.at(digest))
        if manifest is None:
            raise Failure(f"{reference} lists {digest} for {platform}, and the registry does not have it")
        found[platform] = manifest.content
    return found


def layer_sizes(reference: str) -> dict[str, list[int]]:
    """Return platform -> compressed bytes of each of the image's layers, the base's first, as its manifests say."""
    index = index_of(reference)
    if index is None:
        raise Failure(f"there is no {reference} in the registry")
    try:
        manifests = manifests_of(reference, index)
        return {platform: [layer["size"] + 0 for layer in content["layers"]] for platform, content in manifests.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Failure(f"{reference} is not made as an image index is ({type(error).__name__}: {error})") from error


def configs_of(reference: str, index: Index) -> dict[str, Mapping[str, Any]]:
    """Return platform -> image configuration of an index (OCI image specification, "Image Configuration")."""
    image, _ = parse_reference(reference)
    return {
        platform: parsed(reference, blob(image, content["config"]["digest"]))
        for platform, content in manifests_of(reference, index).items()
    }


def tags_of(image: ImageName, *, known: Collection[str]) -> list[str]:
    """Return every tag of an image in its registry; raise Failure if they cannot all be known.

    `known` are tags that are certainly there: a list without them is not all of it.
    """

    def read() -> list[str]:
        path = f"tags/list?n={PAGE}"
        found: dict[str, None] = {}
        for _ in range(PAGES):
            answer = ask(image, path)
            if answer is None:
                raise Failure(f"cannot list the tags of {image}: the registry says that there is no such image")
            page = tags_on(image, answer.body)
            new = [tag for tag in page if tag not in found]
            found.update(dict.fromkeys(new))
            link = next_link(image, answer.headers.get("link", ""))
            if not link and len(page) < PAGE:
                break
            if not new:
                if link:
                    raise Failure(f"cannot list the tags of {image}: the registry's next pages lead in a circle")
                break
            path = next_page(image, link) if link else f"tags/list?n={PAGE}&last={urllib.parse.quote(page[-1])}"
        else:
            raise Failure(f"cannot list the tags of {image}: there are more than {PAGES} pages of them")
        if missing := [tag for tag in known if tag not in found]:
            raise Failure(
                f"cannot list the tags of {image}: the registry's list is not complete, {missing[0]} is not in it"
            )
        return list(found)

    return retry(read)


def is_shown(image: ImageName) -> bool:
    """Whether a registry shows an image to whoever is logged in, or to everybody if nobody is."""

    def read() -> bool:
        answer = ask(image, "tags/list?n=1")
        if answer is not None:
            tags_on(image, answer.body)
        return answer is not None

    return retry(read)


def tags_on(image: ImageName, page: bytes) -> list[str]:
    """Return the tags on a page of a list of them; raise Failure if it is something else."""
    try:
        return tags_in(page)
    except ValueError as error:
        raise Failure(
            f"cannot list the tags of {image}: the registry sent something else than a list of them"
        ) from error


def next_link(image: ImageName, header: str) -> str:
    """Return where a Link header says that the next page is, "" if it says nothing of one: RFC 8288, 3.

    Raises Failure for what cannot be read, because a list that ends too early is not all of it.
    """
    for link, parameters in re.findall(r"<([^>]*)>([^<]*)", header):
        relation = re.search(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,]+))", parameters, re.I)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return str(link)
    if re.search(r"\bnext\b", re.sub(r"<[^>]*>", "", header), re.I):
        raise Failure(f"cannot list the tags of {image}: cannot read where the next page is, {header!r}")
    return ""


def next_page(image: ImageName, link: str) -> str:
    """Return the path of the page that a Link header leads to; raise Failure for another list, or another host."""
    base = f"/v2/{image.namespace}/{image.repository}/"
    try:
        url = urllib.parse.urlsplit(urllib.parse.urljoin(f"{base}tags/list", link))
    except ValueError as error:
        raise Failure(f"cannot list the tags of {image}: the next page is at {link!r}, not an address") from error
    if url.netloc not in ("", image.registry or HUB) or url.path != f"{base}tags/list":
        raise Failure(f"cannot list the tags of {image}: the next page is elsewhere, at {link}")
    return f"tags/list?{url.query}"


def digest_of(manifest: bytes) -> str:
    """Return a manifest's digest."""
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


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


def run_pulling(command: Sequence[str], *, check: bool = True, show: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command that pulls images, and run it again while the registry is busy; as `run`, in all else.

    Docker Hub refuses pulls without a login above a limit, and now and then on shared machines such as GitHub's
    runners: https://docs.docker.com/docker-hub/usage/pulls/.
    """

    def attempt() -> subprocess.CompletedProcess[str]:
        done = run(command, show=show, check=False)
        if done.returncode and BUSY.search(done.stderr):
            raise Failure(f"cannot pull{last_line(done)}")
        return done

    done = retry(attempt)
    if check and done.returncode:
        raise Failure(f"exit {done.returncode} from {shown(command)}{last_line(done)}")
    return done


@dataclass(frozen=True)
class LocalImage:
    """An image in the engine. `digest` is that of its index; `labels` are those of one platform."""

    reference: str
    digest: str
    labels: Mapping[str, str]

    @property
    def revision(self) -> str:
        """The commit that it was built from, by its label; "" if it has none."""
        return self.labels.get("org.opencontainers.image.revision", "")

    @property
    def stand_in(self) -> bool:
        """Whether it was built on a stand-in for an official base image."""
        return is_stand_in(self.labels)


def is_stand_in(labels: Mapping[str, str]) -> bool:
    """Whether labels say that an image was built on a stand-in for an official one, in whatever spelling."""
    return any(name.casefold() in STAND_IN for name in labels)


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
        raise Failure(f"{what} is {found}, but {expected} was tested; refusing to continue with a different image")


def missing_platforms(index: Index, platforms: Sequence[str]) -> list[str]:
    """Return those of `platforms` that an index does not have."""
    return [platform for platform in platforms if platform not in index.platforms]
