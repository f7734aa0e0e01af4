#!/usr/bin/env python3
"""Deploy a published version to a Docker Swarm, and go back by itself when it does not work.

  python3 scripts/redeploy.py 1.2.3       a release, a commit's full id, a digest, or any other tag
  python3 scripts/redeploy.py previous    the version before the one that is serving
  python3 scripts/redeploy.py --status    what runs where, and what `previous` means

The version becomes a digest, is verified, and deployed by that digest; then this waits until it runs and
asks the page through the edge until every answer carries the new revision. When any of it fails, the version
that served before is put back, and this says which one is serving.

Where: this machine's engine; DOCKER_HOST=ssh://user@host; or DEPLOY_HOST with DEPLOY_KNOWN_HOSTS and
DEPLOY_SSH_KEY. In a workflow with no host, or with --rehearse, the stack is deployed to the engine that is
there, and taken away again. What: the image that DOCKERHUB_USERNAME, IMAGE_REPOSITORY and REGISTRY name.
How, remembered by the Swarm from one time to the next: DOMAIN (HTTPS with a certificate), EDGE_PORT (4000),
REPLICAS (2), REDIS_URL (a Redis elsewhere). DEPLOY_URL is where the page is, if not where it is expected.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lib.command import ROOT, Failure, UsageError, add_summary, last_line, parser, run, say, set_output, shown, start
from lib.names import DIGEST, SEMVER, SHA, ImageName, check_tag, image_name, source
from lib.registry import index_of, is_attestation, labels_of, missing_platforms
from lib.ssh import connection
from lib.swarm import (
    ENDED,
    FAILED,
    FAILED_UPDATE,
    MOVING,
    Record,
    Release,
    Service,
    Task,
    behind,
    changes,
    configs,
    docker,
    history,
    locked,
    node_platforms,
    previous,
    services,
    tasks_of,
    valid_stack,
    write_record,
)

DEPLOY = ROOT / "deploy"
DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
PROVENANCE = "https://slsa.dev/provenance/"
REVISION = "org.opencontainers.image.revision"
ERRORS = 2
"""So many errors are the release's own: one alone may be chance."""


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


def reference(name: ImageName, version: str) -> str:
    """Return what to ask the registry for: `name@digest`, or `name:tag` (v1.2.3 is the tag 1.2.3)."""
    if version.startswith("sha256:"):
        return name.at(version)
    return name.tagged(version[1:] if version.startswith("v") and SEMVER.fullmatch(version[1:]) else version)


def check_version(version: str) -> str:
    """Return what can be a version, or raise UsageError."""
    return version if DIGEST.fullmatch(version) else check_tag(version)


def url(settings: Settings, host: str, env: Mapping[str, str]) -> str:
    """Return where visitors find the page."""
    if env.get("DEPLOY_URL"):
        return env["DEPLOY_URL"]
    return f"https://{settings.domain}/" if settings.domain else f"http://{host or 'localhost'}:{settings.port}/"


def verified(name: ImageName, version: str, platforms: Sequence[str]) -> Release:
    """Return the release that a version is, or raise Failure that says why it must not be deployed."""
    asked = reference(name, version)
    index = index_of(asked)
    if index is None:
        raise Failure(f"there is no {asked} in the registry; push it first, or see its tags in the registry")
    missing = missing_platforms(index, platforms)
    if missing:
        raise Failure(f"{asked} has no image for {', '.join(missing)}, which the Swarm's nodes are")
    all_labels = labels_of(name.at(index.digest))
    revisions = {labels.get(REVISION, "") for labels in all_labels}
    if any(labels.get("friendlyhello.stand-in") == "true" for labels in all_labels) and not name.is_local:
        raise Failure(f"{asked} is built on a stand-in for its base image; only localhost may have such an image")
    if len(revisions) != 1 or revisions == {""}:
        raise Failure(f"{asked} does not say which commit it is made of (label {REVISION}); build it with this project")
    revision = revisions.pop()
    if not is_commit(revision) and not (name.is_local and is_commit(revision.removesuffix("-dirty"))):
        raise Failure(f"{asked} is made of {revision!r}, which is no commit of this repository; run git fetch first")
    if not any(
        str((layer.get("annotations") or {}).get("in-toto.io/predicate-type", "")).startswith(PROVENANCE)
        for entry in index.content.get("manifests", [])
        if is_attestation(entry) and (manifest := index_of(name.at(entry["digest"])))
        for layer in manifest.content.get("layers", [])
    ):
        raise Failure(f"{asked} has no provenance, so nobody knows how it was built; push it with this project")
    return Release(version, str(name), index.digest, revision)


