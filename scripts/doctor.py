#!/usr/bin/env python3
"""Look at the whole road from this machine to the host once, and say what is missing or wrong, with what to do.

  python3 scripts/doctor.py                            this machine, the clone, GitHub, the registry
  python3 scripts/doctor.py --host root@example.org    the host as well, by the login that prepared it
  python3 scripts/doctor.py --json                     the same for a program
  python3 scripts/doctor.py --fix                      do what is safe: only commands that take nothing away

GitHub is asked through `gh` if it is logged in, the registry with what `docker login` left. Settings are those of
the environment, else GitHub's for the environment `production`, else the repository's. Nothing is changed without
--fix. Ends with 1 if something is missing or wrong. scripts/configure_github.py sets what GitHub lacks.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import functools
import json
import os
import platform
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import prepare_host
from lib import engine, gh, visit
from lib import service as service_file
from lib.access import access, pulls_left
from lib.command import ROOT, Failure, UsageError, last_line, parser, run, say, shown, start
from lib.distribution import HUB_LOGIN, Login, Refused, login_of
from lib.images import references
from lib.names import SEMVER, ImageName, image_name, parse_version, repository_name, without_secrets
from lib.service import Service
from lib.settings import EDGE_PORT
from lib.ssh import Target, parse_target
from lib.template import RECORD, parse_record

OK, MISSING, WRONG, UNKNOWN = "ok", "missing", "wrong", "unknown"

PULLS = 20  # fewer than one run needs
DAYS = 14  # a certificate is renewed 30 days before its end, so something is wrong
CLOCK = 60  # seconds; certificates and tokens are dated
DISK = 3 * 2**20  # KiB: room for two versions of the image and the logs
SHELL_FILES = (".ci/run", "Dockerfile", "compose.yaml", "deploy/Caddyfile", "*.sh", "*.py", "*.toml")
CONFIGURE = "python3 scripts/configure_github.py"


@dataclass(frozen=True)
class Line:
    """What one look found. `fix` is the command or the click; `safe` are commands that --fix may run."""

    state: str
    said: str
    fix: str = ""
    safe: tuple[tuple[str, ...], ...] = ()
    area: str = ""
    check: str = ""


class World:
    """What there is to look at, each part looked at once. `env` is the environment, `login` how to reach the host."""

    def __init__(self, env: Mapping[str, str], root: Path = ROOT, login: str = "") -> None:
        self.env = env
        self.root = root
        self.login = login

    def git(self, *arguments: str) -> str:
        """Return what git prints in the clone, "" if it fails."""
        return run(["git", "-C", str(self.root), *arguments], check=False).stdout.strip()

    @functools.cached_property
    def remote(self) -> str:
        """The address of origin, "" for none."""
        return self.git("remote", "get-url", "origin")

    @functools.cached_property
    def engine(self) -> engine.Engine:
        """The engine that docker talks to."""
        return engine.look()

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """What `docker info` says, nothing if no engine answers."""
        done = run(["docker", "info", "--format", "{{json .}}"], check=False, timeout=60)
        with contextlib.suppress(ValueError):
            return dict(json.loads(done.stdout))
        return {}

    @functools.cached_property
    def service(self) -> Service | None:
        """What service.toml says; None if it cannot be read: `service_toml` says why."""
        with contextlib.suppress(UsageError):
            return service_file.load(self.root, {})
        return None

    @functools.cached_property
    def why_no_github(self) -> str:
        """Why GitHub cannot be asked, with what to do; "" if it can."""
        found = gh.find(self.remote)
        if found is None:
            where = without_secrets(self.remote) or "not set"
            return f"origin is {where}, so there is no repository on GitHub to ask about"
        return gh.check_login(found.host)

    @functools.cached_property
    def github(self) -> gh.GitHub | None:
        """The repository on GitHub, None if it cannot be asked."""
        return None if self.why_no_github else gh.find(self.remote)

    @functools.cached_property
    def repository(self) -> dict[str, Any]:
        """What GitHub says about the repository."""
        return (self.github.get("") if self.github else None) or {}

    @functools.cached_property
    def variables(self) -> dict[str, dict[str, str]]:
        """GitHub's variables: those of the repository under "", and those of each environment."""
        return {place: self.github.variables(place) for place in self.places} if self.github else {}

    @functools.cached_property
    def secrets(self) -> dict[str, set[str]]:
        """The names of GitHub's secrets, in the same places."""
        return {place: self.github.secrets(place) for place in self.places} if self.github else {}

    @functools.cached_property
    def environments(self) -> dict[str, dict[str, Any]]:
        """GitHub's environments by name."""
        return {item["name"]: item for item in self.github.items("environments", "environments")} if self.github else {}

    @property
    def places(self) -> list[str]:
        """Where variables and secrets can be."""
        return ["", *(name for name in gh.ENVIRONMENTS if name in self.environments)]

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """What is set: GitHub's variables of the repository, then of `production`, then the environment's own."""
        on_github: dict[str, str] = {}
        with contextlib.suppress(Failure):
            on_github = {**self.variables.get("", {}), **self.variables.get("production", {})}
        known, _ = gh.known(self.root)
        return {**on_github, **{name: self.env[name] for name in known if self.env.get(name)}}

    def has_secret(self, name: str) -> bool:
        """Whether GitHub has a secret in any place."""
        return any(name in names for names in self.secrets.values())

    @functools.cached_property
    def image(self) -> ImageName | None:
        """The image to publish as; None if nothing says the account."""
        if not self.settings.get("DOCKERHUB_USERNAME"):
            return None
        return image_name(self.settings, repository_name(self.remote) or self.root.name)

    @functools.cached_property
    def docker_login(self) -> Login:
        """What `docker login` left for the image's registry."""
        return login_of((self.image.registry if self.image else "") or HUB_LOGIN)

    @functools.cached_property
    def target(self) -> Target | None:
        """The host to deploy to, None for none."""
        wanted = self.settings.get("DEPLOY_HOST", "") or self.login
        return parse_target("DEPLOY_HOST", wanted) if wanted else None

    @functools.cached_property
    def asked(self) -> dict[str, str]:
        """What the host says about itself, by the login that prepared it; raises Failure if it does not."""
        target = parse_target("--host", self.login)
        command = [
            *prepare_host.ssh_command(target)[:-1],
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=15",
            target.login,
        ]
        done = run([*command, "sh", "-s"], check=False, timeout=120, stdin=ASK)
        if done.returncode:
            raise Failure(f"{target.login} cannot be asked over SSH{last_line(done)}")
        return dict(re.findall(r"^(\w+)=(.*)$", done.stdout, re.M))

    @property
    def host(self) -> dict[str, str]:
        """The same, nothing if there is no login or it does not say: `host_login` says why."""
        with contextlib.suppress(Failure):
            return self.asked if self.login else {}
        return {}

    @functools.cached_property
    def swarm(self) -> dict[str, Any]:
        """What `docker info` says on the host."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(self.host.get("docker", "")))
        return {}


# What is asked on the host, in one connection. Nothing there is changed. An echo of dash's would undo the escapes of
# what docker says.
ASK = r"""
root=; [ "$(id -u)" = 0 ] || root="sudo -n"
folder=/var/lib/docker; [ -d "$folder" ] || folder=/
printf 'time=%s\n' "$(date +%s)"
printf 'disk=%s\n' "$(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 {print $4}')"
printf 'docker=%s\n' "$($root docker info --format '{{json .}}' 2>/dev/null)"
printf 'nodes=%s\n' "$($root docker node ls --format '{{.Hostname}}={{.Status}}' 2>/dev/null | tr '\n' ' ')"
printf 'services=%s\n' "$($root docker service ls --format '{{.Name}}' 2>/dev/null | tr '\n' ' ')"
printf 'ports=%s\n' "$(ss -Hltn 2>/dev/null | awk '{print $4}' | tr '\n' ' ')"
home=$(getent passwd deploy | cut -d: -f6)
printf 'keys=%s\n' "$($root cat "$home/.ssh/authorized_keys" 2>/dev/null | base64 | tr -d '\n')"
"""


# This machine


def python(world: World) -> Iterator[Line]:
    """Python 3.11 or newer; an older one does not get as far as this."""
    yield Line(OK, f"Python {platform.python_version()}")


def git(world: World) -> Iterator[Line]:
    """git, and new enough to update from the template."""
    if not shutil.which("git"):
        yield Line(MISSING, "git is not installed", "apt-get install git, or see https://git-scm.com/downloads")
        return
    version = run(["git", "version"]).stdout.strip().removeprefix("git version ")
    match = re.match(r"(\d+)\.(\d+)", version)
    if not match or (int(match[1]), int(match[2])) < (2, 38):
        fix = "install git 2.38 or newer: https://git-scm.com/downloads"
        yield Line(WRONG, f"git {version} is too old for scripts/update_template.py", fix)
    else:
        yield Line(OK, f"git {version}")


def docker_engine(world: World) -> Iterator[Line]:
    """Docker Engine: it answers, keeps indexes, runs each platform, has buildx, and takes registries on localhost."""
    found = world.engine
    platforms = world.service.platforms if world.service else ()
    sentences = [*engine.problems(found, platforms), engine.without_loopback(found)]
    for sentence in filter(None, sentences):
        said, colon, fix = sentence.partition(": ")
        if (not found.version and not colon.strip()) or "reachable" in said:
            said, fix = sentence.partition(";")[0], "start Docker, or run python3 scripts/engine.py --setup"
        yield Line(MISSING if not found.version else WRONG, said, fix)
    if not any(sentences):
        yield Line(OK, str(found))


def proxy(world: World) -> Iterator[Line]:
    """A proxy of this machine is one of the engine's, too: it pulls the base images."""
    ours = next(
        (world.env[name] for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy") if world.env.get(name)),
        "",
    )
    if not ours or not world.engine.version:
        return
    if world.info.get("HttpsProxy") or world.info.get("HttpProxy") or world.engine.mirrors:
        yield Line(OK, "the engine has a proxy or a mirror, as this machine has")
        return
    yield Line(
        WRONG,
        "this machine uses a proxy and the Docker Engine does not, so it may not reach Docker Hub",
        'add {"proxies": {"http-proxy": "…", "https-proxy": "…", "no-proxy": "localhost,127.0.0.0/8"}} to'
        f" {engine.DAEMON_JSON} and restart the engine (https://docs.docker.com/engine/daemon/proxy/)",
    )


def names_in_containers(world: World) -> Iterator[Line]:
    """A name that this machine resolves is resolved in a container as well."""
    if world.service is None or not world.engine.version:
        return
    image = world.service.image
    if run(["docker", "image", "inspect", image], check=False).returncode:
        return
    name = (world.image.registry.partition(":")[0] if world.image else "") or "registry-1.docker.io"
    if not addresses(name):
        yield Line(UNKNOWN, f"{name} does not resolve on this machine, so containers cannot be judged")
        return
    done = run(["docker", "run", "--rm", "--entrypoint", "getent", image, "hosts", name], check=False, timeout=60)
    if done.returncode in (0, 126, 127):  # an image without getent
        yield Line(OK, f"{name} resolves in containers" if not done.returncode else "names in containers: not asked")
        return
    yield Line(
        WRONG,
        f"{name} resolves on this machine and not in containers",
        f'add {{"dns": ["ADDRESS"]}}, a name server of your network, to {engine.DAEMON_JSON} and restart the engine',
    )


# The clone


def repository(world: World) -> Iterator[Line]:
    """A Git repository with a commit: images are named after it."""
    if world.git("rev-parse", "--verify", "--quiet", "HEAD"):
        yield Line(OK, f"the commit is {world.git('rev-parse', '--short=12', 'HEAD')}")
    else:
        yield Line(MISSING, f"{world.root} has no Git commit", "git init && git add . && git commit -m 'First commit'")


def origin(world: World) -> Iterator[Line]:
    """origin names the repository that the workflows run in."""
    if not world.remote:
        yield Line(MISSING, "there is no remote origin", "git remote add origin https://github.com/OWNER/NAME.git")
        return
    # A token in the address is readable by whoever sees the output of git remote.
    if re.match(r"(?i)https?://([^/]*:[^/]+|(gh[a-z]|github_pat|glpat)[_-][^/]*)@", world.remote):
        clean = without_secrets(world.remote, "")
        fix = f"git remote set-url origin {clean}, and revoke that token"
        yield Line(WRONG, "origin has a password or a token in its address", fix)
        return
    yield Line(OK, f"origin is {without_secrets(world.remote)}")


def main_branch(world: World) -> Iterator[Line]:
    """main: only what is on it is published."""
    if not world.remote:
        return
    if world.git("rev-parse", "--verify", "--quiet", "refs/remotes/origin/main"):
        yield Line(OK, "origin has the branch main")
    elif world.git("rev-parse", "--verify", "--quiet", "refs/heads/main"):
        fetch = ("git", "fetch", "origin", "main:refs/remotes/origin/main")
        yield Line(MISSING, "origin/main is not known here", "git push -u origin main, or git fetch origin", (fetch,))
    else:
        branch = world.git("branch", "--show-current") or "master"
        fix = f"git branch -m {branch} main && git push -u origin main"
        yield Line(MISSING, f"there is no branch main, only {branch}; the workflows publish main", fix)


def history(world: World) -> Iterator[Line]:
    """All of the history: a version has to be a commit of this repository."""
    if world.git("rev-parse", "--is-shallow-repository") == "true":
        fetch = ("git", "fetch", "--quiet", "--unshallow", "origin")
        yield Line(WRONG, "the clone is shallow, so releases and redeploys cannot be checked", shown(fetch), (fetch,))


def tags(world: World) -> Iterator[Line]:
    """Tags that start a release are versions, on main."""
    for tag in world.git("tag", "--list", "v*").split():
        if not SEMVER.fullmatch(tag[1:]):
            fix = f"git tag -d {tag} && git push origin :refs/tags/{tag}"
            yield Line(WRONG, f"the tag {tag} is not a version such as v1.2.3, and its release fails", fix)
        elif (
            run(
                ["git", "-C", str(world.root), "merge-base", "--is-ancestor", tag, "refs/remotes/origin/main"],
                check=False,
            ).returncode
            == 1
        ):
            yield Line(WRONG, f"the tag {tag} is not on main, and its release fails", f"git tag -f {tag} origin/main")


def line_endings(world: World) -> Iterator[Line]:
    """No Windows line endings where a shell or BuildKit in Linux reads the file."""
    lines = world.git("ls-files", "--eol", "--", *SHELL_FILES).splitlines()
    in_commit = [line.split("\t")[1] for line in lines if re.match(r"i/(crlf|mixed)", line)]
    here = [line.split("\t")[1] for line in lines if re.search(r"\bw/(crlf|mixed)", line)]
    if in_commit:
        fix = "echo '* text=auto eol=lf' > .gitattributes && git add --renormalize . && git commit -m 'Use LF'"
        yield Line(
            WRONG, f"{len(in_commit)} files have Windows line endings in the commit, such as {in_commit[0]}", fix
        )
    elif here:
        fix = "git config core.autocrlf input && git rm -rq --cached . && git reset --hard (commit your work first)"
        yield Line(WRONG, f"{len(here)} files have Windows line endings here, such as {here[0]}", fix)


def template(world: World) -> Iterator[Line]:
    """Where updates come from is recorded, if this is a copy."""
    file = world.root / RECORD
    if file.exists():
        try:
            record = parse_record(file.read_text("utf-8"))
        except Failure as failure:
            yield Line(WRONG, str(failure), f"correct {RECORD}")
        else:
            yield Line(OK, f"updates come from {record.origin}")


def service_toml(world: World) -> Iterator[Line]:
    """service.toml is one, and Dockerfile, compose.yaml and deploy/ say the same."""
    try:
        name = service_file.load(world.root, {}).name
    except UsageError as error:
        yield Line(WRONG, str(error), "correct service.toml; scripts/lib/service.py lists its keys")
        return
    found = service_file.differences(world.root, {})
    for difference in found:
        yield Line(WRONG, difference, "make both say the same: service.toml, or the file that it names")
    if not found:
        yield Line(OK, f"service.toml describes {name}, and the files beside it agree")


def digests(world: World) -> Iterator[Line]:
    """Images have digests, or it is said that they have none: a tag is what its owner makes of it each day."""
    try:
        found = references(world.root)
    except UsageError as error:
        yield Line(WRONG, str(error), "correct it in the Dockerfile, compose.yaml or deploy/")
        return
    without = list(dict.fromkeys(each.image for each in found if not each.digest))
    if without:
        said = f"{', '.join(without)}: by tag alone; python3 scripts/pin_images.py gives each image its digest"
        yield Line(OK, said)
    elif found:
        yield Line(OK, "every image has its digest")


# GitHub


def on_github(world: World) -> Iterator[Line]:
    """gh is there and logged in, and shows the repository."""
    if world.why_no_github:
        said, _, fix = world.why_no_github.partition("; ")
        yield Line(UNKNOWN, f"GitHub is not asked: {said}", fix)
    elif not world.repository:
        yield Line(
            WRONG,
            f"GitHub shows no repository {world.github.slug if world.github else ''} to the login of gh",
            "gh auth status; then gh auth switch, or git remote set-url origin",
        )
    else:
        kind = "fork" if world.repository.get("fork") else "repository"
        visibility = "private" if world.repository.get("private") else "public"
        yield Line(OK, f"{world.repository.get('full_name')} is a {visibility} {kind}")


def default_branch(world: World) -> Iterator[Line]:
    """GitHub's default branch is main, and the repository can be written to."""
    if not world.repository or not world.github:
        return
    branch = world.repository.get("default_branch", "main")
    if branch != "main":
        fix = f"gh api --method POST repos/{world.github.slug}/branches/{branch}/rename -f new_name=main"
        yield Line(WRONG, f"the default branch is {branch}, and the workflows publish main", fix)
    if world.repository.get("archived"):
        fix = f"gh repo unarchive {world.github.slug}"
        yield Line(WRONG, "the repository is archived: no workflow runs", fix)


def actions(world: World) -> Iterator[Line]:
    """Actions are enabled, for the actions that the workflows use, and each workflow is."""
    if not world.repository or not world.github:
        return
    slug = world.github.slug
    allowed = world.github.get("actions/permissions") or {}
    if allowed.get("enabled") is False:
        fix = f"gh api --method PUT repos/{slug}/actions/permissions -F enabled=true -f allowed_actions=all"
        yield Line(WRONG, "Actions are disabled for this repository", fix)
        return
    if allowed.get("allowed_actions") == "local_only":
        fix = f"gh api --method PUT repos/{slug}/actions/permissions -F enabled=true -f allowed_actions=all"
        yield Line(WRONG, "only actions of this owner may run, and the workflows use GitHub's and Docker's", fix)
    off = [flow for flow in world.github.items("actions/workflows", "workflows") if flow["state"] != "active"]
    for flow in off:
        enable = ("gh", "workflow", "enable", str(flow["id"]), "--repo", f"{world.github.host}/{slug}")
        said = f"the workflow {flow['name']} is {flow['state'].replace('_', ' ')}"
        yield Line(WRONG, said, f"{shown(enable)} (in a fork: Actions, I understand my workflows)", (enable,))
    if not off:
        yield Line(OK, "Actions are enabled")


def account(world: World) -> Iterator[Line]:
    """The account and its token are set, under the right names and in the right place."""
    if not world.repository or not world.github:
        return
    everything = {name for names in world.variables.values() for name in names}
    username = world.settings.get("DOCKERHUB_USERNAME", "")
    delete = f"--repo {world.github.host}/{world.github.slug}"
    for name in ("DOCKERHUB_TOKEN", "DEPLOY_SSH_KEY", "SERVICE_SECRETS"):
        if name in everything:
            fix = f"{without_variable(world, name)}, make a new one, and set it with {CONFIGURE}"
            yield Line(WRONG, f"{name} is a variable, which every log may show; it has to be a secret", fix)
    if not username and world.has_secret("DOCKERHUB_USERNAME"):
        fix = f"gh secret delete DOCKERHUB_USERNAME {delete} && {CONFIGURE} DOCKERHUB_USERNAME=NAME"
        yield Line(WRONG, "DOCKERHUB_USERNAME is a secret; the workflows read the variable", fix)
    elif not username:
        yield Line(
            MISSING, "the variable DOCKERHUB_USERNAME: nothing is published", f"{CONFIGURE} DOCKERHUB_USERNAME=NAME"
        )
    token = world.has_secret("DOCKERHUB_TOKEN") or bool(world.settings.get("DOCKERHUB_OIDC_CONNECTIONID"))
    if username and not token:
        yield Line(MISSING, "the secret DOCKERHUB_TOKEN: every run on main fails", f"{CONFIGURE} --token")
    elif username:
        yield Line(OK, f"{username} has what it logs in with")


def spelling(world: World) -> Iterator[Line]:
    """No setting whose name is nearly one that the workflows read: it would be ignored without a word."""
    known = dict(zip(("variable", "secret"), gh.known(world.root), strict=True))
    for kind, places in (("variable", world.variables), ("secret", world.secrets)):
        for place, names in places.items():
            for name in sorted(names):
                others = known["variable"] | known["secret"]
                close = difflib.get_close_matches(name, sorted(known[kind]), n=1, cutoff=0.85)
                if name in others or name in service_secrets(world) or not close or close[0] in names:
                    continue
                where = f" --env {place}" if place else ""
                delete = f"gh secret delete {name}{where}" if kind == "secret" else without_variable(world, name)
                fix = f"{delete}, and set {close[0]} instead"
                yield Line(WRONG, f"the {kind} {name} is read by nothing; {close[0]} is meant?", fix)


def service_secrets(world: World) -> set[str]:
    """Return the names of the secrets that the service needs."""
    return set(world.service.secrets) if world.service else set()


def values(world: World) -> Iterator[Line]:
    """What is set is of the right form: each would fail its run, or be ignored without a word."""
    for attempt in (lambda: world.image, lambda: world.target, *gh.forms(world.settings, world.service)):
        try:
            attempt()
        except UsageError as error:
            name = next((word for word in EXAMPLES if re.search(rf"\b{word}\b", str(error))), "IMAGE_REPOSITORY")
            yield Line(WRONG, str(error), with_variable(world, name, EXAMPLES[name]))


def place_of(world: World, name: str) -> str | None:
    """Return where a variable counts: an environment's before the repository's, None if it is not set."""
    return next((place for place in reversed(world.places) if name in world.variables.get(place, {})), None)


def without_variable(world: World, name: str) -> str:
    """Return the command that deletes a variable; not `gh variable`, which Debian 12's gh does not have."""
    github = world.github or gh.GitHub("OWNER/NAME")
    return shown(github.command(github.variable_path(name, place_of(world, name) or ""), "--method", "DELETE"))


def with_variable(world: World, name: str, value: str) -> str:
    """Return the command that gives a variable a value, in its place or for the repository."""
    place = place_of(world, name)
    if not world.github or not place:
        return f"{CONFIGURE} {name}={value}"
    path = world.github.variable_path(name, place)
    return shown(world.github.command(path, "--method", "PATCH", "--raw-field", f"value={value}"))


EXAMPLES = {
    "DOCKERHUB_USERNAME": "NAME",
    "IMAGE_NAMESPACE": "NAME",
    "REGISTRY": "ghcr.io",
    "PLATFORMS": "linux/amd64",
    "DEPLOY_HOST": "deploy@hello.example.org",
    "DOMAIN": "hello.example.org",
    "EDGE_PORT": "4000",
    "REPLICAS": "2",
    "DEPLOY_URL": "https://hello.example.org",
    "DEPLOY_ON_RELEASE": "true",
    "EMULATE": "true",
    "ATTESTATIONS": "true",
    "IMAGE_VISIBILITY": "private",
    "IMAGE_REPOSITORY": "NAME",
}


def environments(world: World) -> Iterator[Line]:
    """The environments are there, for main and release tags only, and the deploy key is in its own."""
    if not world.repository or not world.github:
        return
    if world.repository.get("private") and not world.environments:
        said = "no environments, which a private repository has from the Pro or Team plan on; who may push can publish"
        yield Line(UNKNOWN, said, CONFIGURE)
        return
    wanted = set(gh.REFS)
    for name in gh.ENVIRONMENTS:
        if name not in world.environments:
            yield Line(MISSING, f"the environment {name}", CONFIGURE)
            continue
        policies = world.github.policies(name)
        if policies is None:
            yield Line(WRONG, f"every branch may use the environment {name} and its secrets", CONFIGURE)
        elif policies - wanted:
            extra = ", ".join(f"{kind} {pattern}" for kind, pattern in sorted(policies - wanted))
            page = f"https://{world.github.host}/{world.github.slug}/settings/environments"
            yield Line(WRONG, f"the environment {name} is also for {extra}", f"remove that rule at {page}")
        elif wanted - policies:
            absent = ", ".join(f"{kind} {pattern}" for kind, pattern in sorted(wanted - policies))
            yield Line(WRONG, f"the environment {name} is not for {absent}", CONFIGURE)
        else:
            yield Line(OK, f"the environment {name} is for main and v* only")
    for secret, name in (("DEPLOY_SSH_KEY", "production"), ("DOCKERHUB_TOKEN", "publish")):
        if secret in world.secrets.get("", set()):
            option = "--token" if name == "publish" else "--host root@HOST"
            fix = f"{CONFIGURE} {option}, then gh secret delete {secret} --repo {world.github.host}/{world.github.slug}"
            yield Line(WRONG, f"{secret} is a secret of the repository, so every branch can use it", fix)


def rules(world: World) -> Iterator[Line]:
    """main takes only what passed `required`; v* tags are made by those who maintain the repository."""
    if not world.repository or not world.github:
        return
    try:
        found = world.github.rulesets()
    except gh.Denied as denied:
        if "pgrade" not in str(denied):
            raise
        yield Line(UNKNOWN, "this plan has no rules for private repositories, so nothing keeps main green")
        return
    required = [
        check.get("context")
        for ruleset in found
        if ruleset.get("target") == "branch"
        for rule in ruleset.get("rules", [])
        if rule["type"] == "required_status_checks"
        for check in rule["parameters"]["required_status_checks"]
    ]
    if "required" in required:
        yield Line(OK, "main requires the check `required`")
    elif required:
        said = f"main requires {', '.join(map(str, required))}, and not the one check that waits for all: required"
        yield Line(WRONG, said, CONFIGURE)
    else:
        yield Line(MISSING, "a rule for main that requires the check `required`", CONFIGURE)
    patterns = [
        pattern
        for ruleset in found
        if ruleset.get("target") == "tag"
        for pattern in ruleset["conditions"]["ref_name"]["include"]
    ]
    if any(pattern in ("refs/tags/v*", "~ALL", "refs/tags/*") for pattern in patterns):
        yield Line(OK, "v* tags have a rule")
    else:
        yield Line(MISSING, "a rule for v* tags: whoever may write can release", CONFIGURE)


def last_run(world: World) -> Iterator[Line]:
    """The last run of CI on main was green."""
    if not world.repository or not world.github:
        return
    runs = (world.github.get("actions/workflows/ci.yml/runs?branch=main&per_page=1") or {}).get("workflow_runs", [])
    if runs and runs[0].get("conclusion") in ("failure", "startup_failure", "timed_out"):
        fix = f"gh run view {runs[0]['id']} --log-failed --repo {world.github.host}/{world.github.slug}"
        yield Line(WRONG, f"the last run of CI on main: {runs[0]['conclusion'].replace('_', ' ')}", fix)
    elif runs:
        yield Line(OK, f"the last run of CI on main: {runs[0].get('conclusion') or runs[0].get('status')}")


def deploy_settings(world: World) -> Iterator[Line]:
    """What a deploy needs is complete."""
    if not world.repository or not world.settings.get("DEPLOY_HOST"):
        return
    prepare = "python3 scripts/prepare_host.py root@HOST, and the commands that it prints"
    if not world.settings.get("DEPLOY_KNOWN_HOSTS"):
        yield Line(MISSING, "DEPLOY_KNOWN_HOSTS: nothing vouches for the host", prepare)
    if not world.has_secret("DEPLOY_SSH_KEY"):
        yield Line(MISSING, "the secret DEPLOY_SSH_KEY", prepare)
    lacking = {name for name in service_secrets(world) if not world.has_secret(name)}
    if lacking and not world.has_secret("SERVICE_SECRETS"):
        fix = "gh secret set SERVICE_SECRETS --env production < FILE, with a line NAME=value for each"
        yield Line(MISSING, f"the secret SERVICE_SECRETS with {', '.join(sorted(lacking))}", fix)


# The registry


def registry_login(world: World) -> Iterator[Line]:
    """The login that docker keeps is taken, and may push; without one only public images are seen."""
    image = world.image
    if image is None:
        return
    where = image.registry or "Docker Hub"
    again = f"docker login {image.registry}".rstrip()
    login = world.docker_login
    if login.problem:
        yield Line(WRONG, login.problem, again)
    elif not login.basic:
        yield Line(UNKNOWN, f"docker is not logged in at {where} here, so rights are not asked", again)
    else:
        try:
            found = access(image, login)
        except Refused as refused:
            yield Line(WRONG, str(refused), f"make a new token, then {again} and {CONFIGURE} --token")
            return
        if found.actions is not None and "push" not in found.actions:
            yield Line(
                WRONG,
                f"the login at {where} may not push {image}",
                f"make a token that may read and write, then {again}",
            )
        else:
            yield Line(OK, f"the login at {where} is taken" + (", and may push" if found.actions else ""))


def image_there(world: World) -> Iterator[Line]:
    """The image's repository is there, and not more public than the code."""
    image = world.image
    if image is None:
        return
    try:
        public = access(image, Login()).exists
    except Refused:
        public = False
    private = False
    if not public and world.docker_login.basic:
        with contextlib.suppress(Refused):
            private = access(image, world.docker_login).exists
    secret = bool(world.repository.get("private"))
    page = "https://hub.docker.com/repositories" if not image.registry else f"https://{image.registry}"
    wanted = world.settings.get("IMAGE_VISIBILITY")
    if public and secret and wanted != "public":
        fix = f"make it private: Settings, Visibility at {page}, or set the variable IMAGE_VISIBILITY to public"
        yield Line(WRONG, f"the code is private, and everybody may pull {image}", fix)
    elif private and secret and not image.registry and not wanted:
        yield Line(WRONG, f"{image} is private, and CI waits to be told", f"{CONFIGURE} IMAGE_VISIBILITY=private")
    elif public or private:
        yield Line(OK, f"{image} is {'public' if public else 'private'}")
    elif secret and not image.registry:
        fix = f"create it as private first, at {page}, then {CONFIGURE} IMAGE_VISIBILITY=private"
        yield Line(MISSING, f"{image}: a first push makes it public unless your account says otherwise", fix)
    else:
        yield Line(UNKNOWN, f"{image} is not there yet, or is not shown without a login")


def limit(world: World) -> Iterator[Line]:
    """Docker Hub still lets enough be pulled."""
    image = world.image
    if image is None or image.registry or world.engine.stands_in:
        return
    try:
        left = pulls_left(world.docker_login)
    except Refused:
        return
    if left and left[0] < PULLS:
        yield Line(WRONG, f"Docker Hub allows {left[0]} more pulls of {left[1]}", "docker login, or wait six hours")
    else:
        yield Line(OK, f"Docker Hub allows {left[0]} more pulls of {left[1]}" if left else "Docker Hub sets no limit")


# The host


def host_key(world: World) -> Iterator[Line]:
    """The host shows the key that DEPLOY_KNOWN_HOSTS says."""
    target = world.target
    known = world.settings.get("DEPLOY_KNOWN_HOSTS", "")
    if target is None or not known:
        return
    prepare = f"python3 scripts/prepare_host.py root@{target.host}"
    lines = [line.split() for line in known.splitlines() if line.strip() and not line.startswith(("#", "@"))]
    expected = {tuple(line[1:3]) for line in lines if target.known_as in line[0].split(",")}
    if not expected:
        yield Line(WRONG, f"DEPLOY_KNOWN_HOSTS does not name {target.known_as}", f"{prepare}, and set what it prints")
        return
    scan = run(["ssh-keyscan", "-T", "10", "-p", str(target.port or 22), target.host], check=False, timeout=60)
    shows = {tuple(line.split()[1:3]) for line in scan.stdout.splitlines() if not line.startswith("#")}
    if not shows:
        yield Line(WRONG, f"no SSH server answers at {target.host}, port {target.port or 22}", shown(target.ssh))
    elif not expected & shows:
        fix = f"do not deploy; compare with the machine's console, then ssh-keygen -R {target.known_as} and {prepare}"
        yield Line(WRONG, f"{target.host} shows another host key than DEPLOY_KNOWN_HOSTS says", fix)
    else:
        yield Line(OK, f"{target.host} shows the host key that is known")


def host_login(world: World) -> Iterator[Line]:
    """The host can be asked, and its clock, disk and engine are fine."""
    if not world.login:
        if world.target:
            yield Line(
                UNKNOWN, f"{world.target.host} itself is not asked", "python3 scripts/doctor.py --host root@HOST"
            )
        return
    prepare = f"python3 scripts/prepare_host.py {world.login}"
    try:
        facts = world.asked
    except Failure as failure:
        yield Line(WRONG, str(failure), shown(parse_target("--host", world.login).ssh))
        return
    off = int(facts.get("time") or 0) - int(time.time())
    if abs(off) > CLOCK:
        yield Line(WRONG, f"the host's clock is {off:+d} s off", "timedatectl set-ntp true, on the host")
    free = int(facts.get("disk") or 0)
    if free < DISK:
        fix = "docker system prune --all --filter until=720h, on the host, or a larger disk"
        yield Line(WRONG, f"the host has {free / 2**20:.1f} GiB of disk left for Docker", fix)
    else:
        yield Line(OK, f"the host has {free / 2**20:.1f} GiB of disk left for Docker")
    version = str(world.swarm.get("ServerVersion") or "")
    if not version:
        yield Line(MISSING, "no Docker Engine answers on the host", prepare)
    elif prepare_host.engine_version(version) < prepare_host.OLDEST_ENGINE:
        said = f"the host's engine is {version}, and {prepare_host.OLDEST_ENGINE} or newer is needed"
        yield Line(WRONG, said, "update it: https://docs.docker.com/engine/install/")


def host_swarm(world: World) -> Iterator[Line]:
    """The host manages a Swarm, and all of its nodes are there."""
    swarm = world.swarm.get("Swarm") or {}
    if not swarm:
        return
    prepare = f"python3 scripts/prepare_host.py {world.login}"
    if swarm.get("LocalNodeState") != "active":
        yield Line(MISSING, "the host is in no Swarm", prepare)
    elif not swarm.get("ControlAvailable"):
        yield Line(WRONG, "the host is a Swarm's worker; deploy to a manager", "set DEPLOY_HOST to a manager")
    else:
        nodes = dict(re.findall(r"(\S+)=(\S+)", world.host.get("nodes", "")))
        for name in sorted(name for name, status in nodes.items() if status != "Ready"):
            fix = f"start it, or docker node rm --force {name}, on the host"
            yield Line(WRONG, f"the Swarm's node {name} is {nodes[name].lower()}", fix)
        yield Line(OK, f"the host manages a Swarm of {len(nodes) or 1}")


def key_restriction(world: World) -> Iterator[Line]:
    """The deploy key opens no shell."""
    if "keys" not in world.host:
        return
    prepare = f"python3 scripts/prepare_host.py {world.login}"
    text = base64.b64decode(world.host["keys"]).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    free = [line for line in lines if not re.match(r'restrict,command="', line)]
    if free:
        name = free[0].split()[-1]
        fix = f"{prepare}; then remove other lines from ~deploy/.ssh/authorized_keys on the host"
        yield Line(WRONG, f"a key of the user deploy is not restricted, and opens a shell: {name}", fix)
    elif lines:
        engine_too = any(prepare_host.ENGINE in line for line in lines)
        what = ", to the engine, which is as powerful as root" if engine_too else ""
        yield Line(OK, f"each key of the user deploy is restricted{what}")
    else:
        yield Line(MISSING, "a key for the user deploy on the host", prepare)


def host_ports(world: World) -> Iterator[Line]:
    """The engine is open to nobody, and the edge's ports are the edge's."""
    if "ports" not in world.host:
        return
    ports = [entry.rpartition(":") for entry in world.host["ports"].split()]
    everywhere = {int(port) for address, _, port in ports if address in ("*", "0.0.0.0", "[::]") and port.isdigit()}  # noqa: S104
    if 2375 in everywhere:
        fix = "remove tcp://0.0.0.0:2375 from the engine's hosts (daemon.json, or systemctl edit docker) and restart it"
        yield Line(WRONG, "the host's engine listens on port 2375 for everybody, who is root then", fix)
    if not world.repository and not {"DOMAIN", "EDGE_PORT"} & set(world.settings):
        return  # nothing says which ports are the edge's
    deployed = any(name.endswith("_edge") for name in world.host.get("services", "").split())
    for port in edge_ports(world):
        if deployed and port not in everywhere:
            yield Line(WRONG, f"nothing listens on the host's port {port}", "python3 scripts/redeploy.py --status")
        elif not deployed and port in everywhere:
            yield Line(
                WRONG, f"the host's port {port} is taken", f"ss -ltnp 'sport = :{port}', on the host, says by what"
            )


def edge_ports(world: World) -> tuple[int, ...]:
    """Return the ports that visitors come to."""
    if world.settings.get("DOMAIN") not in (None, "", "none"):
        return 80, 443
    port = world.settings.get("EDGE_PORT", "")
    return (int(port) if port.isdigit() else world.service.publish if world.service else EDGE_PORT,)


def domain(world: World) -> Iterator[Line]:
    """The name resolves to the host, and its certificate is good for a while."""
    name, target = world.settings.get("DOMAIN", ""), world.target
    if not name or name == "none" or target is None:
        return
    leads, host = addresses(name), addresses(target.host)
    if not leads:
        yield Line(
            MISSING,
            f"{name} does not resolve",
            f"an A or AAAA record for {name} that names {' or '.join(sorted(host)) or target.host}",
        )
        return
    if host and not leads & host:
        said = f"{name} resolves to {', '.join(sorted(leads))}, and the host is {', '.join(sorted(host))}"
        yield Line(WRONG, said, f"change the DNS record of {name}")
        return
    yield Line(OK, f"{name} resolves to the host")
    yield certificate(name)


def certificate(name: str) -> Line:
    """Return what the certificate at a name is worth."""
    logs = (
        f"docker service logs STACK_edge, on the host, says why; {name} has to lead there, with ports 80 and 443 open"
    )
    try:
        end = ends(name)
    except ssl.SSLCertVerificationError as error:
        return Line(WRONG, f"the certificate of {name} is not good: {error.verify_message}", logs)
    except OSError as error:
        return Line(WRONG, f"https://{name} does not answer: {error}", logs)
    days = int((end - time.time()) // 86400)
    if days < DAYS:
        return Line(WRONG, f"the certificate of {name} ends in {days} days, and was not renewed", logs)
    return Line(OK, f"the certificate of {name} is good for {days} days")


def ends(name: str, port: int = 443) -> float:
    """Return when the certificate at a name ends, in seconds since 1970; raise OSError if it is not a good one."""
    context = ssl.create_default_context()
    with socket.create_connection((name, port), 15) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
        return ssl.cert_time_to_seconds(str((tls.getpeercert() or {})["notAfter"]))


def addresses(name: str) -> set[str]:
    """Return the addresses of a host, none if it has no."""
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def deployed(world: World) -> Iterator[Line]:
    """What serves is what was released last."""
    if world.target is None:
        return
    releases = [tag for tag in world.git("tag", "--list", "v*").split() if SEMVER.fullmatch(tag[1:]) and "-" not in tag]
    if not releases:
        return
    newest = max(releases, key=lambda tag: parse_version(tag[1:]))
    commit = world.git("rev-list", "-n", "1", newest)
    name, ports = world.settings.get("DOMAIN", ""), edge_ports(world)
    base = f"https://{name}" if len(ports) == 2 else f"http://{world.target.host}:{ports[0]}"
    address = (world.settings.get("DEPLOY_URL") or base).rstrip("/") + "/"
    answer = visit.answer(address)
    redeploy = f"gh workflow run redeploy.yml -f version={newest[1:]}, or python3 scripts/redeploy.py {newest[1:]}"
    serves = f"{address} serves {answer.revision[:12] or 'no revision'}, and {newest} is released"
    if answer.revision == commit:
        yield Line(OK, f"{address} serves {newest}, the newest release")
    elif not answer.status or answer.is_error:
        yield Line(
            WRONG, f"{address} does not serve: {answer}", f"python3 scripts/redeploy.py --status, then {redeploy}"
        )
    elif world.settings.get("DEPLOY_ON_RELEASE") == "true":
        yield Line(WRONG, serves, redeploy)
    else:
        yield Line(OK, f"{serves}; to deploy it: {redeploy}")


CHECKS: dict[str, tuple[Callable[[World], Iterator[Line]], ...]] = {
    "this machine": (python, git, docker_engine, proxy, names_in_containers),
    "the clone": (repository, origin, main_branch, history, tags, line_endings, template, service_toml, digests),
    "GitHub": (
        *(on_github, default_branch, actions, account, spelling, values),
        *(environments, rules, last_run, deploy_settings),
    ),
    "the registry": (registry_login, image_there, limit),
    "the host": (host_key, host_login, host_swarm, key_restriction, host_ports, domain, deployed),
}


def look(world: World) -> list[Line]:
    """Return what every check finds. One that cannot be made says why."""
    found = []
    for area, checks in CHECKS.items():
        for check in checks:
            try:
                lines = list(check(world))
            except UsageError:  # `values` says so
                lines = []
            except (Failure, subprocess.SubprocessError) as failure:
                lines = [Line(UNKNOWN, f"not seen: {failure}")]
            found += [replace(line, area=area, check=check.__name__) for line in lines]
    return found


def report(lines: Sequence[Line]) -> str:
    """Return the lines as text, by area, each with its fix under it."""
    text = []
    for area in CHECKS:
        mine = [line for line in lines if line.area == area]
        text += [area] if mine else []
        for line in mine:
            text.append(f"  {line.state:<8} {line.said}")
            if line.fix:
                text.append(f"  {'':<8}   {line.fix}")
    bad = sum(line.state in (MISSING, WRONG) for line in lines)
    text.append(f"{bad} to fix" if bad else "nothing to fix")
    return "\n".join(text)


def fix(world: World, lines: Sequence[Line]) -> bool:
    """Run the commands that are safe; return whether there were any."""
    commands = [command for line in lines for command in line.safe]
    for command in commands:
        done = run(command, check=False, show=True, cwd=world.root, timeout=600)
        if done.returncode:
            say(f"did not work{last_line(done)}")
    return bool(commands)


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--host", default="", metavar="[USER@]HOST[:PORT]", help="how you log in to the host")
    arguments.add_argument("--json", action="store_true", help="print a list of objects")
    arguments.add_argument("--fix", action="store_true", help="run what is safe, and look again")
    options = arguments.parse_args(argv)
    if options.host:
        parse_target("--host", options.host)
    world = World(os.environ, login=options.host)
    lines = look(world)
    if options.fix and fix(world, lines):
        lines = look(World(os.environ, login=options.host))
    print(json.dumps([asdict(line) for line in lines], indent=2) if options.json else report(lines))
    return 1 if any(line.state in (MISSING, WRONG) for line in lines) else 0


if __name__ == "__main__":
    start(main)
