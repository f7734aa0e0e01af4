"""What somebody may do with an image in its registry, and how much is left of a limit: asked without a push."""

from __future__ import annotations

import base64
import urllib.error
import urllib.parse
from dataclasses import dataclass

from lib.command import Failure
from lib.distribution import HUB, Login, Refused, bearer, challenge_in, get, is_loopback, json_of, realm_of, tags_in
from lib.names import ImageName

LIMITED = ImageName("", "ratelimitpreview", "test")  # https://docs.docker.com/docker-hub/usage/pulls/


@dataclass(frozen=True)
class Access:
    """What a login gives: `actions` of pull and push, None if the registry does not say; whether the image is there."""

    actions: frozenset[str] | None
    exists: bool


def address(image: ImageName) -> str:
    """Return where a registry's interface begins."""
    host = image.registry or HUB
    return f"{'http' if is_loopback(host) else 'https'}://{host}/v2/"


def authorization(image: ImageName, login: Login) -> tuple[str, frozenset[str] | None]:
    """Return the header for an image, and what it allows; raise Refused if the registry does not take the login."""
    where = image.registry or "Docker Hub"
    try:
        get(address(image))
    except urllib.error.HTTPError as error:
        challenge = challenge_in(error.headers)
        if error.code != 401 or not challenge:
            raise Failure(f"{where} says {error.code} {error.reason}") from error
    else:
        return "", None
    if challenge.partition(" ")[0].lower() == "basic":
        return basic(image, login, where)
    found = realm_of(challenge)
    if found is None:
        raise Failure(f"{where} asks for a login in an unknown way: {challenge!r}")
    scope = f"repository:{image.namespace}/{image.repository}:pull,push"
    realm, service = found
    query = urllib.parse.urlencode({"service": service, "scope": scope})
    try:
        answer = get(f"{realm}?{query}", headers={"Authorization": login.basic} if login.basic else {})
        content = json_of(answer.body)
        header = bearer(content)
    except urllib.error.HTTPError as error:
        kind = Refused if error.code in (401, 403) else Failure
        raise kind(f"{where} refuses the login ({error.code} {error.reason})") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise Failure(f"{where} sent no token") from error
    return header, granted(header.removeprefix("Bearer "), f"{image.namespace}/{image.repository}")


def basic(image: ImageName, login: Login, where: str) -> tuple[str, frozenset[str] | None]:
    """Return the header for a registry that takes a name and a password each time, and does not say what they allow."""
    if not login.basic:
        return "", frozenset()
    try:
        get(address(image), headers={"Authorization": login.basic})
    except urllib.error.HTTPError as error:
        kind = Refused if error.code in (401, 403) else Failure
        raise kind(f"{where} refuses the login ({error.code} {error.reason})") from error
    return login.basic, None


def granted(token: str, name: str) -> frozenset[str] | None:
    """Return what a token allows with a repository, None if it does not say.

    https://distribution.github.io/distribution/spec/auth/jwt/, "access"; it is not verified, as nothing depends on it.
    """
    try:
        body = token.split(".")[1]
        claims = json_of(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return frozenset(
            action for entry in claims["access"] or [] if entry["name"] == name for action in entry["actions"]
        )
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def access(image: ImageName, login: Login) -> Access:
    """Return what a login gives; `Login()` asks without one. Raises Refused or Failure in a sentence."""
    header, actions = authorization(image, login)
    url = f"{address(image)}{image.namespace}/{image.repository}/tags/list?n=1"
    where = image.registry or "Docker Hub"
    try:
        tags_in(get(url, headers={"Authorization": header} if header else {}).body)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return Access(actions, exists=False)
        raise Failure(f"{where} says {error.code} {error.reason}") from error
    except ValueError as error:
        raise Failure(f"{where} does not answer as a registry does: no list of tags at {url}") from error
    return Access(actions, exists=True)


def pulls_left(login: Login) -> tuple[int, int] | None:
    """Return how many pulls Docker Hub still allows and of how many, None if there is no limit."""
    header, _ = authorization(LIMITED, login)
    # A HEAD is not counted.
    url = f"{address(LIMITED)}{LIMITED.namespace}/{LIMITED.repository}/manifests/latest"
    try:
        answer = get(url, "HEAD", {"Authorization": header})
    except urllib.error.HTTPError as error:
        if error.code == 429:
            return 0, 0
        raise Failure(f"Docker Hub says {error.code} {error.reason}") from error
    numbers = [answer.headers.get(f"ratelimit-{what}", "").partition(";")[0] for what in ("remaining", "limit")]
    return (int(numbers[0]), int(numbers[1])) if all(number.isdigit() for number in numbers) else None