def is_commit(revision: str) -> bool:
    """Whether this repository has a commit, here or (where only the newest were fetched) at its origin."""
    if not SHA.fullmatch(revision):
        return False
    known = ["git", "-C", str(ROOT), "cat-file", "-e", f"{revision}^{{commit}}"]
    fetch = ["git", "-C", str(ROOT), "fetch", "--quiet", "--depth=1", "origin", revision]
    return any(run(command, check=False, timeout=60).returncode == 0 for command in (known, fetch))


def answer(address: str) -> tuple[int, str]:
    """Ask the page once, on a connection of its own; return the status and the revision that answered."""
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    link = kind(parts.hostname or "localhost", parts.port, timeout=20)
    try:
        link.request("GET", parts.path or "/")
        response = link.getresponse()
        response.read()
        return response.status, response.getheader("X-Revision", "")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        link.close()


def is_error(status: int) -> bool:
    """Whether a server says that it failed: RFC 9110, section 15.6."""
    return 500 <= status < 600


def smoke_test(address: str, revision: str, *, answers: int, seconds: float) -> None:
    """Ask through the edge until `answers` in a row carry the revision.

    Raises Failure after `seconds`, or as soon as the revision itself has answered with errors.
    """
    deadline = time.monotonic() + seconds
    row = errors = 0
    while row < answers:
        status, carried = answer(address)
        row = row + 1 if (status, carried) == (200, revision) else 0
        errors += is_error(status) and carried == revision
        if not row:
            if time.monotonic() > deadline or errors >= ERRORS:
                found = f"status {status}, revision {carried or 'none'}" if status else carried
                raise Failure(f"{address} does not answer with revision {revision}: {found}")
            time.sleep(0.2)
    say(f"{address} answers with revision {revision}: {answers} times in a row")


class Deployment:
    """One redeploy of one stack: what it is about, and the steps of it."""

    def __init__(self, settings: Settings, address: str, timeout: float) -> None:
        self.settings = settings
        self.address = address
        self.timeout = timeout
        self.errors = 0
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

    def settle(self) -> dict[str, Service]:
        """Wait until an update that an interrupted redeploy began has ended; Swarm ends each by itself."""
        deadline = time.monotonic() + self.timeout
        self.seen = {task.id: task for task in tasks_of(services(self.settings.stack).values())}
        while True:
            found, _ = self.look()
            if not any(service.update in MOVING for service in found.values()):
                self.before = set(self.seen)
                return found
            if time.monotonic() > deadline:
                raise Failure(f"an update that began earlier has not ended after {self.timeout:g} s; see --status")
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

    def wait(self, release: Release, what: str = "update") -> None:
        """Wait until every service runs what it is meant to, and `web` the release; raise Failure if it ends badly."""
        deadline = time.monotonic() + self.timeout
        steady = 0
        while True:
            found, tasks = self.look()
            web = found.get("web")
            if web is None:
                raise Failure(f"the stack {self.settings.stack} has no service web any more")
            ours = [task for task in tasks if task.service == web.name and task.image.endswith(release.digest)]
            failed = [task for task in ours if task.state in FAILED]
            bad = [service for service in found.values() if service.update in FAILED_UPDATE[:1] + FAILED_UPDATE[2:]]
            if web.digest != release.digest or (bad and what == "update"):
                if any(service.update in MOVING for service in found.values()):
                    pass  # Swarm is going back by itself: wait for that too
                else:
                    message = next((s.message for s in bad), "") or f"the Swarm runs {web.digest}"
                    raise Failure(f"the {what} failed: {message}")
            elif not web.update and len(failed) >= 3:
                raise Failure(f"the service does not start: {failed[0].error}")
            elif what == "update" and web.update == "updating" and (why := self.why_bad(release, ours)):
                say(f"going back at once: {why}")
                run(["docker", "service", "rollback", "--detach", web.name], check=False, timeout=60)
            waiting = [text for service in found.values() if (text := behind(service, tasks))]
            steady = 0 if waiting or web.digest != release.digest else steady + 1
            if steady >= 2:
                return
            if time.monotonic() > deadline:
                why = next((task.error for task in tasks if task.error and task.wanted != "shutdown"), "")
                raise Failure(f"not done after {self.timeout:g} s: {'; '.join(waiting)}{f' ({why})' if why else ''}")
            time.sleep(0.5)

    def why_bad(self, release: Release, tasks: Sequence[Task]) -> str:
        """Return why a release that is being rolled out has to go, or "".

        Swarm may look at a replica that ended only when it is done with the next one, and knows nothing of the page.
        """
        ended = [task for task in tasks if task.id not in self.before and task.state in ENDED]
        if ended:
            return str(ended[0])
        status, revision = answer(self.address)
        self.errors += is_error(status) and revision == release.revision
        return f"{self.address} answers with status {status}" if self.errors >= ERRORS else ""

    def prove(self, release: Release) -> None:
        """Ask through the edge whether the release serves."""
        seconds = 120 if self.settings.domain else 30  # a first certificate takes its time
        smoke_test(self.address, release.revision, answers=max(20, 10 * self.settings.replicas), seconds=seconds)

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
            self.wait(proven.release, "rollback")
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


