"""Run the project's workflows with act, on this machine, and read what happened.

act is a runner for GitHub's workflows (github.com/nektos/act). Here each job runs on this machine, in a
folder of its own, against a real engine and a real registry. Only what needs GitHub itself has a stand-in:
the actions in `actions/`, and `gh` in `bin/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import containers, registry
from lib.command import run
from lib.daemon import Daemon
from lib.names import SEMVER
from support.front import Front
from support.hub import Image, honest, upload
from support.projects import commit, fill, git

HERE = Path(__file__).parent
ACT = str(Path(sys.executable).with_name("act"))
STAND_INS = {
    "actions/checkout": "checkout",
    "actions/attest": "attest",
    "actions/download-artifact": "download",
    "actions/upload-artifact": "upload",
    "docker/login-action": "login",
}
USERNAME = "octo"
TOKEN = "token-0f-the-scenarios"
PASSWORDS = "octo:$2b$05$abcdefghijklmnopqrstuuFDY.YKx1XhxbKgSTEQyrgQEle0HxRiW\n"  # TOKEN, as htpasswd -B writes it
SLUG = "octo/Hello-World"
REGISTRY = """version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: scenarios, path: {folder}/passwords}}}}
"""
SECONDS = 420
GREEN = {"check": "success", "service": "success", "image": "success", "required": "success"}  # the jobs of ci.yml
RED = {**GREEN, "image": "failure", "required": "failure"}
PUBLISHED = {**GREEN, "publish": "success"}
NOT_PUBLISHED = {**GREEN, "publish": "failure", "required": "failure"}
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
BILL = "https://cyclonedx.org/bom"
NOT_HANDED_ON = ("GITHUB_", "DOCKERHUB_", "COVERAGE_")  # what the scripts do is counted where they are tested alone

# The project's own checks contain these scenarios. A scenario's repository has this instead: its own tests, if any.
CHECK = """import os, pathlib, subprocess, sys
if pathlib.Path("tests").exists():
    sys.exit(subprocess.run([os.environ["SCENARIO_PYTHON"], "-m", "pytest", "-q", "tests"]).returncode)
"""


@dataclass
class Run:
    """What a run of a workflow did. A job that was skipped is not among `jobs`."""

    exit: int
    output: str = field(repr=False)
    jobs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    notices: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def read(self, line: Mapping[str, Any]) -> None:
        """Take in one line of act's JSON log."""
        name = str(line.get("jobID", ""))
        if "jobResult" in line:
            # The jobs of a matrix share their ID: one that fails fails them all.
            self.jobs[name] = "failure" if self.jobs.get(name) == "failure" else line["jobResult"]
        if "stepResult" in line and line.get("stage") == "Main" and len(line.get("stepID") or []) == 1:
            self.steps[line["step"]] = line["stepResult"]
        if line.get("command") == "summary":
            self.summary += line["content"]
        if line.get("command") == "notice":
            self.notices.append(line["arg"])
        if line.get("command") == "error":
            self.errors.append(line["arg"])


