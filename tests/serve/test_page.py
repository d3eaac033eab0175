"""The playground page in a real Chromium, against a scripted server and against the Serve app."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import plans
from tests.support.browser import Browser, chromium, missing
from tests.support.scripted_server import Drawing, Refusal, ScriptedServer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if lacking := missing():
    pytest.skip(lacking, allow_module_level=True)

RED, GREEN = (255, 0, 0), (0, 128, 0)
PHONE, DESK = (360, 740), (1280, 900)

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


class Page:
    """The page as a person handles it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        browser.screen(*DESK)
        browser.prefer()

    def open(self) -> Page:
        self.browser.driver.get(self.url)
        self.browser.until("document.getElementById('form').dataset.ready")
        self.browser.until("document.getElementById('service').dataset.state === 'ready'")
        return self

    def element(self, name: str) -> Any:
        return self.browser.driver.find_element(By.ID, name)

    def fill(self, name: str, text: str) -> None:
        field = self.element(name)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str, holding: str | None = None) -> None:
        """Keys to whatever has the focus."""
        chain = ActionChains(self.browser.driver)
        if holding:
            chain.key_down(holding)
        for key in keys:
            chain.send_keys(key)
        if holding:
            chain.key_up(holding)
        chain.perform()

    def text(self, name: str) -> str:
        return str(self.element(name).text)

    def shown(self, name: str) -> bool:
        return bool(self.element(name).is_displayed())

    def focused(self) -> str:
        return str(self.browser.run("return document.activeElement.id"))

    def drawn(self, pictures: int) -> None:
        """Waits until that many pictures are in the history and the last is shown and decoded."""
        self.browser.until(
            f"document.querySelectorAll('#thumbs li').length === {pictures} && "
            "document.getElementById('figure').dataset.state === 'drawn' && "
            "document.getElementById('draw').getAttribute('aria-disabled') === 'false'"
        )
        self.loaded()

    def loaded(self) -> None:
        self.browser.until(
            "document.getElementById('picture').complete && document.getElementById('picture').naturalWidth"
        )

    def pixel(self, x: float = 0.5, y: float = 0.5) -> tuple[int, int, int]:
        """The picture's own colour at a share of its width and height."""
        script = """
        const picture = document.getElementById("picture");
        const canvas = Object.assign(document.createElement("canvas"),
          {width: picture.naturalWidth, height: picture.naturalHeight});
        const context = canvas.getContext("2d");
        context.drawImage(picture, 0, 0);
        return [...context.getImageData(arguments[0] * canvas.width, arguments[1] * canvas.height, 1, 1).data];
        """
        red, green, blue, _ = self.browser.run(script, x, y)
        return red, green, blue

    def overflow(self) -> int:
        return int(self.browser.run("return document.documentElement.scrollWidth - innerWidth"))

    def draw(self, prompt: str = "a red circle") -> None:
        self.fill("prompt", prompt)
        self.element("draw").click()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(plans.info(plans.TWO_PROCESSES, large=False)) as script:
        yield script


@pytest.fixture
def page(browser: Browser, server: ScriptedServer) -> Page:
    browser.complaints()  # Those of the test before.
    return Page(browser, server.url).open()


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


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
    assert page.text("announce") or page.browser.run(
        "return document.getElementById('announce').textContent.includes('Earlier picture')"
    )
    assert page.browser.complaints() == []


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
    ],
    ids=["504", "503", "502", "broken"],
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
    server.starting = "the parallel engine is loading"
    page.browser.driver.refresh()
    page.browser.until("document.getElementById('service').dataset.state === 'starting'")
    assert "loading" in page.element("service").get_attribute("title")
    server.starting = None
    page.browser.until("document.getElementById('service').dataset.state === 'ready'")


def test_fallback_says_why(page: Page, server: ScriptedServer) -> None:
    server.answers.append(Drawing(engine="fallback", reason="NotSplittable"))
    page.draw()
    page.drawn(1)
    assert "fallback" in page.text("facts")
    assert "cannot be split" in page.text("why")


def test_plan_is_drawn_in_proportion_with_words_beside_it(browser: Browser) -> None:
    plan = plans.EIGHT_CARDS
    with serving(plans.info(plan, large=True)) as server:
        page = Page(browser, server.url).open()
        bars = browser.driver.find_elements(By.CSS_SELECTOR, ".cards .card > .bar-of")
        assert len(bars) == 8
        for bar, card in zip(bars, plan.memory.cards, strict=True):
            parts = bar.find_elements(By.TAG_NAME, "span")
            inner = browser.run("return arguments[0].clientWidth", bar)
            for part, component in zip(parts, card.components, strict=False):
                assert part.rect["width"] == pytest.approx(inner * component.gib / card.total_gib, abs=1)
            assert sum(part.rect["width"] for part in parts) == pytest.approx(inner, abs=1)
            assert f"transformer {card.components[0].gib:.2f} GiB" in bar.get_attribute("aria-label")
        words = page.text("plan-body")
        for said in ("pp8", "PipeFusion 8", "4.5 s", "± 8 %", "Co-resident", "13.8 of 22.6 GiB"):
            assert said in words
        for fold in browser.driver.find_elements(By.CSS_SELECTOR, "#plan summary"):
            fold.click()
        rows = browser.driver.find_elements(By.CSS_SELECTOR, "#plan tbody tr")
        assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == [
            str(index) for index in range(8)
        ]
        assert "9.20 GiB" in rows[0].text
        words = page.text("plan-body")
        for rejection in plan.rejected:
            assert rejection.message in words
        assert plan.memory.host.proof[0] in words


def test_small_use_is_magnified(page: Page) -> None:
    card = page.browser.driver.find_element(By.CSS_SELECTOR, ".cards .card")
    assert "magnified 14 times" in card.text
    parts = card.find_elements(By.CSS_SELECTOR, ".lens span")
    used = sum(component.gib for component in plans.TWO_PROCESSES.memory.cards[0].components)
    inner = page.browser.run("return document.querySelector('.lens .bar-of').clientWidth")
    assert parts[-1].rect["width"] == pytest.approx(inner * 0.11 / used, abs=1)


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
