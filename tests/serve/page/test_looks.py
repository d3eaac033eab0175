"""Readable, named and in place: light and dark, phone and desk, in every state of the page."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.page import PHONE, Page
from tests.support.scripted_server import Drawing, Refusal, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable

# Smallest contrast of any text that is shown, against the nearest background that is not see-through.
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0.99) return colour;
  }
  return [255, 255, 255];
};
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest("noscript, .unseen, :disabled")) continue;
  const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.trim()]);
}
return found.sort((a, b) => a[0] - b[0]).slice(0, 3);
"""

# Ids used twice, labels and descriptions that point nowhere, pictures without alt, skipped heading levels.
FAULTS = """
const faults = [];
const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
for (const name of ["for", "aria-describedby", "aria-labelledby"])
  for (const node of document.querySelectorAll(`[${name}]`))
    for (const id of node.getAttribute(name).split(" "))
      if (!document.getElementById(id)) faults.push(`${name} points at no #${id}`);
for (const node of document.querySelectorAll("img"))
  if (node.checkVisibility() && !node.alt && !node.classList.contains("mark")) faults.push("img without alt");
const levels = [...document.querySelectorAll("h1,h2,h3,h4")].map((node) => Number(node.tagName[1]));
levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) faults.push(`h${level} after h${levels[i - 1]}`); });
return faults;
"""

# Whether an element is in the window, whole.
INSIDE = """
const box = document.getElementById(arguments[0]).getBoundingClientRect();
return box.top >= 0 && box.bottom <= innerHeight;
"""


def _nothing(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    """The empty page."""


def _drawing(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    server.answers.append(Drawing(hold=hold, hold_after=5))
    page.draw()
    page.browser.until("document.getElementById('progress').getAttribute('aria-valuenow') === '5'")


def _done(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    server.answers.extend([Drawing(), Drawing("green", "fallback", "GangFailed")])
    for pictures in (1, 2):
        page.draw("a-word-without-any-place-to-break-it-" * 4)
        page.drawn(pictures)


def _refused(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    server.answers.append(Refusal(422, "no: 96x96, 112x96, 128x128", {"param": "size"}))
    page.draw()
    page.browser.until("!document.getElementById('size-error').hidden")


def _unfolded(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    page.browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    page.element("size").send_keys("Custom")
    server.answers.append(Refusal(429, "full", {}, {"retry-after": "600"}))
    page.draw()
    page.browser.until("!document.getElementById('form-error').hidden")


STATES = pytest.mark.parametrize("state", [_nothing, _drawing, _done, _refused, _unfolded])


@STATES
def test_phone_width_never_scrolls_sideways(
    page: Page,
    server: ScriptedServer,
    hold: threading.Event,
    state: Callable[[Page, ScriptedServer, threading.Event], None],
) -> None:
    page.browser.screen(*PHONE, phone=True)
    page.browser.until(f"innerWidth === {PHONE[0]}")
    state(page, server, hold)
    assert page.overflow() <= 0
    small = """return [...document.querySelectorAll("button, input, select, textarea, summary, .button")]
      .filter((node) => node.checkVisibility() && node.getBoundingClientRect().height < 24 && node.type !== "checkbox")
      .map((node) => node.outerHTML)"""
    assert page.browser.run(small) == []
    page.browser.screen(320, 640, phone=True)
    page.browser.until("innerWidth === 320")
    assert page.overflow() <= 0


@STATES
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_readable_and_everything_is_named(
    page: Page,
    server: ScriptedServer,
    hold: threading.Event,
    state: Callable[[Page, ScriptedServer, threading.Event], None],
    dark: bool,
) -> None:
    page.browser.prefer(dark=dark, reduced_motion=True)
    state(page, server, hold)
    ground = page.browser.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(ground) < 60) if dark else (min(ground) > 200)
    faintest = page.browser.run(CONTRAST)
    assert faintest[0][0] >= 4.5, faintest
    assert page.browser.run(FAULTS) == []
    page.browser.command("Accessibility.enable")
    tree = page.browser.command("Accessibility.getFullAXTree")["nodes"]
    roles = {
        "button",
        "textbox",
        "combobox",
        "spinbutton",
        "checkbox",
        "link",
        "progressbar",
        "image",
        "region",
    }
    named = [
        (n["role"]["value"], n["name"]["value"])
        for n in tree
        if not n["ignored"] and n["role"]["value"] in roles
    ]
    assert len(named) > 10
    assert [role for role, name in named if not name.strip()] == []


def test_reduced_motion_is_honoured(page: Page, server: ScriptedServer, hold: threading.Event) -> None:
    moving = "return document.getAnimations().length"
    server.answers.append(Drawing(hold=hold))
    page.draw()
    page.browser.until("document.getElementById('figure').dataset.state === 'drawing'")
    assert page.browser.run(moving) > 0
    page.browser.prefer(reduced_motion=True)
    assert page.browser.run(moving) == 0
    assert page.element("progress").get_attribute("aria-valuenow") is None  # Nothing is known yet.


def test_phone_sees_the_progress_of_what_it_asked_for(
    page: Page, server: ScriptedServer, hold: threading.Event
) -> None:
    page.browser.screen(*PHONE, phone=True)
    page.browser.until(f"innerWidth === {PHONE[0]}")
    _drawing(page, server, hold)
    assert [name for name in ("picture", "progress", "cancel") if not page.browser.run(INSIDE, name)] == []
    hold.set()
    page.drawn(1)
    assert page.browser.run(INSIDE, "download")
    assert not page.shown("keys")  # No keyboard is there.


def test_phone_sees_an_error_that_concerns_no_control(page: Page, server: ScriptedServer) -> None:
    page.browser.screen(*PHONE, phone=True)
    page.browser.until(f"innerWidth === {PHONE[0]}")
    page.draw()
    page.drawn(1)
    server.answers.append(Refusal(503, "loading", {"code": "not_ready"}))
    page.element("draw").click()
    page.browser.until("!document.getElementById('form-error').hidden")
    assert page.browser.run(INSIDE, "form-error")
