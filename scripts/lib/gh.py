"""GitHub, through its own command `gh`: what is set for the repository, and what should be.

`gh` keeps the login, so no token of GitHub's ever passes through here. https://cli.github.com/manual/gh_api
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.command import ROOT, Failure, UsageError, last_line, run
from lib.names import public_url
from lib.service import Service, platforms
from lib.settings import wanted

ENVIRONMENTS = ("publish", "production")
"""Where jobs get their secrets: to push the image, and to deploy it."""

REFS = (("branch", "main"), ("tag", "v*"))
"""What may use these environments: nothing that a branch of anybody's could change."""

MAINTAIN, ADMIN = 2, 5
"""The roles of a repository that may bypass a rule. GitHub's own page, https://docs.github.com/rest/repos/rules, does
not list their numbers; Terraform's does, under "bypass_actors":
https://registry.terraform.io/providers/integrations/github/latest/docs/resources/repository_ruleset
"""


def rulesets(app: int | None) -> tuple[dict[str, Any], ...]:
    """Return the rules for main and for version tags; only `app` may report the check `required`, or anybody if None.

    Nobody bypasses the rule for main: who administers the repository can disable it, and GitHub's audit log shows that.
    It does not keep a first push from making main.
    """
    keepers = [
        {"actor_id": role, "actor_type": "RepositoryRole", "bypass_mode": "always"} for role in (MAINTAIN, ADMIN)
    ]
    check = {"context": "required", **({"integration_id": app} if app else {})}
    return (
        {
            "name": "main: checks have passed",
            "target": "branch",
            "enforcement": "active",
            "conditions": {"ref_name": {"include": ["~DEFAULT_BRANCH"], "exclude": []}},
            "rules": [
                {"type": "deletion"},
                {"type": "non_fast_forward"},
                {
                    "type": "required_status_checks",
                    "parameters": {
                        "strict_required_status_checks_policy": False,
                        "do_not_enforce_on_create": True,
                        "required_status_checks": [check],
                    },
                },
            ],
        },
        {
            "name": "v*: who releases",
            "target": "tag",
            "enforcement": "active",
            "conditions": {"ref_name": {"include": ["refs/tags/v*"], "exclude": []}},
            "rules": [{"type": "creation"}, {"type": "update"}, {"type": "deletion"}],
            "bypass_actors": keepers,
        },
    )


class Denied(Failure):
    """GitHub does not show this to us, or the plan does not have it."""


class GitHub:
    """One repository on GitHub; `slug` is its owner/name."""

    def __init__(self, slug: str, host: str = "github.com") -> None:
        self.slug = slug
        self.host = host

    def command(self, *arguments: str) -> list[str]:
        """Return the `gh api` command for a path of this repository, such as `environments`."""
        path, *rest = arguments
        return ["gh", "api", "--hostname", self.host, f"repos/{self.slug}{'/' if path else ''}{path}", *rest]

    def get(self, path: str) -> Any:
        """Return what GitHub says, None if there is no such thing; raise Denied or Failure if it does not say."""
        return answered(run(self.command(path), check=False, timeout=60), path)

    def items(self, path: str, key: str = "") -> list[dict[str, Any]]:
        """Return all of a list, over its pages; `key` is where an answer has it. None there is an empty one."""
        found: list[dict[str, Any]] = []
        for page in range(1, 100):
            answer = self.get(f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}")
            items = (answer or {}).get(key, []) if key else answer or []
            found += items
            if len(items) < 100:
                break
        return found

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Change something, and return what GitHub says."""
        command = self.command(path, "--method", method, "--input", "-")
        done = run(command, check=False, timeout=60, stdin=json.dumps(body))
        if done.returncode:
            return answered(done, path, missing=False)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def variables(self, environment: str = "") -> dict[str, str]:
        """Return the variables of the repository, or of one of its environments."""
        path = f"environments/{environment}/variables" if environment else "actions/variables"
        return {item["name"]: item["value"] for item in self.items(path, "variables")}

    def secrets(self, environment: str = "") -> set[str]:
        """Return the names of the secrets; GitHub tells nobody their values."""
        path = f"environments/{environment}/secrets" if environment else "actions/secrets"
        return {item["name"] for item in self.items(path, "secrets")}

    def variable_path(self, name: str, environment: str = "") -> str:
        """Return the path of a variable, of the repository or of an environment."""
        return f"{f'environments/{environment}' if environment else 'actions'}/variables/{name}"

    def set_variable(self, name: str, value: str, environment: str = "") -> None:
        """Set a variable, of the repository or of an environment. `gh variable` is newer than Debian 12's gh."""
        path = self.variable_path(name, environment)
        there = self.get(path) is not None
        body = {"name": name, "value": value}
        self.send("PATCH" if there else "POST", path if there else path.removesuffix(f"/{name}"), body)

    def set_secret(self, name: str, value: str, environment: str = "") -> None:
        """Set a secret: `gh` reads it from standard input, so that no list of processes shows it."""
        where = ["--env", environment] if environment else []
        command = ["gh", "secret", "set", name, "--repo", f"{self.host}/{self.slug}", *where]
        done = run(command, check=False, timeout=60, stdin=value)
        if done.returncode:
            raise Failure(f"cannot set the secret {name} of {self.slug}{last_line(done)}")

    def policies(self, environment: str) -> set[tuple[str, str]] | None:
        """Return what may use an environment, as kind and pattern: None for everything."""
        settings = self.get(f"environments/{environment}") or {}
        if not (settings.get("deployment_branch_policy") or {}).get("custom_branch_policies"):
            return None
        found = self.items(f"environments/{environment}/deployment-branch-policies", "branch_policies")
        return {(item.get("type", "branch"), item["name"]) for item in found}

    def actions_app(self) -> int | None:
        """Return the number of the app that reports what workflows find, None if this GitHub does not show it.

        Each GitHub Enterprise Server has a number of its own: https://docs.github.com/rest/apps/apps#get-an-app
        """
        path = "apps/github-actions"
        found = answered(run(["gh", "api", "--hostname", self.host, path], check=False, timeout=60), path)
        return int(found["id"]) if found else None

    def rulesets(self) -> list[dict[str, Any]]:
        """Return the active rulesets of the repository in full, and those that its owner has for it."""
        return [
            self.get(f"rulesets/{item['id']}") or {}
            for item in self.items("rulesets?includes_parents=true")
            if item.get("enforcement") == "active"
        ]


