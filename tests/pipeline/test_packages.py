"""What an image's files say of its packages, the bill that is made of it, and what differs between two images."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

import list_packages
from lib import engine, packages
from lib.command import Failure
from lib.engine import Engine
from lib.packages import Change, Contents, Package
from support.programs import Programs

DEBIAN = b'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
LIBSTDC = """Package: libstdc++6
Status: install ok installed
Architecture: arm64
Multi-Arch: same
Source: gcc-14
Version: 14.2.0-19
Description: GNU Standard C++ Library v3
 Version: of no package, for it stands in the description
"""
TAR = "Package: tar\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1:1.35+dfsg-3.1~a\n"
GONE = "Package: gone\nStatus: deinstall ok config-files\nArchitecture: arm64\nVersion: 1\n"
UNKNOWN = "Package: unknown\nStatus: unknown ok not-installed\nArchitecture: arm64\n"
MACHINE_READABLE = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tar

Files: *
Copyright: 1985 Somebody
License: GPL-3+

Files: lib/*
License: LGPL-2.1+ or BSD-3-clause
 License: in its text is another matter
"""
PROSE = "On Debian systems, see /usr/share/common-licenses/GPL-3, and /usr/share/common-licenses/LGPL.\n"
SITE = "usr/local/lib/python3.13/site-packages/"


def archive(files: Mapping[str, bytes | str], links: Iterable[tuple[str, str, bytes]] = ()) -> io.BytesIO:
    """Return a tar stream of files, and of links: name, where to, kind."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            body = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    stream.seek(0)
    return stream


def found(files: Mapping[str, bytes | str], links: Iterable[tuple[str, str, bytes]] = ()) -> tuple[Package, ...]:
    """Return the packages of an image that has these files."""
    return packages.read(archive(files, links)).packages


def metadata(name: str, version: str, *more: str) -> str:
    """Return the metadata of a Python package."""
    return "\n".join(("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more, "", "Its description."))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, []),
        ({"etc/alpine-release": "3.22", "lib/apk/db/installed": "P:musl\nV:1.2\n"}, []),
        ({"var/lib/dpkg/status": ""}, []),
        (
            {"var/lib/dpkg/status": "\n".join((LIBSTDC, TAR, GONE, UNKNOWN))},
            ["deb libstdc++6 14.2.0-19", "deb tar 1:1.35+dfsg-3.1~a"],
        ),
        (  # no dpkg, no state: what distroless images have
            {
                "./var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 13.8\nArchitecture: amd64\n",
                "./var/lib/dpkg/status.d/base.md5sums": "Package: checksums\nVersion: 0\n",
            },
            ["deb base-files 13.8"],
        ),
        ({f"{SITE}flask-3.1.dist-info/METADATA": metadata("Flask", "3.1")}, ["pypi Flask 3.1"]),
        ({"app/lib/gevent-25.egg-info/PKG-INFO": metadata("gevent", "25")}, ["pypi gevent 25"]),
        ({"usr/lib/python3/dist-packages/six-1.egg-info": metadata("six", "1")}, ["pypi six 1"]),
        ({f"{SITE}broken-1.dist-info/METADATA": b"\xff\xfe\x00"}, []),
        ({f"{SITE}flask/METADATA": metadata("Flask", "3.1"), f"{SITE}a.dist-info/RECORD": metadata("a", "1")}, []),
        (
            {"usr/local/include/python3.13/patchlevel.h": '/* of it */\n#define PY_VERSION  "3.13.5"\n'},
            ["generic python 3.13.5"],
        ),
        ({"usr/include/python3.13/patchlevel.h": '#define PY_VERSION "3.13.5"\n'}, []),
    ],
)
def test_what_files_name(files: dict[str, bytes | str], named: list[str]) -> None:
    """Each database is read, what is not installed is left out, and an image that names nothing has nothing."""
    assert [f"{each.kind} {each.name} {each.version}" for each in found(files)] == named


def test_one_package_in_two_places() -> None:
    """It is listed once, with both; a file with two names, such as uv's cache, is read by both."""
    first, second = f"{SITE}Flask-3.1.dist-info", "app/flask-3.1.dist-info"
    link = (f"{second}/METADATA", f"{first}/METADATA", tarfile.LNKTYPE)
    (one,) = found({f"{first}/METADATA": metadata("Flask", "3.1")}, [link])
    assert one.places == (f"/{second}", f"/{first}")


