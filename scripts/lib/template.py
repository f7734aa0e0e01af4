"""What a copy of this template knows of the template: where it came from, which files are yours, and its new name."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.command import Failure
from lib.names import SHA

RECORD = ".github/template.json"
"""{"origin": the template's address, "commit": what was copied or last updated to, "name": the copy's name,
"pipeline": the state of the pipeline's files there}."""

SERVICE_FOLDERS = ("src/", "tests/service/")
YOURS = (
    *SERVICE_FOLDERS,
    *("service.toml", "smoke.py", "requirements", "Dockerfile", ".dockerignore", "compose.yaml", "deploy/"),
    *("README", "CHANGELOG.md", "LICENSE", "SECURITY.md", "pyproject.toml", "packages.txt", "benchmarks/service"),
)
"""Beginnings of the paths that belong to whoever made the copy. Everything else is the pipeline's."""


def is_yours(path: str) -> bool:
    """Whether a file belongs to whoever made the copy, and not to the pipeline."""
    return path.startswith(YOURS)


TESTED = ("scripts/", "tests/", ".github/", ".ci/")


def pipeline_state(files: Mapping[str, str]) -> str:
    """Return one text that stands for the contents of the pipeline's own files, given as path -> Git's blob id.

    As long as it is the template's, so is what the template's own checks said of them.
    """
    theirs = (path for path in files if path.startswith(TESTED) and not is_yours(path) and path != RECORD)
    lines = "".join(f"{files[path]} {path}\n" for path in sorted(theirs) if not path.endswith(".md"))
    return "sha256:" + hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Record:
    """What RECORD says. All but `origin` are "" if it does not say."""

    origin: str
    commit: str = ""
    name: str = ""
    pipeline: str = ""


def parse_record(text: str) -> Record:
    """Return what the text of RECORD says; raise Failure, with what is wrong, if it is not a record."""
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise Failure(f"{RECORD} is not JSON ({error}); restore it with git checkout HEAD~1 -- {RECORD}") from error
    keys = ("origin", "commit", "name", "pipeline")
    fields = [content.get(key, "") for key in keys] if isinstance(content, dict) else []
    if not fields or not all(isinstance(field, str) for field in fields) or not fields[0]:
        raise Failure(f'{RECORD} has to be an object of texts such as {{"origin": URL, "commit": ID, "name": NAME}}')
    found = Record(*map(str, fields))
    if found.commit and not SHA.fullmatch(found.commit):
        raise Failure(f"{RECORD} has the commit {found.commit!r}, which is not a full commit id of 40 digits")
    return found


def write_record(text: str, **fields: str) -> str:
    """Return the text of RECORD with fields replaced or added; other keys stay."""
    content = json.loads(text) if text.strip() else {}
    return json.dumps({**content, **fields}, indent=2) + "\n"


@dataclass(frozen=True)
class Name:
    """A service's name, such as shop-api, and that of its Python package, such as shop_api."""

    name: str
    package: str


def named(name: str) -> Name:
    """Return a name with its package's: `python -m` takes no dashes and no dots."""
    return Name(name, re.sub(r"[-.]", "_", name))


def name_in(files: Mapping[str, str]) -> Name | None:
    """Return the service's name from the texts of service.toml and pyproject.toml, None if neither says it.

    service.toml comes first; a template that had none yet says it in pyproject.toml.
    """
    for file, table in (("service.toml", ""), ("pyproject.toml", "project")):
        try:
            content: Any = tomllib.loads(files.get(file, ""))
        except tomllib.TOMLDecodeError:
            continue
        within = content.get(table, {}) if table else content
        name = within.get("name") if isinstance(within, dict) else None
        if isinstance(name, str) and name:
            return named(name)
    return None


def rename_path(path: str, old: Name, new: Name) -> str:
    """Return a path with the package's folder renamed, if it is one of the service's."""
    if not path.startswith(SERVICE_FOLDERS):
        return path
    return "/".join(new.package if part == old.package else part for part in path.split("/"))


def rename_text(text: str, old: Name, new: Name) -> str:
    """Return a text with the name replaced, by the package's name if it stands where Python or a metric has one."""
    word = re.escape(old.package)
    package = (
        rf"(?:(?<=src/)|(?<=python -m )|(?<=python3 -m )|(?<=\"-m\", \")|(?<=import )|(?<=from )){word}\b"
        rf"|\b{word}(?=_[a-z])|\b{word}(?=\.(?!example\b)[a-z_])"
    )
    text = re.sub(package, new.package, text) if old.package != new.package else text
    # A name may end in what it is replaced by, so a word that was replaced is not looked at again.
    return re.sub(rf"(?<![A-Za-z0-9_]){re.escape(old.name)}(?![A-Za-z0-9_])", new.name, text)


def rename_file(path: str, text: str, old: Name, new: Name) -> str:
    """Return the text of one of the user's own files, renamed.

    What was measured, and whose the template is, stays as it is. In the service's code the package's name is what
    loggers, metrics and the like are called by, in texts too.
    """
    if path == "LICENSE" or path.endswith(".svg"):
        return text
    if path.startswith(SERVICE_FOLDERS) and path.endswith(".py"):
        return re.sub(rf"(?<![A-Za-z0-9]){re.escape(old.package)}(?![A-Za-z0-9])", new.package, text)
    return rename_text(text, old, new)


def renamings(path: str, line: str, old: Name, new: Name) -> list[str]:
    """Return every way to rename a line of a file: each occurrence by the package's name, the name, or not at all.

    The way of rename_file comes first, and the line as it is last.
    """
    parts = re.split(rf"({re.escape(old.name)}|{re.escape(old.package)})", line)
    words = parts[1::2]
    if len(words) > 4:  # 81 ways are enough
        return [rename_file(path, line, old, new), line]
    ways = itertools.product(*([new.package, new.name, word] for word in words))
    made = ["".join(itertools.chain(*itertools.zip_longest(parts[::2], way, fillvalue=""))) for way in ways]
    return list(dict.fromkeys([rename_file(path, line, old, new), *made]))
