"""From a prompt to a picture, its history and its seed, by mouse and by keyboard."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.page import Page
from tests.support.scripted_server import Drawing, ScriptedServer

if TYPE_CHECKING:
    pass

RED, GREEN = (255, 0, 0), (0, 128, 0)


def test_prompt_becomes_picture_with_progress_and_previews(
    page: Page, server: ScriptedServer, hold: threading.Event
) -> None:
    assert page.shown("empty")
    server.answers.append(Drawing("red", hold=hold, hold_after=5))
    page.draw()
    page.browser.until("document.getElementById('progress').getAttribute('aria-valuenow') === '5'")
    bar = page.element("progress")
    assert (
        bar.get_attribute("role"),
        bar.get_attribute("aria-valuemin"),
        bar.get_attribute("aria-valuemax"),
    ) == (
        "progressbar",
        "0",
        "8",
    )
    assert bar.get_attribute("aria-valuetext") == "Step 5 of 8"
    page.loaded()
    assert page.element("picture").get_attribute("alt") == "Preview: a red circle"
    blurred = page.pixel(0.16, 0.5)
    hold.set()
    page.drawn(1)
    assert page.pixel() == RED
    assert page.pixel(0.16, 0.5) != blurred
    assert page.element("picture").get_attribute("alt") == "a red circle"
    assert not page.shown("drawing")
    sent = server.requests[-1]
    assert (sent["prompt"], sent["size"], sent["steps"], sent["stream"]) == (
        "a red circle",
        "128x128",
        8,
        True,
    )
    facts = page.text("facts")
    assert "parallel" in facts
    assert str(sent["seed"]) in facts
    assert page.browser.complaints() == []


def test_download_and_full_size(page: Page) -> None:
    page.draw("A red circle, really!")
    page.drawn(1)
    link = page.element("download")
    seed = page.element("seed").get_attribute("value")
    assert link.get_attribute("download") == f"a-red-circle-really-{seed}.png"
    page.element("full").click()
    driver = page.browser.driver
    here, there = driver.window_handles
    driver.switch_to.window(there)
    try:
        page.browser.until("document.images.length === 1 && document.images[0].naturalWidth === 128")
    finally:
        driver.close()
        driver.switch_to.window(here)


def test_history_brings_picture_and_settings_back(page: Page, server: ScriptedServer) -> None:
    server.answers.extend([Drawing("red"), Drawing("green")])
    page.fill("steps", "4")
    page.draw("a red circle")
    page.drawn(1)
    first = server.requests[0]
    page.fill("steps", "6")
    page.draw("a green circle")
    page.drawn(2)
    assert page.pixel() == GREEN
    assert server.requests[1]["seed"] != first["seed"]
    newest, oldest = page.browser.driver.find_elements(By.CSS_SELECTOR, "#thumbs button")
    assert newest.get_attribute("aria-current") == "true"
    oldest.click()
    page.loaded()
    page.browser.until("document.querySelector('#thumbs li:last-child [aria-current]')")
    assert page.pixel() == RED
    assert page.element("prompt").get_attribute("value") == "a red circle"
    page.element("draw").click()
    page.drawn(3)
    assert {name: server.requests[2][name] for name in ("seed", "steps", "size")} == {
        name: first[name] for name in ("seed", "steps", "size")
    }


def test_seed_is_new_each_time_unless_kept_typed_or_asked_for(page: Page, server: ScriptedServer) -> None:
    for pictures in (1, 2):
        page.draw()
        page.drawn(pictures)
    page.element("random").click()
    asked = page.element("seed").get_attribute("value")
    page.draw()
    page.drawn(3)
    page.fill("seed", "42")
    assert page.element("keep").is_selected()
    for pictures in (4, 5):
        page.draw()
        page.drawn(pictures)
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds[:3])) == 3
    assert str(seeds[2]) == asked
    assert seeds[3:] == [42, 42]


def test_keyboard_alone_draws_cancels_and_restores(
    page: Page, server: ScriptedServer, hold: threading.Event
) -> None:
    assert page.focused() == "prompt"
    page.press("a red circle")
    order = []
    for _ in range(7):
        page.press(Keys.TAB)
        order.append(page.focused() or page.browser.run("return document.activeElement.tagName"))
    assert order == ["size", "steps", "seed", "random", "keep", "SUMMARY", "draw"]
    assert page.browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    server.answers.append(Drawing(hold=hold, hold_after=2))
    page.press(Keys.ENTER)
    page.browser.until("document.getElementById('progress').getAttribute('aria-valuenow') === '2'")
    page.press(Keys.TAB)
    assert page.focused() == "cancel"
    page.press(Keys.ENTER)
    page.browser.until("document.getElementById('figure').dataset.state === 'empty'")
    assert page.focused() == "draw"
    assert server.disconnected.wait(30)
    page.press(Keys.ENTER, holding=Keys.CONTROL)
    page.drawn(1)
    hold.clear()
    server.answers.append(Drawing("green", hold=hold, hold_after=2))
    page.press(Keys.ENTER, holding=Keys.CONTROL)
    page.browser.until("document.getElementById('progress').getAttribute('aria-valuenow') === '2'")
    page.press(Keys.ESCAPE)
    page.drawn(1)  # The earlier picture is back.
    assert page.pixel() == RED
    for _ in range(3):
        page.press(Keys.TAB)  # Download, open, the first thumbnail.
    assert page.browser.run("return document.activeElement.closest('#thumbs') !== null")
    page.press(Keys.ENTER)
    assert page.browser.run(
        "return document.getElementById('announce').textContent.includes('Earlier picture')"
    )
    assert page.browser.complaints() == []


def test_fallback_says_why(page: Page, server: ScriptedServer) -> None:
    server.answers.append(Drawing(engine="fallback", reason="NotSplittable"))
    page.draw()
    page.drawn(1)
    assert "fallback" in page.text("facts")
    assert "cannot be split" in page.text("why")
