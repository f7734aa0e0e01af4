"""How a service is deployed: what the environment says, else what runs, else defaults; checked before any change."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.command import ROOT, UsageError, say
from lib.engine import here
from lib.images import references
from lib.names import FORMER, PIPELINE, without_secrets
from lib.service import Backing, Service
from lib.swarm import LONGEST_NAME, fitting
from lib.swarm import Service as Running

DEPLOY = ROOT / "deploy"
EDGE_PORT = 4000  # where the edge listens for HTTP if there is no domain
PUBLISH_LABEL = f"{PIPELINE}.publish"
"""What service.toml said about the edge's port, so that a port which only follows it is not taken for a chosen one."""
NONE = "none"
"""The value that unsets a variable which the Swarm remembers."""

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?=.{{1,253}}$)(?:{LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])")
HOST_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
URL = re.compile(
    rf"https?://(?:(?P<name>{HOST_PART}(?:\.{HOST_PART})*)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[!-~]*)?"
)
SECRETS = "SERVICE_SECRETS"
LONGEST_SECRET = 500 * 1024  # https://docs.docker.com/engine/swarm/secrets/


@dataclass(frozen=True)
class Wanted:
    """What the environment says about how to deploy. None: nothing; "" and 0: `none`, so the default."""

    domain: str | None = None
    port: int | None = None
    replicas: int | None = None
    url: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The values of the service's secrets by their names; "" for `none`."""


def is_address(url: str) -> bool:
    """Whether a page can be asked for at an address: RFC 3986, 3.2, and for a name's length RFC 1035, 2.3.4."""
    match = URL.fullmatch(url)
    if not match or not 0 < int(match["port"] or 80) < 65536:
        return False
    if match["ipv6"] is None:
        return len(match["name"]) <= 253 and all(len(label) <= 63 for label in match["name"].split("."))
    with contextlib.suppress(ValueError):
        return bool(ipaddress.IPv6Address(match["ipv6"]))
    return False


def number(variable: str, value: str, low: int, high: int) -> int:
    """Return a whole number from the environment, or raise UsageError that names the variable."""
    if not re.fullmatch(r"[0-9]{1,6}", value) or not low <= int(value) <= high:
        raise UsageError(f"{variable} is {value!r}, which is not a number from {low} to {high}")
    return int(value)


def wanted(env: Mapping[str, str], service: Service, *, rehearsal: bool = False) -> Wanted:
    """Return what the environment says, or raise UsageError that names the first variable with a bad value.

    A rehearsal asks for no certificate, gets the values for tests and looks at its own page: the real ones are for the
    real host.
    """
    domain, url = env.get("DOMAIN", ""), env.get("DEPLOY_URL", "")
    port, replicas = env.get("EDGE_PORT", ""), env.get("REPLICAS", "")
    if domain not in ("", NONE) and not DOMAIN.fullmatch(domain):
        raise UsageError(f"DOMAIN is {domain!r}, which is not a name such as hello.example.org")
    if url and not is_address(url):
        raise UsageError(
            f"DEPLOY_URL is {without_secrets(url)!r}, which is not an address such as https://hello.example.org/"
        )
    return Wanted(
        domain=None if not domain or rehearsal else "" if domain == NONE else domain,
        port=None if not port else 0 if port == NONE else number("EDGE_PORT", port, 1, 65535),
        replicas=None if not replicas else 0 if replicas == NONE else number("REPLICAS", replicas, 1, 100),
        url="" if rehearsal else url,
        secrets={} if rehearsal else given_secrets(env, service),
    )


def given_secrets(env: Mapping[str, str], service: Service) -> dict[str, str]:
    """Return the secrets that the environment has: each in a variable of its name, or all in SERVICE_SECRETS.

    SERVICE_SECRETS has a line NAME=value for each. Values are never in a message.
    """
    found: dict[str, str] = {}
    # Not splitlines, which also breaks a value at characters that nothing else takes for a line break.
    for count, line in enumerate(env.get(SECRETS, "").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name.strip()):
            raise UsageError(f"{SECRETS}: line {count} is not NAME=value")
        found[name.strip()] = value.strip()
    backing = {one.secret: one for one in service.backing if one.secret}
    needed = {*service.secrets, *backing}
    if unknown := sorted(set(found) - needed):
        say(f"{SECRETS} has {', '.join(unknown)}, which service.toml does not name: ignored")
    found = {name: value for name in needed if (value := env.get(name) or found.get(name, ""))}
    for name, value in found.items():
        if len(value.encode("utf-8", "surrogateescape")) > LONGEST_SECRET:
            raise UsageError(f"{name} has more than {LONGEST_SECRET} bytes, which is all that a Docker secret takes")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UsageError(f"{name} is not UTF-8 text")
    for name, one in backing.items():
        scheme = urllib.parse.urlsplit(one.url).scheme
        value = found.get(name, "")
        if value and value != NONE and scheme and not value.lower().startswith((f"{scheme}://", f"{scheme}s://")):
            raise UsageError(f"{name} does not start with {scheme}:// or {scheme}s://")
    return {name: "" if value == NONE and name in backing else value for name, value in found.items()}


