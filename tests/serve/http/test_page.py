"""The page in Chromium on the whole Serve app: HAProxy, gateways, a gang that draws, engines that fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.browser import Browser, chromium, missing
from tests.support.live_service import TOKEN
from tests.support.page import Page
from tests.support.shape_checker import judge
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if lacking := missing():
        pytest.skip(lacking)
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def scripted_page(browser: Browser, scripted_url: str) -> Page:
    """The page below a prefix, where a token is wanted, with the token given."""
    page = Page(browser, f"{scripted_url}/")
    browser.driver.get(page.url)
    browser.until("document.getElementById('service').dataset.state === 'locked'")
    page.press(TOKEN, Keys.ENTER)
    browser.until("document.getElementById('form').dataset.ready")
    return page


def red(pixels: npt.NDArray[np.uint8]) -> float:
    """Share of clearly red pixels of an RGB picture [height, width, 3]."""
    colours = pixels.astype(int)
    return float(np.mean((colours[..., 0] > 150) & (colours[..., 1] < 100) & (colours[..., 2] < 100)))


def test_tiny_model_draws_a_red_circle_with_two_ranks(browser: Browser, tiny_url: str) -> None:
    page = Page(browser, f"{tiny_url}/").open()
    browser.complaints()
    browser.run("""window.steps = new Set();
      const bar = document.getElementById("progress");
      new MutationObserver(() => window.steps.add(bar.getAttribute("aria-valuetext"))).observe(bar, {attributes: true});
    """)
    page.element("size").send_keys("64 × 64")
    page.fill("seed", "1")
    page.draw("a red circle")
    page.drawn(1)
    circle = page.pixels()
    assert circle.shape == (64, 64, 3)
    assert red(circle) > 0.02
    assert judge(circle).colour == "red"
    assert (
        len([step for step in browser.run("return [...window.steps]") if step and step.startswith("Step")])
        > 2
    )
    assert "parallel" in page.text("facts")
    page.draw("a blue square")
    page.drawn(2)
    assert red(page.pixels()) < 0.005
    browser.driver.find_elements(By.CSS_SELECTOR, "#thumbs button")[1].click()
    page.loaded()
    assert np.array_equal(page.pixels(), circle)
    page.element("draw").click()
    page.drawn(3)
    assert np.array_equal(page.pixels(), circle)  # The same settings draw the same picture.
    assert "2 processes" in page.text("plan-body")
    assert browser.complaints() == []


def test_what_the_gang_fails_on_comes_from_the_fallback_and_says_so(scripted_page: Page) -> None:
    scripted_page.draw("a circle parallel=refuse")
    scripted_page.drawn(1)
    assert "fallback" in scripted_page.text("facts")
    assert "a single device did" in scripted_page.text("why")


def test_without_a_valid_picture_the_error_is_shown(scripted_page: Page) -> None:
    scripted_page.draw("a circle parallel=grey fallback=grey")
    scripted_page.browser.until("!document.getElementById('form-error').hidden")
    assert "failed" in scripted_page.text("form-error")
    assert "no engine produced a valid picture" in scripted_page.text("form-error").lower()


def test_escape_reaches_an_engine_that_hangs_before_its_first_step(
    scripted_page: Page, tmp_path: Path
) -> None:
    note = tmp_path / "hanging"
    scripted_page.draw(f"parallel=hang note={note}")
    until(note.with_suffix(".started").exists)
    scripted_page.press(Keys.ESCAPE)
    until(note.with_suffix(".cancelled").exists)
    scripted_page.draw("a circle")
    scripted_page.drawn(1)


def test_full_queue_counts_down_and_draws_then(scripted_page: Page, tmp_path: Path) -> None:
    browser, note = scripted_page.browser, tmp_path / "full"
    occupy = """
    window.other = new AbortController();
    fetch("v1/images/generations", {
      method: "POST", signal: window.other.signal,
      headers: {authorization: `Bearer ${arguments[1]}`, "content-type": "application/json"},
      body: JSON.stringify({prompt: arguments[0]}),
    }).catch(() => null);
    """
    browser.run(occupy, f"parallel=hang note={note}", TOKEN)
    until(note.with_suffix(".started").exists)
    scripted_page.draw("a circle")
    browser.until("!document.getElementById('form-error').hidden")
    assert "busy" in scripted_page.text("form-error")
    browser.run("window.other.abort()")
    until(note.with_suffix(".cancelled").exists)
    browser.until("!document.querySelector('#form-error button').disabled")
    browser.driver.find_element(By.CSS_SELECTOR, "#form-error button").click()
    scripted_page.drawn(1)
