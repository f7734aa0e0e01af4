"""Hand a release to the Swarm, judge how that goes, and go back to the version before if it goes badly."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lib.command import ROOT, Failure, UsageError, last_line, run, say
from lib.record import Record
from lib.swarm import (
    ENDED,
    FAILED,
    FAILED_UPDATE,
    MOVING,
    Release,
    Service,
    Task,
    behind,
    changes,
    docker,
    services,
    tasks_of,
)
from lib.visit import ERRORS, answer, visit_until

DEPLOY = ROOT / "deploy"
DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
CRASHES = 3  # times that a first version may fail to start: the Swarm tries for ever


@dataclass(frozen=True)
class Settings:
    """How to deploy. `secret` is the Docker secret that holds the address of Redis."""

    stack: str
    domain: str = ""
    port: int = 4000
    replicas: int = 2
    secret: str = ""

    @property
    def own_redis(self) -> bool:
        """Whether Redis runs in the stack, and not elsewhere."""
        return self.secret == f"{self.stack}_redis_url"


def number(variable: str, value: str, low: int, high: int) -> int:
    """Return a whole number from the environment, or raise UsageError that names the variable."""
    if not re.fullmatch(r"[0-9]{1,6}", value) or not low <= int(value) <= high:
        raise UsageError(f"{variable} is {value!r}, which is not a number from {low} to {high}")
    return int(value)


def settings(
    stack: str, env: Mapping[str, str], before: Record | None, running: Mapping[str, Service], rehearsal: bool = False
) -> Settings:
    """Return how to deploy: what the environment says, else what is running, else the defaults."""
    found = Settings(stack, secret=f"{stack}_redis_url")
    web = running.get("web")
    if before:
        found = replace(found, domain=before.domain, port=before.port)
    if web:
        found = replace(found, replicas=web.replicas or 1, secret=web.secrets[0] if web.secrets else found.secret)
    if env.get("DOMAIN") and not rehearsal:
        if not DOMAIN.fullmatch(env["DOMAIN"]):
            raise UsageError(f"DOMAIN is {env['DOMAIN']!r}, which is not a name such as hello.example.org")
        found = replace(found, domain=env["DOMAIN"])
    if env.get("EDGE_PORT"):
        found = replace(found, port=number("EDGE_PORT", env["EDGE_PORT"], 1, 65535))
    if env.get("REPLICAS"):
        found = replace(found, replicas=number("REPLICAS", env["REPLICAS"], 1, 100))
    if env.get("REDIS_URL") and not rehearsal:
        if not env["REDIS_URL"].startswith(("redis://", "rediss://")):
            raise UsageError("REDIS_URL does not start with redis:// or rediss://")
        found = replace(found, secret=f"{stack}_redis_url_{fingerprint(env['REDIS_URL'])}")
    return found


def fingerprint(secret: str) -> str:
    """Return twelve digits that differ from secret to secret, and that are too slow to guess it from."""
    return hashlib.scrypt(secret.encode(), salt=b"friendlyhello", n=2**14, r=8, p=1).hex()[:12]


def deploy_command(settings: Settings) -> list[str]:
    """Return the command that makes the Swarm run the stack; `deploy_environment` fills it in."""
    files = ["stack.yaml", *(["domain.yaml"] if settings.domain else [])]
    return [
        *("docker", "stack", "deploy", "--detach=true", "--prune", "--with-registry-auth"),
        # A newer Redis or Caddy under the same tag is no part of a redeploy.
        *("--resolve-image", "changed"),
        *(part for file in files for part in ("--compose-file", str(DEPLOY / file))),
        settings.stack,
    ]


def deploy_environment(settings: Settings, release: Release) -> dict[str, str]:
    """Return the variables of deploy/stack.yaml."""
    return {
        "STACK": settings.stack,
        "IMAGE": release.reference,
        "DOMAIN": settings.domain,
        "PORT": str(settings.port),
        "REPLICAS": str(settings.replicas),
        "REDIS_REPLICAS": "1" if settings.own_redis else "0",
        "REDIS_URL_SECRET": settings.secret,
        # Config objects never change: another Caddyfile is another object.
        "CADDYFILE": hashlib.sha256((DEPLOY / "Caddyfile").read_bytes()).hexdigest()[:12],
    }


def url(settings: Settings, host: str, env: Mapping[str, str]) -> str:
    """Return where visitors find the page."""
    if env.get("DEPLOY_URL"):
        return env["DEPLOY_URL"]
    return f"https://{settings.domain}/" if settings.domain else f"http://{host or 'localhost'}:{settings.port}/"


@dataclass(frozen=True)
class Verdict:
    """What the Swarm's answers mean for a release: `waiting` for something, `done`, or `bad` for a reason."""

    state: Literal["waiting", "done", "bad"]
    reason: str = ""


