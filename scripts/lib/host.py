"""A host that trusts a proof and not a key: what the deploy key may ask of it, and how that is asked.

The key opens `on_host.py` there and nothing else. `prepare_host.py` installs it with all that it reads, as root, so the
key's holder chooses a version, and neither the image, nor the repository that has to vouch for it, nor how it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from lib.access import access
from lib.command import ROOT, Failure, UsageError, add_summary, run, say, set_output, warn
from lib.distribution import HUB_LOGIN, Login, login_of
from lib.names import DIGEST, PIPELINE, check_tag, parse_reference

INSTALLED = Path("/usr/local/lib") / PIPELINE
"""Where a host has what `prepare_host.py` installed, in a folder for each stack."""
SETTINGS = "host.json"
"""What is fixed on a host: variables, such as the image's name and the repository."""
FIXED = {
    "REGISTRY": "the image's registry",
    "IMAGE_NAMESPACE": "its account",
    "IMAGE_REPOSITORY": "its name",
    "STACK": "the stack",
    "GITHUB_REPOSITORY": "who vouches for the image",
    "ATTESTATIONS": "whether a private repository has some",
    "DEPLOY_URL": "where the page is",
}
"""The variables that it may have."""

RESULT = f"{PIPELINE}: "
"""What the last line begins with that a host says about a run; what comes then is JSON."""
OFFER, STATUS, DRY_RUN, REDEPLOY = "offer", "status", "dry-run", "redeploy"
SENTENCE = "redeploy VERSION, redeploy previous, dry-run VERSION or status"
LENT = {
    "run": re.compile(r"[0-9a-f]{32}"),
    "by": re.compile(r"[A-Za-z0-9_.@\[\]-]{1,100}"),
    "token": re.compile(r"[A-Za-z0-9_.-]{1,2000}"),
    "basic": re.compile(r"[A-Za-z0-9+/=]{1,10000}"),
    "identity": re.compile(r"[!-~]{1,10000}"),
}
"""What a caller may send along, in JSON on standard input: the run's name, so that it can be asked about again; who it
is; a token by which GitHub answers; and a login to the registry. The host asks with them, and keeps none."""
MOST = 64 * 1024  # bytes of that

TOKENS = ("GITHUB_TOKEN", "GH_TOKEN")
HERE_ONLY = ("DOMAIN", "EDGE_PORT", "REPLICAS", "SERVICE_SECRETS")
"""Variables that such a host does not take from a caller."""
PATIENCE = 1800.0
"""Seconds that a connection may be broken for."""


def on_host() -> bool:
    """Whether this runs where `prepare_host.py` installed it, beside what is fixed there."""
    return (ROOT / SETTINGS).exists()


@dataclass(frozen=True)
class Asked:
    """What a caller asks for; `lends` if something comes on standard input."""

    word: str
    version: str = ""
    lends: bool = False


def parse(line: str) -> Asked:
    """Return what a command line asks for; raise UsageError for everything that is not exactly one of the four."""
    match = re.fullmatch(r"(offer|status)|(dry-run|redeploy) ([A-Za-z0-9_:.-]{1,128})( -)?", line)
    if not match:
        raise UsageError(f"{line[:100]!r} is not what this key may do: {SENTENCE}")
    version = match[3] or ""
    if version and not DIGEST.fullmatch(version):
        check_tag(version)
    return Asked(match[1] or match[2], version, bool(match[4]))


def parse_lent(text: bytes) -> dict[str, str]:
    """Return what a caller sent along; raise UsageError, without the values, if it is anything else."""
    try:
        found = json.loads(text) if len(text) <= MOST else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(
        key in LENT and isinstance(value, str) and LENT[key].fullmatch(value) for key, value in found.items()
    ):
        raise UsageError(f"standard input is not what {SENTENCE} takes: a JSON object of {', '.join(LENT)}")
    return found


def shipped(root: Path = ROOT) -> dict[str, bytes]:
    """Return the files that a host needs, by their path."""
    paths = [
        *(root / "scripts" / name for name in ("redeploy.py", "on_host.py")),
        *(root / "scripts" / "lib").glob("*.py"),
        root / "service.toml",
        *(path for path in (root / "deploy").glob("*") if path.is_file()),
    ]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def fingerprints(root: Path = ROOT) -> dict[str, str]:
    """Return a few digits for each of these files, by which two versions of it are told apart."""
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in shipped(root).items()}


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return the paths of the files that are not the same here and there."""
    return sorted(name for name in {*here, *there} if here.get(name) != there.get(name))


# From here on: the caller.


@dataclass(frozen=True)
class Offer:
    """What a host says that it may be asked for: redeploying `image`, with these files."""

    image: str
    files: Mapping[str, str] = field(default_factory=dict)


def offered(ssh: Sequence[str]) -> Offer | None:
    """Return what a host offers; None if it does not answer as one that takes nothing but a version."""
    done = run([*ssh, OFFER], check=False, timeout=120)
    try:
        found = json.loads(done.stdout)
        return Offer(found[PIPELINE], found["files"])
    except (ValueError, KeyError, TypeError):
        return None


def lent(offer: Offer, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what to send along: GitHub's token, and docker's login if nobody can read the image without one."""
    found = {
        "by": environ.get("GITHUB_ACTOR", ""),
        "token": next((environ[name] for name in TOKENS if environ.get(name)), ""),
    }
    image = parse_reference(offer.image)[0]
    login = login_of(image.registry or HUB_LOGIN)
    if (login.basic or login.identity) and not access_without_login(offer.image):
        found |= {"basic": login.basic.removeprefix("Basic "), "identity": login.identity}
    return {key: value for key, value in found.items() if value and LENT[key].fullmatch(value)}


