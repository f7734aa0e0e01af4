"""What comes from the distribution, and only what is missing: with an apt that answers from a table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib import apt
from lib.command import Failure
from support.programs import Programs

INSTALL = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
UPDATE = ["apt-get", "update", "-q"]


def policy(**candidates: str) -> str:
    """Return what `apt-cache policy` says of packages: name -> candidate, "" for a name that is only mentioned."""
    return "".join(
        f"{name.replace('_', '-')}:\n  Installed: (none)\n  Candidate: {version or '(none)'}\n  Version table:\n"
        for name, version in candidates.items()
    )


@pytest.fixture
def machine(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A machine with apt, and root on it; `have` is installed."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    programs.add("dpkg-query", "apt-get", "apt-cache")
    return programs.answer("^dpkg-query .* have", "installed").answer("^dpkg-query", status=1)


def test_nothing_that_is_there(machine: Programs) -> None:
    """Packages that are installed are not asked for again."""
    apt.install(["have"])
    assert machine.called("apt-get") == []


def test_only_what_is_missing(machine: Programs) -> None:
    """Lists that have everything are not updated."""
    apt.install(["have", "want"])
    assert machine.called("apt-get") == [[*INSTALL, "have", "want"]]


def test_with_lists_that_are_missing_or_out_of_date(machine: Programs) -> None:
    """What apt cannot install is looked for once more, with new lists."""
    machine.answer("^apt-get install", status=100, once=True)
    apt.install(["want"])
    assert machine.called("apt-get") == [[*INSTALL, "want"], UPDATE, [*INSTALL, "want"]]


@pytest.mark.parametrize(
    ("release", "answer", "expected"),
    [
        ("Debian 12", policy(redis_server="5:7.0.15", chromium="156.0", chromium_driver="156.0"), ["chromium"]),
        ("Debian 13", policy(redis_server="5:8.0.2", chromium="156.0", chromium_driver="156.0"), ["chromium"]),
        ("Ubuntu 24.04", policy(redis_server="5:7.0.15", chromium="", chromium_driver=""), []),
        ("Ubuntu 24.04, names unknown", policy(redis_server="5:7.0.15"), []),
    ],
)
def test_what_a_distribution_does_not_have(
    machine: Programs, capsys: pytest.CaptureFixture[str], release: str, answer: str, expected: list[str]
) -> None:
    """Ubuntu has no Chromium but as a snap: the rest is installed, and a line says what is left out."""
    browser = ["chromium", "chromium-driver"]
    machine.answer("^apt-cache", answer)
    apt.install(["redis-server"], if_available=browser)
    assert machine.called("apt-get")[-1] == [*INSTALL, "redis-server", *(browser if expected else [])], release
    said = capsys.readouterr().err
    assert ("has no chromium, chromium-driver: what needs it is skipped" in said) is (not expected)


def test_a_package_that_new_lists_have(machine: Programs) -> None:
    """On a fresh machine apt knows no package at all: its lists are fetched before one is left out."""
    machine.answer("^apt-cache", "", once=True).answer("^apt-cache", policy(chromium="1.0"))
    apt.install([], if_available=["chromium"])
    assert machine.called("apt-get") == [UPDATE, [*INSTALL, "chromium"]]


def test_nothing_is_left_to_install(machine: Programs) -> None:
    """If only what the distribution does not have is missing, apt is not run for nothing."""
    machine.answer("^apt-cache", policy(chromium=""))
    apt.install(["have"], if_available=["chromium"])
    assert machine.called("apt-get", "install") == []


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_apt_is_read_in_one_language(machine: Programs, monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    """What apt says is the same whatever language its user speaks."""
    monkeypatch.setenv("LANG", language)
    (machine.bin / "apt-cache").write_text('#!/bin/sh\n[ "$LC_ALL" = C ] && printf "want:\\n  Installed: x\\n'
                                           '  Candidate: 1\\n"\n', "utf-8")  # fmt: skip
    assert apt.available(["want"]) == {"want"}


def test_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands go through sudo if we are not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert apt.as_root(["apt-get"]) == ["apt-get"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert apt.as_root(["apt-get"]) == ["sudo", "--preserve-env=DEBIAN_FRONTEND,NEEDRESTART_MODE", "apt-get"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "sources.list.d/debian.sources": "Types: deb deb-src\nURIs: http://d.example/debian/\n"
                "Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://d.example/debian-security\n"
            },
            ("http://d.example/debian", "/k.gpg"),
        ),
        (
            {
                "sources.list.d/a.sources": "Types: deb-src\nURIs: http://no.example/debian\n",
                "sources.list.d/b.sources": "Types: deb\nURIs: http://d.example/debian http://other.example/debian\n",
            },
            ("http://d.example/debian", ""),
        ),
        ({"sources.list": "# main\ndeb http://d.example/debian bookworm main\n"}, ("http://d.example/debian", "")),
        (
            {
                "sources.list": "deb http://d.example/debian-security bookworm-security main\n",
                "sources.list.d/x.list": "deb [arch=amd64 signed-by=/k.gpg] http://d.example/debian/ bookworm main\n",
            },
            ("http://d.example/debian", "/k.gpg"),
        ),
    ],
)
def test_debian_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: tuple[str, str]
) -> None:
    """The source is where this machine gets its own packages from, in either of apt's two formats."""
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setattr(apt, "FOLDER", tmp_path)
    assert apt.debian_source() == expected


def test_no_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another distribution it says what it looked for."""
    monkeypatch.setattr(apt, "FOLDER", tmp_path)
    with pytest.raises(Failure, match="found no Debian archive in /etc/apt"):
        apt.debian_source()
