#!/usr/bin/env python3
"""Deploy a published version to a Docker Swarm, and go back by itself when it does not work.

  python3 scripts/redeploy.py 1.2.3       a release, a commit's full id, a digest, or any other tag
  python3 scripts/redeploy.py previous    the version before the one that is serving
  python3 scripts/redeploy.py --status    what runs where, and what `previous` means
  python3 scripts/redeploy.py sha256:... --unverified "GitHub is down, and the page shows other people's orders"

The version becomes a digest, is verified, and deployed by that digest; then this waits until it runs and
asks the page through the edge until every answer carries the new revision. When any of it fails, the version
that served before is put back, and this says which one is serving.

Where: this machine's engine; DOCKER_HOST=ssh://user@host; or DEPLOY_HOST with DEPLOY_KNOWN_HOSTS and
DEPLOY_SSH_KEY: there the host does all this itself, if the key lets nobody do anything else. In a workflow
with no host, or with --rehearse, the stack is deployed to the engine that is there, and taken away again.
What: the image that DOCKERHUB_USERNAME, IMAGE_REPOSITORY and REGISTRY name.
How, remembered by the Swarm from one time to the next, until it is set to `none`: DOMAIN (HTTPS with a certificate),
EDGE_PORT (as service.toml says), REPLICAS (2), and the address of a backing service elsewhere (such as REDIS_URL).
The secrets that service.toml names are variables of their names, or lines NAME=value in SERVICE_SECRETS.
DEPLOY_URL is where the page is, if not where it is expected.

--unverified is for the night in which a proof cannot be had: it deploys a digest although GitHub does not say that
it is of main, signed and tested. Nothing else is waived: it is this repository's image, complete, with provenance, a
commit and an official base, and it is rolled back if it does not work. The reason is kept and shown by --status. No
workflow may do this.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import re
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import release as releases
from lib.command import (
    ROOT,
    Failure,
    UsageError,
    add_summary,
    last_line,
    parser,
    run,
    say,
    set_output,
    shown,
    start,
    warn,
)
from lib.distribution import is_public
from lib.host import DRY_RUN, REDEPLOY, Offer, ask, offered, status_of, warn_of_differences
from lib.names import DIGEST, SEMVER, SHA, ImageName, check_tag, checked_out, image_name, parse_reference
from lib.record import Record, Unfinished, begin, configs, end, history, locked, previous, unfinished, write_record
from lib.registry import MANIFESTS
from lib.rollout import Rollout, remove_stack
from lib.service import Service, load
from lib.settings import Settings, Wanted, deploy_command, settings, url, wanted
from lib.ssh import connection, deploy_host, endpoint, is_far, logged_in
from lib.swarm import (
    FAILED_UPDATE,
    NAMESPACE,
    Release,
    docker,
    inspected,
    node_platforms,
    plain_networks,
    read_services,
    services,
    tasks_of,
    valid_stack,
)
from lib.swarm import Service as Running
from lib.visit import answer


def reference(name: ImageName, version: str) -> str:
    """Return what to ask the registry for: `name@digest`, or `name:tag` (v1.2.3 is the tag 1.2.3)."""
    if version.startswith("sha256:"):
        return name.at(version)
    return name.tagged(version[1:] if version.startswith("v") and SEMVER.fullmatch(version[1:]) else version)


def check_version(version: str) -> str:
    """Return what can be a version, or raise UsageError."""
    return version if DIGEST.fullmatch(version) else check_tag(version)


def check_reason(reason: str, version: str, env: Mapping[str, str]) -> str:
    """Return the reason for deploying what is not verified, or raise UsageError if that may not be here, or so."""
    if env.get("GITHUB_ACTIONS"):
        raise UsageError("--unverified is not for workflows: a person has to decide that, on a machine of their own")
    if not (10 <= len(reason.strip()) <= 200 and reason.isprintable()):
        raise UsageError(
            f"--unverified is {reason!r}, which is not a reason that others will understand: one line of 10 to 200"
            " printable characters"
        )
    if not DIGEST.fullmatch(version):
        raise UsageError(
            f"--unverified takes a digest, and {version!r} is not one, as whoever can write to the registry can move a"
            " tag; docker buildx imagetools inspect shows the digest of one that you trust"
        )
    return reason.strip()


def verified(name: ImageName, version: str, platforms: Sequence[str], unverified: str = "") -> Release:
    """Return the release that a version is, or raise Failure that says why it must not be deployed.

    `unverified` is a reason to deploy it although GitHub does not vouch for it.
    """
    tag = parse_reference(reference(name, version))[1]
    found = releases.verified(name, tag, platforms=platforms, waive=bool(unverified))
    proof = {line.name: f"{line.outcome}: {line.why}" for line in found.lines}
    waived = [line for line in found.lines if line.outcome == releases.WAIVED]
    for line in waived:
        say(f"UNVERIFIED: {line.name}: {line.why}")
    if waived:
        say(f"UNVERIFIED: {user()} takes the responsibility, because: {unverified}")
    elif unverified:
        say("note: all that can be proven is proven, so --unverified was not needed, and is not recorded")
    return Release(version, str(name), found.digest, found.revision, proof, unverified if waived else "")


def check_swarm() -> None:
    """Raise Failure, with the command to run, unless the engine manages a Swarm."""
    done = run(["docker", "info", "--format", "{{json .Swarm}}"], check=False, timeout=60)
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        facts = None
    if done.returncode or not isinstance(facts, dict):
        raise Failure(f"no Docker Engine answers{last_line(done)}; run python3 scripts/engine.py")
    if facts.get("LocalNodeState") == "locked":
        raise Failure("the engine's Swarm is locked; run docker swarm unlock there first")
    if facts.get("LocalNodeState") != "active":
        raise Failure("the engine is in no Swarm; run docker swarm init there first, or rehearse with --rehearse")
    if not facts.get("ControlAvailable"):
        raise Failure("the engine is a Swarm's worker; deploy to one of its managers")


@contextlib.contextmanager
def rehearsal(stack: str) -> Iterator[None]:
    """Make the engine a Swarm for a while, unless it is one, and take away what was deployed at the end."""
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
            for kind, names in (("config", configs(stack)), ("secret", secrets_of(stack))):
                if names:
                    run(["docker", kind, "rm", *names], check=False)
        volumes = docker("volume", "ls", "--quiet", "--filter", f"label={NAMESPACE}={stack}").split()
        if volumes:
            run(["docker", "volume", "rm", *volumes], check=False)


def secrets_of(stack: str) -> list[str]:
    """Return the names of a stack's Docker secrets."""
    names = docker("secret", "ls", "--filter", f"name={stack}_", "--format", "{{.Name}}").split()
    return [name for name in names if name.startswith(f"{stack}_")]


