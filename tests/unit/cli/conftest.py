"""The command line in this process, with a state folder and a working folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
import structlog
from typer.testing import CliRunner

from fluxsampler_cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str | None = None) -> Result: ...


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """A command logs to a stream that is closed when it has ended; whoever logs next must not."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    for name in ("FLUXSAMPLER_URL", "FLUXSAMPLER_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder / "fluxsampler"


@pytest.fixture
def run(tmp_path: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin)

    return invoke
