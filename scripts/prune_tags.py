#!/usr/bin/env python3
"""List the tags in the registry that nothing needs any more, and delete them if asked to.

  python3 scripts/prune_tags.py                say what would go, and why everything else stays
  python3 scripts/prune_tags.py --delete       delete it
  python3 scripts/prune_tags.py --newest 50    keep so many of main's newest images (20)
  python3 scripts/prune_tags.py --keep TAG     keep this, too: a tag or a digest, as often as you like

Only images of commits of main go, each with the attestations beside it (tags such as sha256-...). An image stays if
a version, edge, latest or any tag that is not a commit's has the same digest; if the host runs it, ran it before or
could go back to it; and if it is one of the newest. What this does not understand stays, and so does all that an
index lists: the registry's own garbage collection knows what is shared.

The host is asked as redeploy.py asks it: DEPLOY_HOST, DOCKER_HOST, or this machine's Swarm. If there is none,
--delete wants --keep for what is deployed, or `--keep none`. DOCKERHUB_USERNAME, IMAGE_REPOSITORY and REGISTRY name
the image. Deleting needs a login that may: on Docker Hub, a token with the permission Read, Write, Delete.
An interrupted run has deleted what it said, and nothing else; the next one continues.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import sys
import urllib.error
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib import registry, release
from lib.command import ROOT, Failure, UsageError, parser, run, say, start
from lib.distribution import HUB_LOGIN, Refused, ask, get, login_of
from lib.names import DIGEST, SEMVER, SHA, ImageName, checked_out, image_name
from lib.record import history, unfinished
from lib.registry import INDEXES, MANIFESTS, retry, tags_of
from lib.settings import NONE
from lib.ssh import connection
from lib.swarm import read_services, services, valid_stack
from promote_image import EDGE
from redeploy import check_swarm

HUB_API = "https://hub.docker.com"
"""Docker Hub deletes no manifest that has a tag (https://docs.docker.com/reference/api/registry/latest/, "Delete image
manifest"), and tags only here: pkg/hub/tags.go in https://github.com/docker/hub-tool."""

BESIDE = re.compile(r"sha256-([0-9a-f]{64})(?:\..+)?")
"""What is kept beside an image, such as its signatures, by that image's digest: the referrers tag schema of
https://github.com/opencontainers/distribution-spec/blob/main/spec.md."""
AT_ONCE = 8  # questions to the registry


@dataclass(frozen=True)
class Found:
    """What a tag points to: a digest, and the kind of manifest."""

    digest: str
    kind: str


@dataclass(frozen=True)
class Verdict:
    """Whether a tag goes, and why, or why not."""

    tag: str
    goes: bool
    why: str

    def __str__(self) -> str:
        return f"{'delete' if self.goes else 'keep':<8}{self.tag}  {self.why}"


@dataclass(frozen=True)
class Needs:
    """What is needed: main's `commits` (newest first) and how many of them, and digests and tags with the reason."""

    commits: Sequence[str]
    newest: int
    kept: Mapping[str, str]


def reason(tag: str, found: Found, needs: Needs, newest: Collection[str]) -> str:
    """Return why a tag stays, whatever else has its digest; "" if there is no reason."""
    for name in (tag, found.digest):
        if name in needs.kept:
            return needs.kept[name]
    if BESIDE.fullmatch(tag):
        return ""
    if SEMVER.fullmatch(tag):
        return "a version never goes"
    if not SHA.fullmatch(tag):
        return "not the tag of a commit"
    if tag not in needs.commits:
        return "not a commit of main, so this did not make it, or does not know it"
    if found.kind not in INDEXES:
        return "not an image index, so the pipeline did not push it"
    return f"one of the {needs.newest} newest" if tag in newest else ""


def verdicts(tags: Mapping[str, Found], needs: Needs) -> list[Verdict]:
    """Return what becomes of each tag: what shares a digest with a tag that stays, stays."""
    published = [commit for commit in needs.commits if commit in tags]
    newest = set(published[: needs.newest])
    reasons = {tag: reason(tag, found, needs, newest) for tag, found in tags.items()}
    subjects = {tag: f"sha256:{beside[1]}" for tag in tags if (beside := BESIDE.fullmatch(tag))}
    images = {found.digest for tag, found in tags.items() if tag not in subjects}
    staying: dict[str, str] = {}
    while more := {
        tags[tag].digest: tag
        for tag, why in reasons.items()
        if (why or (tag in subjects and subjects[tag] not in images - staying.keys()))
        and tags[tag].digest not in staying
    }:
        staying |= more
    judged = []
    for tag, found in tags.items():
        if reasons[tag]:
            judged.append(Verdict(tag, False, reasons[tag]))
        elif tag in subjects and subjects[tag] not in images - staying.keys():
            judged.append(Verdict(tag, False, "beside an image that this does not delete"))
        elif found.digest in staying:
            judged.append(Verdict(tag, False, f"the same image as {staying[found.digest]}"))
        elif tag in subjects:
            judged.append(Verdict(tag, True, "beside an image that goes"))
        else:
            judged.append(Verdict(tag, True, "no version, no host and none of the newest"))
    return judged


def order(judged: Sequence[Verdict], tags: Mapping[str, Found]) -> list[tuple[str, list[str]]]:
    """Return what to delete, as a digest and its tags: what is beside an image before the image.

    So what is left of an interrupted run is still found by its image.
    """
    going = [verdict.tag for verdict in judged if verdict.goes]
    groups: dict[str, list[str]] = {}
    for tag in sorted(going, key=lambda tag: (not BESIDE.fullmatch(tag), tag)):
        groups.setdefault(tags[tag].digest, []).append(tag)
    return list(groups.items())


def look(image: ImageName, tag: str) -> Found | None:
    """Return what a tag points to, None if it is gone; no limit counts it."""
    answer = retry(lambda: ask(image, f"manifests/{tag}", method="HEAD", accept=", ".join(MANIFESTS)))
    if answer is None:
        return None
    digest = answer.headers.get("docker-content-digest", "") or registry.digest_at(image.tagged(tag))
    if not DIGEST.fullmatch(digest):
        raise Failure(f"the registry does not say which digest {image.tagged(tag)} has; nothing was deleted")
    return Found(digest, answer.headers.get("content-type", "").partition(";")[0])


def all_tags(image: ImageName) -> list[str]:
    """Return every tag; raise Failure if one is missing that is there when it is asked for by name."""
    versions = [tag[1:] for tag in sorted(release.version_tags(os.environ)) if SEMVER.fullmatch(tag[1:])]
    return tags_of(image, known=[tag for tag in (EDGE, *versions) if look(image, tag)])


def found_at(image: ImageName, names: Sequence[str]) -> dict[str, Found]:
    """Return what tags point to; several are asked for at once."""
    found: dict[str, Found] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda name: (name, look(image, name)), names)
        for count, (name, answer) in enumerate(answers, start=1):
            if answer:
                found[name] = answer
            if count % 100 == 0 or count == len(names):
                say(f"looked at {count} of {len(names)} tags")
    return found


