"""Debian's and Ubuntu's packages: what is installed, what can be, and where this machine gets it from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lib.command import Failure, run, say

FOLDER = Path("/etc/apt")

# Nobody is there to answer, and a service started by its package would take our ports.
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "a"}


def install(packages: Sequence[str], *, if_available: Sequence[str] = ()) -> None:
    """Install packages that are missing, quietly; fetch apt's lists only if they lack something.

    Of `if_available`, those that this distribution does not have are left out, with a line that says so.
    """
    extra = [name for name in if_available if not installed(name)]
    if extra and not set(extra) <= available(extra):
        update()
        left_out = [name for name in extra if name not in available(extra)]
        if left_out:
            say(f"this distribution has no {', '.join(left_out)}: what needs it is skipped")
        extra = [name for name in extra if name not in left_out]
    missing = [name for name in packages if not installed(name)] + extra
    if not missing:
        return
    say(f"installing {', '.join(missing)}")
    command = as_root(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages, *extra])
    if run(command, check=False, env=QUIET).returncode:
        update()
        run(command, env=QUIET)


def update() -> None:
    """Fetch apt's lists of packages."""
    run(as_root(["apt-get", "update", "-q"]), env=QUIET)


def available(packages: Sequence[str]) -> set[str]:
    """Return those of the packages that apt can install."""
    policy = run(["apt-cache", "policy", *packages], check=False, env={"LC_ALL": "C"}).stdout
    return set(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))", policy, re.M))


def installed(package: str) -> bool:
    """Whether dpkg has a package installed."""
    done = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], check=False)
    return done.returncode == 0 and done.stdout == "installed"


def as_root(command: list[str]) -> list[str]:
    """Return a command that runs as root: through sudo if we are not."""
    return command if os.geteuid() == 0 else ["sudo", f"--preserve-env={','.join(QUIET)}", *command]


def debian_source() -> tuple[str, str]:
    """Return the address and the keyring of the Debian archive that this machine is set up with."""
    for file in sorted((FOLDER / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text("utf-8", "replace")):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.+)$", stanza, re.M))
            uri = fields.get("URIs", "").split(" ")[0].rstrip("/")
            if uri.endswith("/debian") and "deb" in fields.get("Types", "").split():
                return uri, fields.get("Signed-By", "")
    for file in (FOLDER / "sources.list", *sorted((FOLDER / "sources.list.d").glob("*.list"))):
        text = file.read_text("utf-8", "replace") if file.exists() else ""
        match = re.search(r"^deb\s+(?:\[(?:[^\]]*signed-by=([^\s\]]+))?[^\]]*\]\s+)?(\S+/debian)/?\s", text, re.M)
        if match:
            return match[2], match[1] or ""
    raise Failure(
        "found no Debian archive in /etc/apt, from which the stand-in for Docker Hub is made; let this machine reach"
        " Docker Hub, or add a Debian source"
    )
