#!/usr/bin/env python3
"""Bring a fork or a copy of this template up to date, with git alone.

  python3 scripts/update_template.py --dry-run     say what would come, and change nothing
  python3 scripts/update_template.py               merge the template's newest release
  python3 scripts/update_template.py --to v1.2.0   a release, `main`, or a commit's full id

The template's old and new files are renamed as this copy was renamed, and then merged as git merges: what only
the template changed comes, what only you changed stays. What you deleted stays deleted. Your own files (your
service, its tests, its settings, the Dockerfile, deploy/ and so on) are merged only if git can do it cleanly;
otherwise yours stay, and this says so. Lines of the pipeline that both changed are left for you to decide.

Where the copy came from is in .github/template.json, or in its history; --from says it otherwise. Uncommitted changes
are never touched. The last line says how to undo it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import ROOT, Failure, UsageError, last_line, parser, run, say, shown, start
from lib.names import SEMVER, SHA, parse_version, without_secrets
from lib.template import (
    RECORD,
    SERVICE_FOLDERS,
    Name,
    Record,
    is_yours,
    name_in,
    named,
    parse_record,
    pipeline_state,
    rename_file,
    rename_path,
    renamings,
    write_record,
)

OLDEST_GIT = (2, 38)  # the first with `git merge-tree --write-tree`
MAIN = "refs/template/main"
TAGS = "refs/template/tags/"
# Nothing of the user's configuration may change what a merge gives.
SAME = ("-c", "merge.renames=true", "-c", "merge.directoryRenames=false", "-c", "merge.renameLimit=10000")

Tree = Mapping[str, tuple[str, str]]
"""A tree's files: path -> (mode, blob)."""


class Git:
    """git in one repository."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """Run git and return what it printed, without the last line break."""
        command = ["git", "-C", str(self.root), *SAME, *arguments]
        return run(command, check=check, env=env).stdout.rstrip("\n")

    def ok(self, *arguments: str) -> bool:
        """Whether git ends with 0."""
        return run(["git", "-C", str(self.root), *arguments], check=False).returncode == 0

    def raw(self, *arguments: str, stdin: bytes = b"", ends: Sequence[int] = (0,)) -> bytes:
        """Run git and return the bytes that it printed: line endings stay as they are."""
        command = ["git", "-C", str(self.root), *SAME, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        if done.returncode not in ends:
            text = subprocess.CompletedProcess(command, done.returncode, "", done.stderr.decode("utf-8", "replace"))
            raise Failure(f"exit {done.returncode} from {shown(['git', *arguments])}{last_line(text)}")
        return done.stdout

    def commit(self, name: str) -> str:
        """Return the full id of the commit that a name means, "" for none."""
        return self.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)

    @functools.cache  # noqa: B019  one object for one run
    def tree(self, tree: str) -> Tree:
        """Return the files of a tree or a commit."""
        found = {}
        for entry in self.raw("ls-tree", "-r", "-z", tree).decode("utf-8", "surrogateescape").split("\0")[:-1]:
            facts, _, path = entry.partition("\t")
            mode, _, blob = facts.split()
            found[path] = (mode, blob)
        return found

    def blobs(self, blobs: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of blobs."""
        wanted = list(dict.fromkeys(blobs))
        out = self.raw("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in wanted).encode())
        found, at = {}, 0
        for blob in wanted:
            end = out.index(b"\n", at)
            size = int(out[at:end].split()[2])
            found[blob] = out[end + 1 : end + 1 + size]
            at = end + size + 2
        return found

    def text(self, tree: str, path: str) -> str:
        """Return a file of a tree as text, "" if there is none."""
        entry = self.tree(tree).get(path)
        return self.blobs([entry[1]])[entry[1]].decode("utf-8", "replace") if entry else ""

    def write_tree(self, files: Tree) -> str:
        """Write a tree of files and return its id."""
        lines = "".join(f"{mode} {blob}\t{path}\0" for path, (mode, blob) in files.items())
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "GIT_INDEX_FILE": f"{folder}/index"}
            command = ["git", "-C", str(self.root), "update-index", "-z", "--index-info"]
            subprocess.run(command, input=lines.encode("utf-8", "surrogateescape"), env=env, check=True)
            return self.run("write-tree", env={"GIT_INDEX_FILE": f"{folder}/index"})

    def commit_tree(self, tree: str, message: str, *parents: str) -> str:
        """Write a commit and return its id. The user's own name is not needed for one that is thrown away."""
        return self.run("commit-tree", tree, *(part for parent in parents for part in ("-p", parent)), "-m", message)


