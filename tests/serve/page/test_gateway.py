"""The page on the real gateway, router and hosts, around fake engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fluxsampler_serve.engines.fake import FakeScript, picture
from tests.support.app_args import tiny_app_args
from tests.support.browser import Browser
from tests.support.live_gateway import gateway
from tests.support.page import Page

if TYPE_CHECKING:
    pass


def test_real_gateway_draws_previews_and_falls_back(browser: Browser) -> None:
    script = FakeScript(step_seconds=0.05, refused_sizes=frozenset({(96, 96)}))
    with gateway(tiny_app_args(), gang=script) as url:
        browser.complaints()
        page = Page(browser, url).open()
        seen = """
        window.seen = [];
        new MutationObserver(() => window.seen.push(document.getElementById("progress").getAttribute("aria-valuenow")))
          .observe(document.getElementById("progress"), {attributeFilter: ["aria-valuenow"]});
        window.previews = 0;
        new MutationObserver(() => window.previews += document.getElementById("picture").alt.startsWith("Preview"))
          .observe(document.getElementById("picture"), {attributeFilter: ["src"]});
        """
        browser.run(seen)
        page.fill("seed", "7")
        page.draw()
        page.drawn(1)
        expected = picture(7, 128, 128)
        assert page.pixel() == tuple(expected[64, 64])
        assert page.pixel(0.02, 0.02) == tuple(expected[2, 2])
        steps = [int(step) for step in browser.run("return window.seen") if step]
        assert steps == sorted(steps)
        assert steps[-1] == 8
        assert len(set(steps)) > 3
        assert browser.run("return window.previews") >= 1
        assert "parallel" in page.text("facts")
        assert "planned layout" in page.text("why")
        page.element("size").send_keys("96 × 96")
        page.element("draw").click()
        page.drawn(2)
        assert "fallback" in page.text("facts")
        assert "a single device did" in page.text("why")
        assert page.pixel() == tuple(picture(7, 96, 96)[48, 48])
        assert browser.complaints() == []


def test_real_gateway_errors_stand_beside_their_control(browser: Browser) -> None:
    with gateway(tiny_app_args()) as url:
        page = Page(browser, url).open()
        page.element("size").send_keys("Custom")
        page.fill("width", "100")
        page.fill("height", "90")
        page.draw()
        browser.until("!document.getElementById('size-error').hidden")
        assert "100 × 90 cannot be drawn: width and height must be multiples of 16." in page.text(
            "size-error"
        )
        browser.driver.find_element(By.CSS_SELECTOR, "#size-error button").click()
        page.element("draw").click()
        page.drawn(1)
        page.browser.run("document.getElementById('advanced').open = true")
        page.fill("guidance", "-1")
        page.element("draw").click()
        browser.until("!document.getElementById('guidance-error').hidden")
        assert page.focused() == "guidance"
        page.fill("guidance", "2")
        page.fill("negative", "a square")
        page.element("draw").click()
        page.drawn(2)


def test_cancelled_drawing_frees_the_engine(browser: Browser) -> None:
    # 200 steps take longer than anybody here waits: the next picture comes only because these end.
    with gateway(tiny_app_args(), gang=FakeScript(step_seconds=1.0)) as url:
        page = Page(browser, url).open()
        page.fill("steps", "200")
        page.draw()
        browser.until("document.getElementById('progress').getAttribute('aria-valuenow')")
        page.press(Keys.ESCAPE)
        browser.until("document.getElementById('figure').dataset.state === 'empty'")
        page.fill("steps", "1")
        page.element("draw").click()
        page.drawn(1)
        assert "parallel" in page.text("facts")