def choose(
    version: str, records: Sequence[Record], find: Callable[[str], Release], serving: str = ""
) -> tuple[Release, int | None]:
    """Return the release to deploy, and the number of the record that `previous` means once it is deployed.

    `serving` is the digest that runs now, which after an unfinished redeploy is not the one that was proven last.
    """
    last = records[-1] if records else None
    if version == "previous":
        before = last if last and serving and last.release.digest != serving else previous(records)
        if before is None:
            raise Failure("no version was deployed before the one that is serving, so there is no previous one")
        return still_verified(before, find), before.before
    release = find(version)
    if last and last.release.digest == release.digest:
        return release, last.before
    return release, last.number if last else None


def still_verified(record: Record, find: Callable[[str], Release]) -> Release:
    """Return the release of a record. That it cannot be verified any more is said, and is not a reason to refuse it:

    going back must not depend on a registry or on GitHub, and it was verified when it was deployed.
    """
    try:
        find(record.release.digest)
    except Failure as failure:
        warning = f"{record.release} cannot be verified now ({failure}); it was deployed {record.at} by {record.by}"
        warn(warning)
    return record.release


def difference(before: Release | None, after: Release) -> str:
    """Return what a redeploy would change, as a diff of versions with the commits between them."""
    lines = [f"- {before}" if before else "- nothing", f"+ {after}"]
    if before and SHA.fullmatch(before.revision) and SHA.fullmatch(after.revision):
        span = f"{before.revision}..{after.revision}"
        log = run(["git", "-C", str(ROOT), "log", "--oneline", "--max-count=20", span], check=False)
        lines += [f"    {line}" for line in log.stdout.splitlines()]
    return "\n".join(lines)


