"""What the pipeline knows of the service: service.toml, at the top of the repository, is read here and nowhere else.

name        the image is NAME:ci on the engine, and NAME is its title; the only key that has to be there
start       the image's command (python -m NAME, with `_` for `-` and `.`); the Dockerfile's CMD says the same
develop     the command of scripts/serve.py, with {port} in it; without one, serve.py says so
port        where the service listens in its container (80)
publish     the port of the host that it is published on (4000)
health      the path that answers 200 while the process is up (/healthz)
page        the path that visitors come for (/)
platforms   what the image is built for (linux/amd64 and linux/arm64); the variable PLATFORMS overrides it
volumes     folders in the container that are kept
backing     [backing.redis] with image, url (its address, without a password), secret (the variable that the service
            finds the address in) and environment (its container's own): a service beside this one
secrets     NAME = "value": what the service needs to know; the value is for tests and rehearsals only
processes   NAME = [command]: more processes of the same image
off         CHECK = "reason": checks of the smoke test that do not hold for this service
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.command import ROOT, UsageError
from lib.names import COMPONENT

FILE = "service.toml"
PLATFORMS = ("linux/amd64", "linux/arm64")

CHECKS = {
    "finish": "a request that is in flight at SIGTERM is answered",
    "healthcheck": "the image has a HEALTHCHECK, and by it the container is healthy",
    "nosniff": "the page has X-Content-Type-Options: nosniff",
    "privileges": "process 1 is not root's, has no capabilities and cannot gain new privileges",
    "revision": "the page has X-Revision: the commit that the image was built from",
    "server": "the Server header reveals no version",
    "stop": "SIGTERM ends the service within seconds",
    "user": "the image's user is a number that is not root's",
    "written": "the service cannot write to its own files",
}
"""The smoke test's own checks, by the names that [off] knows them by."""


@dataclass(frozen=True)
class Backing:
    """A service beside this one. `name` is its host name, `url` its address without a password ("" for none).

    The service finds the address in the variable `secret`, or in the file that `secret`_FILE names.
    """

    name: str
    image: str
    url: str = ""
    secret: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def address(self, password: str) -> str:
        """Return the address with a password in it (RFC 3986, 3.2.1)."""
        parts = urllib.parse.urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        netloc = f"{user.partition(':')[0] if at else ''}:{urllib.parse.quote(password, safe='')}@{host}"
        return parts._replace(netloc=netloc).geturl()


