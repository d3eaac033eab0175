"""`fluxsampler down`: end an instance, and what a killed one left."""

from __future__ import annotations

from pathlib import Path

from fluxsampler_cli import output, processes
from fluxsampler_cli.errors import InputError, NotRunning
from fluxsampler_cli.signals import stopping_on_signals
from fluxsampler_cli.state import InstanceState, StateFolder

# A keeper ends its instance within a second or two; one that is stuck is killed after this.
_PATIENCE_SECONDS = 30.0


def down(name: str | None, *, everything: bool) -> None:
    """End the instance ``name``, the only one, or every one.

    Raises:
        NotRunning: there is none of that name.
        InputError: no name is given and several are up.
    """
    folder = StateFolder()
    states = folder.all()
    if name is not None and everything:
        raise InputError("a name and --all exclude each other; give one")
    if name is not None:
        states = [state for state in states if state.name == name]
        if not states:
            others = ", ".join(state.name for state in folder.all()) or "nothing"
            raise NotRunning(f"{name} is not up; what is: {others}")
    if not states:
        output.say("nothing is up")
        return
    if len(states) > 1 and not everything:
        names = ", ".join(state.name for state in states)
        raise InputError(f"{len(states)} services are up: {names}; name one, or use --all")
    with stopping_on_signals():
        for state in states:
            end(folder, state)
            output.say(f"{state.name} is down")


def end(folder: StateFolder, state: InstanceState) -> None:
    """End the instance of ``state`` and everything that belongs to it; its log stays."""
    processes.end_one(state.keeper, state.keeper_started, _PATIENCE_SECONDS)
    lock = folder.take_lock(state.name, wait=_PATIENCE_SECONDS)
    try:
        processes.end_instance(state.instance, Path(state.folder))
        folder.forget(state.name)
    finally:
        lock.release()
