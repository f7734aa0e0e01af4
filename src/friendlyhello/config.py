"""What the environment says, read in one place and checked before anything starts.

Needs nothing but the standard library: gunicorn's master reads it before gevent patches the workers.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

LONGEST_SECRET = 8192
"""Bytes of a file with a secret in it."""


class ConfigError(Exception):
    """A variable has a value that the service cannot run with: one sentence, without any secret."""


@dataclass(frozen=True)
class Config:
    """The service's settings. Each field is documented where it is read, in `from_environment`."""

    name: str = "world"
    redis_url: str = field(default="redis://redis:6379/0", repr=False)
    revision: str = "unknown"
    workers: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    metrics_port: int | None = None

    def trusts(self, address: str) -> bool:
        """Whether the headers that a client at `address` forwards are to be believed."""
        return bool(self.trusted_proxies) and _is_in(address, self.trusted_proxies)

    def client(self, address: str, forwarded: str) -> str:
        """Return who asks: `address`, or, if that is a trusted proxy, whom it names last in X-Forwarded-For.

        What could not be an address, with or without a port, or a name of RFC 7239, 6, is not one that a log can hold.
        """
        last = forwarded.rpartition(",")[2].strip()
        return last if re.fullmatch(r"[][\w.:%-]{1,64}", last, re.ASCII) and self.trusts(address) else address


def from_environment(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the settings in `environ`; a variable that is unset or empty has its default.

    Raises ConfigError at the first value that cannot be used.
    """

    def read(variable: str, default: str) -> str:
        return environ.get(variable) or default

    return Config(
        name=_text("NAME", environ.get("NAME", Config.name) or "World"),  # NAME= takes back the image's own, World
        redis_url=_redis_url(environ),
        revision=_revision(read("REVISION", Config.revision)),
        workers=_number("WEB_CONCURRENCY", read("WEB_CONCURRENCY", ""), 1, 256),
        trusted_proxies=_networks(read("FORWARDED_ALLOW_IPS", "")),
        metrics_port=_number("METRICS_PORT", read("METRICS_PORT", ""), 1, 65535),
    )


def _secret(variable: str, path: str) -> str:
    """Return what a file holds: a secret that is never in the environment, and never in a message."""

    def bad(what: str) -> ConfigError:
        return ConfigError(f"{variable} must name a {what}, not {path!r}")

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise bad("regular file")
        with open(path, "rb") as file:
            secret = file.read(LONGEST_SECRET + 1)
    except OSError as error:
        raise bad(f"file that can be read ({error.strerror})") from None
    except ValueError:
        raise bad("file that can be read") from None
    if len(secret) > LONGEST_SECRET:
        raise bad(f"file of at most {LONGEST_SECRET} bytes")
    if not secret.strip():
        raise bad("file with something in it")
    try:
        return secret.decode("utf-8-sig").strip()  # Windows tools begin a file with a mark
    except ValueError:
        raise bad("file of UTF-8 text") from None


@functools.lru_cache(maxsize=1024)
def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    if "*" in networks:
        return True
    try:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
    except ValueError:  # a Unix socket's client has no address
        return False


def _text(variable: str, value: str) -> str:
    """Accept any text but control characters and bytes that are not UTF-8 (which Python reads as surrogates)."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{variable} must be UTF-8 text without control characters, not {value!r}")
    return value


def _revision(value: str) -> str:
    """Accept what can stand in a response header: visible ASCII, 128 characters at most."""
    if not re.fullmatch(r"[\x21-\x7e]{1,128}", value):
        raise ConfigError(f"REVISION must be at most 128 visible ASCII characters, not {value!r}")
    return value


def _number(variable: str, value: str, low: int, high: int) -> int | None:
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", value) or not low <= int(value) <= high:
        raise ConfigError(f"{variable} must be a number from {low} to {high}, not {value!r}")
    return int(value)


def _networks(value: str) -> tuple[str, ...]:
    """Accept `*` or addresses and networks with commas between, as gunicorn does."""
    if value == "*":
        return ("*",)
    networks = tuple(part.strip() for part in value.split(",")) if value else ()
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ConfigError(
                f"FORWARDED_ALLOW_IPS must be * or IP addresses and networks with commas between, not {value!r}"
            ) from None
    return networks


TLS_OPTIONS = {
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": "(?i)true|false|yes|no|1|0",
    **dict.fromkeys(
        ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ciphers"), ".+"
    ),
}
"""The options that a rediss:// URL may have, and what each may be."""


def _redis_url(environ: Mapping[str, str]) -> str:
    """Return REDIS_URL, or what is in the file that REDIS_URL_FILE names: a redis://, rediss:// or unix:// URL.

    Time-outs and retries are the counter's own, so they are not accepted in the URL.
    """
    file = environ.get("REDIS_URL_FILE", "")
    value = _secret("REDIS_URL_FILE", file) if file else environ.get("REDIS_URL") or Config.redis_url
    reason = _wrong_with(value)
    if reason and file:
        raise ConfigError(f"REDIS_URL_FILE must name a file with a URL that must {reason}, not {file!r}")
    if reason:
        raise ConfigError(f"REDIS_URL must {reason}, not {without_secrets(value)!r}")
    scheme, mark, rest = value.partition("://")
    return scheme.lower() + mark + rest


def _wrong_with(value: str) -> str:
    """Return what a URL of Redis must be and is not, or ""."""
    if any(character.isspace() or not character.isprintable() for character in value):
        return "have no spaces or control characters"
    scheme, mark, rest = value.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in ("redis", "rediss", "unix"):
        return "start with redis://, rediss:// or unix://"
    password, _, where = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")
    if re.search(r"[]/?#[]", password):
        return "have / ? # [ and ] in a password as %2F %3F %23 %5B and %5D"
    try:
        url = urlsplit(f"{scheme}://{where}")
        port = url.port
    except ValueError:
        return "be a URL with a host and a port from 1 to 65535"
    try:
        urlsplit(value)
    except ValueError:  # characters that look like / ? # @ or :
        return "have letters beyond ASCII in a password percent-encoded"
    if url.fragment:
        return "have no # (in a password write %23)"
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    allowed = {"db": "[0-9]{1,9}", **(TLS_OPTIONS if scheme == "rediss" else {})}
    for option, text in options.items():
        if option not in allowed:
            return f"have no option but {', '.join(allowed)}"
        if option != "db" and not re.fullmatch(allowed[option], text):
            return f"have a usable {option}"
    if scheme == "unix":
        if url.hostname or not url.path.startswith("/"):
            return "name a socket, such as unix:///run/redis.sock"
        database = "0"
    else:
        if not url.hostname or port == 0:
            return "name a host and a port from 1 to 65535, such as redis://redis:6379/0"
        database = url.path.removeprefix("/") or "0"
    if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in (database, options.get("db", "0"))):
        return "have a number as its database, such as redis://redis:6379/0"
    return ""


def without_secrets(url: str) -> str:
    """Return of a URL what can be shown: scheme, host, port and path, and *** for whatever may be a secret."""
    found = re.fullmatch(r"(?s)([a-zA-Z]+://)([^/].*@)?([^@/?#:]*|\[[^@/?#]*\])(:[^/?#]*)?(/[^?#]*)?([?#].*)?", url)
    if found is None:
        return "***"
    scheme, user, host, port, path, rest = (part or "" for part in found.groups())
    if not user and not re.fullmatch("(:[0-9]*)?", port):  # a user and a password, and the host forgotten
        port = ":***"
    return f"{scheme}{user and '***@'}{host}{port}{path}{rest and rest[0] + '***'}"
