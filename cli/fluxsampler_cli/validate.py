"""`fluxsampler validate`: every problem of every file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.errors import SpecError
from fluxsampler_cli import output, specs
from fluxsampler_cli.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def validate(paths: list[Path]) -> None:
    """Print a line per valid FluxSampler. Raises :class:`InputError` with every problem of every file."""
    problems: list[str] = []
    for path in paths:
        try:
            samplers = specs.load(path)
        except InputError as error:
            cause = error.__cause__
            problems += map(str, cause.problems) if isinstance(cause, SpecError) else [str(error)]
            continue
        for sampler in samplers:
            output.answer(f"{path}: {sampler.name} is valid")
    if problems:
        for line in problems:
            output.say(line)
        raise InputError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; correct what the lines above name"
        )
