#!/usr/bin/env python3
"""Take the README's pictures, both from real runs: docs/page.png, of the page, and docs/run.png, of a run's summary.

  .venv/bin/python benchmarks/pictures.py        both
  .venv/bin/python benchmarks/pictures.py page   or one of them: page, run

The page is the one that scripts/serve.py serves, visited until it has counted a few. The summary is what the scripts of
the workflow CI write, run here in its order, with a registry on localhost; it is laid out as GitHub lays out Markdown,
with Mermaid from the npm registry. Needs an engine, Debian's packages chromium and chromium-driver, npm, and the
environment that scripts/check.py makes. Nothing in the pictures is made up but the names of the machine and of the
account.
"""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from selenium import webdriver

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import serve  # noqa: E402
from lib import containers, service  # noqa: E402
from lib.command import STATE, Failure, parser, run, say, start, wait_until  # noqa: E402
from lib.names import checked_out  # noqa: E402
from pipeline import local_registry  # noqa: E402

DOCS = ROOT / "docs"
LARGEST = 150_000  # bytes of a picture
VISITS = 3
MERMAID = "mermaid@12.3.0"
# The last four keep Chromium from asking its maker's servers for things.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

STYLE = """
body { margin: 0; padding: 16px 24px; background: #fff; color: #222; font: 15px/1.5 sans-serif; }
h3 { margin: 16px 0 12px; font-size: 18px; }
table { border-collapse: collapse; margin: 0 0 16px; }
th, td { border: 1px solid #ccc; padding: 4px 12px; }
tr:nth-child(even) td { background: #f6f6f6; }
code, pre { font: 13px/1.4 monospace; background: #f2f2f2; border-radius: 6px; }
code { padding: 2px 4px; overflow-wrap: anywhere; }
pre { padding: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
pre code { padding: 0; }
pre.mermaid { background: none; padding: 0; }
"""


def page_of(markdown: str, scripts: Sequence[str] = ()) -> str:
    """Return a page that shows Markdown much as GitHub does; `scripts` are the addresses of what it loads."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def fence(tokens: Sequence[Any], index: int, *_: object) -> str:
        kind = ' class="mermaid"' if tokens[index].info == "mermaid" else ""
        return f"<pre{kind}>{html.escape(tokens[index].content)}</pre>\n"

    parser.add_render_rule("fence", lambda _, *rest: fence(*rest))
    loaded = "".join(f'<script src="{address}"></script>' for address in scripts)
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>{parser.render(markdown)}{loaded}'


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, without a window."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        raise Failure("there is no chromium with its chromedriver; on Debian, install chromium and chromium-driver")
    program, driver = map(str, programs)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"  # else Selenium asks a proxy for the driver
    options = webdriver.ChromeOptions()
    options.binary_location = program
    with tempfile.TemporaryDirectory() as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def photograph(chrome: webdriver.Chrome, picture: Path, width: int, height: int = 0, *, scale: float = 2) -> None:
    """Save what the browser shows, so many CSS pixels wide and high (0: all of it), `scale` times as large."""
    metrics = {"width": width, "height": height or 100, "deviceScaleFactor": scale, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    if not height:
        metrics["height"] = chrome.execute_script("return document.documentElement.scrollHeight")
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    picture.write_bytes(chrome.get_screenshot_as_png())
    if picture.stat().st_size > LARGEST:
        raise Failure(f"{picture} has more than {LARGEST} bytes; make it smaller")
    say(f"wrote {picture.relative_to(ROOT)}")


def page() -> None:
    """Take the picture of the page."""
    this, port = service.load(ROOT), serve.free_port()
    command = [sys.executable, str(ROOT / "scripts/serve.py"), "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: serve.accepts(port) or process.poll() is not None, what="the service")
            if process.poll() is not None:
                raise Failure("the service ended; see above")
            with browser() as chrome:
                for _ in range(VISITS):
                    chrome.get(f"http://127.0.0.1:{port}{this.page}")
                photograph(chrome, DOCS / "page.png", 320, 100)
        finally:
            process.send_signal(signal.SIGINT)


def summary() -> str:
    """Return the summary of a run that builds, tests and publishes this commit, from the scripts that CI runs."""
    if checked_out().dirty:
        raise Failure("the summary names a commit, and the work tree has changes that are in none; commit them first")
    (STATE / "stages.jsonl").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, containers.cleaned_up(), local_registry() as registry:
        written = Path(folder) / "summary.md"
        names = {"REGISTRY": registry, "DOCKERHUB_USERNAME": "username", "IMAGE_REPOSITORY": service.load(ROOT).name}
        env = {**names, "GITHUB_STEP_SUMMARY": str(written)}

        def step(name: str, *arguments: str, **more: str) -> str:
            command = [sys.executable, str(ROOT / f"scripts/{name}.py"), *arguments]
            return run(command, show=True, env={**env, **more}).stdout.strip()

        digest = step("build_image")
        step("smoke_test", "--digest", digest, "--port", str(serve.free_port()))
        step("push_image", "--digest", digest)
        step("promote_image", "edge", "--digest", digest)
        step("summarize", DIGEST=digest, PUBLISHED="true")
        return written.read_text("utf-8")


def mermaid(folder: Path) -> str:
    """Return the address of the library that draws Mermaid, in a folder."""
    if not shutil.which("npm"):
        raise Failure("there is no npm; on Debian, install npm")
    packed = run(["npm", "pack", "--silent", MERMAID], cwd=folder).stdout.split()[-1]
    with tarfile.open(folder / packed) as archive:
        member = archive.getmember("package/dist/mermaid.min.js")
        member.name = "mermaid.js"
        archive.extract(member, folder, filter="data")
    return (folder / "mermaid.js").as_uri()


def run_summary() -> None:
    """Take the picture of a run's summary."""
    text = summary()
    with tempfile.TemporaryDirectory() as name, browser() as chrome:
        folder = Path(name)
        (folder / "summary.html").write_text(page_of(text, [mermaid(folder)]), "utf-8")
        chrome.get((folder / "summary.html").as_uri())
        drawn = "return document.querySelector('.mermaid svg') !== null"
        wait_until(lambda: bool(chrome.execute_script(drawn)), what="Mermaid")
        photograph(chrome, DOCS / "run.png", 800, scale=1.5)


PICTURES: dict[str, Callable[[], None]] = {"run": run_summary, "page": page}


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("pictures", nargs="*", choices=[*PICTURES, []], metavar="page|run", help="which (both)")
    for name in arguments.parse_args(argv).pictures or PICTURES:
        PICTURES[name]()
    return 0


if __name__ == "__main__":
    start(main)
