"""A registry in memory that answers as Docker Hub does, and images to put into it: honest ones, and forged ones."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.serving import Quiet, Serving

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
REVISION = "org.opencontainers.image.revision"
BOTH = ("linux/amd64", "linux/arm64")


def digest_of(content: bytes) -> str:
    """Return a digest, computed apart from the code under test."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Image:
    """An image index with all that it refers to, as BuildKit makes it; whoever forges one changes `content`."""

    content: dict[str, Any] = field(default_factory=lambda: {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        """The bytes of the index."""
        return json.dumps(self.content).encode()

    @property
    def digest(self) -> str:
        """The digest of the index."""
        return digest_of(self.raw)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What the index lists."""
        found: list[dict[str, Any]] = self.content["manifests"]
        return found

    def blob(self, content: object) -> dict[str, Any]:
        """Keep a blob, as JSON, and return what refers to it."""
        body = json.dumps(content).encode()
        self.blobs[digest_of(body)] = body
        return {"digest": digest_of(body), "size": len(body)}

    def manifest(self, config: object, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Keep a manifest and return what refers to it."""
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **self.blob(config)},
            "layers": list(layers),
        }
        body = json.dumps(content).encode()
        self.manifests[digest_of(body)] = body
        return {"mediaType": MANIFEST, "digest": digest_of(body), "size": len(body)}

    def platform(self, name: str, labels: Mapping[str, str], **more: object) -> dict[str, Any]:
        """Return an entry for a platform; its image has no layers but a small one."""
        system, machine, *variant = name.split("/")
        platform = {"os": system, "architecture": machine, **({"variant": variant[0]} if variant else {})}
        config = {"architecture": machine, "os": system, "config": {"Labels": dict(labels)}, **more}
        return {**self.manifest(config, [self.blob(f"a layer of {name}")]), "platform": platform}

    def proof(self, subject: str, statement: object = None, predicate: str = PROVENANCE) -> dict[str, Any]:
        """Return an entry for an attestation; the default statement is provenance of the subject."""
        if statement is None:
            digest = {"sha256": subject.removeprefix("sha256:")}
            statement = {"predicateType": predicate, "subject": [{"name": "_", "digest": digest}], "predicate": {}}
        layer = {**self.blob(statement), "annotations": {"in-toto.io/predicate-type": predicate}}
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject,
        }
        platform = {"os": "unknown", "architecture": "unknown"}
        return {**self.manifest({}, [layer]), "platform": platform, "annotations": annotations}


def honest(revision: str, platforms: Sequence[str] = BOTH, **labels: str) -> Image:
    """Return an image as the pipeline makes it of a revision: platforms with labels, and provenance for each."""
    image = Image()
    image.entries.extend(image.platform(name, {REVISION: revision, **labels}) for name in platforms)
    image.entries.extend(image.proof(entry["digest"]) for entry in copy.copy(image.entries))
    return image