def verdict(
    found: Mapping[str, Service],
    tasks: Sequence[Task],
    release: Release,
    *,
    before: Collection[str] = (),
    errors: Sequence[int] = (),
    going_back: bool = False,
) -> Verdict:
    """Return what services and tasks say about a release.

    `before` has the ids of the tasks that were there before, which say nothing about the release; `errors` are the
    statuses of 500 and more that the release itself answered. Swarm may look at a replica that ended only when it is
    done with the next one, and knows nothing about the page. When `going_back`, the release is the one that ran
    before, and only what keeps Swarm from running it is bad.
    """
    web = found.get("web")
    if web is None:
        return Verdict("bad", "the stack has no service web any more")
    moving = [service.name for service in found.values() if service.update in MOVING]
    failed = [service for service in found.values() if service.update in FAILED_UPDATE]
    ours = [task for task in tasks if task.image.endswith(release.digest)]
    crashed = [task for task in ours if task.service == web.name and task.state in FAILED]
    ended = [task for task in ours if task.id not in before and task.state in ENDED and task.service in moving]
    what = "roll-back" if going_back else "update"
    if failed and not going_back:
        return Verdict("bad", f"the update failed: {failed[0].message or failed[0].update}")
    if web.digest != release.digest and not moving:
        return Verdict("bad", f"the {what} failed: {failed[0].message if failed else f'the Swarm runs {web.digest}'}")
    if not web.update and len(crashed) >= CRASHES:
        return Verdict("bad", f"the service does not start: {crashed[0].error}")
    if ended and not going_back:
        return Verdict("bad", str(ended[0]))
    if len(errors) >= ERRORS and not going_back:
        return Verdict("bad", f"the page answers with status {errors[-1]}")
    waiting = [text for service in found.values() if (text := behind(service, tasks))]
    if waiting or web.digest != release.digest:
        why = next((task.error for task in tasks if task.error and task.wanted != "shutdown"), "")
        return Verdict("waiting", "; ".join(waiting) + (f" ({why})" if why else ""))
    return Verdict("done")


