"""What the environment says, read in one place and checked before anything starts.

Needs nothing but the standard library: gunicorn's master reads it before gevent patches the workers.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit


class ConfigError(Exception):
    """A variable has a value that the service cannot run with: one sentence, without any password."""


@dataclass(frozen=True)
class Config:
    """The service's settings. Each field is documented where it is read, in `from_environment`."""

    name: str = "world"
    redis_url: str = "redis://redis:6379/0"
    revision: str = "unknown"
    workers: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    metrics_port: int | None = None

    def trusts(self, address: str) -> bool:
        """Whether the headers that a client at `address` forwards are to be believed."""
        return bool(self.trusted_proxies) and _is_in(address, self.trusted_proxies)

    def client(self, address: str, forwarded: str) -> str:
        """Return who asks: `address`, or, if that is a trusted proxy, whom it names last in X-Forwarded-For."""
        return forwarded.rpartition(",")[2].strip() if forwarded and self.trusts(address) else address


def from_environment(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the settings in `environ`; a variable that is unset or empty has its default.

    Raises ConfigError at the first value that cannot be used.
    """

    def read(variable: str, default: str) -> str:
        return environ.get(variable) or default

    return Config(
        name=_text("NAME", read("NAME", Config.name)),
        redis_url=_redis_url(_secret("REDIS_URL_FILE", environ) or read("REDIS_URL", Config.redis_url)),
        revision=_revision(read("REVISION", Config.revision)),
        workers=_number("WEB_CONCURRENCY", read("WEB_CONCURRENCY", ""), 1, 256),
        trusted_proxies=_networks(read("FORWARDED_ALLOW_IPS", "")),
        metrics_port=_number("METRICS_PORT", read("METRICS_PORT", ""), 1, 65535),
    )


def _secret(variable: str, environ: Mapping[str, str]) -> str:
    """Return what the file that a variable names holds, or "": a secret that is never in the environment."""
    path = environ.get(variable, "")
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{variable} must name a file that can be read, not {path!r} ({error})") from None
    if not secret:
        raise ConfigError(f"{variable} must name a file with something in it, not {path!r}")
    return secret


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


def _redis_url(value: str) -> str:
    """Accept redis://, rediss:// and unix:// URLs; time-outs and retries are the counter's own, so not in the URL."""

    def bad(reason: str) -> ConfigError:
        return ConfigError(f"REDIS_URL must {reason}, not {without_password(value)!r}")

    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise bad("be a URL with a host and a port from 1 to 65535") from None
    if any(character.isspace() or not character.isprintable() for character in value):
        raise bad("have no spaces or control characters")
    if url.scheme not in ("redis", "rediss", "unix"):
        raise bad("start with redis://, rediss:// or unix://")
    if url.fragment:
        raise bad("have no # (in a password write %23)")
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    if not all(option == "db" or option.startswith("ssl_") for option in options):
        raise bad("have no option but db and ssl_...")
    if url.scheme == "unix":
        if url.hostname or not url.path.startswith("/"):
            raise bad("name a socket, such as unix:///run/redis.sock")
        database = "0"
    else:
        if not url.hostname or port == 0:
            raise bad("name a host and a port from 1 to 65535, such as redis://redis:6379/0")
        database = url.path.removeprefix("/") or "0"
    if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in (database, options.get("db", "0"))):
        raise bad("have a number as its database, such as redis://redis:6379/0")
    return value


def without_password(url: str) -> str:
    """Return the URL with *** for whatever stands before the last @, and for any password option."""
    url = re.sub(r"(?s)^([^/]*//)?.*@", r"\1***@", url)
    return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", url)
