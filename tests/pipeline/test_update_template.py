"""Updating forks and copies of a template: small ones made here, and this repository's own history."""

from __future__ import annotations

import json
import shutil
import time
from functools import cache
from pathlib import Path

import pytest

import check
from conftest import need
from lib.command import ROOT, Failure, UsageError, run
from lib.template import RECORD, Name, is_yours, name_in, named, parse_record, rename_path, rename_text
from support.copies import Edits, adopt, commit, copy, fork, git, repository, tidy, write
from update_template import Git, Merge, check_git, decide, news, parse_notes, target, update

NUMBERS = "".join(f"line {number}\n" for number in range(1, 21))
SERVICE = 'name = "greeter"\n'
NOTES = "# Changelog\n\n## Unreleased\n\n### Changed\n\n- Something.\n\n### To do in a copy\n\n- Nothing.\n"
FIRST = {
    "service.toml": SERVICE,
    "CHANGELOG.md": NOTES,
    "src/greeter/__init__.py": "import greeter.views\n",
    "src/greeter/views.py": "from greeter import config\n" + NUMBERS,
    "Dockerfile": 'LABEL title="greeter"\n' + NUMBERS + 'CMD ["python", "-m", "greeter"]\n',
    "scripts/plan.py": "# the pipeline's\n" + NUMBERS,
    "scripts/lib/names.py": 'FORMER = "greeter"\n' + NUMBERS,
    "benchmarks/build.py": NUMBERS,
    "deploy/KUBERNETES.md": "# greeter\n" + NUMBERS,
    ".github/workflows/ci.yml": NUMBERS,
}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template with one commit."""
    return repository(tmp_path / "template", FIRST)


def changed(text: str, number: int, to: str) -> str:
    """Return a text with its line `line NUMBER` replaced."""
    assert f"line {number}\n" in text
    return text.replace(f"line {number}\n", f"{to}\n")


def grow(template: Path) -> str:
    """Develop the template further: a line in most files, a new file, and one that moves."""
    new: dict[str, str | bytes] = {
        path: changed(text, 3, "template's") for path, text in FIRST.items() if NUMBERS in text
    }
    git(template, "mv", "scripts/plan.py", "scripts/decide.py")
    new["scripts/decide.py"] = new.pop("scripts/plan.py")
    new["scripts/new.py"] = "new = True\n"
    new["benchmarks/new.py"] = "new = True\n"
    new["CHANGELOG.md"] = NOTES.replace("- Something.", "- Something.\n- A line.").replace("Nothing.", "Press it.")
    return commit(template, "Grow", new)


def up(root: Path, source: Path | str = "", to: str = "", *, dry_run: bool = False) -> tuple[Merge | None, str]:
    """Update a copy; return what was merged, and what was said."""
    said: list[str] = []
    merge = update(Git(root), to, str(source), dry_run=dry_run, tell=said.append)
    return merge, "\n".join(said)


def read(root: Path, path: str) -> str:
    """Return a file's text."""
    return (root / path).read_bytes().decode()


def test_fork_that_changed_nothing_is_where_the_template_is(template: Path, tmp_path: Path) -> None:
    """A fork with no commit of its own gets the template's commits, and no merge."""
    root = fork(template, tmp_path / "fork")
    new = grow(template)
    up(root, template)
    assert git(root, "rev-parse", "HEAD") == new


def test_fork_keeps_its_history(template: Path, tmp_path: Path) -> None:
    """A fork's commit and the template's are both in its history, so that GitHub shows it as up to date."""
    root = fork(template, tmp_path / "fork")
    git(root, "remote", "rename", "origin", "upstream")
    mine = commit(root, "Mine", {"scripts/plan.py": changed(FIRST["scripts/plan.py"], 15, "mine")})
    new = grow(template)
    up(root)
    assert git(root, "rev-parse", "HEAD^1", "HEAD^2").split() == [mine, new]
    assert "template's" in read(root, "scripts/decide.py")
    assert "mine" in read(root, "scripts/decide.py")
    assert not (root / RECORD).exists()
    assert up(root)[1] == f"up to date with main ({new[:12]}); nothing to do"