def check_git(version: str) -> None:
    """Raise Failure unless `git version` is new enough."""
    match = re.search(r"(\d+)\.(\d+)", version)
    if not match or (int(match[1]), int(match[2])) < OLDEST_GIT:
        raise Failure(
            f"this needs git 2.38 or newer, and here is {version.removeprefix('git version ') or 'none'}; Debian 12 and"
            " Ubuntu 24.04 have one, and elsewhere https://git-scm.com/downloads does"
        )


def check_clean(git: Git) -> None:
    """Raise Failure if the work tree has changes that are in no commit."""
    changed = git.run("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise Failure(
            f"{len(changed)} tracked files have changes that are in no commit, such as {changed[0][3:]}; commit them,"
            " or put them away with git stash, and run this again"
        )


def template_address(git: Git, given: str) -> tuple[str, Record | None]:
    """Return the template's address and what the copy's record says, if there is one."""
    text = git.text("HEAD", RECORD)
    record = parse_record(text) if text else None
    upstream = git.run("config", "--get", "remote.upstream.url", check=False)
    address = given or (record.origin if record else "") or upstream
    if not address:
        raise UsageError(
            "nothing says where the template is; say it with --from https://github.com/OWNER/NAME (GitHub shows it"
            " under your repository's name as 'generated from' or 'forked from')"
        )
    if address.startswith("-"):
        raise UsageError(f"--from is {address!r}, which is not an address")
    return address, record


def fetch(git: Git, address: str) -> None:
    """Fetch the template into refs of its own: its tags would start releases as yours."""
    refs = [f"+HEAD:{MAIN}", f"+refs/tags/*:{TAGS}*"]
    done = run(
        ["git", "-C", str(git.root), "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", address, *refs],
        check=False,
        env={"GIT_TERMINAL_PROMPT": "0"},
    )
    if done.returncode:
        where = without_secrets(address)
        raise Failure(f"cannot fetch the template from {where}{last_line(done)}; say where it is with --from")


def target(git: Git, wanted: str) -> tuple[str, str]:
    """Return the commit to update to and what to call it: the newest release, or main if there is none yet."""
    tags = git.run("for-each-ref", "--format=%(refname)", TAGS).splitlines()
    names = [ref.removeprefix(TAGS) for ref in tags]
    if not wanted:
        releases = [name for name in names if name.startswith("v") and SEMVER.fullmatch(name[1:]) and "-" not in name]
        wanted = max(releases, key=lambda name: parse_version(name[1:]), default="main")
    if wanted == "main":
        commit = git.commit(MAIN)
        return commit, f"main ({commit[:12]})"
    if wanted in names:
        return git.commit(TAGS + wanted), wanted
    commit = git.commit(wanted) if SHA.fullmatch(wanted) else ""
    if not commit:
        raise UsageError(
            f"--to is {wanted!r}, which is not a release of the template, main, or a commit's full id; its newest"
            f" releases are {', '.join(sorted(names)[-5:]) or 'none yet'}"
        )
    return commit, commit[:12]


def base(git: Git, record: Record | None, to: str) -> tuple[str, str]:
    """Return the template's commit that the copy has already, and how that is known."""
    shared = git.run("merge-base", "HEAD", to, check=False)
    recorded = record.commit if record else ""
    if recorded and not git.commit(recorded):
        raise Failure(
            f"{RECORD} says commit {recorded}, which the template at {record.origin if record else ''} does not have;"
            " say where the template is with --from"
        )
    if recorded and (not shared or git.ok("merge-base", "--is-ancestor", shared, recorded)):
        return recorded, f"as {RECORD} says"
    if shared:
        return shared, "from the common history"
    return likest(git, to)


def likest(git: Git, to: str) -> tuple[str, str]:
    """Return the template's commit whose files are most like the copy's, and in how many files.

    The first commit of a copy has exactly the files that were copied; a shallow clone, or a history that was rewritten,
    leaves only those of today, and then the commit counts that has most of them.
    """
    history = git.run("log", "--format=%H %T", to).splitlines()
    by_tree = {line.split()[1]: line.split()[0] for line in reversed(history)}
    for root in git.run("log", "--max-parents=0", "--format=%T", "HEAD").splitlines():
        if root in by_tree:
            return by_tree[root], "its files are those of this copy's first commit"
    have = {blob for _, blob in git.tree("HEAD").values()}
    counts = {}
    for line in history:
        commit = line.split()[0]
        counts[commit] = sum(blob in have for _, blob in git.tree(commit).values())
    most = max(counts.values())
    if most < 10:
        raise Failure(
            f"no commit of the template has much in common with this repository ({most} files at most); say which one"
            f" it was copied from in {RECORD}"
        )
    # Several may differ only in what the copy changed; then fewer changed lines decide.
    best = [commit for commit, count in counts.items() if count == most][:20]
    return min(best, key=lambda commit: lines_between(git, commit)), f"{most} of its files are the same here"