def commits_of_main() -> list[str]:
    """Return the commits of main, newest first."""
    release.fetch_main(os.environ)
    return run(["git", "-C", str(ROOT), "rev-list", release.MAIN]).stdout.split()


def deployed(stack: str) -> dict[str, str]:
    """Return the digests that a host runs, or may go back to, with the reason; none if there is no stack."""
    check_swarm()
    found = {record.release.digest: f"deployed as {record.release.version}" for record in history(stack)}
    cut_off = unfinished(stack)
    for running in (services(stack), read_services(cut_off.services, stack) if cut_off else {}):
        for name, service in running.items():
            if service.digest:
                found[service.digest] = f"{name} runs it"
    return found


def host_of(env: Mapping[str, str], stack: str) -> dict[str, str] | None:
    """Return what is deployed, None if there is no host to ask; one that is set and does not answer is a Failure."""
    far = bool(env.get("DEPLOY_HOST") or env.get("DOCKER_HOST"))
    with connection(env):
        try:
            check_swarm()
        except Failure:
            if far:
                raise
            return None
        return deployed(stack) or None


def referrers(image: ImageName, digest: str) -> list[str]:
    """Return what a registry lists as belonging to a digest; nothing if it keeps no such list.

    https://github.com/opencontainers/distribution-spec/blob/main/spec.md, "Listing Referrers"
    """
    answer = retry(lambda: ask(image, f"referrers/{digest}", accept=INDEXES[0]))
    if answer is None:
        return []
    listed = registry.parsed(image.at(digest), answer.body).get("manifests") or []
    found = [entry.get("digest") if isinstance(entry, dict) else None for entry in listed]
    if not all(isinstance(each, str) and DIGEST.fullmatch(each) for each in found):
        raise Failure(f"the registry sent something else than a list of referrers for {image.at(digest)}")
    return [str(each) for each in found]


def delete_manifest(image: ImageName, digest: str) -> None:
    """Delete a manifest, and with it all of its tags."""
    try:
        retry(lambda: ask(image, f"manifests/{digest}", method="DELETE"))
    except Failure as failure:
        raise Failure(
            f"cannot delete {image.at(digest)}: {failure}; log in with a token that may delete, and see whether this"
            " registry lets anybody delete in this way: ghcr.io does only on the package's page"
        ) from failure


