"""Hand a release to the Swarm, judge how that goes, and go back to the version before if it goes badly."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lib.command import Failure, last_line, run, say
from lib.record import Record
from lib.settings import Settings, deploy_command, deploy_environment, overlay, places
from lib.swarm import (
    ENDED,
    FAILED,
    FAILED_UPDATE,
    MOVING,
    NAMESPACE,
    PAUSED,
    Release,
    Service,
    Task,
    behind,
    changes,
    docker,
    put_back,
    read_services,
    services,
    tasks_of,
)
from lib.visit import ERRORS, answer, visit_until

ATTEMPTS = 5  # to put back what ran before
CRASHES = 3  # times that a first version may fail to start: the Swarm never stops trying


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

    def __init__(
        self,
        settings: Settings,
        address: str,
        timeout: float,
        *,
        before: Sequence[Mapping[str, Any]] = (),
        address_before: str = "",
        private: bool = True,
    ) -> None:
        """`before` are the services that ran before, as lib.swarm.inspected returned them; none for a first version.

        `address_before` is where their page was, if it was not at `address`.
        """
        self.settings = settings
        self.address = address
        self.timeout = timeout
        self.before = before
        self.address_before = address_before or address
        self.private = private
        self.old: set[str] = set()
        """The tasks that there were before, which say nothing about the release."""
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

    def settle(self) -> None:
        """Wait until no update is running that an interrupted redeploy began; Swarm ends each by itself."""
        deadline = time.monotonic() + self.timeout
        self.seen = {task.id: task for task in tasks_of(services(self.settings.stack).values())}
        while True:
            found, _ = self.look()
            if not any(service.update in MOVING for service in found.values()):
                self.old = set(self.seen)
                return
            if time.monotonic() > deadline:
                raise Failure(f"an earlier update is still running after {self.timeout:g} s; see --status")
            time.sleep(0.5)

    def deploy(self, release: Release) -> None:
        """Hand the stack to the Swarm, with all that it refers to."""
        settings = self.settings
        for name, value in settings.values.items():
            create_secret(settings.secrets[name], value)
        for one in settings.own:
            if one.secret:
                create_secret(settings.secrets[one.secret], one.address(secrets.token_urlsafe(32)))
        for label in places(settings):
            if not docker("node", "ls", "--quiet", "--filter", f"node.label={label}=yes").strip():
                here = docker("info", "--format", "{{.Swarm.NodeID}}").strip()
                docker("node", "update", "--label-add", f"{label}=yes", here)
        run(
            deploy_command(settings, private=self.private),
            show=True,
            timeout=120,
            env=deploy_environment(settings, release.reference),
            stdin=overlay(settings, release.reference),
        )

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
            now = verdict(found, tasks, release, before=self.old, errors=errors, going_back=going_back)
            if now.state == "bad":
                raise Failure(now.reason)
            steady = steady + 1 if now.state == "done" else 0
            if steady >= 2:
                return
            if time.monotonic() > deadline:
                raise Failure(f"not done after {self.timeout:g} s: {now.reason} (--timeout waits longer)")
            if going_back and any(service.update in PAUSED for service in found.values()):
                self.put_back()  # Swarm gave up half-way, and continues when it is told again
            time.sleep(0.5)

    def prove(self, release: Release, address: str = "") -> None:
        """Ask through the edge whether the release serves, at an address if it is not the new one.

        A service without X-Revision is proven by what `wait` saw: every task runs the release's digest.
        """
        address = address or self.address
        seconds = 120 if address.startswith("https:") else 30  # a first certificate takes its time
        off = self.settings.service.off.get("revision", "")
        if off:
            say(f"any page with status 200 will do, because service.toml turns the check of X-Revision off: {off}")
        revision = "" if off else release.revision
        visit_until(address, revision, answers=max(20, 10 * self.settings.replicas), seconds=seconds)

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

    def stop_update(self) -> None:
        """Tell Swarm to roll `web` back at once, all replicas together, if it is being updated.

        That is only the fastest way: what is not back then is put back anyway.
        """
        with contextlib.suppress(Failure):
            web = services(self.settings.stack).get("web")
            if web and web.update == "updating":
                run(["docker", "service", "rollback", "--detach", web.name], check=False, timeout=60)

    def put_back(self) -> None:
        """Put back what ran before; try again if Swarm changes a service at the same moment."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                put_back(self.settings.stack, self.before)
            except Failure as failure:
                if attempt == ATTEMPTS:
                    raise
                say(f"trying again: {failure}")
                time.sleep(1)
            else:
                return

    def go_back(self, failed: Release, proven: Record | None) -> str:
        """Make the stack what it was: its services, ports, replicas, secrets and edge. Return what serves, in words.

        Raises Failure, with what serves as far as it is known, if that does not work either.
        """
        ran = what_ran(self.settings.stack, self.before, proven)
        try:
            if self.before:
                say(f"going back to {ran}")
                self.stop_update()
                self.put_back()
            with contextlib.suppress(Failure):
                self.last_words(failed)
            if ran is None:
                remove_stack(self.settings.stack)
                return "it was the first one, so the stack was removed again and no version is serving"
            if not self.before:
                say(f"nothing ran before; deploying {ran}, which served last")
                self.deploy(ran)
            self.wait(ran, going_back=True)
            self.prove(ran, self.address_before if self.before else self.address)
        except Failure as failure:
            raise Failure(
                f"going back to {ran or 'nothing'} failed as well ({failure}); see python3 scripts/redeploy.py --status"
            ) from failure
        return f"{ran} is serving"


def what_ran(stack: str, before: Sequence[Mapping[str, Any]], proven: Record | None) -> Release | None:
    """Return the release that ran before, or that was proven last if none ran; None for a first version.

    It need not be one that was proven: then its revision is not known.
    """
    web = read_services(before, stack).get("web")
    if web is None or (proven and web.digest == proven.release.digest):
        return proven.release if proven else None
    image, _, digest = web.image.partition("@")
    return Release("the version that ran before", image, digest, "")


def create_secret(name: str, value: str) -> None:
    """Create a Docker secret unless there is one of that name; the value is on no command line."""
    done = run(["docker", "secret", "create", name, "-"], check=False, stdin=value, timeout=60)
    if done.returncode and "AlreadyExists" not in done.stderr and "already exists" not in done.stderr:
        raise Failure(f"cannot create the secret {name}{last_line(done)}")


def remove_stack(stack: str) -> None:
    """Remove a stack and wait until its containers are gone; its volumes stay."""
    run(["docker", "stack", "rm", stack], check=False, timeout=120)
    deadline = time.monotonic() + 60
    label = f"label={NAMESPACE}={stack}"
    while run(["docker", "container", "ls", "--all", "--quiet", "--filter", label], check=False).stdout.strip():
        if time.monotonic() > deadline:
            say(f"containers of {stack} are still there after 60 s")
            return
        time.sleep(0.5)