def test_updated_copy_has_the_templates_pipeline(template: Path, tmp_path: Path) -> None:
    """Until it is changed, the copy's checks leave the pipeline's tests to the template's."""
    commit(template, "Copied", FIRST)
    root = copy(template, tmp_path / "copy")
    commit(root, "Mine", {"src/greeter/views.py": "mine\n"})
    grow(template)
    up(root, template)
    assert not check.pipeline_changed(root)
    write(root, {"scripts/plan.py": "mine\n"})
    assert check.pipeline_changed(root)


def test_no_token_is_recorded(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template may be fetched with a token; the record, which is committed, has the address without it."""
    commit(template, "Copied", FIRST)
    root = copy(template, tmp_path / "copy")
    grow(template)
    address = "https://octo:secret@github.com/octo/template"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{template}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", address)
    up(root, address)
    assert json.loads(read(root, RECORD))["origin"] == "https://github.com/octo/template"


def test_copy_is_found_by_its_files(template: Path, tmp_path: Path) -> None:
    """A copy without a record is found by its first commit's files; from then on it is recorded."""
    commit(template, "Before", {"scripts/plan.py": "older\n"})
    commit(template, "Copied", FIRST)
    root = copy(template, tmp_path / "copy")
    commit(root, "Mine", {"scripts/lib/names.py": changed(FIRST["scripts/lib/names.py"], 15, "mine")})
    new = grow(template)
    up(root, template)
    record = json.loads(read(root, RECORD))
    assert record == {"origin": str(template), "commit": new, "pipeline": record["pipeline"]}
    assert check.pipeline_changed(root), "a line of the pipeline is the copy's own"
    assert read(root, "scripts/lib/names.py").count("mine\n") == 1
    assert "template's" in read(root, "scripts/lib/names.py")
    assert len(git(root, "rev-parse", "HEAD^@").split()) == 1, "the template's history stays out of the copy's"
    again = commit(template, "Again", {"scripts/new.py": "new = 2\n"})
    up(root)
    assert read(root, "scripts/new.py") == "new = 2\n"
    assert json.loads(read(root, RECORD))["commit"] == again


def test_renamed_copy(template: Path, tmp_path: Path) -> None:
    """The template's files are renamed as the copy was, and the pipeline's keep what they say."""
    root = copy(template, tmp_path / "copy")
    adopt(root, "shop-api", template, "HEAD")
    # Unlike the rule: only the copy's own line says how it was renamed.
    commit(root, "Mine", {"Dockerfile": read(root, "Dockerfile").replace('title="shop-api"', 'title="shop_api"')})
    grow(template)
    # Beside the renamed line: taken for changed on both sides, it would be in the way.
    beside = changed(read(template, "Dockerfile"), 1, "beside it")
    commit(template, "More", {"src/greeter/more.py": "from greeter import views\n", "Dockerfile": beside})
    merge, said = up(root)
    assert merge
    assert (merge.undecided, merge.kept, merge.left_out) == ({}, [], [])
    assert read(root, "src/shop_api/views.py") == changed("from shop_api import config\n" + NUMBERS, 3, "template's")
    assert read(root, "src/shop_api/more.py") == "from shop_api import views\n"
    assert read(root, "Dockerfile").startswith('LABEL title="shop_api"\nbeside it\n')
    assert read(root, "Dockerfile").endswith('CMD ["python", "-m", "shop_api"]\n')
    assert read(root, "scripts/lib/names.py").startswith('FORMER = "greeter"\n')
    assert not any(path.startswith("src/greeter/") for path in merge.files)
    assert "- A line." in said
    assert "to do:\n  - Press it." in said
    assert "- Something." not in said, "that was known"


def test_what_was_deleted_stays_deleted(template: Path, tmp_path: Path) -> None:
    """A copy without benchmarks and Kubernetes gets neither their changes nor new files beside them."""
    root = copy(template, tmp_path / "copy")
    Edits().remove(root, "benchmarks", "deploy/KUBERNETES.md")
    commit(root, "Less")
    grow(template)
    merge, said = up(root, template)
    assert merge
    assert merge.undecided == {}
    assert sorted(merge.left_out) == ["benchmarks/build.py", "benchmarks/new.py", "deploy/KUBERNETES.md"]
    assert not (root / "benchmarks").exists()
    assert "not taken, because you deleted them or their folder:\n  benchmarks/build.py" in said


def test_own_service_is_not_touched(template: Path, tmp_path: Path) -> None:
    """A service in the example's place stays as it is: nothing changes in it, and nothing is added to it."""
    root = copy(template, tmp_path / "copy")
    adopt(root, "shop", template, "HEAD")
    Edits().remove(root, "src/shop/views.py")
    commit(root, "Mine", {"src/shop/__init__.py": "import shop.shelves\n", "src/shop/shelves.py": "shelves = 3\n"})
    before = git(root, "rev-parse", "HEAD:src")
    grow(template)
    commit(template, "More", {"src/greeter/more.py": "", "src/greeter/__init__.py": "import more\n"})
    merge, said = up(root)
    assert git(root, "rev-parse", "HEAD:src") == before
    assert merge
    assert (merge.kept, sorted(merge.left_out)) == (["src/shop/__init__.py"], ["src/shop/more.py", "src/shop/views.py"])
    assert "yours, and left as they are" in said


def test_yours_stays_where_both_changed_a_line(template: Path, tmp_path: Path) -> None:
    """A file of the user's is merged if that is clean; otherwise it stays, with the command that shows the change."""
    root = copy(template, tmp_path / "copy")
    mine = changed(FIRST["Dockerfile"], 3, "mine")
    commit(root, "Mine", {"Dockerfile": mine, "src/greeter/views.py": changed(NUMBERS, 19, "mine")})
    grow(template)
    merge, said = up(root, template)
    assert merge
    assert merge.kept == ["Dockerfile"]
    assert read(root, "Dockerfile") == mine
    assert {"mine", "template's"} <= set(read(root, "src/greeter/views.py").splitlines())
    assert "the template's change: git diff" in said


def test_both_changed_a_line_of_the_pipeline(template: Path, tmp_path: Path) -> None:
    """Only lines that both changed are left to decide; git knows them, and one command undoes all of it."""
    root = fork(template, tmp_path / "fork")
    text = changed(changed(FIRST[".github/workflows/ci.yml"], 3, "mine"), 15, "mine, too")
    before = commit(root, "Mine", {".github/workflows/ci.yml": text})
    new = grow(template)
    merge, said = up(root, template)
    assert merge
    assert list(merge.undecided) == [".github/workflows/ci.yml"]
    assert git(root, "diff", "--name-only", "--diff-filter=U") == ".github/workflows/ci.yml"
    assert "<<<<<<< template/yours\nmine\n=======\ntemplate's\n>>>>>>> template/new\n" in read(
        root, ".github/workflows/ci.yml"
    )
    assert said.endswith(f"undo: git reset --hard {before}")
    write(root, {".github/workflows/ci.yml": text})
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--no-edit")
    assert git(root, "rev-parse", "HEAD^2") == new
    assert git(root, "show", "-s", "--format=%s") == f"Update to the template's main ({new[:12]})"


def test_undo(template: Path, tmp_path: Path) -> None:
    """The printed command brings everything back, after a clean update and in the middle of another."""
    for line in (3, 15):
        root = copy(template, tmp_path / f"copy{line}")
        commit(root, "Mine", {"scripts/plan.py": changed(FIRST["scripts/plan.py"], line, "mine")})
    grow(template)
    for line in (3, 15):
        root = tmp_path / f"copy{line}"
        before = git(root, "rev-parse", "HEAD^{tree}")
        merge, said = up(root, template)
        assert merge
        assert bool(merge.undecided) == (line == 3)
        run(["bash", "-c", said.rpartition("undo: ")[2]], cwd=root)
        assert git(root, "rev-parse", "HEAD^{tree}") == before
        assert git(root, "status", "--porcelain") == ""


def test_dry_run_changes_nothing(template: Path, tmp_path: Path) -> None:
    """--dry-run says what would come, and leaves the work tree and the history."""
    root = copy(template, tmp_path / "copy")
    before = git(root, "rev-parse", "HEAD")
    grow(template)
    _, said = up(root, template, dry_run=True)
    assert "1 commits; " in said
    assert "undo" not in said
    assert git(root, "rev-parse", "HEAD") == before
    assert git(root, "status", "--porcelain", "--ignored") == ""
    assert "refs/template/yours" not in git(root, "for-each-ref")


def test_uncommitted_changes_are_left_alone(template: Path, tmp_path: Path) -> None:
    """A dirty tree is refused; a file that git does not know is neither in the way nor overwritten."""
    root = copy(template, tmp_path / "copy")
    grow(template)
    write(root, {"Dockerfile": "half done\n"})
    with pytest.raises(Failure, match="1 tracked files have changes that are in no commit, such as Dockerfile"):
        up(root, template)
    assert read(root, "Dockerfile") == "half done\n"
    git(root, "checkout", "--quiet", "Dockerfile")
    write(root, {"scripts/new.py": "mine\n", "notes.txt": "mine\n"})
    with pytest.raises(Failure, match="git"):
        up(root, template)
    assert read(root, "scripts/new.py") == "mine\n"
    assert git(root, "status", "--porcelain") == "?? notes.txt\n?? scripts/new.py"
    (root / "scripts/new.py").unlink()
    up(root, template)
    assert read(root, "notes.txt") == "mine\n"


def test_shallow_clones(template: Path, tmp_path: Path) -> None:
    """Of a fork and of a copy, one commit is enough."""
    old = commit(template, "Second", {"scripts/plan.py": changed(FIRST["scripts/plan.py"], 10, "second")})
    for kind, make in (("fork", fork), ("copy", copy)):
        full = make(template, tmp_path / kind, old)
        commit(full, "Mine", {"benchmarks/build.py": changed(NUMBERS, 15, "mine")})
        run(["git", "clone", "--quiet", "--depth", "1", f"file://{full}", str(tmp_path / f"shallow {kind}")])
    new = grow(template)
    for kind in ("fork", "copy"):
        root = tmp_path / f"shallow {kind}"
        for key in ("user.name", "user.email"):
            git(root, "config", key, "test")
        merge, _ = up(root, template, new)
        assert merge
        assert merge.undecided == {}
        assert {"mine", "template's"} <= set(read(root, "benchmarks/build.py").splitlines())


def test_worktree(template: Path, tmp_path: Path) -> None:
    """An update works in a second work tree, and leaves the first one alone."""
    first = copy(template, tmp_path / "copy")
    commit(first, "Mine", {"scripts/plan.py": changed(FIRST["scripts/plan.py"], 3, "mine")})
    git(first, "worktree", "add", "--quiet", "-b", "update", str(tmp_path / "second"))
    grow(template)
    merge, _ = up(tmp_path / "second", template)
    assert merge
    assert list(merge.undecided) == ["scripts/decide.py"]
    assert git(first, "status", "--porcelain") == ""
    assert not (first / "scripts/decide.py").exists()
    write(tmp_path / "second", {"scripts/decide.py": "decided\n"})
    git(tmp_path / "second", "add", "--all")
    git(tmp_path / "second", "commit", "--quiet", "--no-edit")
    assert git(tmp_path / "second", "show", "-s", "--format=%s").startswith("Update to the template's main")


@pytest.mark.parametrize("kept", ["in the commit", "in the work tree"])
def test_windows_line_endings(template: Path, tmp_path: Path, kept: str) -> None:
    """Line endings are neither a conflict nor a change, committed as they are or made by core.autocrlf."""
    root = copy(template, tmp_path / "copy")
    if kept == "in the work tree":
        git(root, "config", "core.autocrlf", "true")
        git(root, "rm", "--quiet", "--cached", "-r", ".")
        git(root, "reset", "--quiet", "--hard")
        assert "\r\n" in read(root, "scripts/plan.py")
    mine = {path: text.replace("\n", "\r\n").replace("line 15", "mine") for path, text in FIRST.items()}
    commit(root, "Mine", mine)
    grow(template)
    merge, _ = up(root, template)
    assert merge
    assert (merge.undecided, merge.kept) == ({}, [])
    for path in ("scripts/decide.py", "Dockerfile", "src/greeter/views.py"):
        text = read(root, path)
        assert text.count("\r\n") == text.count("\n") > 20
        assert {"mine", "template's"} <= set(text.splitlines())
    assert git(root, "status", "--porcelain") == ""


def test_releases_are_not_yours(template: Path, tmp_path: Path) -> None:
    """The newest release is taken, not a pre-release and not main; its tag does not become one of the copy's."""
    root = copy(template, tmp_path / "copy")
    commit(template, "One", {"scripts/new.py": "1\n"})
    for version in ("v1.2.0", "v1.10.0"):
        commit(template, version, {"scripts/new.py": version})
        git(template, "tag", version)
    commit(template, "Next", {"scripts/new.py": "next\n"})
    git(template, "tag", "v2.0.0-rc.1")
    up(root, template, "v1.2.0")
    assert read(root, "scripts/new.py") == "v1.2.0"
    up(root)
    assert read(root, "scripts/new.py") == "v1.10.0"
    assert up(root, "", "v1.2.0")[1] == "up to date with v1.2.0; nothing to do"
    up(root, "", "main")
    assert read(root, "scripts/new.py") == "next\n"
    assert git(root, "tag") == ""
    with pytest.raises(UsageError, match=r"--to is 'v9'.*its newest releases are v1.10.0, v1.2.0, v2.0.0-rc.1"):
        target(Git(root), "v9")


def test_nothing_says_where_the_template_is(template: Path, tmp_path: Path) -> None:
    """Each way not to find the template is a sentence with the next command."""
    root = copy(template, tmp_path / "copy")
    with pytest.raises(UsageError, match=r"say it with --from https://github\.com/OWNER/NAME"):
        up(root)
    with pytest.raises(UsageError, match="'--upload-pack=x', which is not an address"):
        up(root, "--upload-pack=x")
    with pytest.raises(Failure, match="cannot fetch the template from /nowhere"):
        up(root, "/nowhere")
    stranger = repository(tmp_path / "stranger", {"README.md": "another project\n"})
    with pytest.raises(Failure, match="no commit of the template has much in common"):
        up(root, stranger)
    commit(root, "Wrong", {RECORD: json.dumps({"origin": str(template), "commit": "0" * 40})})
    with pytest.raises(Failure, match=r"says commit 0000.*does not have"):
        up(root)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "has to be an object"),
        ("{}", "has to be an object"),
        ('{"origin": 7}', "has to be an object"),
        ('{"origin": "https://example.com/x", "commit": "main"}', "'main', which is not a full commit id"),
    ],
)
def test_bad_record(text: str, sentence: str) -> None:
    """A record that is not one is a sentence."""
    with pytest.raises(Failure, match=sentence):
        parse_record(text)


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        *(("git version 2.39.5", True), ("git version 2.43.0", True), ("git version 3.0.1", True)),
        *(("git version 2.38.0 (Apple Git-1)", True), ("git version 2.34.1", False), ("git version 1.8.3", False)),
    ],
)
def test_old_git(version: str, fine: bool) -> None:
    """A git that cannot merge without a work tree is refused in a sentence."""
    if fine:
        check_git(version)
        return
    with pytest.raises(Failure, match=rf"needs git 2.38 or newer, and here is {version.split()[2]}"):
        check_git(version)