def check_swarm() -> None:
    """Raise Failure, with the command to run, unless the engine manages a Swarm."""
    done = run(["docker", "info", "--format", "{{json .Swarm}}"], check=False, timeout=60)
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        raise Failure(f"no Docker Engine answers{last_line(done)}; run python3 scripts/engine.py") from None
    if facts.get("LocalNodeState") != "active":
        raise Failure("the engine is in no Swarm; run docker swarm init there first, or rehearse with --rehearse")
    if not facts.get("ControlAvailable"):
        raise Failure("the engine is a Swarm's worker; deploy to one of its managers")


@contextlib.contextmanager
def rehearsal(stack: str) -> Iterator[None]:
    """Make the engine a Swarm for a while, where it is none, and take away what was deployed at the end."""
    state = docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip()
    say("REHEARSAL: no host is configured, so the stack runs on this engine for a moment and is removed again")
    if state == "inactive":
        run(["docker", "swarm", "init", "--advertise-addr", "127.0.0.1"], show=True)
    try:
        yield
    finally:
        say("taking the rehearsal's stack away")
        remove_stack(stack)
        if state == "inactive":
            run(["docker", "swarm", "leave", "--force"], show=True, check=False)
        else:
            for name in configs(stack, "deployed"):
                run(["docker", "config", "rm", name], check=False)
            run(["docker", "secret", "rm", f"{stack}_redis_url"], check=False)
        volumes = docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.stack.namespace={stack}").split()
        if volumes:
            run(["docker", "volume", "rm", *volumes], check=False)


def choose(version: str, records: Sequence[Record], find: Callable[[], Release]) -> tuple[Release, int | None]:
    """Return the release to deploy, and the number of the record that `previous` means once it is deployed."""
    if version == "previous":
        before = previous(records)
        if before is None:
            raise Failure("no version was deployed before the one that is serving, so there is no previous one")
        return before.release, before.before
    release = find()
    if records and records[-1].release.digest == release.digest:
        return release, records[-1].before
    return release, records[-1].number if records else None


def difference(before: Release | None, after: Release) -> str:
    """Return what a redeploy would change, as a diff of versions with the commits between them."""
    lines = [f"- {before}" if before else "- nothing", f"+ {after}"]
    if before and SHA.fullmatch(before.revision) and SHA.fullmatch(after.revision):
        span = f"{before.revision}..{after.revision}"
        log = run(["git", "-C", str(ROOT), "log", "--oneline", "--max-count=20", span], check=False)
        lines += [f"    {line}" for line in log.stdout.splitlines()]
    return "\n".join(lines)


def redeploy(
    stack: str, version: str, find: Callable[[], Release], host: str, timeout: float, rehearsing: bool
) -> None:
    """Deploy a version under the stack's lock; raise Failure, with which version is serving, when it fails."""
    with locked(stack, version, lease=3 * timeout, wait=timeout):
        records = history(stack)
        proven = records[-1] if records else None
        release, before = choose(version, records, find)
        found = services(stack)
        how = settings(stack, os.environ, proven, found, rehearsing)
        deployment = Deployment(how, url(how, host, os.environ), timeout)
        deployment.settle()
        say(difference(proven.release if proven else None, release))
        began = time.monotonic()
        try:
            deployment.deploy(release)
            deployment.wait(release)
            deployment.prove(release)
        except Failure as failure:
            serving = deployment.go_back(release, proven)
            report(release, proven, f"failed: {failure}; {serving}")
            raise Failure(f"{release} was not deployed: {failure}; {serving}") from failure
        same = proven is not None and proven.release.digest == release.digest
        if not same or (how.domain, how.port) != (proven and (proven.domain, proven.port)):
            last = proven.number if proven else 0
            by = os.environ.get("GITHUB_ACTOR") or f"{getpass.getuser()}@{socket.gethostname()}"
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_record(stack, Record(last + 1, release, at, by, how.domain, how.port, before))
        report(release, proven, f"is serving at {deployment.address}")
        say(f"{release} is serving at {deployment.address}, after {time.monotonic() - began:.1f} s")
        print(release.reference)
        if rehearsing:
            say("this was a rehearsal: set the variable DEPLOY_HOST to deploy for real (see scripts/prepare_host.py)")


