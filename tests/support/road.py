"""A road from a machine to a host on which everything is as it should be, to plant a fault in."""

from __future__ import annotations

import base64
import copy
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import doctor
from lib import access, distribution, engine, gh, service, visit
from lib.command import ROOT, Failure, UsageError, last_line
from lib.command import run as command_run
from lib.gh import ENVIRONMENTS, rulesets
from lib.service import Service
from support.copies import commit, git, repository
from support.docker_info import INFO, INSPECT
from support.github import ACTIONS, GitHubStandIn, Refusal, called
from support.programs import Programs
from support.rights import RightsStandIn

TOKEN = "dckr_pat_not-to-be-seen"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHost"
DEPLOY_KEY = 'restrict,command="deploy" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey onedigest deploy'
DAY = 86400.0


def cloned(folder: Path) -> Path:
    """Make a clone with a release, whose origin is on GitHub, and return it."""
    root = repository(folder, {"Dockerfile": "FROM scratch\n", "scripts/a.py": "a = 1\n", ".ci/run": "#!/bin/sh\n"})
    shutil.copytree(ROOT / ".github/workflows", root / ".github/workflows")
    commit(root, "Second")
    git(root, "remote", "add", "origin", "https://github.com/octo/hello.git")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(root, "tag", "v1.2.3")
    return root


class Road:
    """Everything that the doctor looks at; change a part before `look`."""

    def __init__(
        self,
        folder: Path,
        clone: Path,
        programs: Programs,
        hub: RightsStandIn,
        docker_config: Path,
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.env: dict[str, str] = {}
        self.login = "root@hello.example.org"
        self.info: dict[str, Any] = copy.deepcopy(INFO)
        self.info_error = ""
        self.inspect = INSPECT
        self.programs = programs.add("docker", "ssh", "ssh-keyscan")
        self.github = GitHubStandIn(folder / "github", programs.bin)
        self.hub = hub
        hub.users, hub.public = {f"octo:{TOKEN}": ["pull", "push"]}, {"octo/hello"}
        self.docker_login = f"octo:{TOKEN}"
        self.docker_config = docker_config
        self.service: Service | UsageError = Service("hello", ("python", "-m", "hello"))
        self.differences: list[str] = []
        self.resolves_in_containers = True
        self.scan = f"hello.example.org {HOST_KEY}\n"
        self.ssh_error = ""
        self.host: dict[str, Any] = {
            "time": int(time.time()),
            "disk": 50 * 2**20,
            "docker": {"ServerVersion": "29.1.0", "Swarm": {"LocalNodeState": "active", "ControlAvailable": True}},
            "nodes": "one=Ready two=Ready ",
            "services": "hello_edge hello_web ",
            "ports": "0.0.0.0:22 127.0.0.1:2377 *:80 [::]:443 ",
            "keys": DEPLOY_KEY,
        }
        self.addresses = {"hello.example.org": {"192.0.2.7"}, "registry-1.docker.io": {"192.0.2.8"}}
        self.certificate: float | OSError = time.time() + 60 * DAY
        self.root = folder / "clone"
        shutil.copytree(clone, self.root)
        self.released = git(self.root, "rev-parse", "HEAD")
        self.answer = visit.Answer(200, self.released)
        state = self.github.state
        state["variables"][""] = {"DOCKERHUB_USERNAME": "octo", "DEPLOY_ON_RELEASE": "true"}
        state["variables"]["production"] = {
            "DEPLOY_HOST": "deploy@hello.example.org",
            "DEPLOY_KNOWN_HOSTS": f"hello.example.org {HOST_KEY}",
            "DOMAIN": "hello.example.org",
        }
        state["secrets"] |= {"publish": {"DOCKERHUB_TOKEN": ""}, "production": {"DEPLOY_SSH_KEY": ""}}
        state["environments"] = {
            name: {
                "deployment_branch_policy": {"protected_branches": False, "custom_branch_policies": True},
                "policies": [["branch", "main"], ["tag", "v*"]],
            }
            for name in ENVIRONMENTS
        }
        state["rulesets"] = [{"id": number, **copy.deepcopy(rule)} for number, rule in enumerate(rulesets(ACTIONS))]
        for module in (doctor, engine, gh):
            patch.setattr(module, "run", self.run)
        patch.setattr(service, "load", self.load)
        patch.setattr(service, "differences", lambda root, environ: self.differences)
        patch.setattr(access, "HUB", hub.host)
        patch.setattr(doctor, "addresses", lambda name: self.addresses.get(name, set()))
        patch.setattr(doctor, "ends", self.ends)
        patch.setattr(visit, "answer", lambda address: self.answer)
        patch.setattr(distribution, "_authorizations", {})

    @property
    def state(self) -> dict[str, Any]:
        """GitHub's."""
        return self.github.state

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Answer as the programs on PATH would, in this process: there are a hundred calls to answer for each fault."""
        name, *words = command
        if name == "gh":
            stdin = options.get("stdin") or ""
            self.github.note(words, stdin)
            try:
                done = subprocess.CompletedProcess(command, 0, called(self.state, words, stdin), "")
            except Refusal as refusal:
                done = subprocess.CompletedProcess(command, 1, "", str(refusal))
        elif name in ("docker", "ssh", "ssh-keyscan"):
            done = subprocess.CompletedProcess(command, *self.programs.call(list(command)))
        else:
            return command_run(command, **options)
        if done.returncode and options.get("check", True):
            raise Failure(f"exit {done.returncode} from {' '.join(command)}{last_line(done)}")
        return done

    def ends(self, name: str) -> float:
        """Stand for a look at the certificate."""
        if isinstance(self.certificate, OSError):
            raise self.certificate
        return self.certificate

    def world(self) -> doctor.World:
        """Put everything where it is looked for."""
        self.github.keep()
        auth = base64.b64encode(self.docker_login.encode()).decode()
        logins = {name: {"auth": auth} for name in (distribution.HUB_LOGIN, self.hub.host)} if self.docker_login else {}
        (self.docker_config / "config.json").write_text(json.dumps({"auths": logins}), "utf-8")
        answer = self.programs.answer
        if self.info_error:
            answer("docker info", err=self.info_error, status=1)
        answer("docker info", json.dumps(self.info))
        answer("docker context show", "default\n")
        answer("docker buildx inspect", self.inspect)
        answer("docker run .*getent", status=0 if self.resolves_in_containers else 2)
        answer("ssh-keyscan", self.scan)
        host = {**self.host, "docker": json.dumps(self.host["docker"])}
        host["keys"] = base64.b64encode(str(host["keys"]).encode()).decode()
        said = "".join(f"{name}={value}\n" for name, value in host.items())
        answer("^ssh ", said, err=self.ssh_error, status=255 if self.ssh_error else 0)
        return doctor.World(self.env, self.root, self.login)

    def load(self, root: Path, environ: Mapping[str, str]) -> Service:
        """Stand for reading service.toml."""
        if isinstance(self.service, UsageError):
            raise self.service
        return self.service

    def look(self) -> list[doctor.Line]:
        """Return what the doctor finds."""
        return doctor.look(self.world())


def alarms(lines: list[doctor.Line]) -> list[doctor.Line]:
    """Return what is to be fixed."""
    return [line for line in lines if line.state in (doctor.MISSING, doctor.WRONG)]