def answered(done: Any, path: str, *, missing: bool = True) -> Any:
    """Return what an answer of `gh api` says, None for 404 if it may be missing; raise Denied or Failure."""
    if not done.returncode:
        return json.loads(done.stdout)
    status = re.search(r"\(HTTP (\d+)\)", done.stderr)
    code = int(status[1]) if status else 0
    if code == 404 and missing:
        return None
    kind = Denied if code in (401, 403, 404) else Failure
    raise kind(f"GitHub says about {path or 'the repository'}{last_line(done)}")


def find(remote: str) -> GitHub | None:
    """Return the repository that a remote's address names; None if it is none of GitHub's form."""
    match = re.fullmatch(r"https://([^/]+)/([^/]+/[^/]+)", public_url(remote))
    return GitHub(match[2], match[1]) if match else None


def check_login(host: str) -> str:
    """Return why `gh` cannot ask, with what to do, or "" if it can."""
    if not shutil.which("gh"):
        return "gh is not installed; see https://cli.github.com, or apt-get install gh"
    done = run(["gh", "auth", "status", "--hostname", host], check=False, timeout=60)
    return f"gh is not logged in at {host}; run gh auth login --hostname {host}" if done.returncode else ""


HOW = ("DOMAIN", "EDGE_PORT", "REPLICAS", "DEPLOY_URL")
"""The variables that say how to deploy."""
CHOICES = {
    "IMAGE_VISIBILITY": ("private", "public"),
    **dict.fromkeys(("DEPLOY_ON_RELEASE", "EMULATE", "ATTESTATIONS"), ("true", "false")),
}
"""The variables that are one of a few words."""


def forms(settings: Mapping[str, str], service: Service | None) -> tuple[Callable[[], object], ...]:
    """Return checks of the form of variables; each raises UsageError if a value would fail its run, or be ignored."""
    how = {name: settings.get(name, "") for name in HOW}
    return (
        lambda: platforms(None, settings),
        lambda: wanted(how, service) if service else None,
        *(functools.partial(one_of, name, settings, expected) for name, expected in CHOICES.items()),
    )


def one_of(name: str, settings: Mapping[str, str], expected: Sequence[str]) -> None:
    """Raise UsageError if a setting is another word."""
    value = settings.get(name, "")
    if value and value not in expected:
        raise UsageError(f"{name} is {value!r}, expected {' or '.join(expected)}")


def known(root: Path = ROOT) -> tuple[set[str], set[str]]:
    """Return the names of the variables and of the secrets that the workflows read."""
    text = "".join(file.read_text("utf-8") for file in sorted((root / ".github/workflows").glob("*.yml")))
    variables, secrets = (set(re.findall(rf"\b{kind}\.([A-Z][A-Z0-9_]*)", text)) for kind in ("vars", "secrets"))
    return variables, secrets - {"GITHUB_TOKEN"}