def lines_between(git: Git, commit: str) -> int:
    """Return how many lines differ between a commit and the copy."""
    text = git.run("diff", "--shortstat", "-M", commit, "HEAD")
    return sum(int(number) for number in re.findall(r"(\d+) (?:insertion|deletion)", text))


def names(git: Git, old: str, record: Record | None) -> tuple[Name, Name] | None:
    """Return the service's name in the template and in the copy, None if it was not renamed."""
    files = ("service.toml", "pyproject.toml")
    before = name_in({file: git.text(old, file) for file in files})
    found = name_in({file: git.text("HEAD", file) for file in files})
    after = named(record.name) if record and record.name else found
    return (before, after) if before and after and before != after else None


class Renamer:
    """Makes the template's files look as if they had been renamed, and given line endings, as the copy was.

    How a line was renamed is learned from the copy's line; only a line that the copy does not have is renamed by rule.
    """

    def __init__(self, git: Git, pair: tuple[Name, Name] | None) -> None:
        self.git = git
        self.pair = pair
        self.copy = git.tree("HEAD")
        self.windows = self.matching("HEAD", "-F", "-e", "\r")
        self.lines: dict[str, set[str]] = {}
        if pair:
            paths = [path for path in self.matching("HEAD", "-F", *self.words) if path in self.copy]
            contents = git.blobs([self.copy[path][1] for path in paths])
            for path in paths:
                self.lines[path] = set(contents[self.copy[path][1]].decode("utf-8", "replace").splitlines())
        self.anywhere = set().union(*self.lines.values()) if self.lines else set()

    @property
    def words(self) -> list[str]:
        """The names as arguments for git grep."""
        names = {name for pair in self.pair or () for name in (pair.name, pair.package)}
        return [part for name in sorted(names) for part in ("-e", name)]

    def matching(self, tree: str, *pattern: str) -> set[str]:
        """Return the paths of a tree's text files in which a pattern is."""
        out = self.git.raw("grep", "-z", "-l", "-I", "--no-color", *pattern, tree, "--", ends=(0, 1))
        return {entry.partition(":")[2] for entry in out.decode("utf-8", "surrogateescape").split("\0")[:-1]}

    def tree(self, commit: str, since: str = "") -> str:
        """Return the tree of a commit of the template, made to look like the copy.

        A file that moved after the commit `since` looks like the copy's of its former path.
        """
        files = self.git.tree(commit)
        here = {path: self.here(former) for path, former in self.moves(since, commit).items()} if since else {}
        moved = {self.here(path): path for path in files}
        changed: set[str] = set()
        if self.pair:
            changed = self.matching(commit, "-F", "-e", self.pair[0].name, "-e", self.pair[0].package)
        here = {path: here.get(old, path) for path, old in moved.items()}
        edit = {path: old for path, old in moved.items() if old in changed or here[path] in self.windows}
        contents = self.git.blobs([files[old][1] for old in edit.values()])
        made: dict[str, tuple[str, str]] = {path: files[old] for path, old in moved.items()}
        for path, old in edit.items():
            mode, blob = files[old]
            content = contents[blob]
            if mode not in ("100644", "100755") or b"\0" in content:
                continue
            if self.pair and old in changed:
                text = content.decode("utf-8", "surrogateescape")
                content = self.renamed(here[path], text, *self.pair).encode("utf-8", "surrogateescape")
            if here[path] in self.windows and b"\r" not in content:
                content = re.sub(rb"\r?\n", b"\r\n", content)
            if content != contents[blob]:
                blob = self.git.raw("hash-object", "-w", "--stdin", stdin=content).decode().strip()
            made[path] = (mode, blob)
        return self.git.write_tree(made)

    def here(self, path: str) -> str:
        """Return the copy's path of a file of the template."""
        return rename_path(path, *self.pair) if self.pair else path

    def moves(self, before: str, after: str) -> dict[str, str]:
        """Return the template's files that moved between two commits: path -> former path."""
        out = self.git.raw("diff-tree", "-r", "-M", "-z", "--name-status", "--diff-filter=R", before, after)
        words = out.decode("utf-8", "surrogateescape").split("\0")[:-1]
        return dict(zip(words[2::3], words[1::3], strict=True))

    def renamed(self, path: str, text: str, old: Name, new: Name) -> str:
        """Return a file's text, renamed line by line."""
        here = self.lines.get(path, set())
        lines = text.splitlines(keepends=True)
        kept = sum(line.rstrip("\r\n") in here for line in lines if old.name in line or old.package in line)
        gone = sum(
            (word := rename_file(path, line.rstrip("\r\n"), old, new)) in here and word != line.rstrip("\r\n")
            for line in lines
        )
        by_rule = gone > kept or (gone == kept and is_yours(path))

        def rename(line: str) -> str:
            content = line.rstrip("\r\n")
            if old.name not in content and old.package not in content:
                return line
            ways = renamings(path, content, old, new)
            for known in (here, self.anywhere if by_rule else set()):
                found = next((way for way in ways if way in known), None)
                if found is not None:
                    return found + line[len(content) :]
            return (ways[0] if by_rule else content) + line[len(content) :]

        return "".join(rename(line) for line in lines)


