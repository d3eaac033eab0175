"""From :class:`~fluxsampler_api.app_args.StartArgs` to engines: the only place that picks an implementation.

The deployments take an :class:`EngineFactory`, so that a test injects :class:`FakeFactory` and the
whole path around the engines runs without a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fluxsampler_serve.engines.fake import FakeEngine, FakeScript

if TYPE_CHECKING:
    from fluxsampler_api.app_args import StartArgs
    from fluxsampler_serve.engines.protocol import Engine, EngineName


class EngineFactory(Protocol):
    """Builds the engine that one replica holds; picklable, not yet loaded."""

    def __call__(self, args: StartArgs, name: EngineName) -> Engine:
        """An engine of that name; :meth:`Engine.load` is the caller's next call."""


def build_engine(args: StartArgs, name: EngineName) -> Engine:
    """The real :class:`EngineFactory`."""
    return build_parallel(args) if name == "parallel" else build_fallback(args)


def build_parallel(args: StartArgs) -> Engine:
    """The gang of xfuser ranks. Raises ValueError when ``args`` has no parallel part."""
    if args.parallel is None:
        raise ValueError("parallel is empty: there is no gang to build")
    from fluxsampler_serve.engines.parallel import ParallelEngine  # torch takes seconds

    return ParallelEngine(
        args.model,
        args.parallel.layout,
        args.device,
        warmup_steps=args.parallel.warmup_steps,
        encoders=args.parallel.encoders,
    )


def build_fallback(args: StartArgs) -> Engine:
    """One device, plain diffusers. Without a fallback part the model's own quantization is used."""
    from fluxsampler_serve.engines.single import SingleEngine  # torch takes seconds

    fallback = args.fallback
    model = args.model
    if fallback is not None and fallback.quantization != model.quantization:
        model = model.model_copy(update={"quantization": fallback.quantization})
    return SingleEngine(
        model,
        args.device,
        memory_fraction=None if fallback is None else fallback.memory_fraction,
        encoders="device" if fallback is None else fallback.encoders,
    )


@dataclass(frozen=True, slots=True)
class FakeFactory:
    """An :class:`EngineFactory` of :class:`FakeEngine`, one script per kind."""

    parallel: FakeScript = field(default_factory=FakeScript)
    fallback: FakeScript = field(default_factory=FakeScript)

    def __call__(self, args: StartArgs, name: EngineName) -> Engine:  # noqa: ARG002 (the face of a factory)
        """A fake of that name."""
        return FakeEngine(name, self.parallel if name == "parallel" else self.fallback)