@dataclass(frozen=True)
class Job:
    """What is to be done: a version of an image, for a stack, on the engine that `docker` talks to.

    `host` is the name of its machine, "" for this one; `timeout` is how many seconds the Swarm gets.
    """

    stack: str
    name: ImageName
    version: str
    service: Service
    wanted: Wanted
    host: str = ""
    timeout: float = 300
    rehearsing: bool = False
    unverified: str = ""

    def find(self, version: str) -> Release:
        """Return the release that a version is, verified for the Swarm's nodes."""
        nodes = docker("node", "ls", "--quiet").split()
        return verified(self.name, version, node_platforms(docker("node", "inspect", *nodes)), self.unverified)

    def address(self, running: Mapping[str, Running]) -> str:
        """Return where the page of what runs is; what would be needed to deploy it is not needed for that."""
        plain = replace(self.service, secrets={}, processes={})
        only = Wanted(url=self.wanted.url)
        return url(settings(self.stack, plain, only, running), only, self.host)

    def settings(self, running: Mapping[str, Running]) -> Settings:
        """Return how to deploy, with everything checked that can be before the first change."""
        found = settings(self.stack, self.service, self.wanted, running, rehearsal=self.rehearsing)
        deploy_command(found)
        edge = running.get("edge")
        if self.wanted.url and (problem := unresolved(urllib.parse.urlsplit(self.wanted.url).hostname or "")):
            raise UsageError(f"DEPLOY_URL is {self.wanted.url!r}, whose host {problem}; set it to where the page is")
        serves = edge is not None and edge.environment.get("SITE") == found.domain
        if found.domain and not serves and (problem := unresolved(found.domain)):
            sentence = f"DOMAIN is {found.domain!r}, which {problem}; point it at the host first"
            if not self.wanted.url:
                raise UsageError(sentence)
            say(f"warning: {sentence}")
        return found


def unresolved(name: str) -> str:
    """Return in words why a name does not resolve, "" if it does."""
    try:
        socket.getaddrinfo(name, 443)
    except OSError as error:
        return f"does not resolve ({error.strerror})"
    return ""


