"""Waiting for a condition, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from tools.cluster.errors import NotReady

_INTERVAL = 0.05


def wait_for(condition: Callable[[], object], timeout: float, what: str, interval: float = _INTERVAL) -> None:
    """Return when ``condition()`` is true.

    Raises:
        NotReady: it was not within ``timeout`` seconds; the text names ``what``.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise NotReady(f"{what}: not within {timeout:.0f} s")
        time.sleep(interval)