@dataclass
class Merge:
    """What a merge gives. `undecided` has the stages of each path that both changed: number -> (mode, blob)."""

    files: dict[str, tuple[str, str]]
    undecided: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    """Your files that the template changed as well, and that stay yours."""
    left_out: list[str] = field(default_factory=list)
    """Files of the template that were not taken because you deleted them, or their folder."""


def merge_trees(git: Git, old: str, new: str) -> Merge:
    """Merge what the template changed between two trees into the copy; nothing but git's objects is written."""
    # Commits that are thrown away: of one history, so that git takes `old` for what both began from.
    env = {f"GIT_{who}_{what}": "template" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    began = git.run("commit-tree", old, "-m", "old", env=env)
    for side, tree in (("yours", "HEAD^{tree}"), ("new", new)):
        commit = git.run("commit-tree", git.run("rev-parse", tree), "-p", began, "-m", side, env=env)
        git.run("update-ref", f"refs/template/{side}", commit)
    command = ["merge-tree", "--write-tree", "-z", "--no-messages", "template/yours", "template/new"]
    tree, *entries = git.raw(*command, ends=(0, 1)).decode("utf-8", "surrogateescape").split("\0")
    conflicts: dict[str, dict[int, tuple[str, str]]] = {}
    for entry in entries:
        facts, _, path = entry.partition("\t")
        if path:
            mode, blob, stage = facts.split()
            conflicts.setdefault(path, {})[int(stage)] = (mode, blob)
    return decide(dict(git.tree(tree)), git.tree("HEAD"), git.tree(old), conflicts)


def decide(
    merged: dict[str, tuple[str, str]],
    copy: Tree,
    old: Tree,
    conflicts: Mapping[str, dict[int, tuple[str, str]]],
) -> Merge:
    """Return what git merged, with what is the user's as the user has it.

    `merged` is git's own answer, with conflict markers; `old` is the template as it was. Raises nothing.
    """
    result = Merge(merged)

    def put_back(path: str) -> None:
        if path in copy:
            merged[path] = copy[path]
        else:
            merged.pop(path, None)

    # A service that took the place of the example is not touched at all.
    own = [folder for folder in SERVICE_FOLDERS if any(p.startswith(folder) and p not in copy for p in old)]
    for path in sorted({*merged, *copy, *conflicts}):
        if path.startswith(tuple(own)) and own:
            if merged.get(path) != copy.get(path) or path in conflicts:
                (result.kept if path in copy else result.left_out).append(path)
            put_back(path)
        elif path in conflicts:
            stages = conflicts[path]
            if 2 not in stages and path in old:
                result.left_out.append(path)
                put_back(path)
            elif 2 not in stages and 3 in stages:  # moved here by the template, away from where it was deleted
                merged[path] = stages[3]
            elif is_yours(path):
                result.kept.append(path)
                if path in copy:
                    put_back(path)
                else:  # moved here by the template, with your content
                    merged[path] = stages[2]
            else:
                result.undecided[path] = stages
        if path in merged and path not in copy and path not in old and folder_is_gone(path, copy, old):
            result.left_out.append(path)
            del merged[path]
            result.undecided.pop(path, None)
    return result


def folder_is_gone(path: str, copy: Tree, old: Tree) -> bool:
    """Whether a file's folder, or one above it, was there when the copy was made and is no longer."""
    parts = path.split("/")[:-1]
    folders = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts) + 1)]
    return any(
        any(name.startswith(folder) for name in old) and not any(name.startswith(folder) for name in copy)
        for folder in folders
    )