SHOP = (named("greeter"), named("shop-api"))


@pytest.mark.parametrize(
    ("line", "renamed"),
    [
        ("from greeter.config import x", "from shop_api.config import x"),
        ("import greeter", "import shop_api"),
        ('CMD ["python", "-m", "greeter"]', 'CMD ["python", "-m", "shop_api"]'),
        ("image: ${IMAGE:-greeter:ci}", "image: ${IMAGE:-shop-api:ci}"),
        ("greeter_requests_total", "shop_api_requests_total"),
        ("`src/greeter/`", "`src/shop_api/`"),
        ("# greeter", "# shop-api"),
        ('patch("greeter.views.x")', 'patch("shop_api.views.x")'),
        ("https://greeter.example.org", "https://shop-api.example.org"),
        ("ungreeter greeters", "ungreeter greeters"),
    ],
)
def test_rename(line: str, renamed: str) -> None:
    """Python's names and metrics take the package's name, everything else the service's."""
    assert rename_text(line, *SHOP) == renamed


def test_names() -> None:
    """The name comes from service.toml, before that from pyproject.toml; a folder of the package is renamed."""
    project = '[project]\nname = "my.shop-api"\n'
    assert name_in({"service.toml": SERVICE, "pyproject.toml": project}) == Name("greeter", "greeter")
    assert name_in({"service.toml": "", "pyproject.toml": project}) == Name("my.shop-api", "my_shop_api")
    assert name_in({"service.toml": "name = 7", "pyproject.toml": "["}) is None
    assert name_in({"pyproject.toml": "project = 7"}) is None
    assert rename_path("src/greeter/a/greeter.py", *SHOP) == "src/shop_api/a/greeter.py"
    assert rename_text("greeter", named("greeter"), named("my-greeter")) == "my-greeter"


