"""The words of CONTRIBUTING.md's list, in all that people read: pages, docstrings, comments and messages."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lib.template import RECORD, is_yours
from support.projects import ROOT

# What finds a habit, what to write instead, an example, and what only looks like one: each is so narrow that it has no
# false alarm, for one would be worked around.
HABITS = [
    (
        r"\bwhere (there (is|are) (no|none|one)\b|it is (none|not|wanted|set|given)\b|(it|its image) has none\b"
        r"|both have\b|one of that name\b|asked for\b|you run it by hand\b|[A-Z_]{3,} is (set|off|on|given|not)\b)",
        "if or when, for a condition",
        "deploy it where DOMAIN is set",
        "the line says where it is deployed; the node where the volume is",
    ),
    (
        r"(?<![Tt]here )\b(is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|such\b)\w+",
        "is not a",
        "v1.2 is no version",
        "There is no version v1.2, there is no such tag, and the old one is no longer served",
    ),
    (r"\bset wrongly\b", "a wrong setting", "what is set wrongly", "a wrong setting fails the run"),
    (r"\bmend(s|ed|ing)?\b", "fix", "mend it first", "a recommendation, an amendment"),
    (r"\banew\b", "again, new", "it is made anew", "a new one"),
    (
        r"\b(go|goes|going|went) on\b(?! to\b)",
        "continue",
        "the page goes on",
        "go on to the next step; goes to one",
    ),
    (r"\bnobody's\b", "nobody has, no one reads", "other tags are nobody's business", "nobody listens there"),
    (r"\bheed(s|ed|ing)?\b", "respect, react to", "to heed SIGTERM", "it needs root"),
    (r"\botherwise than\b", "differ from", "what it says otherwise than the file", "otherwise, than, other than"),
    (r"\b(is|are) at it\b", "is running", "somebody is at it", "look at it; it is at its node"),
    (r"\bleads? to (the|this|your) host\b", "resolves to", "the name leads to the host", "the link leads to the page"),
    (
        r"\b(job|run|check)s? (is|are|goes|turns?) red\b|\bred (job|run|check)\b",
        *("fails, failed", "a red job", "red ink"),
    ),
]


PAGES = (
    "*.md",
    "docs",
    "scripts",
    "src",
    "smoke.py",
    "service.toml",
    "Dockerfile",
    "compose.yaml",
    "deploy",
    ".github",
    "tests/*.py",
)


def files(*patterns: str) -> list[str]:
    """Return the files of these names that are read here: in a copy, only those that are the pipeline's."""
    command = ["git", "-C", str(ROOT), "ls-files", *patterns]
    listed = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    copy = (ROOT / RECORD).exists()
    return [name for name in listed if not name.endswith((".png", "test_words.py")) and not (copy and is_yours(name))]


def flowing(text: str) -> str:
    """Return a text with each sentence on one line, although a comment, docstring or message was broken in two."""
    return re.sub(r"\"?[ \t]*\n[ \t]*(?:# |f?\")?", " ", text)


def prose(name: str) -> str:
    """Return what a file says, without the list itself."""
    text = (ROOT / name).read_text("utf-8")
    if name.startswith("tests/"):
        text = re.sub(r"(?<=[a-z])_(?=[a-z])", " ", text)  # a test's name is a sentence
    return flowing(re.sub(r"^\| write \| not \|\n(\|.*\n)+", "", text, flags=re.M))


@pytest.mark.parametrize("name", files(*PAGES))
def test_the_words(name: str) -> None:
    """No file has a habit of the list; the message says which words, and what to write instead."""
    text = prose(name)
    found = [
        f"{text[max(0, match.start() - 30) : match.end() + 30]!r}: write {better}"
        for pattern, better, _, _ in HABITS
        for match in re.finditer(pattern, text)
    ]
    assert found == []


@pytest.mark.parametrize(("pattern", "better", "habit", "fine"), HABITS, ids=[habit for _, _, habit, _ in HABITS])
def test_the_list(pattern: str, better: str, habit: str, fine: str) -> None:
    """Each habit is found in its example, broken over two lines as well, and not in what only looks like it."""
    assert re.search(pattern, habit)
    assert re.search(pattern, flowing(habit.replace(" ", "\n    # ", 1)))
    assert re.search(pattern, flowing('"' + habit.replace(" ", ' "\n    f"', 1)))
    assert not re.search(pattern, fine)
    assert not re.search(pattern, better)


def test_the_list_is_the_one_that_people_read() -> None:
    """CONTRIBUTING.md says of each habit what to write instead, in the same words."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    assert [better for _, better, _, _ in HABITS if better not in rows] == []


def test_spelling() -> None:
    """No file has a common misspelling; `ignore-words-list` in pyproject.toml has what only looks like one."""
    command = [sys.executable, "-m", "codespell_lib", *files(*PAGES, "benchmarks/*.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