def access_without_login(reference: str) -> bool:
    """Whether anybody can read an image; False if that cannot be told."""
    try:
        return access(parse_reference(reference)[0], Login()).exists
    except Failure:
        return False


def plain(line: str) -> str:
    """Return a line of the host's as one that no terminal and no runner takes for a command.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands. A runner skips blanks before
    `::`, and finds the older `##[` anywhere in a line.
    """
    return "| " + "".join(each if each.isprintable() else "?" for each in line.rstrip("\r\n")).replace("##[", "## [")


def warn_of_differences(offer: Offer, environ: Mapping[str, str], host: str) -> None:
    """Say how the host differs from what whoever redeploys may expect."""
    sentences = []
    if found := differing(fingerprints(), offer.files):
        names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        sentences.append(
            f"the host redeploys with its own {names}, which differ from those here; to install these, run"
            f" python3 scripts/prepare_host.py root@{host}"
        )
    if given := [name for name in HERE_ONLY if environ.get(name)]:
        sentences.append(
            f"the host keeps its own settings and does not take {', '.join(given)} from here; set them as root there,"
            f" with DOCKER_HOST=ssh://root@{host} python3 scripts/redeploy.py VERSION"
        )
    if not any(environ.get(name) for name in TOKENS):
        sentences.append(
            "there is no GITHUB_TOKEN to lend, so the host asks GitHub with a login of its own (gh auth login, as root"
            " there); a token that may only read the repository is enough"
        )
    for sentence in sentences:
        warn(sentence)


def call(ssh: Sequence[str], line: str, lending: str, seen: list[str]) -> tuple[int, str]:
    """Ask once, and show what the host says as it comes, but for the lines of `seen`, which it said before.

    Returns ssh's exit code, and the last line of what came on standard error.
    """
    with subprocess.Popen(
        [*ssh, line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        errors: list[str] = []
        to, out, err = (cast("IO[str]", pipe) for pipe in (process.stdin, process.stdout, process.stderr))
        reader = threading.Thread(target=errors.extend, args=[err])
        reader.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # ssh says why
                to.write(lending)
                to.close()
            for number, said in enumerate(out):
                if number >= len(seen) and said.endswith("\n"):
                    seen.append(said)
                    if not said.startswith(RESULT):
                        say(plain(said))
        except BaseException:
            process.kill()
            raise
        finally:
            reader.join()
    for said in errors:
        say(plain(said))
    return process.returncode, next((said.strip() for said in reversed(errors) if said.strip()), "")


def ask(ssh: Sequence[str], offer: Offer, word: str, version: str, environ: Mapping[str, str] = os.environ) -> str:
    """Have the host redeploy, or say what that would change; return the digest that it deployed, "" for none.

    The roll-out runs there: if the connection breaks, it continues, and this asks again for the run of that name until
    it knows the outcome. Raises Failure with the host's own sentence if it failed.
    """
    lending = json.dumps({"run": secrets.token_hex(16), **lent(offer, environ)})
    line = f"{word} {version} -"
    deadline = 0.0
    seen: list[str] = []
    while True:
        status, error = call(ssh, line, lending, seen)
        if status != 255:
            return result(status, error, seen)
        now = time.monotonic()
        deadline = deadline or now + PATIENCE
        if now > deadline:
            raise Failure("cannot reach the host again; python3 scripts/redeploy.py --status says what serves there")
        say("the connection broke; the roll-out continues without it: asking for its outcome")
        time.sleep(2)


def result(status: int, error: str, seen: Sequence[str]) -> str:
    """Return the digest that a run deployed, "" for none; hand all that it came to to the workflow, if one runs this.

    Raises Failure in the host's own words if it failed.
    """
    found: dict[str, Any] = {}
    if seen and seen[-1].startswith(RESULT):
        with contextlib.suppress(ValueError):
            found = json.loads(seen[-1].removeprefix(RESULT))
    for name, value in (found.get("outputs") or {}).items():
        if name in ("digest", "before", "revision") and re.fullmatch(r"(sha256:)?[0-9a-f]*", str(value)):
            set_output(name, str(value))
    if found.get("summary"):
        add_summary(str(found["summary"]))
    if status:
        said = error or next((line for line in reversed(seen) if not line.startswith(RESULT)), f"it says {status}")
        raise (UsageError if status == UsageError.status else Failure)(plain(said)[2:].removeprefix("error: "))
    digest = (found.get("outputs") or {}).get("digest", "")
    return str(digest) if DIGEST.fullmatch(str(digest)) else ""


def status_of(ssh: Sequence[str]) -> str:
    """Return what the host says about what runs there."""
    done = run([*ssh, STATUS], check=False, timeout=300)
    if done.returncode:
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
        raise Failure(plain(said[-1])[2:] if said else f"the host answers with {done.returncode}")
    return "\n".join(plain(line)[2:] for line in done.stdout.splitlines())