class Rollout:
    """The steps of one redeploy of one stack."""

    def __init__(self, settings: Settings, address: str, timeout: float) -> None:
        self.settings = settings
        self.address = address
        self.timeout = timeout
        self.before: set[str] = set()
        """The tasks that there were before, which say nothing of the release."""
        self.seen: dict[str, Task] = {}
        self.updates: dict[str, str] = {}

    def look(self) -> tuple[dict[str, Service], list[Task]]:
        """Return the stack's services and tasks, and say what changed since the last look."""
        found = services(self.settings.stack)
        tasks = tasks_of(found.values())
        for line in changes(self.seen, tasks):
            say(f"  {line}")
        for name, service in found.items():
            if service.update and service.update != self.updates.get(name, "completed"):
                say(f"  {service.name} is {service.update}: {service.message}")
            self.updates[name] = service.update
        self.seen = {task.id: task for task in tasks}
        return found, tasks

    def stop_update(self) -> None:
        """Tell Swarm to roll `web` back at once, if it is being updated; a failure shows itself later."""
        with contextlib.suppress(Failure):
            web = services(self.settings.stack).get("web")
            if web and web.update == "updating":
                run(["docker", "service", "rollback", "--detach", web.name], check=False, timeout=60)

    def settle(self) -> dict[str, Service]:
        """Wait until no update is running, and return what there is; Swarm ends each by itself."""
        deadline = time.monotonic() + self.timeout
        self.seen = {task.id: task for task in tasks_of(services(self.settings.stack).values())}
        while True:
            found, _ = self.look()
            if not any(service.update in MOVING for service in found.values()):
                self.before = set(self.seen)
                return found
            if time.monotonic() > deadline:
                raise Failure(f"an earlier update is still running after {self.timeout:g} s; see --status")
            time.sleep(0.5)

    def deploy(self, release: Release) -> None:
        """Hand the stack to the Swarm, with all that it refers to."""
        settings = self.settings
        if settings.own_redis:
            password = secrets.token_urlsafe(32)
            create_secret(settings.secret, f"redis://:{password}@redis:6379/0")
            if not docker("node", "ls", "--quiet", "--filter", "node.label=redis=yes").strip():
                own = docker("info", "--format", "{{.Swarm.NodeID}}").strip()
                docker("node", "update", "--label-add", "redis=yes", own)
        elif os.environ.get("REDIS_URL"):
            create_secret(settings.secret, os.environ["REDIS_URL"])
        run(deploy_command(settings), show=True, timeout=120, env=deploy_environment(settings, release))

    def wait(self, release: Release, *, going_back: bool = False) -> None:
        """Wait until every service runs what it is meant to, and `web` the release; raise Failure if it ends badly."""
        deadline = time.monotonic() + self.timeout
        errors: list[int] = []
        steady = 0
        while True:
            found, tasks = self.look()
            web = found.get("web")
            if web and web.update == "updating" and not going_back:
                page = answer(self.address)
                errors += [page.status] if page.is_error and page.revision == release.revision else []
            now = verdict(found, tasks, release, before=self.before, errors=errors, going_back=going_back)
            if now.state == "bad":
                raise Failure(now.reason)
            steady = steady + 1 if now.state == "done" else 0
            if steady >= 2:
                return
            if time.monotonic() > deadline:
                raise Failure(f"not done after {self.timeout:g} s: {now.reason}")
            time.sleep(0.5)

    def prove(self, release: Release) -> None:
        """Ask through the edge whether the release serves."""
        seconds = 120 if self.settings.domain else 30  # a first certificate takes its time
        visit_until(self.address, release.revision, answers=max(20, 10 * self.settings.replicas), seconds=seconds)

    def last_words(self, release: Release) -> None:
        """Print the end of the log of the release's task that failed last."""
        mine = [task for task in self.seen.values() if task.image.endswith(release.digest)]
        failed = [task for task in mine if task.state in (*ENDED, "shutdown", "running")]
        failed.sort(key=lambda task: task.state not in ENDED)
        if failed:
            done = run(["docker", "service", "logs", "--raw", "--tail", "20", failed[0].id], check=False, timeout=30)
            lines = (done.stdout + done.stderr).strip().splitlines()[-20:]
            say(f"the last lines of {failed[0]}:")
            say("\n".join(f"  | {line}" for line in lines) or "  | (it wrote nothing)")

    def go_back(self, failed: Release, proven: Record | None) -> str:
        """Make the proven release serve again; return which version is serving, in words."""
        self.stop_update()
        with contextlib.suppress(Failure):
            self.last_words(failed)
        if proven is None:
            remove_stack(self.settings.stack)
            return "it was the first one, so the stack was removed again and no version is serving"
        say(f"going back to {proven.release}")
        try:
            web = self.settle().get("web")
            if web is None or web.digest != proven.release.digest:
                self.deploy(proven.release)
            self.wait(proven.release, going_back=True)
            self.prove(proven.release)
        except Failure as failure:
            return (
                f"going back to {proven.release} failed as well ({failure}); see python3 scripts/redeploy.py --status"
            )
        return f"{proven.release} is serving"


def create_secret(name: str, value: str) -> None:
    """Create a Docker secret unless there is one of that name; the value is on no command line."""
    done = run(["docker", "secret", "create", name, "-"], check=False, stdin=value, timeout=60)
    if done.returncode and "AlreadyExists" not in done.stderr and "already exists" not in done.stderr:
        raise Failure(f"cannot create the secret {name}{last_line(done)}")


def remove_stack(stack: str) -> None:
    """Remove a stack and wait until its containers are gone; its volumes stay."""
    run(["docker", "stack", "rm", stack], check=False, timeout=120)
    deadline = time.monotonic() + 60
    label = f"label=com.docker.stack.namespace={stack}"
    while run(["docker", "container", "ls", "--all", "--quiet", "--filter", label], check=False).stdout.strip():
        if time.monotonic() > deadline:
            say(f"containers of {stack} are still there after 60 s")
            return
        time.sleep(0.5)
