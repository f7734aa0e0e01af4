#!/usr/bin/env python3
"""Take the README's picture of the page: docs/page.png, from the service as scripts/serve.py runs it.

  .venv/bin/python benchmarks/pictures.py

Opens the page in Debian's Chromium, without a window, and visits it until it has counted a few. Needs the packages
chromium and chromium-driver, and the environment that scripts/check.py makes. Nothing on the page is made up but the
name of the machine, which is the one that runs this.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from selenium import webdriver

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import serve  # noqa: E402
from lib import service  # noqa: E402
from lib.command import Failure, parser, say, start, wait_until  # noqa: E402

PICTURE = ROOT / "docs/page.png"
SIZE = (320, 100)  # of the page, in CSS pixels; the picture has twice as many
LARGEST = 60_000  # bytes
VISITS = 3
# The last four keep Chromium from asking its maker's servers for things.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def photograph(url: str, picture: Path) -> None:
    """Visit a page a few times, and save what a browser shows of it then."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        raise Failure("there is no chromium with its chromedriver; on Debian, install chromium and chromium-driver")
    browser, driver = map(str, programs)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"  # else Selenium asks a proxy for the driver
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory() as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
        metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 2, "mobile": False}
        try:
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            for _ in range(VISITS):
                chrome.get(url)
            picture.write_bytes(chrome.get_screenshot_as_png())
        finally:
            chrome.quit()


def main(argv: Sequence[str]) -> int:
    parser(__doc__).parse_args(argv)
    this, port = service.load(ROOT), serve.free_port()
    command = [sys.executable, str(ROOT / "scripts/serve.py"), "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: serve.accepts(port) or process.poll() is not None, seconds=120, what="the service")
            if process.poll() is not None:
                raise Failure("the service ended; see above")
            photograph(f"http://127.0.0.1:{port}{this.page}", PICTURE)
        finally:
            process.send_signal(signal.SIGINT)
    if PICTURE.stat().st_size > LARGEST:
        raise Failure(f"{PICTURE} has more than {LARGEST} bytes; make SIZE smaller")
    say(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    start(main)
