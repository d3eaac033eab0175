"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 60.0, *, every: float = 0.02) -> None:
    """Return when ``condition`` holds; fail when it does not within ``seconds``.

    Looks once ``every`` so many seconds: a look that costs whom it waits for should be rarer.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{condition} did not come true within {seconds} s"
        time.sleep(every)