class Scenario:
    """A repository of its own with a remote, a registry behind a front, and what runs left there."""

    def __init__(self, folder: Path, project: Path, front: Front, engine: Mapping[str, str], repository: str) -> None:
        self.folder = folder
        self.front = front
        self.image = f"localhost:{front.port}/{USERNAME}/{repository}"
        self.variables = {
            "DOCKERHUB_USERNAME": USERNAME,
            "REGISTRY": f"localhost:{front.port}",
            "IMAGE_REPOSITORY": repository,
            "PLATFORMS": "linux/amd64",
        }
        self.secrets = {"DOCKERHUB_TOKEN": TOKEN}
        self.github_token = "github-t0ken-of-the-scenarios"
        self.origin = folder / "origin.git"
        self.clone = folder / "clone"
        self.engine = engine
        self.enter: Sequence[str] = ()
        """What leads to the machine that runs the jobs, if it is not this one."""
        subprocess.run(["git", "clone", "--quiet", "--bare", project, self.origin], check=True)
        subprocess.run(["git", "-C", self.origin, "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
        subprocess.run(["git", "clone", "--quiet", self.origin, self.clone], check=True)
        self.docker_config = folder / "docker"
        self.docker_config.mkdir()

    def git(self, *arguments: str) -> str:
        """Run git in the clone and return what it says."""
        return git(self.clone, *arguments)

    @property
    def sha(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    def commit(self, changes: Mapping[str, str] | None = None, message: str = "Change something") -> str:
        """Commit changes (path -> text), push the branch, and return the commit."""
        for path, text in (changes or {}).items():
            (self.clone / path).parent.mkdir(parents=True, exist_ok=True)
            (self.clone / path).write_text(text, "utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "origin", "HEAD")
        return self.sha

    def tag(self, name: str) -> str:
        """Put a Git tag on the commit that is checked out, push it, and return its ref."""
        self.git("tag", name)
        self.git("push", "--quiet", "origin", name)
        return f"refs/tags/{name}"

    def run(
        self,
        workflow: str,
        event: str = "push",
        ref: str = "refs/heads/main",
        payload: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        actor: str = USERNAME,
    ) -> Run:
        """Run a workflow as GitHub would for an event on the commit that is checked out."""
        content = {
            "ref": ref,
            "repository": {"full_name": SLUG, "name": "Hello-World", "private": False, "default_branch": "main"},
            **({"inputs": inputs} if inputs is not None else {}),
            **(payload or {}),
        }
        event_file = self.folder / "event.json"
        event_file.write_text(json.dumps(content), "utf-8")
        command = [
            *(*self.enter, ACT, event, "--workflows", f".github/workflows/{workflow}", "--eventpath", str(event_file)),
            *("--platform", "ubuntu-24.04=-self-hosted", "--platform", "ubuntu-24.04-arm=-self-hosted"),
            *("--container-daemon-socket", "-", "--no-cache-server", "--concurrent-jobs", "1"),
            *("--env-file", "/dev/null", "--secret-file", "/dev/null", "--var-file", "/dev/null"),
            *("--input-file", "/dev/null", "--no-skip-checkout", "--actor", actor),
            *("--env", f"GITHUB_REPOSITORY={SLUG}", "--remote-name", "none"),
            # The log is read for secrets that a script lets out, so nothing may be masked in it.
            *("--json", "--insecure-secrets"),
            *(part for name, value in self.variables.items() if value for part in ("--var", f"{name}={value}")),
            *(part for name, value in self.secrets.items() if value for part in ("--secret", f"{name}={value}")),
            *("--secret", f"GITHUB_TOKEN={self.github_token}"),
            *(part for pair in stand_ins(self.clone).items() for part in ("--local-repository", "=".join(pair))),
        ]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_ON)},
            **self.engine,
            "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "DOCKER_CONFIG": str(self.docker_config),
            "SCENARIO_ORIGIN": self.origin.as_uri(),
            "SCENARIO_FOLDER": str(self.folder),
            "SCENARIO_PYTHON": sys.executable,
            # act 0.2.89 ends with "concurrent map writes" when two jobs look for an action at one moment, because its
            # pkg/runner/local_repository_cache.go has no lock. One job at a time is not enough: the jobs of a matrix
            # count as one. On one thread, which nothing interrupts, there is no such moment.
            "GOMAXPROCS": "1",
            "GODEBUG": "asyncpreemptoff=1",
            "RETRY_SECONDS": "0.1",  # a registry that fails is asked again as often, and sooner
            **(env or {}),
        }
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)  # they belong to one run
        done = subprocess.run(
            command, cwd=self.clone, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=SECONDS,
        )  # fmt: skip
        shutil.rmtree(self.docker_config)  # as docker/login-action logs out again
        self.docker_config.mkdir()
        run = read(done.returncode, done.stdout)
        print(run.output)  # pytest shows it where the test fails
        for secret in (*self.secrets.values(), self.github_token):
            assert not any(line in done.stdout for line in secret.splitlines()), "a secret is in the log"
        return run

    def digest(self, tag: str) -> str:
        """Return the digest of a tag in the registry, or "" if there is no such tag."""
        return registry.digest_at(f"{self.image}:{tag}")

    def put(self, tag: str, revision: str = "", *, released: bool = True) -> str:
        """Put an image, made by no run, on a tag in the registry, and return its digest: of a revision, or of none.

        A version that was `released` has its Git tag.
        """
        if released and SEMVER.fullmatch(tag):
            self.git("push", "--quiet", "origin", f"HEAD:refs/tags/v{tag}")
        image = honest(revision, tag=tag) if revision else Image()
        image.content["annotations"] = {"tag": tag}
        host, _, path = self.image.partition("/")
        upload(image, host, path, tag, self.front.reader)
        return image.digest

    @property
    def tags(self) -> set[str]:
        """Every tag in the registry."""
        host, _, path = self.image.partition("/")
        listing = urllib.request.Request(f"http://{host}/v2/{path}/tags/list", headers={"Accept": "application/json"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(listing, timeout=30) as response:
                return set(json.load(response)["tags"])
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return set()

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call of gh."""
        file = self.folder / "gh.jsonl"
        return [json.loads(line)["arguments"] for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    @property
    def announced(self) -> list[list[str]]:
        """The arguments of each call of gh that is about a GitHub Release."""
        return [call for call in self.calls if call[0] == "release"]

    @property
    def releases(self) -> dict[str, str]:
        """The notes of each GitHub Release, by its Git tag."""
        return {file.name: file.read_text("utf-8") for file in (self.folder / "releases").glob("*")}

    @property
    def attestations(self) -> list[dict[str, Any]]:
        """Every statement that was signed: name, digest, type, ref, commit and predicate."""
        file = self.folder / "attestations.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    @property
    def attested(self) -> list[str]:
        """What was attested, as name@digest, once for each statement but those about a platform's packages."""
        return [f"{each['name']}@{each['digest']}" for each in self.attestations if each["type"] != BILL]

    @property
    def bills(self) -> dict[str, Any]:
        """The bills of materials that were attested, by the digest of their platform's image."""
        return {each["digest"]: each["predicate"] for each in self.attestations if each["type"] == BILL}


@contextlib.contextmanager
def opened(
    folder: Path, project: Path, registry_port: int, engine: Mapping[str, str], repository: str
) -> Iterator[Scenario]:
    """A scenario with a front of its own; the engine's images of that name are removed afterwards.

    So are containers, where Ctrl-C broke a run off: act kills its steps.
    """
    with Front(registry_port, f"{USERNAME}:{TOKEN}") as front:
        scenario = Scenario(folder, project, front, engine, repository)
        try:
            yield scenario
        finally:
            containers.remove_leftovers()
            listing = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", scenario.image]
            tags = run(listing, env=engine).stdout.split()
            if tags:
                run(["docker", "image", "rm", "--force", *tags], env=engine)


def start_registry(folder: Path, port: int, enter: Sequence[str] = ()) -> Daemon:
    """Serve a folder's images on a port of localhost to those who log in; `enter` leads to another machine's."""
    config = folder / f"{port}{len(enter)}.yml"
    config.write_text(REGISTRY.format(folder=folder, port=port), "utf-8")
    daemon = Daemon(config.stem, folder)
    # It ends with the tests, also where they are killed: prctl(2), PR_SET_PDEATHSIG.
    command = [*enter, "setpriv", "--pdeathsig", "TERM", "docker-registry", "serve", str(config)]
    ask = [*enter, "curl", "--silent", "--output", "/dev/null", f"http://127.0.0.1:{port}/v2/"]
    daemon.start(command, ready=lambda: run(ask, check=False).returncode == 0)
    return daemon


def read(status: int, output: str) -> Run:
    """Return what act's output says."""
    run = Run(status, "")
    text = []
    for line in output.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            text.append(line)
            continue
        run.read(record)
        text.append(f"{record.get('jobID', '')} | {str(record.get('msg', '')).rstrip()}")
    run.output = "\n".join(text)
    return run


def stand_ins(clone: Path) -> dict[str, str]:
    """Return action@commit -> folder for every action that the workflows use."""
    text = "".join(file.read_text("utf-8") for file in (clone / ".github/workflows").glob("*.yml"))
    return {
        f"{name}@{commit}": str(HERE / "actions" / STAND_INS[name])
        for name, commit in re.findall(r"uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40})", text)
    }


def make_project(folder: Path, name: str, port: int) -> None:
    """Make a repository of the pipeline as it is in the work tree, with the fixture's service and its checks cut short.

    Its jobs call their image NAME:ci, and publish it on `port` while it is tested.
    """
    fill(folder, name, port)
    (folder / "scripts/check.py").write_text(CHECK, "utf-8")
    for workflow in (folder / ".github/workflows").glob("*.yml"):
        # act knows nothing of queues yet; it runs one workflow at a time anyway.
        workflow.write_text(workflow.read_text("utf-8").replace("queue: max", "cancel-in-progress: false"), "utf-8")
    commit(folder)