@dataclass(frozen=True)
class Settings:
    """How to deploy a service. `secrets` has the Docker secret for each name, `values` what to create them with."""

    stack: str
    service: Service
    domain: str = ""
    port: int = 4000
    replicas: int = 2
    secrets: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def own(self) -> tuple[Backing, ...]:
        """The backing services that run in the stack, and not elsewhere."""
        return tuple(one for one in self.service.backing if not one.secret or self.runs(one))

    def runs(self, one: Backing) -> bool:
        """Whether the stack runs a backing service itself: then the secret has its plain name."""
        return self.secrets.get(one.secret) == own_secret(self.stack, one)


def own_secret(stack: str, one: Backing) -> str:
    """Return the name of the Docker secret with the address of a backing service in the stack."""
    return fitting(f"{stack}_{one.secret.lower()}")


def fingerprint(secret: str, salt: str = PIPELINE) -> str:
    """Return twelve digits that differ from secret to secret, and that are too slow to guess it from."""
    return hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**14, r=8, p=1).hex()[:12]


def secret_name(stack: str, name: str, value: str, running: str) -> str:
    """Return the name of the Docker secret for a value; `running` is kept if it has this value already."""
    names = [fitting(f"{stack}_{name.lower()}_{fingerprint(value, salt)}") for salt in (PIPELINE, FORMER)]
    return running if running in names else names[0]


def settings(
    stack: str, service: Service, wanted: Wanted, running: Mapping[str, Running], *, rehearsal: bool = False
) -> Settings:
    """Return how to deploy: what is wanted, else what is running, else the defaults.

    Raises UsageError if a secret is missing, and if Swarm would not take a name.
    """
    web, edge = running.get("web"), running.get("edge")
    for name in service.processes:
        if len(f"{stack}_{name}") > LONGEST_NAME:
            raise UsageError(
                f"the stack {stack} and the process {name} make a name of more than {LONGEST_NAME} characters;"
                " set STACK to a shorter one"
            )
    site = edge.environment.get("SITE", "") if edge else ""
    domain = "" if site.startswith(":") else site
    port = edge.ports.get(EDGE_PORT, 0) if edge else 0
    if edge and port == int(edge.labels.get(PUBLISH_LABEL, EDGE_PORT)):
        port = 0  # nobody chose it
    found, values = {}, {}
    missing = []
    for name in (*(one.secret for one in service.backing if one.secret), *service.secrets):
        one = next((one for one in service.backing if one.secret == name), None)
        there = web.secrets.get(name.lower(), "") if web else ""
        value = wanted.secrets.get(name)
        if value is None and rehearsal and not one:
            value = service.secrets[name]
        if value:
            found[name] = secret_name(stack, name, value, there)
            values[name] = value
        elif value is None and there:
            found[name] = there
        elif one:
            found[name] = own_secret(stack, one)
        else:
            missing.append(name)
    if missing:
        raise UsageError(
            f"the service needs {' and '.join(missing)}: set a variable of that name, or the secret {SECRETS} with a"
            f" line {missing[0]}=..."
        )
    return Settings(
        stack,
        service,
        domain=domain if wanted.domain is None else wanted.domain,
        port=(port if wanted.port is None else wanted.port) or service.publish,
        replicas=((web.replicas or 1) if web and wanted.replicas is None else wanted.replicas or 2),
        secrets=found,
        values=values,
    )


def files(settings: Settings) -> list[str]:
    """Return the files of deploy/ that make up the stack; raise UsageError if one is missing."""
    names = ["stack", "domain" if settings.domain else "port", *(one.name for one in settings.own)]
    for name in names:
        if not (DEPLOY / f"compose.{name}.yaml").is_file():
            raise UsageError(
                f"there is no deploy/compose.{name}.yaml, which would say how {name} runs in the stack; write it"
            )
    return [str(DEPLOY / f"compose.{name}.yaml") for name in names]