def report(release: Release, proven: Record | None, end: str) -> None:
    """Hand the result to a workflow, where there is one."""
    old = proven.release if proven else None
    set_output("digest", release.digest)
    set_output("revision", release.revision)
    set_output("before", old.digest if old else "")
    add_summary(
        f"### Redeploy: {release.version} {end}\n\n| | version | revision | digest |\n|---|---|---|---|\n"
        + (f"| from | {old.version} | `{old.revision}` | `{old.digest}` |\n" if old else "| from | nothing | | |\n")
        + f"| to | {release.version} | `{release.revision}` | `{release.digest}` |"
    )


def status(stack: str, host: str) -> str:
    """Return what runs where, since when, and what `previous` would go to."""
    records = history(stack)
    found = services(stack)
    if not found:
        return f"{stack} is not deployed; run python3 scripts/redeploy.py VERSION"
    last = records[-1] if records else None
    how = settings(stack, os.environ, last, found)
    address = url(how, host, os.environ)
    code, revision = answer(address)
    lines = [f"{address}: status {code}, revision {revision}" if code else f"{address}: {revision}"]
    if last:
        lines.append(f"deployed: {last.release.reference}\n          {last.release}, {last.at} by {last.by}")
    for task in tasks_of(found.values()):
        if task.wanted == "running":
            lines.append(f"{task} (since {task.since})")
    lines += [f"{service.name}: {text}" for service in found.values() if (text := service.update) in FAILED_UPDATE]
    chain = list(records)
    while (before := previous(chain)) is not None:
        lines.append(f"previous: {before.release}, {before.at} by {before.by}")
        chain = [record for record in records if record.number <= before.number]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("version", nargs="?", help="a release, a commit's full id, a digest, a tag, or previous")
    arguments.add_argument("--dry-run", action="store_true", help="verify, and only print what would change")
    arguments.add_argument("--status", action="store_true", help="print what runs, and what ran before")
    arguments.add_argument("--rehearse", action="store_true", help="deploy to this engine and take it away again")
    arguments.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="to wait for the Swarm (300)")
    options = arguments.parse_args(argv)
    env = os.environ
    if not options.version and not options.status:
        raise UsageError("no version given; run python3 scripts/redeploy.py VERSION, or --status")
    version = check_version(options.version) if options.version else ""
    here = source()
    far = bool(env.get("DEPLOY_HOST")) or env.get("DOCKER_HOST", "").startswith(("ssh://", "tcp://"))
    rehearsing = options.rehearse or (env.get("GITHUB_ACTIONS") == "true" and not far and not options.status)
    repository = env.get("IMAGE_REPOSITORY") or here.repository
    stack = valid_stack(env.get("STACK") or repository) + ("-rehearsal" if rehearsing else "")
    with connection(env) as host:
        if options.status:
            check_swarm()
            print(status(stack, host))
            return 0
        name = image_name(env, here.repository)
        with contextlib.ExitStack() as stage:
            if rehearsing and not options.dry_run:
                # Verified before anything is touched.
                if version != "previous":
                    verified(name, version, ())
                stage.enter_context(rehearsal(stack))
            if not rehearsing:
                check_swarm()

            def find() -> Release:
                platforms: Sequence[str] = ()
                if not (rehearsing and options.dry_run):
                    nodes = docker("node", "ls", "--quiet").split()
                    platforms = node_platforms(docker("node", "inspect", *nodes))
                return verified(name, version, platforms)

            if options.dry_run:
                records = [] if rehearsing else history(stack)
                release, _ = choose(version, records, find)
                proven = records[-1] if records else None
                how = settings(stack, env, proven, {} if rehearsing else services(stack), rehearsing)
                print(difference(proven.release if proven else None, release))
                say(f"would run: {shown(deploy_command(how))}")
                return 0
            redeploy(stack, version, find, host, options.timeout, rehearsing)
    return 0


if __name__ == "__main__":
    start(main)
