"""What an image was built on, as its provenance says, and whether that is another image by now."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lib.command import Failure
from lib.names import DIGEST, ImageName, parse_reference
from lib.registry import Index, blob, digest_at, index_of, is_attestation, parsed
from lib.release import PROVENANCE

PURL = "pkg:docker/"


@dataclass(frozen=True, order=True)
class Base:
    """An image that a build started from: by which tag, for which platform, and the digest that the tag had then."""

    reference: str
    platform: str
    digest: str


def bases_in(statement: Mapping[str, Any]) -> Iterable[Base]:
    """Yield what a statement of provenance says that an image was built on; not what is pinned, for it never moves.

    https://docs.docker.com/build/metadata/attestations/slsa-definitions/, `materials` and `resolvedDependencies`.
    """
    predicate = statement.get("predicate") or {}
    materials = predicate.get("materials") or (predicate.get("buildDefinition") or {}).get("resolvedDependencies") or []
    for material in materials:
        address, _, query = str(material.get("uri", "")).partition("?")
        qualifiers = dict(urllib.parse.parse_qsl(query))
        digest = f"sha256:{(material.get('digest') or {}).get('sha256', '')}"
        if address.startswith(PURL) and "digest" not in qualifiers and DIGEST.fullmatch(digest):
            name, _, tag = urllib.parse.unquote(address.removeprefix(PURL)).rpartition("@")
            platform = re.sub(r"[^a-z0-9/]", "", qualifiers.get("platform", ""))  # whoever can push can write anything
            yield Base(f"{name}:{tag}" if name else f"{tag}:latest", platform, digest)


def bases_of(image: ImageName, index: Index) -> list[Base]:
    """Return what a published image was built on, in order; raise Failure if no provenance says it."""
    found: set[Base] = set()
    seen = False
    for entry in filter(is_attestation, index.entries):
        manifest = index_of(image.at(entry["digest"]))
        for layer in (manifest.content.get("layers") or []) if manifest else []:
            if (layer.get("annotations") or {}).get("in-toto.io/predicate-type") in PROVENANCE:
                seen = True
                found |= set(bases_in(parsed(str(image), blob(image, str(layer.get("digest"))))))
    if not seen:
        raise Failure(f"{image.at(index.digest)} has no provenance, so nothing says what it was built on")
    return sorted(found)


def moved(base: Base) -> str:
    """Return the digest of the image that a base's tag is now, for its platform, if that is another one; else "".

    An index moves when any of its platforms does, and most of those are not ours.
    """
    today = digest_at(base.reference)
    if not today:
        raise Failure(f"the base image {base.reference} is gone from its registry; name another one in the Dockerfile")
    if today == base.digest:
        return ""
    image, _ = parse_reference(base.reference)
    before, after = (index_of(image.at(digest)) for digest in (base.digest, today))
    now = after.platforms.get(base.platform, today) if after else today
    return "" if before and before.platforms.get(base.platform) == now else now
