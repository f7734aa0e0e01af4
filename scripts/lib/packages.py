"""What an image is made of: the packages that its files name, as a bill of materials, and what differs between two.

They are read from the files, and nothing of the image is run: dpkg's database, or what an image without a package
manager has of it (status.d); the metadata of Python packages, wherever they are; and Python itself, if it is not a
Debian package. A bill has no date and no random number in it, so the same image always has the same one.
https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import tarfile
import urllib.parse
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from email.parser import BytesHeaderParser
from typing import IO, Any

from lib import containers
from lib.command import Failure, last_line, run, say
from lib.names import PIPELINE

DPKG = "var/lib/dpkg/status"
WITHOUT_DPKG = "var/lib/dpkg/status.d/"  # https://github.com/GoogleContainerTools/distroless, "Package Metadata"
RELEASE = ("usr/lib/os-release", "etc/os-release")  # os-release(5)
PYTHON = re.compile(r"(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
INTERPRETER = re.compile(r"(?!usr/include/)(?:.*/)?include/python3\.\d+t?/patchlevel\.h")  # /usr/include is Debian's
DOCS = "usr/share/doc/"
LARGEST = 64 * 2**20
"""Bytes of a file that is read; no database of packages is as large."""

COPYRIGHT_FORMAT = "packaging-manuals/copyright-format/"
"""https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"""

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6.schema.json")


@dataclass(frozen=True, order=True)
class Package:
    """A package in an image.

    `kind` is that of its purl: deb, pypi, or generic. `arch` is a Debian package's; `source` is the name and version of
    what it was built from, if they are others. `licences` are as the package names them: with `spdx`, it is one
    expression. `places` are where in the image it is, if its files say so.
    """

    kind: str
    name: str
    version: str
    arch: str = ""
    source: tuple[str, str] = ("", "")
    licences: tuple[str, ...] = ()
    spdx: bool = False
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What is in an image for a platform: packages, the distribution (such as debian-13), and bytes of its files."""

    packages: tuple[Package, ...] = ()
    distribution: str = ""
    size: int = 0


def read(stream: IO[bytes]) -> Contents:
    """Return what is in an image from its files, as the tar stream that `docker export` writes."""
    kept: dict[str, bytes] = {}
    links: dict[str, str] = {}
    size = 0
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = posixpath.normpath(member.name).lstrip("/")
            if member.isfile():
                size += member.size
                if is_read(name) and member.size <= LARGEST and (content := tar.extractfile(member)):
                    kept[name] = content.read()
            elif member.islnk() and (there := posixpath.normpath(member.linkname).lstrip("/")) in kept:
                kept[name] = kept[there]
            elif member.issym() and name.startswith(DOCS):
                links[name] = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), member.linkname))[1:]
    return Contents(tuple(packages_in(kept, links)), distribution_in(kept), size)


def is_read(name: str) -> bool:
    """Whether a file says something of packages."""
    return (
        name in (DPKG, *RELEASE)
        or (name.startswith(WITHOUT_DPKG) and not name.endswith(".md5sums"))
        or (name.startswith(DOCS) and name.endswith("/copyright"))
        or bool(PYTHON.fullmatch(name) or INTERPRETER.fullmatch(name))
    )


def packages_in(files: Mapping[str, bytes], links: Mapping[str, str]) -> list[Package]:
    """Return the packages that files name, each once, in order; `links` are the symbolic links beside Debian's."""
    found: dict[str, Package] = {}
    for name, content in sorted(files.items()):
        named: list[Package] = []
        if name == DPKG or name.startswith(WITHOUT_DPKG):
            for package in debian_packages(content.decode("utf-8", "replace")):
                named.append(replace(package, licences=debian_licences(package.name, files, links)))
        elif PYTHON.fullmatch(name) and (one := python_package(content)):
            named.append(replace(one, places=("/" + re.sub(r"/(METADATA|PKG-INFO)$", "", name),)))
        elif INTERPRETER.fullmatch(name) and (version := re.search(rb'^#define PY_VERSION\s+"([^"]+)"', content, re.M)):
            named.append(Package("generic", "python", version[1].decode("ascii", "replace"), places=(f"/{name}",)))
        for package in named:
            first = found.setdefault(purl(package), package)
            places = sorted({*first.places, *package.places})
            found[purl(package)] = replace(first, places=tuple(places))
    return sorted(found.values())


