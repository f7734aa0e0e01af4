"""Speak to a registry as the OCI distribution specification says, with the credentials that `docker login` left.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, and the token protocol of
https://distribution.github.io/distribution/spec/auth/. Docker Hub counts a GET of a manifest against its limit and
a HEAD not, and a digest is that of the bytes as they were sent: `docker buildx imagetools` leaves neither to us, and
asks 13 times for each tag that it puts on an image for one platform (buildx 0.30).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from lib.command import Failure, home
from lib.names import ImageName

HUB = "registry-1.docker.io"
HUB_LOGIN = "https://index.docker.io/v1/"  # the name under which docker keeps the login to Docker Hub
SECONDS = 30
"""Seconds that a registry may say nothing."""
LONGEST = 300
"""Seconds that an answer may take, from the first look-up to its last byte."""
LIMIT = 16 * 2**20
"""Bytes of an answer that are read at most; registries take manifests of 4 MiB."""

# How registries say that there is no such repository, to those who may not know.
HIDDEN = re.compile(r"insufficient_scope|requested access to the resource is denied|NAME_UNKNOWN", re.I)

ACTIONS = {"DELETE": "pull,delete", "PUT": "pull,push"}
"""What a token has to allow for a method that changes something."""

_authorizations: dict[str, str] = {}
"""Image, and what is done to it -> the Authorization header that its registry took last: a token is fetched once."""


class Refused(Failure):
    """The registry knows us, or wants to, and says no: trying again cannot help."""


@dataclass(frozen=True)
class Answer:
    """What a registry answered: status 200, the headers with their names in lower case, and the bytes."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Login:
    """What docker keeps for a registry: a Basic header, or a token to fetch others with; or why it cannot be read."""

    basic: str = ""
    identity: str = ""
    problem: str = ""


class Denied(Exception):
    """A registry, or where its tokens come from, answered 401 or 403; `hidden` if it may not say what is there."""

    def __init__(self, what: str, *, hidden: bool, challenge: str = "") -> None:
        super().__init__(what)
        self.hidden = hidden
        self.challenge = challenge


def ask(
    image: ImageName, path: str, *, method: str = "GET", accept: str = "", data: bytes | None = None, media: str = ""
) -> Answer | None:
    """Ask once for `/v2/NAME/path`, or delete it, or put `data` there, which is of type `media`.

    Returns None if the registry has no such thing, or does not show it to us. Raises Refused if the registry wants
    other credentials, and Failure if it cannot be asked.
    """
    headers = {name: value for name, value in (("Accept", accept), ("Content-Type", media)) if value}
    login = login_of(image.registry or HUB_LOGIN)
    try:
        found = authorized(image, address_of(image, path), method, headers, login, data)
    except Denied as denied:
        if not login.problem and denied.hidden and method not in ACTIONS:
            return None
        raise Refused(f"cannot ask the registry about {image}: {login.problem or denied}") from denied
    if found is None and login.problem:
        raise Refused(f"cannot ask the registry about {image}: {login.problem}")
    return found


def address_of(image: ImageName, path: str) -> str:
    """Return where a registry answers for `/v2/NAME/path`."""
    host = image.registry or HUB
    return f"{'http' if is_loopback(host) else 'https'}://{host}/v2/{image.namespace}/{image.repository}/{path}"


def is_public(image: ImageName, path: str, *, accept: str) -> bool:
    """Whether a registry gives a manifest to anybody, without a login; False if that cannot be told.

    A page to log in on, which a proxy may show instead, is of another type than what was asked for.
    """
    kept = _authorizations.pop(str(image), None)
    try:
        found = authorized(image, address_of(image, path), "HEAD", {"Accept": accept}, Login())
        return found is not None and found.headers.get("content-type", "").partition(";")[0] in accept.split(", ")
    except (Denied, Failure):
        return False
    finally:
        _authorizations.pop(str(image), None)
        if kept is not None:
            _authorizations[str(image)] = kept


def authorized(
    image: ImageName, url: str, method: str, headers: Mapping[str, str], login: Login, data: bytes | None = None
) -> Answer | None:
    """Ask, with what the registry took last and, if it wants something else, once more with what it asks for."""

    def attempt(authorization: str) -> Answer | None:
        try:
            return get(url, method, {**headers, "Authorization": authorization} if authorization else headers, data)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            said = f"it says {error.code} {error.reason}"
            if error.code not in (401, 403):
                raise Failure(f"cannot ask the registry about {image}: {said}") from error
            challenge = challenge_in(error.headers)
            hidden = bool(HIDDEN.search(challenge + text_of(error)))
            raise Denied(said, hidden=hidden, challenge=challenge if error.code == 401 else "") from error

    actions = ACTIONS.get(method, "")
    kept = f"{image} {actions}".strip()
    try:
        return attempt(_authorizations.get(kept, ""))
    except Denied as denied:
        if not denied.challenge:
            raise
        authorization = answer_to(denied.challenge, image, login, actions or "pull")
    _authorizations[kept] = authorization
    return attempt(authorization)