@dataclass(frozen=True)
class Notes:
    """A section of CHANGELOG.md: `version` is `Unreleased` or 1.2.3; what changed, and what to do in a copy."""

    version: str
    date: str
    changed: tuple[str, ...]
    to_do: tuple[str, ...]


def parse_notes(text: str) -> list[Notes]:
    """Return the sections of CHANGELOG.md, newest first; raise Failure, naming the line, if its form is another.

    `## 1.2.3 (2026-01-31)` or `## Unreleased`, with `### Changed` and `### To do in a copy` under it, each a list.
    """
    found = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, rest = section.partition("\n")
        head = re.fullmatch(rf"(Unreleased|{SEMVER.pattern})(?: \((\d{{4}}-\d\d-\d\d)\))?", title.strip())
        if not head or (head[1] == "Unreleased") == bool(head[head.re.groups]):
            raise Failure(f"CHANGELOG.md has the section {title!r}; expected 'Unreleased' or '1.2.3 (2026-01-31)'")
        lists: dict[str, tuple[str, ...]] = {}
        for part in re.split(r"^### ", rest, flags=re.M)[1:]:
            name, _, items = part.partition("\n")
            lists[name.strip()] = tuple(
                re.sub(r"\s+", " ", item).strip() for item in re.split(r"^- ", items, flags=re.M)[1:]
            )
        if sorted(lists) != ["Changed", "To do in a copy"]:
            raise Failure(
                f"CHANGELOG.md, {title}: expected the lists 'Changed' and 'To do in a copy', found {list(lists)}"
            )
        found.append(Notes(head[1], head[head.re.groups] or "", lists["Changed"], lists["To do in a copy"]))
    return found


def news(before: str, after: str) -> list[Notes]:
    """Return what CHANGELOG.md says after an update that it did not say before, section by section."""
    try:
        old = {item for notes in parse_notes(before) for item in (*notes.changed, *notes.to_do)}
    except Failure:
        old = set()
    try:
        new = parse_notes(after)
    except Failure as failure:
        say(f"the template's notes cannot be read: {failure}")
        return []
    fresh = [
        Notes(
            notes.version,
            notes.date,
            tuple(item for item in notes.changed if item not in old),
            tuple(item for item in notes.to_do if item not in old),
        )
        for notes in new
    ]
    return [notes for notes in fresh if notes.changed or notes.to_do]


def report(git: Git, old: str, to: str, title: str, merge: Merge) -> str:
    """Return what came, what stays yours, and what is left to decide, as text."""
    copy = git.tree("HEAD")
    added = [path for path in merge.files if path not in copy]
    removed = [path for path in copy if path not in merge.files]
    changed = [path for path in merge.files if path in copy and copy[path] != merge.files[path]]
    commits = git.run("rev-list", "--count", f"{old}..{to}")
    lines = [
        f"template {old[:12]} -> {title}: {commits} commits; {len(changed)} files change, {len(added)} are new,"
        f" {len(removed)} go"
    ]
    for notes in news(git.text(old, "CHANGELOG.md"), git.text(to, "CHANGELOG.md")):
        lines += ["", f"{notes.version} {notes.date}".rstrip(), *(f"  - {item}" for item in notes.changed)]
        lines += ["  to do:", *(f"  - {item}" for item in notes.to_do)] if notes.to_do else []
    for heading, paths in (
        (f"yours, and left as they are; the template's change: git diff {old[:12]} {to[:12]} -- FILE", merge.kept),
        ("not taken, because you deleted them or their folder", merge.left_out),
        ("for you to decide: the template and you changed the same lines", list(merge.undecided)),
    ):
        if paths:
            lines += ["", f"{heading}:", *(f"  {path}" for path in sorted(paths))]
    return "\n".join(lines)


@contextlib.contextmanager
def without_refs(git: Git) -> Iterator[None]:
    """Remove the names of the two sides of the merge again."""
    try:
        yield
    finally:
        for side in ("yours", "new"):
            git.run("update-ref", "-d", f"refs/template/{side}", check=False)


