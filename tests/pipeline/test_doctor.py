"""The doctor: faults planted one by one on a road that is fine, and roads on which nothing is wrong."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import doctor
from conftest import need, need_root
from doctor import MISSING, OK, UNKNOWN, WRONG, Line, World, look, report
from lib import gh, visit
from lib.access import Access, access, granted, pulls_left
from lib.command import ROOT, Failure, UsageError, run
from lib.daemon import Daemon
from lib.distribution import Login, Refused
from lib.names import ImageName
from lib.service import Service
from lib.template import RECORD
from prepare_host import make_key
from support.copies import commit, git, write
from support.hub import honest, upload
from support.ports import free_port
from support.programs import Programs
from support.rights import RightsStandIn
from support.road import DAY, DEPLOY_KEY, TOKEN, Road, alarms, cloned
from support.ssh_server import ssh_server

PASSWORD = "token-0f-the-scenarios"
PASSWORDS = "octo:$2b$05$abcdefghijklmnopqrstuuFDY.YKx1XhxbKgSTEQyrgQEle0HxRiW\n"  # as htpasswd -B writes it


@pytest.fixture
def rights() -> Iterator[RightsStandIn]:
    """A stand-in for Docker Hub."""
    with RightsStandIn() as made:
        yield made


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone to copy."""
    return cloned(tmp_path_factory.mktemp("clone") / "clone")