def challenge_in(headers: Message) -> str:
    """Return what a registry asks for: of several headers the first that is of a known kind, else the first."""
    challenges = headers.get_all("WWW-Authenticate") or [""]
    known = (one for one in challenges if one.partition(" ")[0].lower() in ("basic", "bearer"))
    return str(next(known, challenges[0]))


def text_of(error: urllib.error.HTTPError) -> str:
    """Return what came with an error."""
    return error.read().decode("utf-8", "replace")


def get(url: str, method: str = "GET", headers: Mapping[str, str] | None = None, data: bytes | None = None) -> Answer:
    """Ask one address; raises HTTPError or Failure for every status but 200, and Failure if there is no whole answer.

    What changes something may be answered with any 2xx. The question has a thread of its own, because a socket's
    time-out begins again with every byte.
    """
    found: list[Answer | Exception] = []

    def question() -> None:
        try:
            found.append(ask_once(url, method, headers or {}, data))
        except (Failure, urllib.error.HTTPError) as error:
            found.append(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = " ".join(re.sub(r"[^ -~]", " ", str(error)).split())  # it may be meant for a terminal
            failure = Failure(f"cannot read {url}: {said or type(error).__name__}")
            failure.__cause__ = error
            found.append(failure)

    thread = threading.Thread(target=question, name=url, daemon=True)
    thread.start()
    thread.join(LONGEST)
    if not found:
        raise Failure(f"cannot read {url}: no whole answer within {LONGEST:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def ask_once(url: str, method: str, headers: Mapping[str, str], data: bytes | None) -> Answer:
    """Ask one address, as `get` does, however long it takes; an HTTPError has its whole text."""
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers))  # noqa: S310
    # A login is not sent on to where an answer leads, such as the storage of blobs.
    if authorization := request.headers.pop("Authorization", ""):
        request.add_unredirected_header("Authorization", authorization)
    host = urllib.parse.urlsplit(url).netloc
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(host) or is_direct(host, os.environ) else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=SECONDS) as response:
            if method in ("GET", "HEAD") and response.status != 200:
                raise Failure(f"cannot read {url}: it says {response.status} {response.reason}")
            body = response.read(LIMIT + 1)
            if len(body) > LIMIT:
                raise Failure(f"cannot read {url}: more than {LIMIT} bytes")
            if method != "HEAD" and (rest := response.length):
                raise Failure(f"cannot read {url}: the answer is cut off, {rest} bytes are missing")
            # A header that comes twice is a list: RFC 9110, 5.3.
            names = {name.lower() for name in response.headers}
            return Answer({name: ", ".join(response.headers.get_all(name)) for name in names}, body)
    except urllib.error.HTTPError as error:
        text = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            text = error.read(LIMIT)
        # urllib says in several lines that redirections lead in a circle.
        reason = str(error.reason).partition("\n")[0]
        raise urllib.error.HTTPError(url, error.code, reason, error.headers, io.BytesIO(text)) from error