def debian_packages(text: str) -> Iterator[Package]:
    """Yield the packages whose files are there, from a database of dpkg: deb-control(5), dpkg-query(1)."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", paragraph, re.M))
        # An image without dpkg has what was unpacked, and no state.
        state = fields.get("Status", "install ok installed").split()[-1:]
        if not fields.get("Package") or not fields.get("Version") or state in ([], ["config-files"], ["not-installed"]):
            continue
        source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("Source", "").strip())
        version = fields["Version"].strip()
        yield Package(
            "deb",
            fields["Package"].strip(),
            version,
            fields.get("Architecture", "").strip(),
            (source[1], source[2] or version) if source else ("", ""),
        )


def debian_licences(package: str, files: Mapping[str, bytes], links: Mapping[str, str]) -> tuple[str, ...]:
    """Return the licences that a package's copyright file names, in the machine-readable format or by their files."""
    path = f"{DOCS}{package}/copyright"
    for _ in range(8):  # links may lead from one to the next
        if path in files:
            break
        folder = posixpath.dirname(path)
        path = links.get(path) or posixpath.join(links.get(folder, folder), "copyright")
    text = files.get(path, b"").decode("utf-8", "replace")
    if COPYRIGHT_FORMAT in text.partition("\n\n")[0]:
        named = re.findall(r"^Licen[sc]e:[ \t]*(\S.*?)\s*$", text, re.M)
    else:
        named = [name.rstrip(".") for name in re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]+)", text)]
    return tuple(sorted(set(named)))


def python_package(metadata: bytes) -> Package | None:
    """Return the package that its metadata describes, None if it names none.

    https://packaging.python.org/specifications/core-metadata/
    """
    fields = BytesHeaderParser().parsebytes(metadata)
    name, version = (str(fields.get(key) or "").strip() for key in ("Name", "Version"))
    if not name or not version:
        return None
    if expression := str(fields.get("License-Expression") or "").strip():
        return Package("pypi", name, version, licences=(expression,), spdx=True)
    stated = str(fields.get("License") or "").strip()
    if stated and stated != "UNKNOWN" and "\n" not in stated and len(stated) < 80:  # else it is the whole text
        return Package("pypi", name, version, licences=(stated,))
    classifiers = (str(each).split(" :: ") for each in fields.get_all("Classifier") or [])
    named = {parts[-1].strip() for parts in classifiers if parts[0] == "License" and parts[-1] != "OSI Approved"}
    return Package("pypi", name, version, licences=tuple(sorted(named)))


def distribution_in(files: Mapping[str, bytes]) -> str:
    """Return the distribution of an image, such as debian-13, "" if it does not say."""
    text = next((files[name] for name in RELEASE if name in files), b"").decode("utf-8", "replace")
    fields = {key: value.strip("\"'") for key, value in re.findall(r"^([A-Z_]+)=(.*)$", text, re.M)}
    return "-".join(fields[key] for key in ("ID", "VERSION_ID") if fields.get(key))


def purl(package: Package, distribution: str = "") -> str:
    """Return a package's address: https://github.com/package-url/purl-spec, and its types deb, pypi and generic."""
    name, vendor = package.name, distribution.partition("-")[0] or "debian"
    if package.kind == "pypi":
        name = name.lower().replace("_", "-")
    parts = ["pkg:" + package.kind, *([vendor] if package.kind == "deb" else []), urllib.parse.quote(name, safe="")]
    qualifiers = {"arch": package.arch, "distro": distribution} if package.kind == "deb" else {}
    query = "&".join(f"{key}={urllib.parse.quote(value, safe='')}" for key, value in qualifiers.items() if value)
    return f"{'/'.join(parts)}@{urllib.parse.quote(package.version, safe=':')}{'?' if query else ''}{query}"


def component(package: Package, distribution: str) -> dict[str, Any]:
    """Return a package as a bill lists it."""
    found: dict[str, Any] = {
        "type": "platform" if package.kind == "generic" else "library",
        "bom-ref": purl(package, distribution),
        "name": package.name,
        "version": package.version,
    }
    if package.spdx:
        found["licenses"] = [{"expression": package.licences[0]}]
    elif package.licences:
        found["licenses"] = [{"license": {"name": licence}} for licence in package.licences]
    found["purl"] = found["bom-ref"]
    if package.places:
        found["evidence"] = {"occurrences": [{"location": place} for place in package.places]}
    if package.source[0]:
        found["properties"] = [{"name": f"{PIPELINE}:source", "value": "@".join(package.source)}]
    return found


def bill(contents: Contents, name: str, version: str, platform: str) -> str:
    """Return the bill of materials of an image for a platform, as the text of a file.

    What is copied into an image without a package is in no list, so the bill calls itself incomplete. Its serial
    number, which actions/attest asks for (https://github.com/actions/attest/blob/main/src/sbom.ts), comes from what it
    says.
    """
    kinds = sorted({package.kind for package in contents.packages})
    found: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": name, "version": version},
            "properties": [
                {"name": f"{PIPELINE}:platform", "value": platform},
                {"name": f"{PIPELINE}:distribution", "value": contents.distribution or "unknown"},
                {"name": f"{PIPELINE}:packages", "value": ", ".join(kinds) or "none: no file names a package"},
            ],
        },
        "components": [component(package, contents.distribution) for package in contents.packages],
        "compositions": [{"aggregate": "incomplete", "assemblies": ["image"]}],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(found, sort_keys=True))
    return json.dumps({**found, "serialNumber": f"urn:uuid:{serial}"}, indent=2) + "\n"


