#!/usr/bin/env python3
"""Build the image from this commit for every platform, into the local engine.

One index with an image for each platform and its provenance. Prints the index digest: the digest
that is then tested, pushed, promoted, deployed and rolled back to.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import engine, service
from lib.command import ROOT, Failure, parser, say, set_output, stage, start
from lib.distribution import config_file, json_of
from lib.images import references
from lib.names import Commit, checked_out
from lib.registry import LocalImage, check_same, local_image, run_pulling

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "ALL_PROXY")
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/cert.pem",  # macOS
)
SECRET_LIMIT = 500 * 1024  # BuildKit's, in bytes


def build_command(
    image: str,
    platforms: Sequence[str],
    commit: Commit,
    *,
    builder: str = "default",
    provenance: str = "mode=max",
    ca_bundle: str = "",
    proxies: Sequence[str] = (),
    pull: bool = False,
    instead: Mapping[str, str] | None = None,
    metadata: Path,
    root: Path = ROOT,
) -> list[str]:
    """Return the command that builds `image` for `platforms` from a commit into the engine.

    With `pull`, the base images are what their tags are now, and not what the engine has of them; one that is named by
    its digest stays what it is.
    The names in `proxies` are handed on with their values from the environment; they are predefined, so
    no image keeps them:
    https://docs.docker.com/reference/dockerfile/#predefined-args
    `instead` has the image to take for one that the Dockerfile names.
    """
    arguments = {
        "REVISION": commit.revision,
        "CREATED": datetime.datetime.fromtimestamp(commit.date, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "SOURCE": commit.url,
        "SOURCE_DATE_EPOCH": str(commit.date),  # https://reproducible-builds.org/specs/source-date-epoch/
    }
    return [
        *("docker", "buildx", "build", "--builder", builder, "--load", "--provenance", provenance),
        *("--platform", ",".join(platforms), "--tag", image, "--metadata-file", str(metadata)),
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
        *(part for name in proxies for part in ("--build-arg", name)),
        *(["--secret", f"id=ca,src={ca_bundle}"] if ca_bundle else []),
        *(["--pull"] if pull else []),
        *(
            part
            for name, other in (instead or {}).items()
            for part in ("--build-context", f"{name}=docker-image://{other}")
        ),
        *("--progress", "plain", str(root)),
    ]


def ca_bundle() -> str:
    """Return the file of authorities that this machine trusts, so that the build trusts them too.

    SSL_CERT_FILE names it if it is set: https://docs.openssl.org/3.0/man7/openssl-env/
    """
    for name in (os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES):
        path = Path(name)
        if name and path.is_file() and path.stat().st_size <= SECRET_LIMIT:
            return name
    return ""


def proxies() -> list[str]:
    """Return the names of the proxy variables that are set here."""
    return [name for upper in PROXIES for name in (upper, upper.lower()) if os.environ.get(name)]


def provenance() -> str:
    """Return how much the provenance tells: all of it, unless a proxy's password would be in it.

    `mode=max` holds the values of build arguments, and whoever pulls the image can read it.
    https://docs.docker.com/build/metadata/attestations/slsa-provenance/
    """
    given = [os.environ[name] for name in proxies()]
    return "mode=min" if any("@" in value for value in (*given, *configured_proxies())) else "mode=max"


def configured_proxies() -> list[str]:
    """Return the proxies that docker gives every build by itself: https://docs.docker.com/engine/cli/proxy/."""
    try:
        config = json_of(config_file().read_bytes())
        return [str(value) for proxies in (config.get("proxies") or {}).values() for value in proxies.values()]
    except (OSError, ValueError, AttributeError):
        return []


def stand_ins(root: Path) -> dict[str, str]:
    """Return what to take for the Dockerfile's images with digests: their tags, if the engine stands in for them."""
    found = [f"{each.image}@{each.digest}" for each in references(root) if each.file == "Dockerfile" and each.digest]
    return {name: other for name in dict.fromkeys(found) if (other := engine.here(name)) != name}


def digest_in(metadata: str) -> str:
    """Return the index digest from the text of a build's metadata file."""
    digest = json.loads(metadata).get("containerimage.digest", "")
    if not isinstance(digest, str) or not digest:
        raise Failure("the build wrote no digest into its metadata file; update docker buildx")
    return digest


def why_it_failed(log: str) -> str:
    """Return the line of a failed build's log that says most: the last before BuildKit's first error."""
    before, _, after = log.partition("ERROR:")
    steps = re.findall(r"^#\d+ \d+\.\d+ +(.+)$", before, re.M)
    return str(steps[-1]) if steps else (after.strip().splitlines() or ["docker buildx build failed"])[0]


def build(image: str, platforms: Sequence[str], commit: Commit, *, pull: bool = False, root: Path = ROOT) -> LocalImage:
    """Build the image and return it; the engine has to keep the digest that the build reported."""
    if commit.dirty:
        say(f"the work tree has changes that are in no commit: the image's revision is {commit.revision}")
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        command = build_command(
            image,
            platforms,
            commit,
            builder=engine.builder(),
            provenance=provenance(),
            ca_bundle=ca_bundle(),
            proxies=proxies(),
            pull=pull,
            instead=stand_ins(root),
            metadata=metadata,
            root=root,
        )
        done = run_pulling(command, show=True, check=False)
        if done.returncode != 0:
            say(done.stderr)
            raise Failure(f"the build failed: {why_it_failed(done.stderr)}")
        digest = digest_in(metadata.read_text("utf-8"))
    built = local_image(image)
    check_same(f"{image} on this engine", digest, built.digest)
    return built


def main(argv: Sequence[str]) -> int:
    this = service.load()
    arguments = parser(__doc__)
    arguments.add_argument("--image", default=this.image, help="the image's name on this engine (default: %(default)s)")
    arguments.add_argument(
        "--platform", action="append", choices=this.platforms, help="a platform to build (default: every one)"
    )
    options = arguments.parse_args(argv)
    engine.find(())  # nothing is run: each platform's packages are fetched and laid out on this one
    with stage("Build image"):
        built = build(options.image, options.platform or this.platforms, checked_out())
    set_output("digest", built.digest)

    print(built.digest)
    return 0


if __name__ == "__main__":
    start(main)
