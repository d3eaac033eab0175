"""`fluxsampler render`: the manifests that the operator would apply, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fluxsampler_cli import output, specs
from fluxsampler_cli.errors import InputError
from fluxsampler_operator.builders import desired
from fluxsampler_operator.builders.text import as_stream
from fluxsampler_operator.errors import WrongPatch
from fluxsampler_operator.manifest import Owner
from fluxsampler_operator.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from fluxsampler_api.sampler import FluxSampler
    from fluxsampler_operator.manifest import Manifest
    from fluxsampler_planner import Hardware


def render(
    path: Path,
    select: str | None,
    form: str,
    *,
    namespace: str | None,
    image: str | None,
    this_machine: bool,
) -> None:
    """Print the manifests of one FluxSampler of ``path``, or of all when none is selected.

    They are those of an operator with default settings, but ``image`` and ``namespace`` where given, and
    belong to no object: without a cluster nothing has a uid to refer to.
    """
    samplers = specs.load(path)
    if select is not None:
        samplers = [specs.select(samplers, select, path)]
    settings = Settings() if image is None else replace(Settings(), serve_image=image)
    made: list[Manifest] = []
    for sampler in samplers:
        hardware = None
        if this_machine:
            from fluxsampler_cli import machine  # asks nvidia-smi

            hardware = machine.look().hardware(sampler.spec.hardware.device)
        made += _manifests(sampler, hardware, settings, namespace or sampler.metadata.namespace)
    if form == "json":
        # What kubectl makes of several objects, and takes.
        output.answer_json({"apiVersion": "v1", "kind": "List", "items": made})
    else:
        output.answer(as_stream(made).rstrip("\n"))


def _manifests(
    sampler: FluxSampler, hardware: Hardware | None, settings: Settings, namespace: str
) -> tuple[Manifest, ...]:
    made = specs.make_plan(sampler, hardware)
    try:
        return desired(sampler, made, settings, Owner(sampler.name, namespace))
    except WrongPatch as error:
        raise InputError(f"{sampler.name}: {error}") from error