def contents_in(bill: Mapping[str, Any]) -> Contents:
    """Return the packages that a bill lists; raise Failure if it is not one that was made here."""

    def properties(of: Mapping[str, Any]) -> dict[str, str]:
        return {each["name"].partition(":")[2]: str(each["value"]) for each in of.get("properties") or []}

    try:
        distribution = properties(bill["metadata"])["distribution"]
        found = []
        for each in bill["components"]:
            name, _, version = properties(each).get("source", "").rpartition("@")
            kind = str(each["purl"]).removeprefix("pkg:").partition("/")[0]
            found.append(Package(kind, str(each["name"]), str(each["version"]), source=(name, version)))
    except (AttributeError, KeyError, TypeError) as error:
        raise Failure(f"this is not a bill of materials of this pipeline ({type(error).__name__}: {error})") from error
    return Contents(tuple(sorted(found)), distribution)


# From the engine.


def create_command(image: str, platform: str) -> list[str]:
    """Return the command that makes a container of an image, to read its files: it is never started."""
    return ["docker", "create", "--platform", platform, "--label", containers.label(), image, "never-started"]


def contents_of(image: str, platform: str) -> Contents:
    """Return what is in an image of this engine for a platform, also one that this machine cannot run."""
    done = run(create_command(image, platform), check=False)
    if done.returncode:
        raise Failure(f"cannot read {image} for {platform}{last_line(done)}")
    container = done.stdout.split()[-1]
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None  # noqa: S101  for the type checker
            found = read(process.stdout)
            while process.stdout.read(LARGEST):
                pass  # what fills the last block
        if process.returncode:
            raise Failure(f"cannot read {image} for {platform}: docker export stopped with {process.returncode}")
    except tarfile.TarError as error:
        raise Failure(f"cannot read the files of {image} for {platform}: {error}") from error
    else:
        return found
    finally:
        run(["docker", "rm", "--force", "--volumes", container], check=False)


# What differs.


@dataclass(frozen=True, order=True)
class Change:
    """A package with the versions that an image had and has; none of them if it is new, or gone."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def changes(before: Contents, after: Contents) -> list[Change]:
    """Return what differs between two images' packages, in order."""

    def versions(contents: Contents) -> dict[str, tuple[str, ...]]:
        found: dict[str, set[str]] = defaultdict(set)
        for package in contents.packages:
            found[f"{package.name} ({package.kind})"].add(package.version)
        return {name: tuple(sorted(versions)) for name, versions in found.items()}

    old, new = versions(before), versions(after)
    both = ((name, old.get(name, ()), new.get(name, ())) for name in sorted(old.keys() | new.keys()))
    return [Change(name, one, other) for name, one, other in both if one != other]


def new_licences(before: Contents, after: Contents) -> dict[str, list[str]]:
    """Return each licence that no package had before, with the packages that have it now."""
    known = {licence for package in before.packages for licence in package.licences}
    found: dict[str, set[str]] = defaultdict(set)
    for package in after.packages:
        for licence in set(package.licences) - known:
            found[licence].add(package.name)
    return {licence: sorted(found[licence]) for licence in sorted(found)}


def described(before: Mapping[str, Contents], after: Mapping[str, Contents]) -> str:
    """Return, as Markdown, what differs between two images, by platform: size, packages, licences."""
    platforms = [platform for platform in after if platform in before]
    lines = ["| platform | before | after | |", "|---|---:|---:|---:|"]
    for platform in platforms:
        old, new = before[platform].size, after[platform].size
        lines.append(f"| {platform} | {old / 1e6:.1f} MB | {new / 1e6:.1f} MB | {(new - old) / 1e6:+.2f} MB |")
    rows: dict[Change, list[str]] = defaultdict(list)
    licences: dict[str, set[str]] = defaultdict(set)
    for platform in platforms:
        for change in changes(before[platform], after[platform]):
            rows[change].append(platform)
        for licence, names in new_licences(before[platform], after[platform]).items():
            licences[licence] |= set(names)
    if not rows:
        return "\n".join([*lines, "", "The same packages in the same versions."])
    lines += ["", "| package | before | after | |", "|---|---|---|---|"]
    for change in sorted(rows):
        where = "" if rows[change] == platforms else f"only {', '.join(rows[change])}"
        old_versions, new_versions = (", ".join(map(code, versions)) for versions in (change.before, change.after))
        lines.append(f"| {text(change.name)} | {old_versions or 'none'} | {new_versions or 'removed'} | {where} |")
    for licence in sorted(licences):
        lines += ["", f"New licence: {code(licence)} ({', '.join(map(text, sorted(licences[licence])))})"]
    return "\n".join(lines)


def text(said: str) -> str:
    """Return what a package says of itself, for Markdown: nothing in it becomes a link, a cell or an image."""
    return re.sub(r"[^\w .,+~:()/-]", "?", said)[:200]


def code(said: str) -> str:
    """Return the same, set as code."""
    return f"`{text(said)}`"


def say_counts(contents: Mapping[str, Contents]) -> None:
    """Say how much was found."""
    for platform, found in contents.items():
        kinds = sorted({package.kind for package in found.packages})
        counted = [f"{sum(package.kind == kind for package in found.packages)} {kind}" for kind in kinds]
        say(f"{platform}: {', '.join(counted) or 'no file of this image names a package'}")
