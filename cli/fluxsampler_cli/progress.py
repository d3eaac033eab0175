"""How a start goes, on the terminal: a line per finished step, and the one that runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from fluxsampler_cli import output

if TYPE_CHECKING:
    from rich.status import Status

    from fluxsampler_cli.state import InstanceState

_STEPS = {
    "": "starting",
    "ray": "starting Ray",
    "app": "deploying",
    "load": "loading",
    "ready": "waiting until it answers",
}


class StartProgress:
    """Shows states as they come; with a spinner on a terminal, as plain lines elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._console = output.console(error=True, markup=True)
        self._shown = ""
        self._began = self._step_began = time.monotonic()
        self._status: Status | None = None
        self._ready = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def tell(self, state: InstanceState) -> None:
        """Show ``state``, unless it is shown already."""
        if state.phase == "running":
            self._tell_ready(state)
            return
        now = time.monotonic()
        line = _STEPS.get(state.step, state.step)
        line = f"{line}: {state.detail}" if state.detail and state.step != "ray" else line
        if line == self._shown:
            return
        self._finish_step(now)
        self._shown, self._step_began = line, now
        if self._status is not None:
            self._status.update(f"{line} …")

    def _finish_step(self, now: float) -> None:
        if self._shown and (seconds := now - self._step_began) >= 0.1:
            self._console.print(f"  {self._shown} [dim]{seconds:.1f} s[/dim]")

    def _tell_ready(self, state: InstanceState) -> None:
        if self._ready:
            return
        self._ready = True
        now = time.monotonic()
        self._finish_step(now)
        self.__exit__()
        self._console.print(f"[green]{self._name} is ready[/green] after {now - self._began:.1f} s")
        output.answer(state.url)
        stop = f"`fluxsampler down {self._name}` stops it" if state.detached else "Ctrl-C stops it"
        self._console.print(f"[dim]a page to try it is at this URL; {stop}[/dim]")