def upload(image: Image, host: str, repository: str, tag: str, authorization: str) -> None:
    """Put an image on a tag in a real registry on this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(method: str, url: str, body: bytes, kind: str) -> str:
        headers = {"Content-Type": kind, "Authorization": authorization}
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        with opener.open(request, timeout=30) as response:
            return str(response.headers.get("Location", ""))

    base = f"http://{host}/v2/{repository}"
    for digest, body in image.blobs.items():
        place = send("POST", f"{base}/blobs/uploads/", b"", "application/octet-stream")
        separator = "&" if "?" in place else "?"
        send("PUT", f"{place}{separator}digest={digest}", body, "application/octet-stream")
    for digest, body in image.manifests.items():
        send("PUT", f"{base}/manifests/{digest}", body, MANIFEST)
    send("PUT", f"{base}/manifests/{tag}", image.raw, INDEX)


class Hub(Serving):
    """Serves images on a port of its own until the `with` block ends.

    `tags` is what each tag points to, whatever the repository; of several digests, each answer takes one, and the last
    stays. `private` repositories are shown only to those who have a login. `requests` are the method and path of each,
    with the login that came with it.
    """

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, list[str]] = {}
        self.requests: list[str] = []
        self.counted = 0
        """How many of them Docker Hub would count: https://docs.docker.com/docker-hub/usage/pulls/."""
        self.login = ""
        """The Basic header that is a valid login; "" for none."""
        self.wants = "bearer"
        """How clients have to show who they are: bearer, basic, or something else."""
        self.private = False
        self.sends_digest = True
        self.cut = 0
        """So many bytes of each answer do not arrive."""
        self.errors: list[int] = []
        """Statuses to answer the next requests with."""
        self.deletes = ""
        """What comes with a request that may delete: the token that Docker Hub's own interface gives for the login."""
        self.delete_errors: list[int] = []
        """Statuses to answer the next such requests with."""
        self.referrers: bytes | None = None
        """What it lists as belonging to any digest; None if it keeps no such list."""
        self.pages: list[tuple[object, str]] = []
        """What tags/list answers, page by page, each with the address of the next; else all that there is."""
        super().__init__(handler(self))

    def put(self, tag: str, image: Image) -> str:
        """Put an image on a tag (after what is there already, if that is to be answered first); return its digest."""
        self.manifests |= image.manifests
        self.blobs |= image.blobs
        self.manifests[image.digest] = image.raw
        self.tags.setdefault(tag, []).append(image.digest)
        return image.digest


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for one registry."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            login = self.headers.get("Authorization", "")
            hub.requests.append(f"{self.command} {self.path} {login}".rstrip())
            realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="hub"'
            if hub.errors:
                self.answer(hub.errors.pop(0), b"{}")
            elif url.path == "/token":
                self.token(parse_qs(url.query), login)
            elif hub.wants == "bearer" and not login.startswith("Bearer "):
                self.answer(401, b"{}", {"WWW-Authenticate": realm})
            elif hub.wants != "bearer" and (login != hub.login or not login):
                self.answer(401, b"{}", {"WWW-Authenticate": hub.wants})
            elif hub.private and login == "Bearer anybody":
                self.answer(401, b"{}", {"WWW-Authenticate": f'{realm},error="insufficient_scope"'})
            else:
                self.content(*url.path.split("/")[-2:])

        def token(self, query: Mapping[str, list[str]], login: str) -> None:
            assert query["service"] == ["hub"]
            assert query["scope"][0].startswith("repository:")
            if login and login != hub.login:
                self.answer(401, b'{"details":"incorrect username or password"}')
            else:
                who = ("writer" if query["scope"][0].endswith(":pull,push") else "somebody") if login else "anybody"
                self.answer(200, json.dumps({"token": who}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            hub.requests.append(f"POST {self.path} {body}")
            if self.path == "/v2/auth/token":  # https://docs.docker.com/reference/api/hub/latest/
                given = json.loads(body)
                login = base64.b64encode(f"{given['identifier']}:{given['secret']}".encode()).decode()
                right = hub.login == f"Basic {login}"
                self.answer(200 if right else 401, b'{"access_token": "' + hub.deletes.encode() + b'"}')
                return
            assert parse_qs(body)["grant_type"] == ["refresh_token"]
            self.answer(200, b'{"access_token": "somebody"}')

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            login = self.headers.get("Authorization", "")
            hub.requests.append(f"PUT {self.path} {self.headers['Content-Type']} {login}".rstrip())
            if hub.errors:
                self.answer(hub.errors.pop(0), b"{}")
            elif login == "Bearer writer":
                hub.tags[self.path.rpartition("/")[2]] = [digest_of(body)]
                self.answer(201, b"")
            else:
                realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="hub"'
                denied = b'{"errors":[{"message":"requested access to the resource is denied"}]}'
                self.answer(401, denied, {"WWW-Authenticate": f'{realm},error="insufficient_scope"'})

        def do_DELETE(self) -> None:
            # Docker Hub deletes a tag: pkg/hub/tags.go in https://github.com/docker/hub-tool. It does not delete a
            # manifest that has one: https://docs.docker.com/reference/api/registry/latest/, "Delete image manifest".
            hub.requests.append(f"DELETE {self.path}")
            _, _, kind, *_, folder, name, _ = f"{self.path}/".replace("//", "/").split("/")
            if hub.delete_errors:
                self.answer(
                    hub.delete_errors.pop(0), b'{"errors":[{"message":"requested access to the resource is denied"}]}'
                )
            elif (kind, folder) != ("repositories", "tags") or self.headers["Authorization"] != f"Bearer {hub.deletes}":
                self.answer(403, b"{}")
            else:
                self.answer(204 if hub.tags.pop(name, None) else 404, b"")

        def content(self, kind: str, name: str) -> None:
            if kind == "tags":
                self.list()
            elif kind in ("blobs", "referrers"):
                body = hub.blobs.get(name) if kind == "blobs" else hub.referrers
                self.answer(200, body) if body is not None else self.answer(404, b"{}")
            else:
                digest = name
                if not name.startswith("sha256:"):
                    digests = hub.tags.get(name, [""])
                    digest = digests.pop(0) if len(digests) > 1 else digests[0]
                body = hub.manifests.get(digest)
                if body is None:
                    self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
                else:
                    hub.counted += self.command == "GET"
                    headers = {"Docker-Content-Digest": digest} if hub.sends_digest else {}
                    if b'"mediaType"' in body:
                        headers["Content-Type"] = str(json.loads(body)["mediaType"])
                    self.answer(200, body, headers)

        def list(self) -> None:
            page, link = hub.pages.pop(0) if hub.pages else ({"tags": sorted(hub.tags)}, "")
            body = page if isinstance(page, bytes) else json.dumps(page).encode()
            self.answer(200, body, {"Link": f'<{link}>; rel="next"'} if link else {})

        def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) - hub.cut])

        do_HEAD = do_GET  # noqa: N815

    return Handler