def apply(git: Git, merge: Merge, parents: Sequence[str], message: str) -> bool:
    """Put a merge into the work tree and, if nothing is left to decide, commit it; return whether it did."""
    tree = git.write_tree(merge.files)
    if not merge.undecided:
        # A fork that changed nothing is where the template is, with no commit of its own.
        as_it_is = len(parents) > 1 and tree == git.run("rev-parse", f"{parents[1]}^{{tree}}")
        ahead = as_it_is and git.ok("merge-base", "--is-ancestor", *parents)
        commit = parents[1] if ahead else git.commit_tree(tree, message, *parents)
        # Checks that no file that git does not know is in the way, and then changes all or nothing.
        git.run("merge", "--quiet", "--ff-only", "--no-verify-signatures", commit)
        return True
    git.run("read-tree", "-m", "-u", "HEAD", tree)
    lines = []
    for path, stages in merge.undecided.items():
        lines.append(f"0 {'0' * 40}\t{path}\0")
        lines += [f"{mode} {blob} {stage}\t{path}\0" for stage, (mode, blob) in stages.items()]
    git.raw("update-index", "-z", "--index-info", stdin="".join(lines).encode("utf-8", "surrogateescape"))
    folder = Path(git.run("rev-parse", "--absolute-git-dir"))
    (folder / "MERGE_MSG").write_text(message + "\n", "utf-8")
    if len(parents) > 1:
        (folder / "MERGE_HEAD").write_text(parents[1] + "\n", "utf-8")
    return False


def update(git: Git, to: str, source: str, *, dry_run: bool, tell: Callable[[str], None] = print) -> Merge | None:
    """Update the repository to the template's `to` ("" for its newest release) from `source` ("" for what is recorded).

    Returns what was merged, None if there was nothing to do.
    """
    check_git(run(["git", "version"]).stdout.strip())
    if not git.commit("HEAD"):
        raise Failure(f"{git.root} has no commit; clone your repository first")
    check_clean(git)
    address, record = template_address(git, source)
    fetch(git, address)
    commit, title = target(git, to)
    old, why = base(git, record, commit)
    say(f"this copy has the template's {old[:12]} of {git.run('show', '-s', '--format=%as', old)} ({why})")
    if git.ok("merge-base", "--is-ancestor", commit, old):
        tell(f"up to date with {title}; nothing to do")
        return None
    pair = names(git, old, record)
    if pair:
        say(f"the template's {pair[0].name} is {pair[1].name} here; its files are renamed before they are merged")
    shared = bool(git.run("merge-base", "HEAD", commit, check=False))
    renamer = Renamer(git, pair)
    with without_refs(git):
        new = renamer.tree(commit, old)
        merge = merge_trees(git, renamer.tree(old), new)
    if record or not shared:
        text = git.text("HEAD", RECORD)
        fields = {"origin": without_secrets(address, "")} if not record else {}
        name = pair[1].name if pair else ""
        theirs = {path: blob for path, (_, blob) in git.tree(new).items()}
        fields |= {"commit": commit, "pipeline": pipeline_state(theirs)} | (
            {"name": name} if name and not (record and record.name) else {}
        )
        content = write_record(text, **fields).encode()
        merge.files[RECORD] = ("100644", git.raw("hash-object", "-w", "--stdin", stdin=content).decode().strip())
    tell(report(git, old, commit, title, merge))
    if dry_run:
        say("nothing was changed")
        return merge
    before = git.commit("HEAD")
    # With a common history the template's is joined, so that GitHub shows the fork as up to date.
    parents = [before, commit] if shared else [before]
    done = apply(git, merge, parents, f"Update to the template's {title}")
    if done:
        tell("\ncommitted; run python3 scripts/check.py, then push")
    else:
        tell("\nedit the files above, then run git add on each, git commit, and python3 scripts/check.py")
    tell(f"undo: git reset --hard {before}")
    return merge


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--to", default="", metavar="TAG", help="a release of the template, main, or a commit")
    arguments.add_argument("--from", dest="source", default="", metavar="URL", help="where the template is")
    arguments.add_argument("--dry-run", action="store_true", help="say what would come, and change nothing")
    options = arguments.parse_args(argv)
    merge = update(Git(ROOT), options.to, options.source, dry_run=options.dry_run)
    return 1 if merge and merge.undecided else 0


if __name__ == "__main__":
    start(main)
