"""Chromium for tests of the page: found, started headless, with the few emulations the tests need."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # Tests run as root in containers, where Chromium's sandbox refuses to start.
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)


def missing() -> str | None:
    """What to install where no browser can be started, or None."""
    found = any(shutil.which(name) for name in _BROWSERS) and shutil.which("chromedriver")
    return None if found else "needs Chromium and its driver: apt-get install -y chromium chromium-driver"


@contextmanager
def chromium(profile: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A headless Chromium with its own profile folder; ended with everything it started."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in _BROWSERS if (path := shutil.which(name)))
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The driver is named, so that selenium never looks for one on the network.
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """A WebDriver with emulations. ``driver`` is the WebDriver itself."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def run(self, script: str, *args: object) -> Any:
        """What ``script`` (the body of a JavaScript function) returns."""
        return self.driver.execute_script(script, *args)

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Waits until the JavaScript ``expression`` is true and returns it; the page's own words when it never is."""
        try:
            return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.run(f"return {expression}"))
        except TimeoutException:
            shown = self.run("return document.body.innerText")
            raise AssertionError(f"never true: {expression}\n{shown}\n{self.complaints()}") from None

    def command(self, name: str, **arguments: object) -> Any:
        """A command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def screen(self, width: int, height: int = 900, *, phone: bool = False) -> None:
        """Gives the page ``width`` x ``height`` CSS pixels; a headless window itself is never below 500."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        """Emulates the person's settings."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        self.command("Emulation.setEmulatedMedia", features=features)

    def complaints(self) -> list[str]:
        """Warnings and errors on the console since the last call."""
        entries = cast("list[dict[str, str]]", self.driver.get_log("browser"))  # type: ignore[no-untyped-call]  # selenium
        return [entry["message"] for entry in entries if entry["level"] in {"WARNING", "SEVERE"}]