def test_file_that_the_template_moved_out_of_a_deleted_folder() -> None:
    """What the template still needs comes with it, even though the copy deleted it where it was."""
    blob = ("100644", "1" * 40)
    conflict = {"tests/measuring.py": {1: blob, 3: ("100644", "2" * 40)}}
    old = {"benchmarks/measuring.py": blob, "tests/a.py": blob}
    merge = decide({"tests/a.py": blob}, {"tests/a.py": blob}, old, conflict)
    assert merge.files["tests/measuring.py"] == ("100644", "2" * 40)
    assert merge.undecided == {}


def test_notes() -> None:
    """The change notes of this repository are in the form that a copy's update reads, newest first."""
    notes = parse_notes((ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert notes
    assert notes[0].changed
    versions = [entry.version for entry in notes if entry.version != "Unreleased"]
    assert len(set(versions)) == len(versions)
    assert [entry.date for entry in notes] == sorted(
        (entry.date for entry in notes), key=lambda d: d or "9", reverse=True
    )
    released = [tag for tag in run(["git", "-C", str(ROOT), "tag"]).stdout.split() if tag.startswith("v")]
    if not (ROOT / RECORD).exists():
        assert {tag.removeprefix("v") for tag in released} <= set(versions), "a release without notes"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("## 1.2\n", "'1.2'"),
        ("## 1.2.3\n", "expected 'Unreleased' or '1.2.3"),
        ("## Unreleased (2026-01-31)\n", "expected 'Unreleased'"),
        ("## 1.2.3 (2026-01-31)\n\n### Changed\n\n- x\n", "'To do in a copy'"),
        ("## Unreleased\n\n### Changed\n\n- x\n\n### To do in a copy\n\n### Fixed\n", "'Fixed'"),
    ],
)
def test_bad_notes(text: str, sentence: str) -> None:
    """Notes in another form are refused, with the section."""
    with pytest.raises(Failure, match=sentence):
        parse_notes(text)