@dataclass(frozen=True)
class Service:
    """What service.toml says; each field is a key of it."""

    name: str
    start: tuple[str, ...]
    develop: tuple[str, ...] = ()
    port: int = 80
    publish: int = 4000
    health: str = "/healthz"
    page: str = "/"
    platforms: tuple[str, ...] = PLATFORMS
    volumes: tuple[str, ...] = ()
    backing: tuple[Backing, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    processes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    off: Mapping[str, str] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """The image's name on the engine while it is built and tested."""
        return f"{self.name}:ci"

    @property
    def environment(self) -> dict[str, str]:
        """What a container of it needs where nothing real is at stake: the secrets' values for tests."""
        return {**{one.secret: one.url for one in self.backing if one.secret and one.url}, **self.secrets}

    def run_line(self, image: str) -> str:
        """Return the line that runs an image of it by hand; a secret's value is the reader's to fill in."""
        given = "".join(f" --env {secret}=..." for secret in self.secrets)
        return f"docker run --rm -p {self.publish}:{self.port}{given} {image}"

    def has(self, check: str) -> bool:
        """Whether a check of the smoke test holds for this service; CHECKS has their names."""
        if check not in CHECKS:
            raise KeyError(check)
        return check not in self.off


def wrong(key: str, value: object, expected: str) -> UsageError:
    """Return the sentence for a bad value."""
    return UsageError(f"{FILE}: {key} is {value!r}, expected {expected}")


def is_text(value: object) -> bool:
    """Whether this is text that can stand on a line: not empty, and nothing that a terminal takes for a command."""
    return isinstance(value, str) and bool(value) and value.isprintable()


def is_name(value: object) -> bool:
    """Whether this can be a part of an image's name."""
    return isinstance(value, str) and len(value) <= 100 and bool(COMPONENT.fullmatch(value))


def is_label(value: object) -> bool:
    """Whether this can be a host name and a part of a Swarm's names: RFC 1123, 2.1, in lower case."""
    return isinstance(value, str) and bool(re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", value))


def is_variable(value: object) -> bool:
    """Whether this can be an environment variable and, on GitHub, a secret."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", value)) and value[:7] != "GITHUB_"


def is_command(value: object) -> bool:
    """Whether this is a command: a list of words."""
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def is_port(value: object) -> bool:
    """Whether this is a port's number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def is_path(value: object) -> bool:
    """Whether this is the path of a URL: RFC 3986, 3.3."""
    return isinstance(value, str) and bool(re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", value))


def is_folder(value: object) -> bool:
    """Whether this is a folder that a volume may be at: no system folder, and no `..`."""
    return (
        isinstance(value, str)
        and bool(re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", value))
        and value.split("/")[1] not in ("app", "bin", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "usr")
    )


def is_platform(value: object) -> bool:
    """Whether this is a platform, such as linux/amd64."""
    return value in PLATFORMS


KEYS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (is_name, "lower-case letters and digits, with single . _ or - between them"),
    "start": (is_command, 'a command as a list of words, such as ["python", "-m", "shop"]'),
    "develop": (is_command, "a command as a list of words"),
    "port": (is_port, "a number from 1 to 65535"),
    "publish": (is_port, "a number from 1 to 65535"),
    "health": (is_path, "a path, such as /healthz"),
    "page": (is_path, "a path, such as /"),
    "platforms": (
        lambda value: (
            isinstance(value, list) and bool(value) and all(map(is_platform, value)) and len(value) == len(set(value))
        ),
        f"a list of {' and '.join(PLATFORMS)}",
    ),
    "volumes": (
        lambda value: isinstance(value, list) and all(map(is_folder, value)) and len(value) == len(set(value)),
        "a list of folders that are not the system's, such as /data",
    ),
}
BACKING: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "image": (
        lambda value: is_text(value) and not re.search(r"\s", str(value)) and str(value)[0] != "-",
        "an image, such as redis:8",
    ),
    "url": (
        lambda value: bool(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s:@/]*@?[^\s:@/]+(:\d+)?(/\S*)?", str(value))),
        "an address without a password, such as redis://redis:6379/0",
    ),
    "secret": (is_variable, "a variable's name, such as REDIS_URL"),
    "environment": (lambda value: isinstance(value, dict), "a table of variables"),
}
TABLES: Mapping[str, tuple[Callable[[object], bool], Callable[[object], bool], str]] = {
    "secrets": (is_variable, is_text, 'NAME = "a value for tests", with a name such as SECRET_KEY'),
    "processes": (
        lambda name: is_label(name) and name not in ("web", "edge"),
        is_command,
        'NAME = ["a", "command"], with a name other than web and edge',
    ),
    "off": (
        lambda name: name in CHECKS,
        is_text,
        f'CHECK = "the reason", with one of the checks {", ".join(CHECKS)}',
    ),
}


def table(key: str, value: object) -> dict[str, Any]:
    """Return a table of TOML, or raise UsageError."""
    if not isinstance(value, dict):
        raise wrong(key, value, f"a table: [{key}]")
    return value


def checked(where: str, found: Mapping[str, Any], keys: Mapping[str, tuple[Callable[[object], bool], str]]) -> None:
    """Raise UsageError for a key that is not known and for a value that cannot be."""
    for key, value in found.items():
        if key not in keys:
            raise UsageError(f"{FILE}: {where}{key} is not a key; the keys are {', '.join(keys)}")
        is_right, expected = keys[key]
        if not is_right(value):
            raise wrong(f"{where}{key}", value, expected)


def backing_in(found: Mapping[str, Any]) -> tuple[Backing, ...]:
    """Return the services beside this one, from the table `backing`."""
    services = []
    for name, facts in found.items():
        where = f"backing.{name}"
        if not is_label(name) or name in ("web", "edge"):
            raise wrong("backing", name, "a host name other than web and edge, such as redis")
        checked(f"{where}.", table(where, facts), BACKING)
        if "image" not in facts:
            raise UsageError(f'{FILE}: {where} has no image; add one, such as image = "redis:8"')
        for variable, value in facts.get("environment", {}).items():
            if not (is_variable(variable) and is_text(value)):
                raise wrong(f"{where}.environment", {variable: value}, 'VARIABLE = "value"')
        services.append(Backing(name, **facts))
    return tuple(services)


def parse(text: str, environ: Mapping[str, str]) -> Service:
    """Return the service that the text of a service.toml describes; `environ` may override the platforms.

    Raises UsageError, one sentence that names the file, the key and the value.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{FILE} is not TOML: {error}") from None
    tables = {key: table(key, found.pop(key, {})) for key in (*TABLES, "backing")}
    for key in found:
        if key not in KEYS:
            raise UsageError(f"{FILE}: {key} is not a key; the keys are {', '.join([*KEYS, *tables])}")
    checked("", found, KEYS)
    for key, (is_key, is_value, expected) in TABLES.items():
        for name, value in tables[key].items():
            if not (is_key(name) and is_value(value)):
                raise wrong(key, {name: value}, expected)
    if "name" not in found:
        raise UsageError(f'{FILE} has no name; add the service\'s, such as name = "shop"')
    start = found.pop("start", ["python", "-m", re.sub(r"[.-]+", "_", found["name"])])
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    service = Service(
        **{**fields, "start": tuple(start), "platforms": platforms(found.get("platforms"), environ)},
        backing=backing_in(tables["backing"]),
        secrets=tables["secrets"],
        processes={name: tuple(command) for name, command in tables["processes"].items()},
        off=tables["off"],
    )
    names = [*service.secrets, *(one.secret for one in service.backing if one.secret)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{FILE}: {name} stands twice among secrets and backing; one name is one secret")
    for name in service.processes:
        if name in {one.name for one in service.backing}:
            raise UsageError(f"{FILE}: {name} is both a process and a backing service; rename one of them")
    return service


def platforms(given: object, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to build for: the variable PLATFORMS, if it is set, else the file's, else both."""
    wanted = environ.get("PLATFORMS", "").replace(",", " ").split()
    for platform in wanted:
        if not is_platform(platform):
            raise UsageError(f"PLATFORMS has {platform!r} in it, expected {' or '.join(PLATFORMS)}")
    return tuple(dict.fromkeys(wanted)) or tuple(given if isinstance(given, list) else PLATFORMS)


def load(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Service:
    """Return the service of the repository at `root`."""
    path = root / FILE
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f'cannot read {path}: {error.strerror}; it needs one line: name = "your-service"') from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    return completed(parse(text, environ), root)


def completed(this: Service, root: Path) -> Service:
    """Return a service whose backing services have the digests that compose.yaml has for their images.

    Dependabot keeps them current there; it does not read service.toml.
    """
    compose = root / "compose.yaml"
    found = services_in(compose.read_text("utf-8")) if this.backing and compose.is_file() else {}
    backing = []
    for one in this.backing:
        digest = re.search(
            rf"(?m)^    image: [\"']?{re.escape(one.image)}(@sha256:[0-9a-f]{{64}})", found.get(one.name, "")
        )
        backing.append(replace(one, image=one.image + digest[1]) if digest else one)
    return replace(this, backing=tuple(backing))


# What cannot read TOML says the same; `differences` holds it equal.


def instruction(dockerfile: str, word: str) -> str:
    """Return what the last instruction of a kind in the last stage says, "" if there is none."""
    stage = re.split(r"(?im)^FROM\s", dockerfile.replace("\\\n", " "))[-1]
    found = re.findall(rf"(?im)^\s*{word}\s+(.+)$", stage)
    return str(found[-1]).strip() if found else ""


def services_in(compose: str) -> dict[str, str]:
    """Return the text of each service in a Compose file, by name; its own format needs no parser."""
    body = re.search(r"(?ms)^services:\s*\n(.*?)(?=^\S|\Z)", compose)
    parts = re.split(r"(?m)^  ([a-z0-9-]+):[ \t]*(?:&[\w-]+)?[ \t]*(?:#.*)?\n", body[1] if body else "")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def in_dockerfile(this: Service, text: str) -> Iterator[str]:
    """Yield what a Dockerfile says otherwise, a sentence each."""
    for word, wanted, key in (
        ("EXPOSE", str(this.port), "port"),
        ("CMD", json.dumps(list(this.start)), "start"),
    ):
        said = instruction(text, word)
        same = json_or_text(said) == list(this.start) if word == "CMD" else wanted in said.split()
        if not same:
            yield f"Dockerfile: {word} is {said or 'missing'}, but {key} in {FILE} makes it {word} {wanted}"
    title = re.search(r"org\.opencontainers\.image\.title=\"?([^\s\"]+)", text)
    if (title[1] if title else "") != this.name:
        yield (
            f"Dockerfile: the label org.opencontainers.image.title is {title[1] if title else 'missing'}, but name in"
            f" {FILE} is {this.name}"
        )


def json_or_text(text: str) -> Any:
    """Return what a text of JSON says, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def in_compose(this: Service, text: str) -> Iterator[str]:
    """Yield what compose.yaml says otherwise, a sentence each."""
    found = services_in(text)
    web = found.get("web", "")
    if not web:
        yield "compose.yaml: there is no service web; add the service's own"
        return
    if f"${{IMAGE:-{this.image}}}" not in web:
        yield f"compose.yaml: the image of web is not ${{IMAGE:-{this.image}}}, but name in {FILE} is {this.name}"
    if not re.search(rf"\$\{{PORT:-{this.publish}\}}:{this.port}\b", web):
        yield (
            f"compose.yaml: web does not publish ${{PORT:-{this.publish}}}:{this.port}, as {FILE} says (publish, port)"
        )
    for secret in (*this.secrets, *(one.secret for one in this.backing if one.secret)):
        if not re.search(rf"\b{secret}\b", web):
            yield f"compose.yaml: web does not get {secret}, which {FILE} names; add it to its environment"
    for backing in this.backing:
        if not re.search(rf"(?m)^    image: .*{re.escape(backing.image)}", found.get(backing.name, "")):
            yield f"compose.yaml: there is no service {backing.name} with the image {backing.image}, as {FILE} says"
    for process in this.processes:
        if process not in found:
            yield f"compose.yaml: there is no service {process}, which is a process in {FILE}"
    for folder in this.volumes:
        if not re.search(rf":{re.escape(folder)}\b", web):
            yield f"compose.yaml: web has no volume at {folder}, which {FILE} names"


def differences(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return how the Dockerfile, compose.yaml and deploy/ differ from service.toml, a sentence each."""
    this = load(root, environ)
    found: list[str] = []
    for name, judge in (("Dockerfile", in_dockerfile), ("compose.yaml", in_compose)):
        path = root / name
        if path.exists():
            found += judge(this, path.read_text("utf-8"))
        elif name == "Dockerfile":
            found.append("there is no Dockerfile; the image is built from it")
    for backing in this.backing:
        if (root / "deploy").is_dir() and not (root / f"deploy/compose.{backing.name}.yaml").exists():
            found.append(f"there is no deploy/compose.{backing.name}.yaml, which runs {backing.name} in the stack")
    return found
