"""What the README says is what there is: its scripts, its links, its settings, and what to change for what."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import adopt
from lib import gh, service
from lib.template import RECORD, named
from support.projects import FIXTURE, ROOT, replace

README = (ROOT / "README.md").read_text("utf-8")
CHINESE = "README.zh-CN.md"
ours = pytest.mark.skipif((ROOT / RECORD).exists(), reason="the README of a copy is its owner's")
SCRIPTS = (ROOT / "scripts/README.md").read_text("utf-8")


def test_every_script_has_a_line() -> None:
    """The table lists each script once."""
    listed = re.findall(r"^\| `(\w+\.py)` \|", SCRIPTS, re.M)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


OWNERS = ("README.md", CHINESE) if (ROOT / RECORD).exists() else ()  # a copy may have deleted what they link to
PAGES = [
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "scripts", "deploy")
    for path in (ROOT / folder).glob("*.md")
    if path.relative_to(ROOT).as_posix() not in OWNERS
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Each link to a file of the repository, and each to a heading, has one."""
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}, target


@ours
@pytest.mark.parametrize("page", ["README.md", CHINESE])
def test_the_pictures_are_there(page: str) -> None:
    """The first screen shows the page and a run's summary, in files that load at once."""
    first_screen = (ROOT / page).read_text("utf-8").partition("\n## ")[0]
    pictures = re.findall(r'<img src="([^"]+)" alt="[^"]{10,}"', first_screen)
    assert pictures == ["docs/page.png", "docs/run.png"]
    assert [name for name in pictures if not 1_000 < (ROOT / name).stat().st_size < 150_000] == []


def test_scripts_that_are_named_are_there() -> None:
    """No page names a script that is not there."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")):
        for name in re.findall(r"scripts/(\w+\.py)", page.read_text("utf-8")):
            assert (ROOT / "scripts" / name).exists(), f"{page.name}: {name}"


@ours
def test_every_tool_has_a_publisher() -> None:
    """CONTRIBUTING.md says who publishes each development tool, and why one that a stranger packs is there."""
    text = (ROOT / "requirements-dev.in").read_text("utf-8")
    tools = {line for line in text.split("\n") if re.fullmatch(r"[A-Za-z][\w-]*", line)}
    tables = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Who publishes the tools")[2]
    own = re.findall(r"^\| their own projects, on PyPI \| (.+) \|$", tables, re.M)[0].split(", ")
    packed = re.findall(r"^\| `([\w-]+)` \| .+ by \[.+\]\(https://github\.com/.+\) \| .+ \|$", tables, re.M)
    assert sorted([*own, *packed], key=str.lower) == sorted(tools, key=str.lower)
    assert len(packed) == 5, "the text above the table says how many"


FENCED = {
    "python3 scripts/pipeline.py --setup": "tests/container/test_pipeline.py::test_build_to_run",
    "python3 scripts/check.py --setup": "tests/pipeline/test_check_run.py::test_all_checks_pass",
    "python3 scripts/configure_github.py DOCKERHUB_USERNAME=you --token": (
        "tests/pipeline/test_configure_github.py::test_all_of_it"
    ),
    "python3 scripts/adopt.py shop-api": "tests/pipeline/test_adopt.py::test_the_service_has_its_new_name_everywhere",
    "docker run --rm -p 4000:80 username/repository:tag": "tests/container/test_pipeline.py::test_build_to_run",
    "docker compose up": "tests/service/test_compose.py::test_compose_counts_and_keeps_its_count",
    "ssh root@hello.example.org true": "a person compares the key with the one on the machine's console",
    "python3 scripts/prepare_host.py root@hello.example.org": "tests/pipeline/test_prepare_host.py::test_over_ssh",
    "python3 scripts/redeploy.py latest": "tests/swarm/test_one_host.py::test_a_good_version",
    "python3 scripts/redeploy.py previous": "tests/swarm/test_one_host.py::test_a_good_version",
}
"""The commands of the README's blocks, without the variables before them: the test that runs it, or why none can."""


