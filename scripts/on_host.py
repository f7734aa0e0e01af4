#!/usr/bin/env python3
"""Do what the deploy key may ask of a host: redeploy a version that was proven, or say what runs. Runs there, as root.

  ssh deploy@hello.example.org redeploy 1.2.3      a release, a commit's full id, a digest, or any other tag
  ssh deploy@hello.example.org redeploy previous   the version before the one that is serving
  ssh deploy@hello.example.org dry-run 1.2.3       what that would change
  ssh deploy@hello.example.org status              what runs where, and what `previous` means

prepare_host.py installs it; the key opens this and nothing else. The image, the repository that has to vouch
for it and the stack are fixed on the host; the rest is what the Swarm remembers. A roll-out is a process of its
own: it continues if the connection breaks, and a second one waits for it. scripts/redeploy.py asks for all this,
and for the outcome again after a broken connection.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import ROOT, Failure, parser, start
from lib.daemon import Daemon
from lib.distribution import HUB_LOGIN
from lib.host import DRY_RUN, FIXED, MOST, OFFER, RESULT, SETTINGS, STATUS, Asked, fingerprints, parse, parse_lent
from lib.names import PIPELINE, ImageName

RUNS = Path("/var/lib") / PIPELINE / "runs"
KEPT = 20  # runs whose output is kept
WAITING = 5  # runs at once: one redeploys, and the others wait for it
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs the rest of its words, notes the exit code beside what they wrote, and removes the login that was lent.
SUPERVISE = 'cd "$1" || exit; shift; "$@"; echo $? > status.new; rm -rf docker; mv status.new status'


def fixed(text: str) -> dict[str, str]:
    """Return the variables that are fixed here; raise Failure if they are not what prepare_host.py wrote."""
    try:
        found = json.loads(text)
        known = {*found} <= {*FIXED} and all(map(str.isprintable, found.values()))
        if known and all(found[name] for name in ("GITHUB_REPOSITORY", "IMAGE_NAMESPACE", "IMAGE_REPOSITORY", "STACK")):
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Failure(f"{ROOT / SETTINGS} is not what prepare_host.py wrote; run it again")


def environment(here: Mapping[str, str], lent: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return all that a redeploy is told: nothing of the caller's but who asks, and what it lent to ask others with."""
    token = {name: lent["token"] for name in ("GITHUB_TOKEN", "GH_TOKEN") if "token" in lent}
    return {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LOGNAME": "deploy",
        **here,
        **token,
        **({"GITHUB_ACTOR": lent["by"]} if "by" in lent else {}),
        **({"DOCKER_CONFIG": str(folder / "docker")} if {"basic", "identity"} & {*lent} else {}),
    }


def keep_login(lent: Mapping[str, str], registry: str, folder: Path) -> None:
    """Write down the login that was lent, for the one registry, where only root can read it."""
    login = {key: lent[name] for key, name in (("auth", "basic"), ("identitytoken", "identity")) if name in lent}
    if login:
        (folder / "docker").mkdir(0o700)
        (folder / "docker" / "config.json").write_text(json.dumps({"auths": {registry: login}}), "utf-8")


@contextlib.contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Let no two callers begin a run at the same moment: they may be one, who asks again."""
    runs.mkdir(0o700, parents=True, exist_ok=True)
    with (runs / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def has_ended(folder: Path) -> bool:
    """Whether a run is over, well or not."""
    return Daemon("run", folder).pid is None


def begin(asked: Asked, lent: Mapping[str, str], here: Mapping[str, str], runs: Path = RUNS) -> Path:
    """Start a run, or find it running or ended if the caller began it before; return its folder."""
    folder = runs / lent.get("run", uuid4().hex)
    with alone(runs):
        if folder.exists():
            return folder
        others = sorted((path for path in runs.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        ended = [path for path in others if has_ended(path)]
        if len(others) - len(ended) >= WAITING:
            raise Failure(f"{WAITING} redeploys run or wait here already; ask again when one has ended")
        for old in ended[: max(0, len(others) - KEPT + 1)]:
            shutil.rmtree(old)
        folder.mkdir(0o700)
        image = ImageName(here.get("REGISTRY", ""), here["IMAGE_NAMESPACE"], here["IMAGE_REPOSITORY"])
        keep_login(lent, image.registry or HUB_LOGIN, folder)
        dry = ["--dry-run"] if asked.word == DRY_RUN else []
        command = [sys.executable, "-B", str(ROOT / "scripts" / "redeploy.py"), *dry, "--", asked.version]
        env = environment(here, lent, folder)
        env |= {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
        # In a session of its own, so that nothing that ends the caller's ends it.
        Daemon("run", folder).start(["sh", "-c", SUPERVISE, "sh", str(folder), *command], env=env)
    return folder


def follow(folder: Path) -> int:
    """Print what a run writes until it is over; return its exit code, or raise Failure if it was killed."""
    with (folder / "run.log").open("rb") as log:
        while True:
            over = has_ended(folder)
            sys.stdout.buffer.write(log.read())
            sys.stdout.buffer.flush()
            if over:
                break
            time.sleep(0.2)
    try:
        return int((folder / "status").read_text("utf-8"))
    except (OSError, ValueError):
        raise Failure("the redeploy was killed; the next one, of any version, repairs what it left") from None


def outcome(folder: Path) -> str:
    """Return the line that tells the caller's script what a run handed to its workflow."""
    text = {
        name: (folder / name).read_text("utf-8") if (folder / name).exists() else "" for name in ("output", "summary")
    }
    outputs = dict(re.findall(r"(?m)^(\w+)=(.*)$", text["output"]))
    return RESULT + json.dumps({"outputs": outputs, "summary": text["summary"]})


def answer(asked: Asked, here: Mapping[str, str]) -> int:
    """Do what is asked, and return the exit code."""
    image = ImageName(here.get("REGISTRY", ""), here["IMAGE_NAMESPACE"], here["IMAGE_REPOSITORY"])
    if asked.word == OFFER:
        print(json.dumps({PIPELINE: str(image), "files": fingerprints()}))
        return 0
    if asked.word == STATUS:
        command = [sys.executable, "-B", str(ROOT / "scripts" / "redeploy.py"), "--status"]
        return subprocess.run(command, env=environment(here, {}, ROOT), check=False).returncode
    lent = parse_lent(sys.stdin.buffer.read(MOST + 1)) if asked.lends else {}
    folder = begin(asked, lent, here)
    status = follow(folder)
    if asked.lends:
        print(outcome(folder), flush=True)
    return status


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("line", metavar="COMMAND", help="what is asked, as one word of a shell")
    asked = parse(arguments.parse_args(argv).line)
    os.environ.clear()  # what sudo leaves of the caller's
    os.environ["PATH"] = PATH
    os.umask(0o077)
    try:
        text = (ROOT / SETTINGS).read_text("utf-8")
    except OSError as error:
        raise Failure(f"cannot read {ROOT / SETTINGS} ({error.strerror}); run prepare_host.py for this host") from error
    return answer(asked, fixed(text))


if __name__ == "__main__":
    start(main)
