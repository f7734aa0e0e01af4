"""Which vulnerabilities are known of the packages of an image: https://osv.dev is asked, for Debian's and Python's.

It is told the names and versions of the packages, so a private repository's are never sent. OSV_ADDRESS is the address
of a mirror to ask instead.
"""

from __future__ import annotations

import json
import os
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Any

from lib.command import Failure
from lib.distribution import get
from lib.packages import Contents, Package
from lib.registry import retry

ADDRESS = "https://api.osv.dev"
AT_ONCE = 1000
PAGES = 20
"""More pages about one image are not an answer any more."""


def query(package: Package, distribution: str) -> dict[str, Any] | None:
    """Return what is asked of a package, None if its kind is not known there.

    A Debian package is known by its source: https://google.github.io/osv.dev/post-v1-query/.
    """
    system, _, release = distribution.partition("-")
    if package.kind == "pypi":
        return {"package": {"name": package.name, "ecosystem": "PyPI"}, "version": package.version}
    if package.kind == "deb" and system == "debian" and release:
        name, version = package.source if package.source[0] else (package.name, package.version)
        return {"package": {"name": name, "ecosystem": f"Debian:{release}"}, "version": version}
    return None


def known(images: Sequence[Contents]) -> dict[tuple[str, str, str], list[str]]:
    """Return (kind, package, version) -> ids of its vulnerabilities, of those that have any; a source counts as one."""
    wanted: dict[str, tuple[str, str, str]] = {}
    for contents in images:
        for package in contents.packages:
            if asked := query(package, contents.distribution):
                wanted[json.dumps(asked)] = (package.kind, asked["package"]["name"], asked["version"])
    questions = [json.loads(text) for text in sorted(wanted)]
    names = [wanted[text] for text in sorted(wanted)]
    found: dict[tuple[str, str, str], set[str]] = {}
    for first in range(0, len(questions), AT_ONCE):
        for name, ids in zip(names[first:], answers(questions[first : first + AT_ONCE]), strict=False):
            if ids:
                found.setdefault(name, set()).update(ids)
    return {name: sorted(found[name]) for name in sorted(found)}


def answers(questions: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """Return the ids that are known for each question; raise Failure if that cannot be told."""
    found: list[set[str]] = [set() for _ in questions]
    left = dict(enumerate(questions))
    for _ in range(PAGES):
        if not left:
            return found
        results = asked(list(left.values()))
        more: dict[int, Mapping[str, Any]] = {}
        for place, result in zip(list(left), results, strict=True):
            found[place] |= {str(each["id"]) for each in result.get("vulns") or []}
            if token := result.get("next_page_token"):
                more[place] = {**questions[place], "page_token": token}
        left = more
    raise Failure(f"cannot tell which vulnerabilities are known: {address()} has more than {PAGES} pages of them")


def asked(questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Ask once for many packages: https://google.github.io/osv.dev/post-v1-querybatch/."""
    body = json.dumps({"queries": list(questions)}).encode()

    def ask() -> list[Mapping[str, Any]]:
        try:
            answer = get(f"{address()}/v1/querybatch", "POST", {"Content-Type": "application/json"}, body)
            results = json.loads(answer.body)["results"]
            if len(results) != len(questions) or not all(isinstance(result, dict) for result in results):
                raise ValueError("not an answer for each package")
        except urllib.error.HTTPError as error:
            raise Failure(f"cannot ask {address()} about vulnerabilities: {error.code} {error.reason}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(f"cannot read what {address()} says of vulnerabilities: {error}") from error
        return list(results)

    return retry(ask)


def address() -> str:
    """Return where to ask."""
    return (os.environ.get("OSV_ADDRESS") or ADDRESS).rstrip("/")