def deploy_command(settings: Settings, *, private: bool = True) -> list[str]:
    """Return the command that makes the Swarm run the stack, with `overlay` on its standard input.

    The nodes get the login to the registry only if they need it: for a `private` image.
    """
    return [
        *("docker", "stack", "deploy", "--detach=true", "--prune", *(["--with-registry-auth"] if private else [])),
        # A newer Redis or Caddy under the same tag is not part of a redeploy.
        *("--resolve-image", "changed"),
        *(part for file in files(settings) for part in ("--compose-file", file)),
        *("--compose-file", "-", settings.stack),
    ]


def deploy_environment(settings: Settings, image: str) -> dict[str, str]:
    """Return the variables of deploy/compose.*.yaml; `image` is a reference by digest."""
    service = settings.service
    return {
        "STACK": settings.stack,
        "IMAGE": image,
        "DOMAIN": settings.domain,
        "PUBLISH": str(settings.port),
        "REPLICAS": str(settings.replicas),
        "PORT": str(service.port),
        "PAGE": service.page,
        "HEALTH": service.health,
        **{f"{one.name.upper().replace('-', '_')}_SECRET": one.secret.lower() for one in settings.own if one.secret},
        # Config objects never change: another Caddyfile is another object.
        "CADDYFILE": hashlib.sha256((DEPLOY / "Caddyfile").read_bytes()).hexdigest()[:12],
    }


def overlay(settings: Settings, image: str) -> str:
    """Return what service.toml adds to deploy/, as JSON: secrets, volumes, processes, and the images beside it.

    A secret is a file in the container; the service gets its path in the variable NAME_FILE.
    """
    service = settings.service
    volumes = {volume.strip("/").replace("/", "-").lower(): volume for volume in service.volumes}
    common: dict[str, Any] = {
        "environment": {f"{name}_FILE": f"/run/secrets/{name.lower()}" for name in settings.secrets},
        "secrets": [name.lower() for name in settings.secrets],
        "volumes": [f"service-{name}:{folder}" for name, folder in volumes.items()],
    }
    # What is kept in a volume is on one node and nowhere else.
    place = {"placement": {"constraints": ["node.labels.service == yes"]}} if volumes else {}
    processes = {
        name: {
            **common,
            "image": image,
            "command": [word.replace("$", "$$") for word in command],
            "networks": ["web", *(["data"] if settings.own else [])],
            "healthcheck": {"disable": True},  # the image's asks the port, where only `web` listens
            "read_only": True,
            "cap_drop": ["ALL"],
            "stop_grace_period": "10s",
            "logging": {"driver": "local"},
            "deploy": {
                "endpoint_mode": "dnsrr",
                "update_config": {"order": "start-first", "failure_action": "rollback", "monitor": "3s"},
                "rollback_config": {"order": "start-first", "monitor": "1s"},
                "restart_policy": {"condition": "any", "delay": "1s"},
                "resources": {"limits": {"cpus": "1", "memory": "256M", "pids": 256}},
                **place,
            },
        }
        for name, command in service.processes.items()
    }
    beside = {one.name: {"image": here(one.image), "environment": dict(one.environment)} for one in settings.own}
    return json.dumps(
        {
            "services": {
                "edge": {**edge_image(), "deploy": {"labels": {PUBLISH_LABEL: str(service.publish)}}},
                "web": {**common, **({"deploy": place} if place else {})},
                **processes,
                **beside,
            },
            "secrets": {name.lower(): {"external": True, "name": kept} for name, kept in settings.secrets.items()},
            "volumes": {f"service-{name}": {} for name in volumes},
        }
    )


def edge_image() -> dict[str, str]:
    """Return the edge's image if it is not the one that the stack's file names, because the engine stands in for it."""
    for each in references(DEPLOY.parent):
        if each.file == "deploy/compose.stack.yaml" and each.digest:
            return {"image": each.image} if here(f"{each.image}@{each.digest}") == each.image else {}
    return {}


def places(settings: Settings) -> list[str]:
    """Return the labels of the nodes that data is on: one for each backing service here, one for volumes."""
    return [*(one.name for one in settings.own), *(["service"] if settings.service.volumes else [])]


def url(settings: Settings, wanted: Wanted, host: str) -> str:
    """Return where visitors find the page."""
    if wanted.url:
        return wanted.url
    name = f"[{host}]" if ":" in host else host or "127.0.0.1"
    base = f"https://{settings.domain}" if settings.domain else f"http://{name}:{settings.port}"
    return base + settings.service.page
