"""FluxSamplers for the planner's tests: a base spec, changed by dotted paths."""

from __future__ import annotations

from typing import Any

from fluxsampler_api.sampler import FluxSampler

DEV = "hf://black-forest-labs/FLUX.1-dev"
SCHNELL = "hf://black-forest-labs/FLUX.1-schnell"
TINY = "builtin://tiny-shapes"


def sampler(changes: dict[str, Any] | None = None, **hardware: Any) -> FluxSampler:
    """FLUX.1-dev on eight RTX 4090; ``changes`` such as ``{"parallelism.exact": True}``, ``hardware`` below spec.hardware."""
    spec: dict[str, Any] = {
        "model": {"source": DEV},
        "hardware": {"gpu": "rtx-4090", "gpusPerNode": 8, **hardware},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = spec
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return FluxSampler.model_validate(
        {
            "apiVersion": "fluxsampler.io/v1alpha1",
            "kind": "FluxSampler",
            "metadata": {"name": "test"},
            "spec": spec,
        }
    )


def tiny(changes: dict[str, Any] | None = None, ranks: int = 2) -> FluxSampler:
    """The built-in model on CPU."""
    base = {
        "model.source": TINY,
        "hardware.gpu": "cpu",
        "hardware.device": "cpu",
        "hardware.gpusPerNode": ranks,
    }
    return sampler({**base, **(changes or {})})