@pytest.fixture
def road(
    tmp_path: Path,
    clone: Path,
    programs: Programs,
    rights: RightsStandIn,
    docker_config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Road:
    """A road on which nothing is wrong."""
    return Road(tmp_path, clone, programs, rights, docker_config, monkeypatch)


# Roads on which nothing is wrong


def public_project(road: Road) -> None:
    """All is set, and the newest release serves."""


def private_project(road: Road) -> None:
    """The code and the image are private, on a plan that has no rules for that."""
    road.state["repository"]["private"] = True
    road.state["refuses"] = {"rulesets": [403, "Upgrade to GitHub Pro or make this repository public"]}
    road.hub.public, road.hub.private = set(), {"octo/hello"}
    variables(road, IMAGE_VISIBILITY="private")


def private_project_without_environments(road: Road) -> None:
    """The same on a plan that has no environments either: the secrets are the repository's."""
    private_project(road)
    road.state["variables"][""] |= road.state["variables"].pop("production")
    road.state["secrets"][""] = {"DOCKERHUB_TOKEN": "", "DEPLOY_SSH_KEY": ""}
    road.state["environments"] = {}


def fork_with_another_registry(road: Road) -> None:
    """Another registry, a name each time, one platform, no host, and a docker that is not logged in."""
    road.state["repository"]["fork"] = True
    road.state["variables"] = {
        "": {"DOCKERHUB_USERNAME": "octo", "REGISTRY": road.hub.host, "PLATFORMS": "linux/amd64"}
    }
    road.state["secrets"]["production"] = {}
    road.hub.basic = True
    road.docker_login = road.login = ""
    road.inspect = "Platforms: linux/amd64, linux/arm64\n"


def laptop_without_gh(road: Road) -> None:
    """Nothing but the clone and an engine behind a proxy that the engine has, too."""
    road.state["login"] = False
    road.env = {"HTTPS_PROXY": "http://proxy.example.org:3128"}
    road.info["HttpsProxy"] = "http://proxy.example.org:3128"
    road.docker_login = road.login = ""


def host_by_hand(road: Road) -> None:
    """No GitHub at all: the environment says where to deploy to; no domain, nothing deployed yet, an older release."""
    git(road.root, "remote", "set-url", "origin", "https://git.example.org/octo/group/hello.git")
    road.env = {"DEPLOY_HOST": "deploy@hello.example.org", "DOCKERHUB_USERNAME": "octo", "EDGE_PORT": "8080"}
    road.host["services"] = ""
    road.answer = visit.Answer(200, "0" * 40)


@pytest.mark.parametrize(
    "setup",
    [
        public_project,
        private_project,
        private_project_without_environments,
        fork_with_another_registry,
        laptop_without_gh,
        host_by_hand,
    ],
)
def test_no_false_alarm(road: Road, setup: Callable[[Road], None]) -> None:
    """Nothing is said to be missing or wrong on a road on which nothing is."""
    setup(road)
    lines = road.look()
    assert alarms(lines) == []
    assert [line for line in lines if line.said.startswith("not seen")] == []
    assert report(lines).endswith("nothing to fix")


# Faults, one by one


def private_and_not_told(road: Road) -> None:
    """Both are private, and no variable says that this is wanted."""
    private_project(road)
    variables(road, IMAGE_VISIBILITY="")


def variables(road: Road, place: str = "", **values: str) -> bool:
    """Set variables on GitHub; "" removes one. Returns False, so that more may follow in an expression."""
    kept = road.state["variables"][place]
    kept.update(values)
    for name in [name for name, value in kept.items() if not value]:
        del kept[name]
    return False


def old_git(road: Road) -> None:
    """Let git be an old one that works all the same."""
    program = road.programs.bin / "git"
    program.write_text('#!/bin/sh\n[ "$1" = version ] && echo git version 2.34.1 && exit\nexec /usr/bin/git "$@"\n')
    program.chmod(0o755)


def shallow(road: Road) -> None:
    """Let the clone be a shallow one."""
    (road.root / ".git/shallow").write_text(git(road.root, "rev-parse", "HEAD") + "\n", "utf-8")


def off_main(road: Road) -> None:
    """Put a tag on a commit that is not on main."""
    commit(road.root, "Elsewhere", {"x": "x"})
    git(road.root, "tag", "v9.9.9")
    git(road.root, "tag", "-d", "v1.2.3")
    road.answer = visit.Answer(200, git(road.root, "rev-parse", "HEAD"))


def windows(road: Road) -> None:
    """Keep Windows line endings in the commit."""
    git(road.root, "config", "core.autocrlf", "false")
    commit(road.root, "Windows", {".ci/run": "#!/bin/sh\r\n"})
    git(road.root, "update-ref", "refs/remotes/origin/main", "HEAD")


def ruleset(road: Road, context: str) -> None:
    """Require another check."""
    rule = road.state["rulesets"][0]["rules"][2]
    rule["parameters"]["required_status_checks"][0]["context"] = context


def policy(road: Road, kind: str, name: str) -> None:
    """Let something else use the environment that deploys."""
    road.state["environments"]["production"]["policies"].append([kind, name])


def raises(error: UsageError) -> Callable[[Road], object]:
    """Let service.toml be bad."""
    return lambda road: setattr(road, "service", error)


LOOPBACK = {"Mirrors": [], "InsecureRegistryCIDRs": ["10.0.0.0/8"]}
NO_STORE = {"DriverStatus": [["Backing Filesystem", "extfs"]]}
OLD_BUILDX = {"ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "v0.12.1"}]}}

FAULTS: dict[str, tuple[Callable[[Road], object], str, str, str, str]] = {
    # name: (plant, check, state, what is said, what fixes it)
    "git is old": (old_git, "git", WRONG, "git 2.34.1 is too old", "git-scm.com"),
    "no engine": (
        lambda road: setattr(road, "info_error", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."),
        *("docker_engine", MISSING, "no Docker Engine is reachable", r"python3 scripts/engine\.py --setup"),
    ),
    "no rights at the socket": (
        lambda road: setattr(road, "info_error", "permission denied while trying to connect"),
        *("docker_engine", MISSING, "may not talk to the Docker Engine", "sudo usermod -aG docker"),
    ),
    "image store is off": (
        lambda road: road.info.update(NO_STORE),
        *("docker_engine", WRONG, "containerd image store is off", "containerd-snapshotter.*daemon.json"),
    ),
    "registries on localhost need TLS": (
        lambda road: road.info.update(RegistryConfig=LOOPBACK),
        *("docker_engine", WRONG, "wants TLS of a registry on localhost", 'add "127.0.0.0/8"'),
    ),
    "buildx is old": (
        lambda road: road.info.update(OLD_BUILDX),
        *("docker_engine", WRONG, "buildx 0.13 or newer is missing", "docker-buildx"),
    ),
    "no QEMU": (
        lambda road: setattr(road, "inspect", "Platforms: linux/amd64\n"),
        *("docker_engine", WRONG, "cannot run linux/arm64", "qemu-user-static"),
    ),
    "proxy of the machine only": (
        lambda road: road.env.update(https_proxy="http://proxy.example.org:3128"),
        *("proxy", WRONG, "the Docker Engine does not", '"proxies".*daemon.json'),
    ),
    "names do not resolve in containers": (
        lambda road: setattr(road, "resolves_in_containers", False),
        *("names_in_containers", WRONG, "not in containers", '"dns"'),
    ),
    "token in the address of origin": (
        lambda road: git(road.root, "remote", "set-url", "origin", f"https://octo:{TOKEN}@github.com/octo/hello.git"),
        *("origin", WRONG, "a password or a token", "git remote set-url origin https://github.com/octo/hello.git"),
    ),
    "token for a name in the address of origin": (
        lambda road: git(road.root, "remote", "set-url", "origin", "https://ghp_0123456789@github.com/octo/hello.git"),
        *("origin", WRONG, "a password or a token", "git remote set-url origin https://github.com/octo/hello.git"),
    ),
    "branch is master": (
        lambda road: (
            git(road.root, "update-ref", "-d", "refs/remotes/origin/main") + git(road.root, "branch", "-m", "master")
        ),
        *("main_branch", MISSING, "no branch main, only master", "git branch -m master main"),
    ),
    "main was never pushed": (
        lambda road: git(road.root, "update-ref", "-d", "refs/remotes/origin/main"),
        *("main_branch", MISSING, "origin/main is not known", "git push -u origin main"),
    ),
    "clone is shallow": (shallow, "history", WRONG, "shallow", "git fetch --quiet --unshallow origin"),
    "tag that is not a version": (
        lambda road: git(road.root, "tag", "v1.2"),
        *("tags", WRONG, "v1.2 is not a version", "git tag -d v1.2"),
    ),
    "tag that is not on main": (off_main, "tags", WRONG, "v9.9.9 is not on main", "git tag -f v9.9.9 origin/main"),
    "Windows line endings in the commit": (
        windows,
        *("line_endings", WRONG, "in the commit, such as .ci/run", "git add --renormalize"),
    ),
    "Windows line endings in the work tree": (
        lambda road: write(road.root, {".ci/run": "#!/bin/sh\r\n"}),
        *("line_endings", WRONG, "here, such as .ci/run", "git config core.autocrlf input"),
    ),
    "record that is none": (
        lambda road: write(road.root, {RECORD: "{"}),
        *("template", WRONG, "is not JSON", f"correct {RECORD}"),
    ),
    "service.toml is bad": (
        raises(UsageError("service.toml: port is 'x', expected a number")),
        *("service_toml", WRONG, "port is 'x'", "correct service.toml"),
    ),
    "service.toml and Dockerfile differ": (
        lambda road: setattr(road, "differences", ["Dockerfile: EXPOSE is 8000, and service.toml has port = 80"]),
        *("service_toml", WRONG, "EXPOSE is 8000", "make both say the same"),
    ),
    "image whose name is wrong": (
        lambda road: write(road.root, {"Dockerfile": "FROM Python:3\n"}),
        *("digests", WRONG, "'Python:3' is not the name of an image", "correct it in the Dockerfile"),
    ),
    "gh may not see the repository": (
        lambda road: road.state.update(visible=False),
        *("on_github", WRONG, "shows no repository octo/hello", "gh auth status"),
    ),
    "default branch is master": (
        lambda road: road.state["repository"].update(default_branch="master"),
        *("default_branch", WRONG, "default branch is master", "branches/master/rename -f new_name=main"),
    ),
    "repository is archived": (
        lambda road: road.state["repository"].update(archived=True),
        *("default_branch", WRONG, "archived", "gh repo unarchive octo/hello"),
    ),
    "Actions are disabled": (
        lambda road: road.state["get"].update({"actions/permissions": {"enabled": False}}),
        *("actions", WRONG, "Actions are disabled", "actions/permissions -F enabled=true"),
    ),
    "only the owner's actions may run": (
        lambda road: road.state["get"].update(
            {"actions/permissions": {"enabled": True, "allowed_actions": "local_only"}}
        ),
        *("actions", WRONG, "only actions of this owner", "allowed_actions=all"),
    ),
    "fork whose workflows wait": (
        lambda road: road.state["workflows"][0].update(state="disabled_fork"),
        *("actions", WRONG, "CI is disabled fork", "gh workflow enable 1 .*I understand my workflows"),
    ),
    "token is a variable": (
        lambda road: variables(road, DOCKERHUB_TOKEN=TOKEN),
        *("account", WRONG, "DOCKERHUB_TOKEN is a variable", "actions/variables/DOCKERHUB_TOKEN --method DELETE"),
    ),
    "name is a secret": (
        lambda road: variables(road, DOCKERHUB_USERNAME="") or road.state["secrets"][""].update(DOCKERHUB_USERNAME=""),
        *("account", WRONG, "DOCKERHUB_USERNAME is a secret", "configure_github.py DOCKERHUB_USERNAME=NAME"),
    ),
    "no name": (
        lambda road: variables(road, DOCKERHUB_USERNAME=""),
        *(
            "account",
            MISSING,
            "DOCKERHUB_USERNAME: nothing is published",
            "configure_github.py DOCKERHUB_USERNAME=NAME",
        ),
    ),
    "no token": (
        lambda road: road.state["secrets"].update(publish={}),
        *("account", MISSING, "the secret DOCKERHUB_TOKEN", r"configure_github\.py --token"),
    ),
    "variable with another spelling": (
        lambda road: variables(road, DEPLOY_HOSTS="hello.example.org"),
        *("spelling", WRONG, "DEPLOY_HOSTS is read by nothing; DEPLOY_HOST is", "/DEPLOY_HOSTS --method DELETE"),
    ),
    "secret with another spelling": (
        lambda road: road.state["secrets"]["publish"].update(DEPLOY_SSHKEY=""),
        *("spelling", WRONG, "DEPLOY_SSHKEY is read by nothing", "gh secret delete DEPLOY_SSHKEY --env publish"),
    ),
    "name with a capital letter": (
        lambda road: variables(road, DOCKERHUB_USERNAME="Octo"),
        *("values", WRONG, "'Octo', which is not an account name", "configure_github.py DOCKERHUB_USERNAME=NAME"),
    ),
    "platform that there is not": (
        lambda road: variables(road, PLATFORMS="amd64"),
        *("values", WRONG, "PLATFORMS has 'amd64' in it", "configure_github.py PLATFORMS=linux/amd64"),
    ),
    "port that is none": (
        lambda road: variables(road, "production", EDGE_PORT="http"),
        *(
            "values",
            WRONG,
            "EDGE_PORT is 'http'",
            "production/variables/EDGE_PORT --method PATCH --raw-field value=4000",
        ),
    ),
    "host that is an address of the web": (
        lambda road: variables(road, "production", DEPLOY_HOST="https://hello.example.org"),
        *("values", WRONG, "DEPLOY_HOST is 'https://", "/DEPLOY_HOST --method PATCH --raw-field value=deploy@hello"),
    ),
    "no environment": (
        lambda road: (
            (road.state["environments"].pop("publish") and road.state["secrets"].update({"publish": {}}))
            or road.state["variables"][""].update(DOCKERHUB_OIDC_CONNECTIONID="x")
        ),
        *("environments", MISSING, "the environment publish", "configure_github.py"),
    ),
    "environment for every branch": (
        lambda road: road.state["environments"]["production"].update(deployment_branch_policy=None),
        *("environments", WRONG, "every branch may use the environment production", "configure_github.py"),
    ),
    "environment for more branches": (
        lambda road: policy(road, "branch", "feature/*"),
        *(
            "environments",
            WRONG,
            "production is also for branch feature/",
            "remove that rule at https://github.com/octo",
        ),
    ),
    "environment without tags": (
        lambda road: road.state["environments"]["publish"]["policies"].pop(),
        *("environments", WRONG, "publish is not for tag v", "configure_github.py"),
    ),
    "deploy key of the repository": (
        lambda road: road.state["secrets"][""].update(DEPLOY_SSH_KEY=""),
        *("environments", WRONG, "DEPLOY_SSH_KEY is a secret of the repository", "gh secret delete DEPLOY_SSH_KEY"),
    ),
    "no rule for main": (
        lambda road: road.state["rulesets"].pop(0),
        *("rules", MISSING, "a rule for main that requires", "configure_github.py"),
    ),
    "rule for a single job": (
        lambda road: ruleset(road, "Checks pass"),
        *("rules", WRONG, "main requires Checks pass, and not", "configure_github.py"),
    ),
    "rule that is switched off": (
        lambda road: road.state["rulesets"][0].update(enforcement="disabled"),
        *("rules", MISSING, "a rule for main", "configure_github.py"),
    ),
    "no rule for tags": (
        lambda road: road.state["rulesets"].pop(),
        *("rules", MISSING, "a rule for v. tags", "configure_github.py"),
    ),
    "last run failed": (
        lambda road: road.state["get"].update(
            {"actions/workflows/ci.yml/runs": {"workflow_runs": [{"id": 7, "conclusion": "failure"}]}}
        ),
        *("last_run", WRONG, "the last run of CI on main: failure", "gh run view 7 --log-failed"),
    ),
    "nothing vouches for the host": (
        lambda road: variables(road, "production", DEPLOY_KNOWN_HOSTS=""),
        *("deploy_settings", MISSING, "DEPLOY_KNOWN_HOSTS", r"scripts/prepare_host\.py"),
    ),
    "no deploy key": (
        lambda road: road.state["secrets"].update(production={}),
        *("deploy_settings", MISSING, "the secret DEPLOY_SSH_KEY", r"scripts/prepare_host\.py"),
    ),
    "secrets of the service": (
        lambda road: setattr(road, "service", Service("hello", ("hello",), secrets={"SECRET_KEY": "x"})),
        *(
            "deploy_settings",
            MISSING,
            "SERVICE_SECRETS with SECRET_KEY",
            "gh secret set SERVICE_SECRETS --env production",
        ),
    ),
    "token was revoked": (
        lambda road: road.hub.users.clear(),
        *("registry_login", WRONG, "Docker Hub refuses the login", "make a new token"),
    ),
    "token may only read": (
        lambda road: road.hub.users.update({f"octo:{TOKEN}": ["pull"]}),
        *("registry_login", WRONG, "may not push octo/hello", "make a token that may read and write"),
    ),
    "private code, public image": (
        lambda road: road.state["repository"].update(private=True),
        *(
            "image_there",
            WRONG,
            "the code is private, and everybody may pull",
            "make it private.*IMAGE_VISIBILITY to public",
        ),
    ),
    "private code, private image, and CI was not told": (
        private_and_not_told,
        *("image_there", WRONG, "octo/hello is private, and CI waits", "configure_github.py IMAGE_VISIBILITY=private"),
    ),
    "private code, no image yet": (
        lambda road: setattr(road.hub, "public", road.state["repository"].update(private=True) or set()),
        *("image_there", MISSING, "a first push makes it public", "create it as private first.*IMAGE_VISIBILITY"),
    ),
    "pulls are used up": (
        lambda road: setattr(road.hub, "left", (3, 100)),
        *("limit", WRONG, "Docker Hub allows 3 more pulls of 100", "docker login"),
    ),
    "another host key": (
        lambda road: setattr(road, "scan", "hello.example.org ssh-ed25519 AAAAOther\n"),
        *("host_key", WRONG, "shows another host key", "do not deploy.*console.*ssh-keygen -R hello.example.org"),
    ),
    "key of another host": (
        lambda road: variables(road, "production", DEPLOY_KNOWN_HOSTS="other.example.org ssh-ed25519 AAAA"),
        *("host_key", WRONG, "does not name hello.example.org", r"prepare_host\.py root@hello\.example\.org"),
    ),
    "no SSH server": (
        lambda road: setattr(road, "scan", ""),
        *("host_key", WRONG, "no SSH server answers at hello.example.org, port 22", "ssh deploy@hello.example.org"),
    ),
    "no login at the host": (
        lambda road: setattr(road, "ssh_error", "root@hello.example.org: Permission denied (publickey).\n"),
        *("host_login", WRONG, "Permission denied", "ssh root@hello.example.org"),
    ),
    "clock of the host": (
        lambda road: road.host.update(time=int(time.time()) - 3600),
        *("host_login", WRONG, "clock is -3[56][0-9]{2} s off", "timedatectl set-ntp true"),
    ),
    "disk of the host": (
        lambda road: road.host.update(disk=2**20),
        *("host_login", WRONG, "1.0 GiB of disk left", "docker system prune"),
    ),
    "engine of the host is old": (
        lambda road: road.host["docker"].update(ServerVersion="24.0.7"),
        *("host_login", WRONG, "engine is 24.0.7, and 25 or newer", "docs.docker.com/engine/install"),
    ),
    "no engine on the host": (
        lambda road: road.host.update(docker={}),
        *("host_login", MISSING, "no Docker Engine answers on the host", r"prepare_host\.py root@hello\.example\.org"),
    ),
    "no Swarm": (
        lambda road: road.host["docker"].update(Swarm={"LocalNodeState": "inactive"}),
        *("host_swarm", MISSING, "the host is in no Swarm", r"prepare_host\.py root@hello\.example\.org"),
    ),
    "host is a worker": (
        lambda road: road.host["docker"].update(Swarm={"LocalNodeState": "active", "ControlAvailable": False}),
        *("host_swarm", WRONG, "a Swarm's worker", "set DEPLOY_HOST to a manager"),
    ),
    "node is down": (
        lambda road: road.host.update(nodes="one=Ready two=Down "),
        *("host_swarm", WRONG, "node two is down", "docker node rm --force two"),
    ),
    "key opens a shell": (
        lambda road: road.host.update(keys=f"{DEPLOY_KEY}\nssh-ed25519 AAAA somebody@laptop\n"),
        *("key_restriction", WRONG, "opens a shell: somebody@laptop", r"prepare_host\.py"),
    ),
    "engine is open to everybody": (
        lambda road: road.host.update(ports=f"{road.host['ports']} 0.0.0.0:2375"),
        *("host_ports", WRONG, "port 2375 for everybody", "remove tcp://0.0.0.0:2375"),
    ),
    "port of the edge is taken": (
        lambda road: road.host.update(services=""),
        *("host_ports", WRONG, "port (80|443) is taken", "ss -ltnp 'sport = :(80|443)'"),
    ),
    "edge does not listen": (
        lambda road: road.host.update(ports="0.0.0.0:22 *:80"),
        *("host_ports", WRONG, "nothing listens on the host's port 443", r"redeploy\.py --status"),
    ),
    "name leads elsewhere": (
        lambda road: (
            variables(road, "production", DOMAIN="www.example.org")
            or road.addresses.update({"www.example.org": {"192.0.2.99"}})
        ),
        *("domain", WRONG, "resolves to 192.0.2.99, and the host is 192.0.2.7", "change the DNS record"),
    ),
    "name leads nowhere": (
        lambda road: variables(road, "production", DOMAIN="new.example.org"),
        *("domain", MISSING, "new.example.org does not resolve", "an A or AAAA record.*192.0.2.7"),
    ),
    "certificate ends": (
        lambda road: setattr(road, "certificate", time.time() + 3.5 * DAY),
        *("domain", WRONG, "ends in 3 days", "docker service logs"),
    ),
    "no certificate": (
        lambda road: setattr(road, "certificate", ConnectionRefusedError(111, "Connection refused")),
        *("domain", WRONG, "https://hello.example.org does not answer", "ports? 80 and 443|80 and 443 open"),
    ),
    "older version serves": (
        lambda road: setattr(road, "answer", visit.Answer(200, "0" * 40)),
        *(
            "deployed",
            WRONG,
            "serves 000000000000, and v1.2.3 is released",
            "gh workflow run redeploy.yml -f version=1.2.3",
        ),
    ),
    "nothing serves": (
        lambda road: setattr(road, "answer", visit.Answer(0, reason="ConnectionRefusedError")),
        *("deployed", WRONG, "does not serve: ConnectionRefusedError", r"redeploy\.py --status"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(road: Road, name: str) -> None:
    """It is named, with what fixes it, and nothing else is."""
    plant, check, state, said, fix = FAULTS[name]
    plant(road)
    lines = road.look()
    found = alarms(lines)
    assert {line.check for line in found} == {check}, report(lines)
    assert [line for line in found if line.state == state and re.search(said, line.said) and re.search(fix, line.fix)]
    assert [line for line in lines if line.said.startswith("not seen")] == []
    assert TOKEN not in report(lines)


def test_there_are_enough_faults() -> None:
    """Each check can fail but the two that always hold, and each fault is named with a command or a click."""
    checks = {check.__name__ for checks in doctor.CHECKS.values() for check in checks}
    assert checks - {check for _, check, *_ in FAULTS.values()} == {"python", "repository"}
    assert len(FAULTS) >= 30


def test_no_repository_at_all(tmp_path: Path, docker: Programs, docker_config: Path) -> None:
    """In a folder without Git, the commands that make one are named."""
    lines = {line.check: line for line in look(World({}, tmp_path))}
    assert (lines["repository"].state, lines["origin"].state) == (MISSING, MISSING)
    assert "git init" in lines["repository"].fix
    assert lines["origin"].fix == "git remote add origin https://github.com/OWNER/NAME.git"
    assert lines["on_github"].state == UNKNOWN


def test_what_cannot_be_seen_raises_no_alarm(road: Road) -> None:
    """A part that does not answer is named as such, and the others are looked at all the same."""
    road.hub.broken = 503
    road.state["refuses"] = {"actions": [500, "Server Error"]}
    road.env = {"DOCKERHUB_USERNAME": "octo"}
    lines = road.look()
    unseen = {line.check for line in lines if line.said.startswith("not seen")}
    assert {"registry_login", "image_there", "actions"} <= unseen
    assert [line for line in lines if line.check == "rules" and line.state == OK]
    assert all(line.state == UNKNOWN for line in lines if line.check in unseen)


def test_nothing_is_changed(road: Road) -> None:
    """Looking changes nothing, on GitHub or here, with faults or without."""
    for plant in (shallow, lambda road: road.state["workflows"][0].update(state="disabled_fork")):
        plant(road)
    before = git(road.root, "for-each-ref") + git(road.root, "status", "--porcelain")
    road.look()
    assert git(road.root, "for-each-ref") + git(road.root, "status", "--porcelain") == before
    assert road.github.changes == []
    changing = re.compile(r"\b(create|deploy|init|join|leave|pull|push|remove|rm|set|tag|update)\b")
    for call in road.programs.calls:
        command = [word for word in call if word != "--rm"]
        assert not changing.search(" ".join(command)), call


def test_fix_does_what_is_safe(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """--fix fetches the history and enables a workflow; then it looks again."""
    road.state["workflows"][0]["state"] = "disabled_fork"
    world = road.world()
    assert doctor.fix(world, look(world))
    assert alarms(look(road.world())) == []
    upstream = tmp_path / "upstream"
    run(["git", "clone", "--quiet", "--bare", f"file://{road.root}", str(upstream)])
    git(road.root, "remote", "set-url", "origin", f"file://{upstream}")
    shallow(road)
    world = road.world()
    assert doctor.fix(world, look(world))
    assert git(road.root, "rev-parse", "--is-shallow-repository") == "false"
    assert not doctor.fix(world, look(road.world())), "nothing is left to do"
    assert "$ git fetch --quiet --unshallow origin" in capfd.readouterr().err
    enable = ["workflow", "enable", "1", "--repo", "github.com/octo/hello"]
    assert [call["words"] for call in road.github.calls].count(enable) == 1


def test_main(road: Road, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The text has each line with its fix under it, and JSON the same; the exit code says whether all is well."""
    world = road.world()
    monkeypatch.setattr(doctor, "World", lambda env, login="": world)
    assert doctor.main([]) == 0
    assert capfd.readouterr().out.startswith("this machine\n  ok       Python 3.")
    road.differences = ["Dockerfile: EXPOSE is 8000, and service.toml has port = 80"]
    assert doctor.main(["--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert {tuple(line) for line in found} == {("state", "said", "fix", "safe", "area", "check")}
    assert [line["check"] for line in found if line["state"] == "wrong"] == ["service_toml"]
    assert doctor.main(["--host", "root@hello.example.org"]) == 1
    out = capfd.readouterr().out
    assert "  wrong    Dockerfile: EXPOSE is 8000" in out
    assert "             make both say the same" in out
    assert out.endswith("1 to fix\n")
    with pytest.raises(UsageError, match="--host is 'https://x'"):
        doctor.main(["--host", "https://x"])


def test_token_is_seen_nowhere(road: Road, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither in what is printed nor in a command, an address or a file; also when the registry refuses it."""
    for plant in (
        lambda road: None,
        lambda road: road.hub.users.clear(),
        lambda road: setattr(road.hub, "broken", 500),
    ):
        plant(road)
        lines = road.look()
        assert TOKEN not in json.dumps([vars(line) for line in lines])
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err
    assert TOKEN not in json.dumps(road.programs.calls + [call["words"] for call in road.github.calls])
    assert not [request for request in road.hub.requests if TOKEN in request]
    assert not [file for file in road.root.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


# The registry


@pytest.mark.parametrize(
    ("user", "actions", "exists"),
    [
        ("octo:t", {"pull", "push"}, True),
        ("reader:t", {"pull"}, True),
        ("", set(), False),
    ],
)
def test_rights(rights: RightsStandIn, user: str, actions: set[str], exists: bool) -> None:
    """What a login may do is in the token that it gets, and nothing is pushed to find out."""
    rights.users = {"octo:t": ["pull", "push"], "reader:t": ["pull"]}
    rights.private = {"octo/hello"}
    image = ImageName(rights.host, "octo", "hello")
    found = access(image, login(user))
    assert found == Access(frozenset(actions), exists)
    assert {request.split()[0] for request in rights.requests} == {"GET"}


def login(user: str) -> Login:
    """Return a login as docker keeps it."""
    return Login(f"Basic {base64.b64encode(user.encode()).decode()}") if user else Login()


def test_registries_that_say_less(rights: RightsStandIn) -> None:
    """A token may say nothing, and a registry may have none."""
    rights.users, rights.private = {"octo:t": ["pull", "push"]}, {"octo/hello"}
    image = ImageName(rights.host, "octo", "hello")
    rights.opaque = True
    assert access(image, login("octo:t")) == access(image, login("octo:t"))
    assert access(image, login("octo:t")).actions is None
    rights.basic = True
    assert access(image, login("octo:t")).exists
    assert not access(image, Login()).exists
    with pytest.raises(Refused, match="refuses the login"):
        access(image, login("octo:wrong"))
    rights.broken = 500
    with pytest.raises(Failure, match="says 500"):
        access(image, login("octo:t"))
    for token in ("", "a.b.c", "a.e30.c", "a.bm8.c"):
        assert granted(token, "octo/hello") is None


def test_pulls_left(road: Road) -> None:
    """Docker Hub's limit is asked without using it up; an account without one has none."""
    assert pulls_left(Login()) == (95, 100)
    assert [request for request in road.hub.requests if "manifests" in request] == [
        "HEAD /v2/ratelimitpreview/test/manifests/latest"
    ]
    road.hub.left = None
    assert pulls_left(Login()) is None


# The real parts


def test_a_registry_for_real(tmp_path: Path) -> None:
    """A real registry that wants a name and a password each time."""
    need(bool(shutil.which("docker-registry")), "a registry")
    port, daemon = free_port(), Daemon("registry", tmp_path)
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "passwords")}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "passwords").write_text(PASSWORDS, "utf-8")
    image = ImageName(f"127.0.0.1:{port}", "octo", "hello")
    good, bad = login(f"octo:{PASSWORD}"), login("octo:wrong")
    try:
        daemon.start(["docker-registry", "serve", str(tmp_path / "config.json")], ready=lambda: accepts(port))
        assert access(image, Login()) == Access(frozenset(), exists=False)
        assert access(image, good) == Access(None, exists=False)
        with pytest.raises(Refused, match="refuses the login"):
            access(image, bad)
        upload(honest("0" * 40), f"127.0.0.1:{port}", "octo/hello", "latest", good.basic)
        assert access(image, good) == Access(None, exists=True)
        assert not access(image, Login()).exists
    finally:
        daemon.stop()


def accepts(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (
            "FROM python:3\nFROM python:3\n",
            "python:3: by tag alone; python3 scripts/pin_images.py gives each image its",
        ),
        (f"FROM python:3@sha256:{'0' * 64}\n", "every image has its digest"),
    ],
)
def test_images_by_tag_raise_no_alarm(road: Road, dockerfile: str, said: str) -> None:
    """It is said in one line, and is the owner's choice."""
    write(road.root, {"Dockerfile": dockerfile})
    (line,) = doctor.digests(road.world())
    assert (line.state, said in line.said) == (OK, True)


def test_this_machine_for_real() -> None:
    """The real programs of this machine can be asked, and the lines are printed."""
    world = World({})
    names = {line.check for area in ("this machine", "the clone") for line in look(world) if line.area == area}
    assert {"python", "git", "docker_engine", "repository"} <= names


def test_a_host_over_ssh_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection to a real SSH server says all there is to know, and changes nothing."""
    need_root("an SSH server that takes root's key")
    port = free_port()
    key = make_key(tmp_path / "key")
    (tmp_path / "authorized").write_text(key + "\n", "utf-8")
    options = f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no"
    tmp_path.chmod(0o700)
    with ssh_server(tmp_path, "127.0.0.1", port, options, lambda command: command) as host_key:
        known = f"[127.0.0.1]:{port} {' '.join(host_key.split()[:2])}"
        (tmp_path / "known").write_text(known + "\n", "utf-8")
        wrapper = tmp_path / "bin" / "ssh"
        wrapper.parent.mkdir()
        more = f"-o UserKnownHostsFile={tmp_path}/known -o IdentitiesOnly=yes -i {tmp_path}/key"
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {more} "$@"\n', "utf-8")
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
        env = {"DEPLOY_HOST": f"root@127.0.0.1:{port}", "DEPLOY_KNOWN_HOSTS": known}
        world = World(env, login=f"root@127.0.0.1:{port}")
        assert [line.state for line in doctor.host_key(world)] == [OK]
        assert abs(int(world.host["time"]) - time.time()) < doctor.CLOCK
        assert int(world.host["disk"]) > 0
        assert f"127.0.0.1:{port}" in world.host["ports"].split()
        other = make_key(tmp_path / "other").split()
        world = World({**env, "DEPLOY_KNOWN_HOSTS": f"[127.0.0.1]:{port} {other[0]} {other[1]}"})
        assert [line.state for line in doctor.host_key(world)] == [WRONG]


def test_a_certificate_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real TLS server: when its certificate ends, and that one nobody signed is not good."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "40"]
    made = run([*command, *names, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")], check=False)
    need(made.returncode == 0, "openssl", "install it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                plain, _address = server.accept()
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            doctor.ends("localhost", port)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "crt"))
        assert 39 * DAY < doctor.ends("localhost", port) - time.time() <= 40 * DAY
        thread.join()


def test_workflows_say_what_they_read() -> None:
    """The settings that are known are those that the workflows name, so none is forgotten."""
    variables_, secrets = gh.known(ROOT)
    assert {"DOCKERHUB_USERNAME", "PLATFORMS", "DEPLOY_HOST", "DEPLOY_KNOWN_HOSTS", "DOMAIN"} <= variables_
    assert {"DOCKERHUB_TOKEN", "DEPLOY_SSH_KEY"} <= secrets
    assert "GITHUB_TOKEN" not in secrets


def test_help() -> None:
    """The script explains itself, also from another folder."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/doctor.py"), "--help"], capture_output=True, encoding="utf-8", cwd="/"
    )
    assert done.returncode == 0
    assert "--fix" in done.stdout


def test_a_line_without_a_fix(road: Road) -> None:
    """Nothing stands under it."""
    assert report([Line(OK, "fine", area="the clone")]) == "the clone\n  ok       fine\nnothing to fix"