def test_notes_that_cannot_be_read_do_not_stop_an_update(capfd: pytest.CaptureFixture[str]) -> None:
    """An old file in another form does not stop it, and neither does a new one."""
    assert [notes.to_do for notes in news("## Old\n", NOTES)] == [("Nothing.",)]
    assert news(NOTES, "## New\n") == []
    assert "cannot be read" in capfd.readouterr().err


STATES = 20


def states() -> list[str]:
    """Return the last states of this repository's main line, newest first, without the newest."""
    return git(ROOT, "rev-list", "--first-parent", f"--max-count={STATES + 1}", "HEAD").split()[1:]


def edit(root: Path, kind: str) -> Edits:
    """Do to a copy what its owner would: a few lines of the pipeline, and what is theirs."""
    edits = Edits()
    edits.replace(root, ".github/workflows/ci.yml", "timeout-minutes: 20", "timeout-minutes: 25")
    line = "from __future__ import annotations"
    edits.replace(root, "scripts/plan.py", line + "\n", line + "  # mine" + "\n")
    edits.replace(root, "README.md", "# ", "# My own ")
    edits.replace(root, "SECURITY.md", "# ", "# My own ")
    if kind == "own service":
        edits.remove(root, "benchmarks", "deploy/KUBERNETES.md", "deploy/kubernetes.yaml", "src", "tests/service")
        edits.remove(root, "tests/service/test_kubernetes.py")
        own = {"src/shop_api/__main__.py": 'print("mine")\n', "tests/service/test_mine.py": "mine = True\n"}
        write(root, own)
        edits.lines |= {path: text.strip() for path, text in own.items()}
    commit(root, "Mine")
    return edits


