"""`fluxsampler plan`: what would run, what sits where, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from fluxsampler_cli import output, specs

if TYPE_CHECKING:
    from pathlib import Path


def plan(path: Path, select: str | None, form: str, *, explain: bool, this_machine: bool) -> None:
    """Plan one FluxSampler of ``path``, or all of them when none is selected, and print the plans."""
    samplers = specs.load(path)
    if select is not None:
        samplers = [specs.select(samplers, select, path)]
    answers: list[dict[str, Any]] = []
    for sampler in samplers:
        hardware = None
        if this_machine:
            from fluxsampler_cli import machine  # asks nvidia-smi

            hardware = machine.look().hardware(sampler.spec.hardware.device)
        found = specs.make_plan(sampler, hardware)
        if form == "table":
            output.print_plan(sampler.name, found.status(), explain=explain)
        else:
            status = found.status().model_dump(mode="json", by_alias=True)
            answers.append({"name": sampler.name, "plan": status})
    match form:
        case "json":
            output.answer_json(answers[0] if len(answers) == 1 else answers)
        case "yaml":
            output.answer(yaml.safe_dump_all(answers, sort_keys=False, allow_unicode=True).rstrip())
