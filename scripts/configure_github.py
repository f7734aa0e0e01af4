#!/usr/bin/env python3
"""Set on GitHub what the workflows need: variables, secrets, environments and rules. Twice changes nothing.

  python3 scripts/configure_github.py --dry-run                        say what would be set, and set nothing
  python3 scripts/configure_github.py DOCKERHUB_USERNAME=you --token   set these, the environments and the rules
  python3 scripts/configure_github.py --host root@hello.example.org    where to deploy to, after prepare_host.py

--token asks for the registry's token without showing it, or reads it from standard input, and tries it at the
registry before it is set: a token that may not push is refused. It is on no command line and in no message.
The environments `publish` and `production`, which hold the secrets, are for main and v* tags only; main takes only
what passed the check `required`; v* tags are made by those who maintain the repository.

Needs `gh`, logged in as somebody who administers the repository. scripts/doctor.py says what is missing.
"""

from __future__ import annotations

import base64
import getpass
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import prepare_host
from lib import gh, service
from lib.access import access
from lib.command import ROOT, Failure, UsageError, parser, run, say, start
from lib.distribution import Login, Refused
from lib.gh import ENVIRONMENTS, REFS, GitHub, rulesets
from lib.names import ImageName, image_name, repository_name, without_secrets
from lib.ssh import DEPLOY_USER, parse_target, public_half


class Changes:
    """Makes changes one after the other, or only says what they would be; `made` counts them."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.made = 0

    def make(self, what: str, act: Callable[..., object], *arguments: object) -> None:
        """Say what is set, and set it."""
        self.made += 1
        say(f"would set {what}" if self.dry_run else f"setting {what}")
        if not self.dry_run:
            act(*arguments)


def parse_settings(words: Sequence[str], known: set[str], secrets: set[str]) -> dict[str, str]:
    """Return the variables that `NAME=value` words say; raise UsageError for one that the workflows do not read."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name in secrets:
            raise UsageError(f"{name} is a secret, and no command line may show it; use --token or gh secret set")
        if not equals or name not in known:
            names = ", ".join(sorted(known))
            raise UsageError(f"{name!r} is not NAME=value of a variable that the workflows read: {names}")
        found[name] = value
    return found


def read_token() -> str:
    """Return the token from standard input, or asked for without showing it; raise UsageError if there is none."""
    text = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.read()
    token = text.strip()
    if not token or any(character.isspace() for character in token):
        raise UsageError("standard input has no token; run it in a terminal, or as … --token < FILE")
    return token


def check_token(image: ImageName, username: str, token: str) -> None:
    """Raise Failure unless the registry takes the token and lets it push the image; the token is in no message."""
    pair = base64.b64encode(f"{username}:{token}".encode()).decode("ascii")
    where = image.registry or "Docker Hub"
    try:
        found = access(image, Login(f"Basic {pair}"))
    except Refused as refused:
        raise Failure(
            f"{where} does not take this token for {username}; make one with the permission Read & Write, and check the"
            " name that it belongs to"
        ) from refused
    if found.actions is not None and "push" not in found.actions:
        raise Failure(
            f"{where} takes this token, but it may not push {image}; make one with the permission Read & Write"
        )
    say(f"{where} takes the token" + (f", and it may push {image}" if found.actions else ""))


def set_variables(repository: GitHub, wanted: Mapping[str, str], place: str, changes: Changes) -> None:
    """Set the variables that differ, of the repository or of an environment."""
    there = repository.variables(place)
    for name, value in wanted.items():
        if there.get(name) == value:
            say(f"the variable {name} is {value} already")
        else:
            where = f" for {place}" if place else ""
            changes.make(f"the variable {name} to {value}{where}", repository.set_variable, name, value, place)


def set_environments(repository: GitHub, changes: Changes) -> None:
    """Make the environments, for main and v* tags only; who has to approve stays."""
    for name in ENVIRONMENTS:
        path = f"environments/{name}"
        existing = repository.get(path)
        policies = repository.policies(name) if existing else None
        if policies is None:
            what = f"the environment {name}, for chosen branches and tags only"
            changes.make(what, repository.send, "PUT", path, environment(existing or {}))
        for kind, pattern in REFS:
            if (kind, pattern) not in (policies or set()):
                what = f"the environment {name} for the {kind} {pattern}"
                body = {"name": pattern, "type": kind}
                changes.make(what, repository.send, "POST", f"{path}/deployment-branch-policies", body)
        if policies == set(REFS):
            say(f"the environment {name} is for main and v* only already")