def hub_token() -> str:
    """Return a token for Docker Hub's own interface: https://docs.docker.com/reference/api/hub/latest/."""
    login = login_of(HUB_LOGIN)
    name, colon, secret = base64.b64decode(login.basic.removeprefix("Basic ")).decode("utf-8", "replace").partition(":")
    if not colon:
        raise Failure(
            f"cannot delete on Docker Hub without a name and a token{f' ({login.problem})' if login.problem else ''};"
            " run docker login --username NAME with a token that has the permission Read, Write, Delete"
        )
    body = json.dumps({"identifier": name, "secret": secret}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        answer = get(f"{HUB_API}/v2/auth/token", "POST", headers, body)
        return str(json.loads(answer.body)["access_token"])
    except urllib.error.HTTPError as error:
        kind = Refused if error.code in (401, 403) else Failure
        raise kind(f"Docker Hub refuses the login of {name} ({error.code} {error.reason})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failure("Docker Hub sent no token") from error


def delete_on_hub(image: ImageName, tag: str, token: str) -> None:
    """Delete one tag on Docker Hub; one that is gone is not a failure."""
    url = f"{HUB_API}/v2/repositories/{image.namespace}/{image.repository}/tags/{tag}/"
    try:
        get(url, "DELETE", {"Authorization": f"Bearer {token}"})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return
        kind = Refused if error.code in (401, 403) else Failure
        raise kind(
            f"Docker Hub does not delete {image.tagged(tag)} ({error.code} {error.reason}); the token needs the"
            " permission Read, Write, Delete, and its account has to own the repository"
        ) from error


def delete(image: ImageName, groups: Sequence[tuple[str, list[str]]], tags: Mapping[str, Found]) -> Iterator[str]:
    """Delete, and yield what was deleted, a line each.

    Whatever was tagged meanwhile, such as by a release, ends it before anything else goes.
    """
    token = "" if image.registry else retry(hub_token)
    left = dict(tags)
    for count, (digest, names) in enumerate(groups, start=1):
        if image.registry and (new := set(tags_of(image, known=())) - left.keys()):
            raise Failure(f"somebody published {min(new)} meanwhile; run this again")
        for name in names:
            now = look(image, name)
            if now and now.digest != digest:
                raise Failure(f"{image.tagged(name)} was moved to {now.digest} meanwhile; run this again")
            if not image.registry:
                retry(functools.partial(delete_on_hub, image, name, token))
        if image.registry:
            kept = {found.digest for found in left.values()}
            for each in referrers(image, digest):
                if each not in kept:
                    delete_manifest(image, each)
            delete_manifest(image, digest)
        for name in names:
            if look(image, name):
                raise Failure(f"the registry still has {image.tagged(name)}, although it said that it deleted it")
            del left[name]
        yield f"[{count}/{len(groups)}] deleted {digest}: {', '.join(names)}"


def kept_by_hand(values: Sequence[str], tags: Collection[str], digests: Collection[str]) -> dict[str, str]:
    """Return what --keep names; raise UsageError for what is not in the registry, as that would keep nothing."""
    found = {}
    for value in values:
        if value == NONE:
            continue
        if value not in (digests if DIGEST.fullmatch(value) else tags):
            raise UsageError(f"--keep is {value!r}, and the registry has no such tag or digest")
        found[value] = "--keep"
    return found


def number(text: str) -> int:
    """Return how many of the newest stay, from the command line."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) == 0:
        raise UsageError(f"--newest is {text!r}, which is not a number from 1 to 99999")
    return int(text)


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--delete", action="store_true", help="delete, and say what")
    arguments.add_argument("--dry-run", action="store_true", help="delete nothing, as without --delete")
    arguments.add_argument("--newest", default="20", metavar="N", help="how many of main's newest images stay (20)")
    arguments.add_argument("--keep", action="append", default=[], metavar="TAG", help="a tag or digest that stays")
    options = arguments.parse_args(argv)
    newest = number(options.newest)
    env, commit = os.environ, checked_out()
    image = image_name(env, commit.repository)
    deleting = options.delete and not options.dry_run
    stack = valid_stack(env.get("STACK") or env.get("IMAGE_REPOSITORY") or commit.repository)
    running = host_of(env, stack)
    if running is None:
        say(f"note: no host was found that runs {stack}, so nobody knows here what is deployed")
        if deleting and not options.keep:
            raise UsageError(
                "--delete has to know what is deployed: set DEPLOY_HOST or DOCKER_HOST, or name it with --keep; if"
                " nothing is, --keep none"
            )
    commits = commits_of_main()
    tags = found_at(image, all_tags(image))
    digests = {found.digest for found in tags.values()}
    needs = Needs(commits, newest, {**(running or {}), **kept_by_hand(options.keep, tags, digests)})
    judged = verdicts(tags, needs)
    for verdict in sorted(judged, key=lambda each: (not each.goes, each.tag)):
        print(verdict)
    groups = order(judged, tags)
    going = sum(verdict.goes for verdict in judged)
    if not deleting:
        print(f"{going} of {len(judged)} tags of {image} would go; --delete deletes them")
        return 0
    for line in delete(image, groups, tags):
        say(line)
    print(
        f"{going} of {len(judged)} tags of {image} were deleted; the registry frees their space by itself, or when"
        " it collects garbage"
    )
    return 0


if __name__ == "__main__":
    start(main)
