"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def publish(path: Path, text: str | bytes, mode: int = 0o644) -> Path:
    """Write ``path`` so that nobody, and no kill, ever sees half of it. Private from its first byte if ``mode`` says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    temporary.rename(path)
    return path