def redeploy(job: Job) -> None:
    """Deploy a version under the stack's lock; raise Failure, with which version is serving, when it fails.

    From the first change on, the Swarm keeps what ran before it, so that whatever ends this, also SIGKILL, the next
    redeploy knows what to go back to.
    """
    stack = job.stack
    with locked(stack, job.version, lease=4 * job.timeout, wait=job.timeout):
        records, cut_off = history(stack), unfinished(stack)
        proven = records[-1] if records else None
        now = inspected(stack)
        before = cut_off.services if cut_off else now
        web = read_services(now, stack).get("web")
        release, previous_one = choose(job.version, records, job.find, web.digest if web else "")
        how = job.settings(read_services(before, stack))
        address = url(how, job.wanted, job.host)
        was = job.address(read_services(before, stack)) if before else ""
        private = needs_login(release)
        rollout = Rollout(how, address, job.timeout, before=before, address_before=was, private=private)
        rollout.settle()
        say(difference(proven.release if proven else None, release))
        began = time.monotonic()
        if cut_off is None:
            begin(stack, Unfinished(job.version, clock(), user(), before))
        try:
            rollout.deploy(release)
            rollout.wait(release)
            rollout.prove(release)
            was_kept = proven and (proven.release.digest, proven.release.unverified, proven.domain, proven.port)
            if was_kept != (release.digest, release.unverified, how.domain, how.port):
                last = proven.number if proven else 0
                write_record(stack, Record(last + 1, release, clock(), user(), how.domain, how.port, previous_one))
        except BaseException as error:
            reason = str(error) if isinstance(error, Failure) else f"{type(error).__name__} {error}".strip()
            try:
                serving = rollout.go_back(release, proven)
                end(stack)
            except Failure as failure:
                serving = str(failure)
            report(release, proven, f"failed: {reason}; {serving}")
            sentence = f"{release} was not deployed: {reason}; {serving}"
            if isinstance(error, Exception):
                raise Failure(sentence) from error
            say(sentence)
            raise
        end(stack)
        if plain := plain_networks(stack):
            warn(
                f"the hosts talk in plain text over {' and '.join(plain)}, as an earlier version made it; to encrypt"
                f" that, run docker stack rm {stack} once, when nobody minds, and redeploy: volumes stay"
            )
        report(release, proven, f"is serving at {address}")
        say(f"{release} is serving at {address}, after {time.monotonic() - began:.1f} s")
        print(release.reference)
        if job.rehearsing:
            say("this was a rehearsal: set the variable DEPLOY_HOST to deploy for real (see scripts/prepare_host.py)")


def needs_login(release: Release) -> bool:
    """Whether the nodes need a login to pull a release; so it is also if that cannot be told."""
    image, digest = parse_reference(release.reference)
    return not is_public(image, f"manifests/{digest}", accept=", ".join(MANIFESTS))


def clock() -> str:
    """Return the time in UTC, as in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def user() -> str:
    """Return who deploys: the actor on GitHub, or the user and the machine; a user id need not have a name."""
    if actor := os.environ.get("GITHUB_ACTOR"):
        return actor
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def report(release: Release, proven: Record | None, end: str) -> None:
    """Hand the result to the workflow, if one runs this."""
    old = proven.release if proven else None
    set_output("digest", release.digest)
    set_output("revision", release.revision)
    set_output("before", old.digest if old else "")
    add_summary(
        f"### Redeploy: {release.version} {end}\n\n| | version | revision | digest |\n|---|---|---|---|\n"
        + (f"| from | {old.version} | `{old.revision}` | `{old.digest}` |\n" if old else "| from | nothing | | |\n")
        + f"| to | {release.version} | `{release.revision}` | `{release.digest}` |"
    )


def status(job: Job) -> str:
    """Return what runs where, since when, and what `previous` would go to."""
    stack = job.stack
    records, cut_off = history(stack), unfinished(stack)
    found = services(stack)
    if not found and not cut_off:
        return f"{stack} is not deployed; run python3 scripts/redeploy.py VERSION"
    last = records[-1] if records else None
    address = job.address(found)
    lines = [f"{address}: {answer(address)}"]
    if last:
        lines.append(f"deployed: {last.release.reference}\n          {last.release}, {last.at} by {last.by}")
        if last.release.unverified:
            lines.append(f"UNVERIFIED: {last.release.unverified}")
    web = found.get("web")
    if cut_off:
        lines.append(
            f"unfinished: the redeploy to {cut_off.version}, {cut_off.at} by {cut_off.by}, runs or was cut off, so what"
            " runs now is not proven; if it was cut off, redeploy any version, and that puts things right"
        )
    elif web and last and web.digest != last.release.digest:
        lines.append(f"not by this script: the Swarm runs {web.image}")
    for one in tasks_of(found.values()):
        if one.wanted == "running":
            lines.append(f"{one} (since {one.since})")
    lines += [f"{service.name}: {text}" for service in found.values() if (text := service.update) in FAILED_UPDATE]
    chain = list(records)
    while (before := previous(chain)) is not None:
        lines.append(f"previous: {before.release}, {before.at} by {before.by}")
        chain = [record for record in records if record.number <= before.number]
    return "\n".join(lines)


def dry_run(job: Job) -> None:
    """Verify a version, check the settings, and print what would change; a rehearsal's Swarm need not be there."""
    if job.rehearsing:
        records: list[Record] = []
        running: dict[str, Running] = {}
        release, _ = choose(job.version, records, lambda version: verified(job.name, version, (), job.unverified))
    else:
        records, running = history(job.stack), services(job.stack)
        web = running.get("web")
        release, _ = choose(job.version, records, job.find, web.digest if web else "")
    how = job.settings(running)
    print(difference(records[-1].release if records else None, release))
    say(f"would run: {shown(deploy_command(how, private=needs_login(release)))}")


