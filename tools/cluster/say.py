"""What the tool tells the person in front of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line on standard error; standard output is kept for what scripts read."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say ``text``, and afterwards how long it took."""
    say(f"== {text}")
    begin = time.monotonic()
    yield
    say(f"   {text}: {time.monotonic() - begin:.1f} s")
