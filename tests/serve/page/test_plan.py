"""The plan as a picture of the cards, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By

from fluxsampler_api.loading import load_file
from fluxsampler_planner import plan
from tests.support import plans
from tests.support.browser import Browser
from tests.support.page import PHONE, Page
from tests.support.scripted_server import serving

if TYPE_CHECKING:
    pass

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_plan_is_drawn_in_proportion_with_words_beside_it(browser: Browser) -> None:
    shown = plans.EIGHT_CARDS
    with serving(plans.info(shown, large=True)) as server:
        page = Page(browser, server.url).open()
        bars = browser.driver.find_elements(By.CSS_SELECTOR, ".cards .card > .bar-of")
        assert len(bars) == 8
        for bar, card in zip(bars, shown.memory.cards, strict=True):
            parts = bar.find_elements(By.TAG_NAME, "span")
            inner = browser.run("return arguments[0].clientWidth", bar)
            for part, component in zip(parts, card.components, strict=False):
                assert part.rect["width"] == pytest.approx(inner * component.gib / card.usable_gib, abs=1)
            assert sum(part.rect["width"] for part in parts) == pytest.approx(inner, abs=1)
            assert f"transformer {card.components[0].gib:.2f} GiB" in str(bar.get_attribute("aria-label"))
        words = page.text("plan-body")
        for said in ("pp8", "PipeFusion 8", "4.5 s", "± 8 %", "Co-resident", "15.5 of 23.5 GiB"):
            assert said in words
        for fold in browser.driver.find_elements(By.CSS_SELECTOR, "#plan summary"):
            fold.click()
        rows = browser.driver.find_elements(By.CSS_SELECTOR, "#plan tbody tr")
        assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == [
            str(index) for index in range(8)
        ]
        assert "8.87 GiB" in rows[0].text
        words = page.text("plan-body")
        for rejection in shown.rejected:
            assert rejection.message in words
        assert shown.memory.host.proof[0] in words


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_plan_is_drawn(browser: Browser, example: Path) -> None:
    for sampler in load_file(example):
        planned = plan(sampler).status()
        with serving(plans.info(planned, large=planned.memory.cards[0].usable_gib > 20)) as server:
            browser.complaints()
            page = Page(browser, server.url).open()
            browser.screen(*PHONE, phone=True)
            browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
            assert page.overflow() <= 0
            drawn = browser.run(
                "return [...document.querySelectorAll('.cards .bar-of')].map((b) => b.ariaLabel)"
            )
            for card in planned.memory.cards:
                assert any(f" {card.index}, {card.role}:" in text for text in drawn)
            words = page.text("plan-body")
            assert planned.layout.summary in words
            assert all(rejection.family in words for rejection in planned.rejected)
            assert "NaN" not in words
            assert "undefined" not in words
            assert browser.complaints() == []


def test_small_use_is_magnified(page: Page) -> None:
    card = page.browser.driver.find_element(By.CSS_SELECTOR, ".cards .card")
    assert "magnified 33 times" in card.text
    parts = card.find_elements(By.CSS_SELECTOR, ".lens span")
    used = sum(component.gib for component in plans.TWO_PROCESSES.memory.cards[0].components)
    inner = page.browser.run("return document.querySelector('.lens .bar-of').clientWidth")
    assert parts[-1].rect["width"] == pytest.approx(inner * 0.156 / used, abs=1)