@pytest.mark.full
def test_own_history(tmp_path: Path) -> None:
    """The last 20 states, as each kind of copy, are updated to the newest; only lines that both changed conflict.

    All that the owner did not touch is then exactly the newest, renamed as the copy was, and all Python compiles.
    However old a copy is, it ends with the same files, so the checks of one hold for each other of its kind.
    """
    newest = git(ROOT, "rev-parse", "HEAD")
    old = states()
    need(len(old) == STATES, "a repository with 20 commits", "clone it with its history")
    template = fork(ROOT, tmp_path / "template", newest)
    plain, adopted = copy(template, tmp_path / "plain"), copy(template, tmp_path / "adopted")
    adopt(adopted, "shop-api", template, "HEAD")
    expected = {"fork": plain, "copy": plain, "renamed": adopted, "own service": adopted}
    print(f"\n{'copy':<14}{'updates':>8}{'seconds':>9}{'yours kept':>12}{'left out':>10}{'to decide':>11}{'trees':>7}")
    for kind in ("fork", "copy", "renamed", "own service"):
        seconds, merges, trees = 0.0, [], set()
        for state in old:
            root = tmp_path / "copy" / kind / state
            (fork if kind == "fork" else copy)(template, root, state)
            if kind in ("renamed", "own service"):
                adopt(root, "shop-api", template, state)
            edits = edit(root, kind)
            began = time.monotonic()
            merge, _ = up(root, "" if (root / RECORD).exists() else template, newest)
            seconds += time.monotonic() - began
            assert merge
            check_update(expected[kind], root, merge, edits)
            merges.append(merge)
            trees.add(git(root, "rev-parse", "HEAD^{tree}"))
            shutil.rmtree(root)
        kept = [path for merge in merges for path in merge.kept]
        left_out = [path for merge in merges for path in merge.left_out]
        undecided = [path for merge in merges for path in merge.undecided]
        figures = f"{len(kept):>12}{len(left_out):>10}{len(undecided):>11}{len(trees):>7}"
        print(f"{kind:<14}{len(merges):>8}{seconds / len(merges):>9.2f}{figures}")
        for what, paths in (("kept", kept), ("left out", left_out), ("to decide", undecided)):
            if paths:
                print(f"    {what}: {', '.join(sorted(set(paths)))}")


