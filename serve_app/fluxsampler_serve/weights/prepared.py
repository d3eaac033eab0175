"""A model that is ready to be mapped: the value that :func:`~.cache.prepare` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fluxsampler_serve.weights.facts import ModelFacts

Dtype = Literal["float32", "bfloat16"]
Quantization = Literal["none", "fp8"]


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """One safetensors file per component, in the dtype it is used in.

    ``root`` is a folder in diffusers' layout; ``components`` maps ``transformer``, ``vae``,
    ``text_encoder`` and ``text_encoder_2`` to their weight files. ``fingerprint`` is a SHA-256 over
    the names, dtypes, shapes and bytes of all tensors: equal for equal weights, whatever file or
    host they came from; ``fingerprints`` holds the same for each component. ``revision`` is the
    commit of an ``hf://`` source. The value is picklable: ranks get it from their replica.
    """

    root: Path
    source: str
    revision: str | None
    dtype: Dtype
    quantization: Quantization
    fingerprint: str
    fingerprints: Mapping[str, str]
    components: Mapping[str, Path]
    facts: ModelFacts

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files: what one node holds once."""
        return sum(path.stat().st_size for path in self.components.values())


@dataclass(frozen=True, slots=True)
class WeightsProgress:
    """``done`` of ``total`` bytes in one phase; ``what`` is a component or the repository."""

    phase: Literal["download", "convert", "hash", "read"]
    what: str
    done: int
    total: int


Progress = Callable[[WeightsProgress], None]


def silent(_: WeightsProgress) -> None:
    """The progress callback of callers that want none."""