@ours
def test_every_command_is_run() -> None:
    """Each command in a block is run by a test, or is listed with the reason why it cannot be."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S)
    lines = [
        line for block in blocks for line in block.splitlines() if re.match(r"([A-Z_]+=|python3 |docker |ssh )", line)
    ]
    assert [re.sub(r"^([A-Z_]+=\S+ )+", "", line) for line in lines] == list(FENCED)
    for test in FENCED.values():
        path, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), test


def named_options() -> list[tuple[str, str]]:
    """Return each script and option that a page names together."""
    found = set()
    for page in PAGES:
        for script, rest in re.findall(r"scripts/(\w+\.py)([^`|;\n]*)", (ROOT / page).read_text("utf-8")):
            found |= {(script, option) for option in re.findall(r" (--[a-z][a-z-]*)", rest)}
    return sorted(found)


@pytest.mark.parametrize(("script", "option"), named_options())
def test_options_that_are_named_are_there(script: str, option: str) -> None:
    """No page names an option that the script does not take."""
    usage = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--help"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert re.search(rf"^  (-\w, )?{option}\b", usage, re.M), option


WORKER = '[processes]\nworker = ["python", "-m", "fixture", "9000"]\n\n[secrets]'
COMPOSE_WORKER = "  worker:\n    image: ${IMAGE:-fixture:ci}\n  redis:\n    image: redis:8\n"
REDIS = '[backing.redis]\nimage = "redis:8"\nurl = "redis://redis:6379/0"\nsecret = "STORE_URL"\n'

# What the README's table says, carried out: file -> (old text, new text), the first one in service.toml.
CHANGES: dict[str, list[tuple[str, str, str]]] = {
    "another port in the container": [
        ("service.toml", "port = 8080", "port = 9000"),
        ("Dockerfile", "EXPOSE 8080", "EXPOSE 9000"),
        ("compose.yaml", ":8080", ":9000"),
    ],
    "another port outside": [
        ("service.toml", "publish = 4000", "publish = 5000"),
        ("compose.yaml", "PORT:-4000", "PORT:-5000"),
    ],
    "another page": [("service.toml", 'page = "/page"', 'page = "/items"')],
    "no Redis": [
        ("service.toml", REDIS, ""),
        ("compose.yaml", "  redis:\n    image: redis:8\n", ""),
    ],
    "a secret": [
        ("service.toml", "[secrets]", '[secrets]\nSECRET_KEY = "for tests"'),
        ("compose.yaml", "    depends_on", "      SECRET_KEY: ${SECRET_KEY:-for tests}\n    depends_on"),
    ],
    "a worker": [
        ("service.toml", "[secrets]", WORKER),
        ("compose.yaml", "  redis:\n    image: redis:8\n", COMPOSE_WORKER),
    ],
    "a folder that is kept": [
        ("service.toml", "port = 8080", 'port = 8080\nvolumes = ["/data"]'),
        ("compose.yaml", "    depends_on", "    volumes: [data:/data]\n    depends_on"),
    ],
    "a Debian package": [],
    "a Python package": [],
    "one platform only": [("service.toml", "port = 8080", 'port = 8080\nplatforms = ["linux/amd64"]')],
    "another registry": [],
    "a check that does not hold for your service": [
        ("service.toml", "[secrets]", '[off]\nrevision = "it has none"\n\n[secrets]'),
    ],
}


def table() -> dict[str, str]:
    """Return what to change, by what one wants, as the README has it."""
    _, _, rest = README.partition("| to get | change |\n|---|---|\n")
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", rest.partition("\n\n")[0], re.M)
    return dict(rows)


@ours
def test_every_row_is_tried() -> None:
    """What the README promises is what this file carries out."""
    assert list(table()) == list(CHANGES)


@ours
@pytest.mark.parametrize(("what", "changes"), CHANGES.items(), ids=CHANGES)
def test_what_to_change(tmp_path: Path, what: str, changes: list[tuple[str, str, str]]) -> None:
    """Each row names the files that have to change; with these alone everything says the same again."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/compose.redis.yaml").touch()
    for name in ("service.toml", "Dockerfile", "compose.yaml"):
        (tmp_path / name).write_text((FIXTURE / name).read_text("utf-8"), "utf-8")
    for count, (name, old, new) in enumerate(changes):
        assert f"`{name}`" in table()[what] or name in table()[what]
        replace(tmp_path / name, {old: new})
        if count + 1 < len(changes) and name == "service.toml" and what != "no Redis":
            assert service.differences(tmp_path, {}), "the first change alone is found out"
    assert service.differences(tmp_path, {}) == []
    if changes:
        assert service.load(tmp_path, {}) != service.load(FIXTURE, {})


