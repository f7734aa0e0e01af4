"""A stand-in for `gh`: a repository on GitHub in a file, and a record of every call and of what it was given.

It answers `gh auth status`, `gh api`, `gh secret set` and `gh workflow enable`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """#!{python}
import sys
sys.path.insert(0, {tests!r})
from support.github import serve
serve({folder!r})
"""


ACTIONS = 4711
"""The number of the app that reports what workflows find: GitHub's, and each Enterprise Server's, is its own."""


class Refusal(Exception):
    """What GitHub says instead of an answer."""


def called(state: dict[str, Any], words: list[str], stdin: str) -> str:
    """Answer one call of `gh` from the state, and change that; raise Refusal with what gh would write to stderr."""

    def option(name: str, default: str = "") -> str:
        return words[words.index(name) + 1] if name in words else default

    if words[:2] == ["auth", "status"]:
        if not state["login"]:
            raise Refusal("You are not logged into any GitHub hosts.")
        return ""
    if words[:2] == ["secret", "set"]:
        place = option("--env")
        if place and place not in state["environments"]:
            raise missing()
        state["secrets"].setdefault(place, {})[words[2]] = stdin
        return ""
    if words[:2] == ["workflow", "enable"]:
        for flow in state["workflows"]:
            flow["state"] = "active"
        return ""
    if words[0] != "api":
        raise Refusal(f"the stand-in for gh does not know {words}")
    slug = state["repository"]["full_name"]
    path = next(word for word in words if word.startswith(("repos/", "apps/"))).partition("?")[0]
    if path in state["apps"]:
        return json.dumps(state["apps"][path])
    if not path.startswith(f"repos/{slug}") or not state["visible"]:
        raise missing()
    path = path.removeprefix(f"repos/{slug}").lstrip("/")
    code, text = state["refuses"].get(path.partition("/")[0], (0, ""))
    if code:
        raise Refusal(f"gh: {text} (HTTP {code})")
    body = json.loads(stdin) if "--input" in words else {}
    return json.dumps(api(state, path, option("--method", "GET"), body))


def missing() -> Refusal:
    """Return what GitHub says of what is not there, or not to be seen."""
    return Refusal("gh: Not Found (HTTP 404)")


def listed(key: str, items: list[Any]) -> dict[str, Any]:
    """Return a list as GitHub gives it."""
    return {"total_count": len(items), key: items}


def api(state: dict[str, Any], path: str, method: str, body: dict[str, Any]) -> Any:
    """Answer for a path of the repository."""
    first, *rest = path.split("/")
    if path == "":
        return state["repository"]
    if path in state["get"]:
        return state["get"][path]
    if path == "actions/workflows":
        return listed("workflows", state["workflows"])
    if rest and rest[-1] in ("variables", "secrets"):
        place = "" if first == "actions" else rest[0]
        if place and place not in state["environments"]:
            raise missing()
        kept = state[rest[-1]].setdefault(place, {})
        if method == "POST":
            kept[body["name"]] = body["value"]
        shows = rest[-1] == "variables"
        return listed(rest[-1], [{"name": name, **({"value": kept[name]} if shows else {})} for name in kept])
    if len(rest) > 1 and rest[-2] == "variables":
        kept = state["variables"].get("" if first == "actions" else rest[0], {})
        if rest[-1] not in kept:
            raise missing()
        if method == "DELETE":
            return {"name": rest[-1], "value": kept.pop(rest[-1])}
        kept[rest[-1]] = body.get("value", kept[rest[-1]])
        return {"name": rest[-1], "value": kept[rest[-1]]}
    if first == "environments":
        return environments(state, rest, method, body)
    if first == "rulesets":
        return rulesets(state, rest, method, body)
    raise missing()


def environments(state: dict[str, Any], rest: list[str], method: str, body: dict[str, Any]) -> Any:
    """Answer for environments and for what may use them."""
    there = state["environments"]
    if not rest:
        return listed("environments", [{"name": name} for name in there])
    if method == "PUT":
        there.setdefault(rest[0], {"policies": []}).update(body)
    if rest[0] not in there:
        raise missing()
    if len(rest) == 1:
        return {"name": rest[0], **there[rest[0]]}
    policies = there[rest[0]]["policies"]
    if method == "POST":
        policies.append([body["type"], body["name"]])
    return listed("branch_policies", [{"type": kind, "name": name} for kind, name in policies])


def rulesets(state: dict[str, Any], rest: list[str], method: str, body: dict[str, Any]) -> Any:
    """Answer for rulesets."""
    there = state["rulesets"]
    if not rest and method == "POST":
        there.append({"id": 100 + len(there), **body})
        return there[-1]
    if not rest:
        return [{key: rule[key] for key in ("id", "name", "target", "enforcement")} for rule in there]
    found = next((rule for rule in there if str(rule["id"]) == rest[0]), None)
    if found is None:
        raise missing()
    found.update(body)
    return found


def serve(folder: str) -> None:
    """Be the program `gh`: note the call, and answer it from the state in a folder."""
    place = Path(folder)
    stdin = "" if sys.stdin.isatty() else sys.stdin.read()
    with (place / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"words": sys.argv[1:], "stdin": stdin}) + "\n")
    state = json.loads((place / "state.json").read_text())
    try:
        sys.stdout.write(called(state, sys.argv[1:], stdin))
    except Refusal as refusal:
        sys.exit(str(refusal))
    (place / "state.json").write_text(json.dumps(state))


def fresh(slug: str = "octo/hello") -> dict[str, Any]:
    """Return the state of a repository that nothing was set for yet."""
    return {
        "login": True,
        "visible": True,
        "refuses": {},  # first word of a path -> [status, text]
        "repository": {
            "full_name": slug,
            "default_branch": "main",
            "private": False,
            "fork": False,
            "permissions": {"admin": True},
        },
        "variables": {"": {}},
        "secrets": {"": {}},
        "environments": {},
        "rulesets": [],
        "apps": {"apps/github-actions": {"id": ACTIONS, "slug": "github-actions"}},
        "workflows": [{"id": 1, "name": "CI", "state": "active"}],
        "get": {
            "actions/permissions": {"enabled": True, "allowed_actions": "all"},
            "actions/workflows/ci.yml/runs": {"workflow_runs": [{"id": 7, "conclusion": "success"}]},
        },
    }


class GitHubStandIn:
    """A repository on GitHub, as `gh` sees it; `state` is read before each call, and `keep` writes it."""

    def __init__(self, folder: Path, bin_: Path, slug: str = "octo/hello") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state = fresh(slug)
        self.keep()
        program = bin_ / "gh"
        program.write_text(PROGRAM.format(python=f"{sys.executable} -S", folder=str(folder), tests=str(TESTS)), "utf-8")
        program.chmod(0o755)

    def keep(self) -> None:
        """Let the next call see `state`."""
        (self.folder / "state.json").write_text(json.dumps(self.state), "utf-8")

    def read(self) -> dict[str, Any]:
        """Return the state after what was called."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        return found

    def note(self, words: list[str], stdin: str) -> None:
        """Record a call."""
        with (self.folder / "calls.jsonl").open("a", encoding="utf-8") as calls:
            calls.write(json.dumps({"words": words, "stdin": stdin}) + "\n")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call so far: its words, and what it was given on standard input."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    @property
    def changes(self) -> list[list[str]]:
        """The calls that change something."""
        return [call["words"] for call in self.calls if "--method" in call["words"] or call["words"][1:2] == ["set"]]
