"""What a person sees in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from conftest import need
from lib import apt
from lib.command import run
from service.running import Service, program

# The last four keep Chromium from asking its maker's servers for things while it is tested.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture
def chromium(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, without a window and with an empty profile; it is gone before the service is."""
    for name in ("no_proxy", "NO_PROXY"):  # Selenium would ask a proxy for chromedriver on localhost
        monkeypatch.setenv(name, "localhost,127.0.0.1")
    options = webdriver.ChromeOptions()
    if not shutil.which("chromium") and shutil.which("apt-cache") and not apt.available(["chromium"]):
        pytest.skip("this distribution has no Chromium but as a snap, which has no driver")
    browser, driver = program("chromium"), program("chromedriver")
    version = version_of(driver)
    need(version_of(browser) == version, f"Chromium {version}, as chromedriver is")
    options.binary_location = browser
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def version_of(path: str) -> str:
    """Return a program's major version: the two have to be of one."""
    found = re.search(r"\d+", run([path, "--version"], check=False).stdout)
    return found[0] if found else ""


def test_a_person_sees_the_greeting_and_the_count_go_up(chromium: webdriver.Chrome, service: Service) -> None:
    """The heading, the name of the host, and a number that is one more after a reload."""
    chromium.get(f"http://127.0.0.1:{service.port}/")
    heading = chromium.find_element(By.TAG_NAME, "h3").text
    first = chromium.find_element(By.TAG_NAME, "body").text
    chromium.refresh()
    second = chromium.find_element(By.TAG_NAME, "body").text

    assert heading == "Hello world!"
    assert "Hostname:" in first
    assert (first.splitlines()[-1], second.splitlines()[-1]) == ("Visits: 1", "Visits: 2")
