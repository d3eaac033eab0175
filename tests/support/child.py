"""A module in a process of its own, which ends when its standard input does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Child:
    """The running one, with its standard input and output as text."""

    input: IO[str]
    output: IO[str]
    _process: subprocess.Popen[str] = field(repr=False)

    def exit_code(self) -> int:
        """Waits for its end."""
        return self._process.wait(STOP_SECONDS)


@contextmanager
def child(module: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """``python -m MODULE OPTIONS`` until the block ends; ``environment`` is put over our own."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Child(process.stdin, process.stdout, process)
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            finally:
                process.kill()