def json_of(content: bytes) -> Any:
    """Return what a registry sent as JSON; raises ValueError if it is not, or so deep that it cannot be read."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("too deep") from error


def tags_in(content: bytes) -> list[str]:
    """Return the tags of a page of a list of tags; raises ValueError for anything else, such as a page to log in on."""
    found = json_of(content)
    tags = found.get("tags", 0) if isinstance(found, dict) else 0
    tags = [] if tags is None else tags  # of an image without any
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("not a list of tags")
    return tags


def realm_of(challenge: str) -> tuple[str, str] | None:
    """Return where a Bearer challenge says that tokens come from, and for which service; None if it says neither.

    A login goes only over TLS, or to this machine.
    """
    scheme, _, rest = challenge.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    try:
        realm = urllib.parse.urlsplit(fields.get("realm", ""))
        safe = realm.scheme == "https" or is_loopback(realm.netloc)
    except ValueError:
        return None
    return (realm.geturl(), fields.get("service", "")) if scheme.lower() == "bearer" and safe else None


def answer_to(challenge: str, image: ImageName, login: Login, actions: str = "pull") -> str:
    """Return the Authorization header that a WWW-Authenticate header asks for, with which `actions` are allowed.

    Raises Refused if that needs a login that is not there, and Failure if the challenge is not a known one.
    """
    if challenge.partition(" ")[0].lower() == "basic":
        if not login.basic:
            problem = login.problem or f"it wants a login; run docker login {image.registry}".rstrip()
            raise Refused(f"cannot ask the registry about {image}: {problem}")
        return login.basic
    found = realm_of(challenge)
    if found is None:
        raise Failure(f"cannot ask the registry about {image}: cannot answer the challenge {challenge!r}")
    realm, service = found
    fields = {
        "service": service,
        "scope": f"repository:{image.namespace}/{image.repository}:{actions}",
        # https://distribution.github.io/distribution/spec/auth/oauth/
        **({"grant_type": "refresh_token", "refresh_token": login.identity} if login.identity else {}),
    }
    query = urllib.parse.urlencode(fields)
    try:
        if login.identity:
            answer = get(realm, "POST", data=f"{query}&client_id=docker".encode())
        else:
            answer = get(f"{realm}?{query}", headers={"Authorization": login.basic} if login.basic else {})
        content = json_of(answer.body)
        return bearer(content)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise Failure(
                f"cannot ask the registry about {image}: its login says {error.code} {error.reason}"
            ) from error
        what = "the login that docker keeps" if login.basic or login.identity else "a question without a login"
        where = image.registry or "Docker Hub"
        raise Denied(
            f"{where} refuses {what} ({error.code} {error.reason}); run docker login {image.registry}".rstrip(),
            hidden=error.code == 403 and bool(HIDDEN.search(text_of(error))),
        ) from error
    except (ValueError, KeyError, AttributeError) as error:
        raise Failure(f"cannot ask the registry about {image}: {realm} sent no token") from error


def bearer(content: Any) -> str:
    """Return the header with the token that was sent; raises ValueError if it cannot be one: RFC 6750, 2.1."""
    token = content.get("token") or content["access_token"]
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise ValueError("not a token")
    return f"Bearer {token}"


def is_loopback(host: str) -> bool:
    """Whether a host, with its port or without, is this machine: asked in plain HTTP, as docker does, and directly."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_direct(host: str, env: Mapping[str, str]) -> bool:
    """Whether NO_PROXY has a network that a host's address is in: docker reads these there, and urllib does not.

    https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(urllib.parse.urlsplit(f"//{host}").hostname or "")
        for network in (env.get("no_proxy") or env.get("NO_PROXY") or "").split(","):
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(network.strip(), strict=False):
                    return True
    return False


def config_file() -> Path:
    """Return where docker keeps its logins and its settings: https://docs.docker.com/reference/cli/docker/."""
    return Path(os.environ.get("DOCKER_CONFIG") or home() / ".docker") / "config.json"


def login_of(server: str) -> Login:
    """Return what `docker login` left for a registry: https://docs.docker.com/reference/cli/docker/login/."""
    path = config_file()
    try:
        config = json_of(path.read_bytes())
        kept = {hostname(name): entry or {} for name, entry in (config.get("auths") or {}).items()}
        helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore") or ""
        entry = kept.get(hostname(server), {})
        basic, identity = entry.get("auth") or pair(entry), entry.get("identitytoken") or ""
        if not re.fullmatch(r"[A-Za-z0-9+/=_-]*", basic) or not re.fullmatch(r"[!-~]*", identity):
            raise ValueError("not a login")
    except FileNotFoundError:
        return Login()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Login(problem=f"cannot read {path} ({type(error).__name__}); correct it, or remove it and log in again")
    if helper:
        return from_helper(helper, server)
    return Login(f"Basic {basic}" if basic else "", identity)


def pair(entry: Mapping[str, Any]) -> str:
    """Return a user's name and password as a Basic header has them, "" for none: RFC 7617."""
    username, secret = entry.get("username") or "", entry.get("password") or ""
    return base64.b64encode(f"{username}:{secret}".encode()).decode("ascii") if username or secret else ""


def hostname(server: str) -> str:
    """Return a registry's host from one of the forms in which docker has kept its logins."""
    return re.sub(r"^https?://", "", server).partition("/")[0]


def from_helper(helper: str, server: str) -> Login:
    """Ask a credential helper, as docker does: https://github.com/docker/docker-credential-helpers."""
    program = shutil.which(f"docker-credential-{helper}")
    if not program:
        return Login(
            problem=f"docker keeps its logins with the credential helper {helper!r}, and there is no program"
            f" docker-credential-{helper}; install it, or remove it from ~/.docker/config.json and log in again"
        )
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS
        )
        if done.returncode:
            said = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
            if "credentials not found" in said.lower():
                return Login()
            return Login(problem=f"the credential helper docker-credential-{helper} fails: {said or 'it says nothing'}")
        kept: dict[str, Any] = json_of(done.stdout.encode())
        username, secret = kept["Username"], kept["Secret"]
        basic = pair({"username": username, "password": secret})
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        return Login(problem=f"the credential helper docker-credential-{helper} fails: {type(error).__name__}")
    if username == "<token>":  # an identity token, in the helpers' words
        return Login(identity=secret)
    return Login(f"Basic {basic}" if basic else "")