def environment(existing: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's settings with a policy of its own; GitHub drops what is not sent again.

    https://docs.github.com/rest/deployments/environments#create-or-update-an-environment
    """
    body: dict[str, Any] = {"deployment_branch_policy": {"protected_branches": False, "custom_branch_policies": True}}
    for rule in existing.get("protection_rules") or []:
        if rule.get("type") == "wait_timer":
            body["wait_timer"] = rule["wait_timer"]
        if rule.get("type") == "required_reviewers":
            body["reviewers"] = [
                {"type": one["type"], "id": one["reviewer"]["id"]} for one in rule.get("reviewers") or []
            ]
            body["prevent_self_review"] = bool(rule.get("prevent_self_review"))
    return body


def set_rules(repository: GitHub, changes: Changes) -> None:
    """Make the rulesets that are not there; ours are known by their names, and others are left alone."""
    try:
        there = {ruleset["name"]: ruleset for ruleset in repository.items("rulesets")}
    except gh.Denied as denied:
        if "pgrade" not in str(denied):
            raise
        say("GitHub has no rules for private repositories on this plan: left out")
        return
    for wanted in rulesets(repository.actions_app()):
        name = wanted["name"]
        path = f"rulesets/{there[name]['id']}" if name in there else "rulesets"
        if name in there and same(wanted, repository.get(path)):
            say(f"the rule {name} is there already")
        else:
            changes.make(f"the rule {name}", repository.send, "PUT" if name in there else "POST", path, wanted)


def same(wanted: Any, found: Any) -> bool:
    """Whether what GitHub has says all that is wanted; it adds fields of its own."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(same(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(any(same(one, other) for other in found) for one in wanted)
        )
    return bool(wanted == found)


def host_settings(login: str, key: Path) -> tuple[dict[str, str], str]:
    """Return the variables that say where to deploy to, and the key; raise Failure if the host was not prepared."""
    target = parse_target("--host", login)
    real, hosts = prepare_host.trusted(target)
    if not key.exists():
        raise Failure(f"there is no key {key}; run python3 scripts/prepare_host.py {target} first")
    public_half(str(key), key)
    deploy = replace(real, user=DEPLOY_USER)
    return {"DEPLOY_HOST": str(deploy), "DEPLOY_KNOWN_HOSTS": hosts}, key.read_text("utf-8")


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("settings", nargs="*", metavar="NAME=value", help="a variable to set")
    arguments.add_argument("--token", action="store_true", help="set the registry's token, from standard input")
    arguments.add_argument("--host", default="", metavar="[USER@]HOST[:PORT]", help="the host that was prepared")
    arguments.add_argument(
        "--key", type=Path, default=prepare_host.deploy_key(), help="the key to deploy with (%(default)s)"
    )
    arguments.add_argument("--dry-run", action="store_true", help="say what would be set, and set nothing")
    options = arguments.parse_args(argv)
    variables = parse_settings(options.settings, *gh.known())
    for check in gh.forms(variables, service.load(environ={})):
        check()
    remote = run(["git", "-C", str(ROOT), "remote", "get-url", "origin"], check=False).stdout.strip()
    repository = gh.find(remote)
    if repository is None:
        where = without_secrets(remote) or "not set"
        raise Failure(f"origin is {where}; git remote add origin https://github.com/OWNER/NAME.git first")
    problem = gh.check_login(repository.host)
    if problem:
        raise Failure(problem)
    facts = repository.get("")
    if facts is None:
        raise Failure(f"GitHub shows no repository {repository.slug} to the login of gh; run gh auth status")
    if not (facts.get("permissions") or {}).get("admin"):
        raise Failure(f"gh is not logged in as somebody who administers {repository.slug}; run gh auth switch")
    # All that can be wrong is found out before anything is set.
    settings = {**repository.variables(), **variables}
    image = image_name(settings, repository_name(remote)) if settings.get("DOCKERHUB_USERNAME") else None
    token = ""
    if options.token:
        if image is None:
            raise UsageError("whose token? Add DOCKERHUB_USERNAME=NAME")
        token = read_token()
        check_token(image, settings["DOCKERHUB_USERNAME"], token)
    host, key = host_settings(options.host, options.key) if options.host else ({}, "")
    changes = Changes(dry_run=options.dry_run)
    set_variables(repository, variables, "", changes)
    publish, production = ENVIRONMENTS
    try:
        set_environments(repository, changes)
    except Failure:
        if not facts.get("private"):
            raise
        say("GitHub has no environments for private repositories on this plan: secrets are the repository's")
        publish = production = ""
    if token:
        what = f"the secret DOCKERHUB_TOKEN for {publish or 'the repository'}"
        changes.make(what, repository.set_secret, "DOCKERHUB_TOKEN", token, publish)
    set_variables(repository, host, production, changes)
    if key:
        what = f"the secret DEPLOY_SSH_KEY for {production or 'the repository'}"
        changes.make(what, repository.set_secret, "DEPLOY_SSH_KEY", key, production)
    set_rules(repository, changes)
    verb = "would be set" if options.dry_run else "set"
    print(f"{repository.slug}: {changes.made} {verb}" if changes.made else f"{repository.slug}: nothing to set")
    if changes.made and not options.dry_run:
        say("pushes to main go through a pull request from now on; see all of it with python3 scripts/doctor.py")
    return 0


if __name__ == "__main__":
    start(main)
