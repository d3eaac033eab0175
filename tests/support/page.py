"""The playground page as a person handles it: types, presses, looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

if TYPE_CHECKING:
    from tests.support.browser import Browser

PHONE, DESK = (360, 740), (1280, 900)


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
        picture = self.pixels()
        red, green, blue = picture[int(y * len(picture)), int(x * len(picture[0]))].tolist()
        return red, green, blue

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The whole picture, RGB [height, width, 3]."""
        script = """
        const picture = document.getElementById("picture");
        const canvas = Object.assign(document.createElement("canvas"),
          {width: picture.naturalWidth, height: picture.naturalHeight});
        const context = canvas.getContext("2d");
        context.drawImage(picture, 0, 0);
        const {data, width, height} = context.getImageData(0, 0, canvas.width, canvas.height);
        return [[...data], width, height];
        """
        data, width, height = self.browser.run(script)
        return np.array(data, dtype=np.uint8).reshape(height, width, 4)[..., :3]

    def overflow(self) -> int:
        return int(self.browser.run("return document.documentElement.scrollWidth - innerWidth"))

    def draw(self, prompt: str = "a red circle") -> None:
        self.fill("prompt", prompt)
        self.element("draw").click()