def seconds(text: str) -> float:
    """Return a time-out from the command line."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", text) or float(text) == 0:
        raise UsageError(f"--timeout is {text!r}, which is not a number of seconds above 0")
    return float(text)


def on_its_own(ssh: Sequence[str], offer: Offer, host: str, options: argparse.Namespace) -> int:
    """Let a host that takes nothing but a version do all of it, and show what it says."""
    if options.status:
        print(status_of(ssh))
        return 0
    if options.unverified:
        raise UsageError(
            f"--unverified is nothing that a deploy key may ask of {host}; whoever may log in as root there sets"
            f" DOCKER_HOST=ssh://root@{host} instead of DEPLOY_HOST"
        )
    warn_of_differences(offer, os.environ, host)
    digest = ask(ssh, offer, DRY_RUN if options.dry_run else REDEPLOY, options.version)
    if digest:
        print(f"{offer.image}@{digest}")
    return 0


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("version", nargs="?", help="a release, a commit's full id, a digest, a tag, or previous")
    arguments.add_argument("--dry-run", action="store_true", help="verify, and only print what would change")
    arguments.add_argument("--status", action="store_true", help="print what runs, and what ran before")
    arguments.add_argument("--rehearse", action="store_true", help="deploy to this engine and take it away again")
    arguments.add_argument("--unverified", metavar="REASON", help="deploy a digest that GitHub does not vouch for")
    arguments.add_argument("--timeout", default="300", metavar="SECONDS", help="to wait for the Swarm (300)")
    options = arguments.parse_args(argv)
    env = os.environ
    if not options.version and not options.status:
        raise UsageError("no version given; run python3 scripts/redeploy.py VERSION, or --status")
    version = check_version(options.version) if options.version else ""
    unverified = "" if options.unverified is None else check_reason(options.unverified, version, env)
    timeout = seconds(options.timeout)
    target = None if options.rehearse else deploy_host(env)
    if target:
        with logged_in(target, env) as (ssh, _):
            if offer := offered(ssh):
                return on_its_own(ssh, offer, target.host, options)
    service = load()
    repository = env.get("IMAGE_REPOSITORY") or checked_out().repository
    far = bool(env.get("DEPLOY_HOST")) or is_far(endpoint())
    rehearsing = options.rehearse or (env.get("GITHUB_ACTIONS") == "true" and not far and not options.status)
    stack = valid_stack(env.get("STACK") or repository, "-rehearsal" if rehearsing else "")
    want = wanted(env, service, rehearsal=rehearsing)
    name = ImageName("", "", "") if options.status else image_name(env, repository)
    with connection(env) as host:
        job = Job(stack, name, version, service, want, host, timeout, rehearsing, unverified)
        if options.status:
            check_swarm()
            print(status(job))
        elif options.dry_run:
            if not rehearsing:
                check_swarm()
            dry_run(job)
        elif rehearsing:
            job.settings({})
            # Before the engine is made a Swarm.
            choose(version, (), lambda asked: verified(name, asked, (), unverified))
            with rehearsal(stack):
                redeploy(job)
        else:
            check_swarm()
            redeploy(job)
    return 0


if __name__ == "__main__":
    start(main)
