"""List the tags of an image: the one question to a registry that `docker buildx` cannot ask.

The OCI distribution specification, "Listing Tags", with the token protocol of
https://distribution.github.io/distribution/spec/auth/token/ and the credentials that `docker login` left.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.command import Failure
from lib.names import LOCAL_HOSTS, ImageName
from lib.registry import Refused, retry

HUB = "registry-1.docker.io"
HUB_LOGIN = "https://index.docker.io/v1/"  # the name under which docker keeps the login to Docker Hub
SECONDS = 30


def tags_of(image: ImageName) -> list[str]:
    """Return every tag of an image in its registry; none where there is no such image.

    Raises Refused where the registry wants other credentials, Failure where it cannot be asked.
    """
    return retry(lambda: list_tags(image, login(image.registry or HUB_LOGIN)))


def list_tags(image: ImageName, authorization: str) -> list[str]:
    """Ask once, page by page. `authorization` is a Basic one, or "" to ask as nobody."""
    # The engine speaks plain HTTP to registries on this machine, and so does this.
    base = f"http://{image.registry}" if image.is_local else f"https://{image.registry or HUB}"
    url: str | None = f"{base}/v2/{image.username}/{image.repository}/tags/list?n=1000"
    found: list[str] = []
    header = ""
    while url:
        try:
            content, link = get(url, header)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code == 401 and not header and challenge:
                header = answer(challenge, authorization, image)
                continue
            kind = Refused if error.code in (401, 403) else Failure
            raise kind(f"cannot list the tags of {image}: the registry says {error.code} {error.reason}") from error
        found += content.get("tags") or []
        url = urllib.parse.urljoin(url, link) if link else None
        if url and not url.startswith(base + "/"):
            raise Failure(f"cannot list the tags of {image}: the next page is elsewhere, at {url}")
    return found


def get(url: str, authorization: str = "") -> tuple[Mapping[str, Any], str]:
    """Return a page as JSON and the address of the next one, or "" after the last."""
    request = urllib.request.Request(url)  # noqa: S310  https, or http to this machine
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    local = urllib.parse.urlsplit(url).hostname in LOCAL_HOSTS
    handlers = [urllib.request.ProxyHandler({})] if local else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=SECONDS) as response:
            link = re.search(r'<([^>]+)>\s*;\s*rel="?next"?', response.headers.get("Link", ""))
            content = json.load(response)
    except urllib.error.HTTPError:
        raise
    except (OSError, ValueError) as error:
        raise Failure(f"cannot read {url}: {error}") from error
    if not isinstance(content, dict):
        raise Failure(f"cannot read {url}: not the answer of a registry")
    return content, link[1] if link else ""


def answer(challenge: str, authorization: str, image: ImageName) -> str:
    """Return the Authorization header that a WWW-Authenticate header asks for."""
    scheme, _, rest = challenge.partition(" ")
    if scheme.lower() == "basic":
        if not authorization:
            raise Refused(f"cannot list the tags of {image}: the registry wants a login; run docker login first")
        return authorization
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = urllib.parse.urlsplit(fields.get("realm", ""))
    if scheme.lower() != "bearer" or not (realm.scheme == "https" or realm.hostname in LOCAL_HOSTS):
        raise Failure(f"cannot list the tags of {image}: cannot answer the challenge {challenge!r}")
    query = {"service": fields.get("service", ""), "scope": f"repository:{image.username}/{image.repository}:pull"}
    try:
        content, _ = get(f"{realm.geturl()}?{urllib.parse.urlencode(query)}", authorization)
    except urllib.error.HTTPError as error:
        kind = Refused if error.code in (401, 403) else Failure
        raise kind(f"cannot list the tags of {image}: the login was answered {error.code} {error.reason}") from error
    return f"Bearer {content.get('token') or content.get('access_token', '')}"


def login(server: str) -> str:
    """Return what `docker login` left for a registry as a Basic Authorization header, or ""."""
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore") or ""
    if helper:
        return from_helper(helper, server)
    kept = ((config.get("auths") or {}).get(server) or {}).get("auth", "")
    return f"Basic {kept}" if kept else ""


def from_helper(helper: str, server: str) -> str:
    """Ask a credential helper, as docker does: https://github.com/docker/docker-credential-helpers."""
    program = shutil.which(f"docker-credential-{helper}")
    if not program:
        return ""
    done = subprocess.run([program, "get"], input=server, capture_output=True, encoding="utf-8", timeout=SECONDS)
    if done.returncode != 0:
        return ""
    kept = json.loads(done.stdout)
    pair = f"{kept.get('Username', '')}:{kept.get('Secret', '')}"
    return "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
