"""Screenshots of a running service's page for the documentation.

``python -m tests.support.page_shots URL FOLDER``, with a service such as ``fluxsampler up`` starts. The
plan is the one of eight cards, which no service here could run by.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from fluxsampler_api.loading import load_file
from fluxsampler_planner import plan
from tests.support import plans
from tests.support.browser import Browser, chromium
from tests.support.page import DESK, PHONE, Page
from tests.support.scripted_server import serving

LARGE = Path(__file__).parents[2] / "examples" / "flux-dev-8x4090.yaml"
PROMPTS = ("a yellow triangle", "a green square", "a blue circle", "a red circle")


def take(url: str, folder: Path) -> None:
    """Draws a few pictures and keeps desk.png, dark.png, plan.png and phone.png in ``folder``."""
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        page = Page(browser, url).open()
        for pictures, prompt in enumerate(PROMPTS, 1):
            page.draw(prompt)
            page.drawn(pictures)
        browser.run("document.activeElement.blur()")
        ActionChains(browser.driver).move_to_element(page.element("said")).perform()  # Off the button.
        _keep(browser.driver.get_screenshot_as_png(), folder / "desk.png")
        browser.prefer(dark=True)
        _keep(browser.driver.get_screenshot_as_png(), folder / "dark.png")
        browser.prefer()
        browser.screen(*PHONE, phone=True)
        browser.run("document.getElementById('figure').scrollIntoView()")
        _keep(browser.driver.get_screenshot_as_png(), folder / "phone.png")
        keep_plan(browser, folder / "plan.png")


def keep_plan(browser: Browser, file: Path) -> None:
    """The large example's plan as it stands on the page, folded in."""
    planned = plan(load_file(LARGE)[0]).status()
    with serving(plans.info(planned, large=True)) as server:
        Page(browser, server.url).open()
        browser.screen(DESK[0], int(browser.run("return document.documentElement.scrollHeight")))
        _keep(browser.driver.find_element(By.ID, "plan").screenshot_as_png, file)


def _keep(png: bytes, file: Path) -> None:
    """Written with a palette: a page has few colours, and the repository should stay small."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(255, dither=Image.Dither.NONE)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
