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
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from lib import release as releases
from lib.command import ROOT, Failure, UsageError, add_summary, last_line, parser, run, say, set_output, shown, start
from lib.names import DIGEST, SEMVER, SHA, ImageName, check_tag, checked_out, image_name, parse_reference
from lib.record import Record, configs, history, locked, previous, write_record
from lib.rollout import Rollout, deploy_command, remove_stack, settings, url
from lib.ssh import connection
from lib.swarm import FAILED_UPDATE, Release, docker, node_platforms, services, tasks_of, valid_stack
from lib.visit import answer


def reference(name: ImageName, version: str) -> str:
    """Return what to ask the registry for: `name@digest`, or `name:tag` (v1.2.3 is the tag 1.2.3)."""
    if version.startswith("sha256:"):
        return name.at(version)
    return name.tagged(version[1:] if version.startswith("v") and SEMVER.fullmatch(version[1:]) else version)


def check_version(version: str) -> str:
    """Return what can be a version, or raise UsageError."""
    return version if DIGEST.fullmatch(version) else check_tag(version)


def verified(name: ImageName, version: str, platforms: Sequence[str]) -> Release:
    """Return the release that a version is, or raise Failure that says why it must not be deployed."""
    found = releases.verified(name, parse_reference(reference(name, version))[1], platforms=platforms)
    return Release(version, str(name), found.digest, found.revision)


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
        rollout = Rollout(how, url(how, host, os.environ), timeout)
        rollout.settle()
        say(difference(proven.release if proven else None, release))
        began = time.monotonic()
        try:
            rollout.deploy(release)
            rollout.wait(release)
            rollout.prove(release)
        except Failure as failure:
            serving = rollout.go_back(release, proven)
            report(release, proven, f"failed: {failure}; {serving}")
            raise Failure(f"{release} was not deployed: {failure}; {serving}") from failure
        same = proven is not None and proven.release.digest == release.digest
        if not same or (how.domain, how.port) != (proven and (proven.domain, proven.port)):
            last = proven.number if proven else 0
            by = os.environ.get("GITHUB_ACTOR") or f"{getpass.getuser()}@{socket.gethostname()}"
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_record(stack, Record(last + 1, release, at, by, how.domain, how.port, before))
        report(release, proven, f"is serving at {rollout.address}")
        say(f"{release} is serving at {rollout.address}, after {time.monotonic() - began:.1f} s")
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
    lines = [f"{address}: {answer(address)}"]
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
    commit = checked_out()
    far = bool(env.get("DEPLOY_HOST")) or env.get("DOCKER_HOST", "").startswith(("ssh://", "tcp://"))
    rehearsing = options.rehearse or (env.get("GITHUB_ACTIONS") == "true" and not far and not options.status)
    repository = env.get("IMAGE_REPOSITORY") or commit.repository
    stack = valid_stack(env.get("STACK") or repository) + ("-rehearsal" if rehearsing else "")
    with connection(env) as host:
        if options.status:
            check_swarm()
            print(status(stack, host))
            return 0
        name = image_name(env, commit.repository)
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
