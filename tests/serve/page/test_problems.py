"""Whatever goes wrong is said as a person would want it: beside its control, with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.page import Page
from tests.support.scripted_server import Drawing, Refusal, ScriptedServer

if TYPE_CHECKING:
    pass

RED, GREEN = (255, 0, 0), (0, 128, 0)


def test_what_is_missing_is_said_beside_its_control(page: Page, server: ScriptedServer) -> None:
    page.fill("steps", "0")
    page.element("draw").click()
    assert "Write what the picture shows" in page.text("prompt-error")
    assert "whole number of steps" in page.text("steps-error")
    assert page.focused() == "prompt"
    assert page.element("prompt").get_attribute("aria-invalid") == "true"
    page.press("a")
    assert not page.shown("prompt-error")
    assert page.element("prompt").get_attribute("aria-invalid") is None
    assert server.requests == []


def test_refused_size_offers_the_nearest(page: Page, server: ScriptedServer) -> None:
    message = "size: 100x90 cannot be drawn: width and height must be multiples of 16; the nearest sizes are 96x96, 112x96"
    server.answers.append(Refusal(422, message, {"param": "size", "code": "size_not_drawable"}))
    page.element("size").send_keys("Custom")
    page.fill("width", "100")
    page.fill("height", "90")
    page.draw()
    page.browser.until("!document.getElementById('size-error').hidden")
    assert page.focused() == "width"
    nearest = page.browser.driver.find_elements(By.CSS_SELECTOR, "#size-error button")
    assert [button.text for button in nearest] == ["96 × 96", "112 × 96"]
    nearest[1].click()
    assert not page.shown("size-error")
    assert page.focused() == "draw"
    page.press(Keys.ENTER)
    page.drawn(1)
    assert [request["size"] for request in server.requests] == ["100x90", "112x96"]


def test_too_long_prompt_can_be_cut(page: Page, server: ScriptedServer) -> None:
    message = "the prompt has 40 tokens, 32 are allowed; shorten it, or send truncate_prompt: true"
    server.answers.append(Refusal(422, message, {"param": "prompt", "code": "prompt_too_long"}))
    page.draw()
    page.browser.until("!document.getElementById('prompt-error').hidden")
    assert page.focused() == "prompt"
    page.browser.driver.find_element(By.CSS_SELECTOR, "#prompt-error button").click()
    page.drawn(1)
    assert server.requests[0].get("truncate_prompt") is None
    assert server.requests[1]["truncate_prompt"] is True
    page.draw()
    page.drawn(2)
    assert server.requests[2].get("truncate_prompt") is None  # It was for that one picture.


def test_busy_server_counts_down(page: Page, server: ScriptedServer) -> None:
    server.answers.append(Refusal(429, "the queue is full", {"code": "queue_full"}, {"retry-after": "2"}))
    page.draw()
    page.browser.until("!document.getElementById('form-error').hidden")
    assert page.element("form-error").get_attribute("role") == "alert"
    assert "busy" in page.text("form-error")
    again = page.browser.driver.find_element(By.CSS_SELECTOR, "#form-error button")
    assert not again.is_enabled()
    page.browser.until("!document.querySelector('#form-error button').disabled")
    again.click()
    page.drawn(1)
    assert not page.shown("form-error")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Refusal(504, "the time limit of 60 s was over", {"code": "deadline_exceeded"}), "longer than"),
        (Refusal(503, "the parallel engine is loading", {"code": "not_ready"}), "No engine is ready"),
        (Refusal(502, "no engine could draw it", {"code": "engine_failed"}), "failed"),
        (Drawing(breaks=True, hold_after=3), "connection"),
        (
            Drawing(hold_after=3, fails={"message": "60 s are over", "code": "deadline_exceeded"}),
            "longer than",
        ),
        (Drawing(hold_after=3, fails={"message": "an unexpected error", "code": "internal_error"}), "failed"),
    ],
    ids=["504", "503", "502", "broken", "late-504", "late-500"],
)
def test_failure_is_told_and_the_picture_before_stays(
    page: Page, server: ScriptedServer, answer: Drawing | Refusal, words: str
) -> None:
    page.draw()
    page.drawn(1)
    server.answers.append(answer)
    page.draw("a green circle")
    page.browser.until("!document.getElementById('form-error').hidden")
    assert words in page.text("form-error")
    page.drawn(1)
    assert page.pixel() == RED
    assert page.element("prompt").get_attribute("value") == "a green circle"


def test_server_that_is_away_is_noticed_and_found_again(page: Page, server: ScriptedServer) -> None:
    server.away = True
    page.draw()
    page.browser.until("!document.getElementById('form-error').hidden")
    assert "cannot be reached" in page.text("form-error")
    page.browser.until("document.getElementById('service').dataset.state === 'away'")
    server.away = False
    page.browser.until("document.getElementById('service').dataset.state === 'ready'")
    page.element("draw").click()
    page.drawn(1)


def test_token_is_asked_for_only_where_it_is_needed(page: Page, server: ScriptedServer) -> None:
    assert not page.shown("token-field")
    server.token = "geheim"
    page.browser.driver.refresh()
    page.browser.until("document.getElementById('service').dataset.state === 'locked'")
    assert page.focused() == "token"
    assert not page.element("draw").is_enabled()
    page.press("wrong", Keys.ENTER)
    page.browser.until("document.getElementById('token-error').textContent.includes('not accept')")
    page.fill("token", "geheim")
    page.element("token-use").click()
    page.browser.until("document.getElementById('service').dataset.state === 'ready'")
    assert not page.shown("token-field")
    page.draw()
    page.drawn(1)


def test_starting_server_says_so_until_ready(page: Page, server: ScriptedServer) -> None:
    server.starting, server.fallback_ready = "the weights are loading", False
    page.browser.driver.refresh()
    page.browser.until("document.getElementById('service').dataset.state === 'starting'")
    assert page.text("service") == "Starting"
    title = page.element("service").get_attribute("title")
    assert title == "parallel: the weights are loading\nfallback: Loading"
    server.fallback_ready = True
    page.browser.until("document.getElementById('service').textContent === 'Ready, without parallel'")
    server.starting = None
    page.browser.until("document.getElementById('service').dataset.state === 'ready'")