def check_update(expected: Path, root: Path, merge: Merge, edits: Edits) -> None:
    """Fail unless a copy is what it should be after an update: `expected`, but for what its owner did."""
    for path in merge.undecided:
        blocks = read(root, path).split("<<<<<<< ")[1:]
        assert path in edits.lines, f"{path} was not edited by the owner"
        assert all(edits.lines[path].strip() in block.partition("=======")[0] for block in blocks), path
    assert all(path in edits.lines or path.startswith(("src/", "tests/service/")) for path in merge.kept), merge.kept
    paths = git(expected, "ls-files").splitlines()
    tidy(root, [path for path in paths if is_yours(path) and (root / path).exists()])
    # What meets the imports that adopt.py sorted again is the owner's to decide: such a file is kept, and named.
    untouched = {path for path in paths if path not in edits.lines and path != RECORD} - set(merge.kept)
    for path in sorted(untouched):
        if not path.startswith(tuple(edits.removed) or "\0"):
            assert (root / path).read_bytes() == (expected / path).read_bytes(), path
    for path, line in edits.lines.items():
        if path not in merge.undecided and (root / path).exists():
            assert line in read(root, path), f"{path} lost what its owner wrote"
    for path in edits.removed:
        assert not (root / path).exists() or path in ("src", "tests/service"), path
    for file in root.rglob("*.py"):
        if file.relative_to(root).as_posix() not in merge.undecided:
            check_syntax(file.read_bytes())


@cache
def check_syntax(text: bytes) -> None:
    """Fail unless a file is Python; most are the same after every update."""
    compile(text, "a file of the copy", "exec")
