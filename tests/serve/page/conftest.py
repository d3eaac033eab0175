"""One Chromium for all tests of the page; a server for each."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import plans
from tests.support.browser import Browser, chromium, missing
from tests.support.page import Page
from tests.support.scripted_server import ScriptedServer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if lacking := missing():
        pytest.skip(lacking)
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