@ours
def test_every_setting_has_a_line() -> None:
    """The tables name each variable and each secret that a workflow reads, and no other."""
    variables, secrets = gh.known()
    listed = [
        re.findall(r"`([A-Z_]+)`", row) for row in re.findall(r"^ *\| (?:[Vv]aria|[Ss]ecr).*?\|(.*?)\|", README, re.M)
    ]
    assert sorted(name for names in listed for name in names) == sorted(variables | secrets)


@ours
def test_the_head_is_the_one_that_adopt_replaces() -> None:
    """A copy's README begins with its own name and sentence."""
    head, _, rest = README.partition("\n\n[")
    found = adopt.with_head(README, named("shop-api"))
    assert found.startswith("# shop-api\n\nThe service shop-api, ")
    assert head.splitlines()[-1] not in found
    assert found.endswith(rest)


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by their headings, `## Name` or `### Name`; what comes first is under ""."""
    parts = re.split(r"^(##+ .+)$", text, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


UNTRANSLATED = ("## What runs when", "## Run it", "## Deploy it")
"""The sections that the Chinese README leaves to the English one."""


ENGLISH = [(name, text) for name, text in sections(README).items() if name not in UNTRANSLATED]
THERE = sections((ROOT / CHINESE).read_text("utf-8")) if (ROOT / CHINESE).exists() else {}


def outline(text: str) -> list[str]:
    """Return how each line of a text begins if it is a part of a table, a list or a block, without the sentences."""
    return re.findall(r"^ *(?:\||-|\d+\.|```\w*)(?= |$|-)", re.sub(r"\|---.*", "", text), re.M)


@ours
def test_the_chinese_readme_has_the_same_sections() -> None:
    """As many headings of each level, in the same order."""
    assert [name.partition(" ")[0] for name, _ in ENGLISH] == [name.partition(" ")[0] for name in THERE]


@ours
@pytest.mark.parametrize(
    ("heading", "text", "heading_there", "text_there"),
    [(*one, *other) for one, other in zip(ENGLISH, THERE.items(), strict=False)],
    ids=[name or "head" for name, _ in ENGLISH][: len(THERE)],
)
def test_the_chinese_readme_is_in_step(heading: str, text: str, heading_there: str, text_there: str) -> None:
    """In each section the same commands, names, pages, rows and steps."""
    assert re.findall(r"^```(.*?)^```", text, re.M | re.S) == re.findall(r"^```(.*?)^```", text_there, re.M | re.S)
    assert outline(text) == outline(text_there)
    # A name that is said again in one of the two is said all the same.
    assert set(re.findall(r"`[^`\n]+`", heading + text)) - {"`owner/template`"} == (
        set(re.findall(r"`[^`\n]+`", heading_there + text_there)) - {"`owner/template`"}
    )
    assert set(re.findall(r"\]\(((?!#)[\w./#-]+|http[^)]+)\)", text)) <= (
        set(re.findall(r"\]\(((?!#)[\w./#-]+|http[^)]+)\)", text_there)) | {CHINESE}
    )


@ours
def test_the_two_readmes_lead_to_each_other() -> None:
    """A reader finds the other language on the first screen."""
    assert f"({CHINESE})" in sections(README)[""]
    assert "(README.md)" in THERE[""]