@pytest.mark.parametrize(
    ("files", "links", "licences"),
    [
        ({}, [], ()),
        ({"usr/share/doc/tar/copyright": MACHINE_READABLE}, [], ("GPL-3+", "LGPL-2.1+ or BSD-3-clause")),
        ({"usr/share/doc/tar/copyright": PROSE}, [], ("GPL-3", "LGPL")),
        ({"usr/share/doc/tar/copyright": "All rights are mine.\n"}, [], ()),
        ({"usr/share/doc/base/copyright": PROSE}, [("usr/share/doc/tar", "base", tarfile.SYMTYPE)], ("GPL-3", "LGPL")),
        (
            {"usr/share/doc/base/copyright": PROSE},
            [
                ("usr/share/doc/tar/copyright", "../middle/copyright", tarfile.SYMTYPE),
                ("usr/share/doc/middle", "/usr/share/doc/base", tarfile.SYMTYPE),
            ],
            ("GPL-3", "LGPL"),
        ),
        ({}, [("usr/share/doc/tar", "tar", tarfile.SYMTYPE)], ()),
    ],
    ids=["none", "machine-readable", "prose", "own words", "linked folder", "linked twice", "circle"],
)
def test_licences_of_debian_packages(
    files: dict[str, bytes | str], links: list[tuple[str, str, bytes]], licences: tuple[str, ...]
) -> None:
    """They are what the package's copyright file names, wherever that file really is."""
    (tar,) = found({"var/lib/dpkg/status": TAR, **files}, links)
    assert tar.licences == licences


@pytest.mark.parametrize(
    ("fields", "licences"),
    [
        ([], ()),
        (["License-Expression: MIT OR Apache-2.0", "License: MIT"], ("MIT OR Apache-2.0",)),
        (["License: BSD"], ("BSD",)),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], ("MIT License",)),
        (["License: Permission is hereby", "  granted, free of charge"], ()),
        (["Classifier: License :: OSI Approved", "Classifier: Topic :: Software"], ()),
    ],
)
def test_licences_of_python_packages(fields: list[str], licences: tuple[str, ...]) -> None:
    """They are what the metadata says; a licence's whole text is not a name."""
    (package,) = found({f"{SITE}a-1.dist-info/METADATA": metadata("a", "1", *fields)})
    assert (package.licences, package.spdx) == (licences, "License-Expression" in "".join(fields))


EVERYTHING: dict[str, bytes | str] = {
    "etc/os-release": DEBIAN,
    "var/lib/dpkg/status": f"{LIBSTDC}\n{TAR}",
    "usr/share/doc/tar/copyright": MACHINE_READABLE,
    f"{SITE}Flask_x-3.1.dist-info/METADATA": metadata("Flask_x", "3.1", "License-Expression: BSD-3-Clause"),
    "app/lib/a-1.dist-info/METADATA": metadata("a", "1!1.0+local", "License: BSD"),
    "usr/local/include/python3.13/patchlevel.h": '#define PY_VERSION "3.13.5"\n',
}


@pytest.mark.parametrize("files", [EVERYTHING, {}], ids=["everything", "nothing"])
def test_the_bill_is_valid(files: dict[str, bytes | str]) -> None:
    """CycloneDX's own schema takes it, an empty one as well, which says that it found nothing."""
    text = packages.bill(packages.read(archive(files)), "hello", "1.2.3", "linux/arm64")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    said = {each["name"]: each["value"] for each in bill["metadata"]["properties"]}
    assert said["onedigest:packages"] == ("deb, generic, pypi" if files else "none: no file names a package")
    assert bill["compositions"] == [{"aggregate": "incomplete", "assemblies": ["image"]}]


def test_a_package_has_its_address() -> None:
    """Each purl is read by another's parser as the package that it names; references are each one's own."""
    contents = packages.read(archive(EVERYTHING))
    bill = json.loads(packages.bill(contents, "hello", "", "linux/arm64"))
    addresses = [each["purl"] for each in bill["components"]]
    read = [PackageURL.from_string(address) for address in addresses]
    assert [(each.type, each.namespace, each.name, each.version) for each in read] == [
        ("deb", "debian", "libstdc++6", "14.2.0-19"),
        ("deb", "debian", "tar", "1:1.35+dfsg-3.1~a"),
        ("generic", None, "python", "3.13.5"),
        ("pypi", None, "flask-x", "3.1"),
        ("pypi", None, "a", "1!1.0+local"),
    ]
    assert read[0].qualifiers == {"arch": "arm64", "distro": "debian-13"}
    assert len({each["bom-ref"] for each in bill["components"]}) == len(addresses)
    assert bill["components"][0]["properties"] == [{"name": "onedigest:source", "value": "gcc-14@14.2.0-19"}]
    assert packages.purl(Package("deb", "tar", "1"), "ubuntu-24.04") == "pkg:deb/ubuntu/tar@1?distro=ubuntu-24.04"


def test_the_same_image_has_the_same_bill() -> None:
    """In whatever order its files come; another image has another serial number."""
    bills = set()
    for first in range(len(EVERYTHING)):
        files = list(EVERYTHING.items())
        contents = packages.read(archive(dict(files[first:] + files[:first])))
        bills.add(packages.bill(contents, "hello", "1", "linux/amd64"))
    assert len(bills) == 1
    (bill,) = bills
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", json.loads(bill)["serialNumber"])
    other = packages.bill(Contents(), "hello", "1", "linux/amd64")
    assert json.loads(other)["serialNumber"] != json.loads(bill)["serialNumber"]


