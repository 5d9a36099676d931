"""A real Chromium without a window, to look at a page with."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One page after the other."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(self, page: Path, width: int, media: str = "") -> None:
        """Shows the file in a window so many CSS pixels wide; with the styles of print, if that is the medium."""
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600})
        self._driver.get(page.as_uri())

    def ask(self, script: str) -> Any:
        """What a script in the page returns; of an open page, this goes past its Content-Security-Policy."""
        return self._driver.execute_script(f"return {script}")

    def said(self) -> list[str]:
        """Every message on the console since this was last asked."""
        return [each["message"] for each in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The address of everything that was requested since this was last asked."""
        messages = [json.loads(each["message"])["message"] for each in self._driver.get_log("performance")]
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def print(self, file: Path) -> None:
        """Prints the page on A4, to a PDF."""
        paper = {"printBackground": True, "preferCSSPageSize": True, "paperWidth": 8.27, "paperHeight": 11.69}
        file.write_bytes(base64.b64decode(self._driver.execute_cdp_cmd("Page.printToPDF", paper)["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in the folder `profile`; a test that needs it fails where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium")
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(_program("chromedriver")))
    try:
        driver.get("about:blank")
        driver.get_log("performance")  # of the page that a new window shows by itself
        yield Browser(driver)
    finally:
        driver.quit()


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: make browser", pytrace=False)
    return path