def deb(name: str, version: str, *licences: str) -> Package:
    """Return a Debian package."""
    return Package("deb", name, version, "amd64", licences=licences)


BEFORE = Contents((deb("a", "1", "MIT"), deb("b", "1", "GPL-2"), deb("gone", "1")), size=10_000_000)
AFTER = Contents((deb("a", "2", "MIT"), deb("b", "1", "GPL-2"), deb("new", "1", "AGPL-3")), size=12_500_000)


def test_what_differs() -> None:
    """What is new, gone or in another version; a licence that nothing had."""
    assert packages.changes(BEFORE, BEFORE) == []
    assert packages.changes(BEFORE, AFTER) == [
        Change("a (deb)", ("1",), ("2",)),
        Change("gone (deb)", ("1",), ()),
        Change("new (deb)", (), ("1",)),
    ]
    assert packages.new_licences(BEFORE, AFTER) == {"AGPL-3": ["new"]}


def test_a_package_that_is_there_twice() -> None:
    """Both versions count, and a Python package is not the Debian package of the same name."""
    twice = Contents((*BEFORE.packages, deb("a", "3"), Package("pypi", "a", "1")))
    assert packages.changes(BEFORE, twice) == [Change("a (deb)", ("1",), ("1", "3")), Change("a (pypi)", (), ("1",))]


def test_how_it_is_told() -> None:
    """Sizes by platform; a change that every platform has, once; one that only some have, with which."""
    both = {"linux/amd64": BEFORE, "linux/arm64": BEFORE}
    told = packages.described(both, {"linux/amd64": AFTER, "linux/arm64": BEFORE})
    assert "| linux/amd64 | 10.0 MB | 12.5 MB | +2.50 MB |" in told
    assert "| linux/arm64 | 10.0 MB | 10.0 MB | +0.00 MB |" in told
    assert "| a (deb) | `1` | `2` | only linux/amd64 |" in told
    told = packages.described(both, dict.fromkeys(both, AFTER))
    assert "| gone (deb) | `1` | removed |  |" in told
    assert "| new (deb) | none | `1` |  |" in told
    assert "New licence: `AGPL-3` (new)" in told
    assert packages.described(both, both).endswith("The same packages in the same versions.")


def test_a_package_that_writes_markdown() -> None:
    """What a package calls itself makes no link, picture, mention, HTML or cell in a summary or an issue."""
    hostile = "x`](https://e.example) | <img src=y> @octo #1 ![z](q)\n# head"
    told = packages.described({"p": Contents()}, {"p": Contents((deb(hostile, hostile, hostile),))})
    assert not re.search(r"[\[\]<>@#!*]|\w`\w", told)
    assert all(line.count("|") in (0, 5) for line in told.splitlines())


@pytest.fixture
def machine(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """An engine that has the image, and makes containers."""
    monkeypatch.setattr(engine, "find", Engine)
    docker.answer("image inspect", json.dumps([{"Id": f"sha256:{'a' * 64}", "Config": {}}]))
    return docker.answer("docker create", "0123abcd\n")


@pytest.mark.parametrize(
    ("out", "status", "sentence"),
    [
        ("", 1, "cannot read the files of hello:ci for linux/arm64: empty file"),
        ("not a tar file" * 100, 0, "cannot read the files of hello:ci for linux/arm64: "),
        (archive({"etc/os-release": DEBIAN}).getvalue().decode(), 1, "docker export stopped with 1"),
    ],
)
def test_files_that_do_not_all_come(machine: Programs, out: str, status: int, sentence: str) -> None:
    """No bill is made of a part of an image; the container goes in any case."""
    machine.answer("docker export", out, status=status)
    with pytest.raises(Failure, match=sentence):
        packages.contents_of("hello:ci", "linux/arm64")
    assert machine.called("docker", "rm", "--force", "--volumes", "0123abcd")
    assert not machine.called("docker", "start")


def test_a_platform_that_the_image_does_not_have(docker: Programs) -> None:
    """One sentence, with what the engine says."""
    docker.answer("docker create", err="Error: no match for platform in manifest: not found", status=1)
    with pytest.raises(Failure, match="cannot read hello:ci for linux/arm64: Error: no match for platform"):
        packages.contents_of("hello:ci", "linux/arm64")


def test_another_image_is_not_listed(machine: Programs) -> None:
    """The digest that was tested is the one whose packages are listed."""
    with pytest.raises(Failure, match="refusing to continue with a different image"):
        list_packages.main(["--digest", f"sha256:{'b' * 64}"])
    assert not machine.called("docker", "create")
