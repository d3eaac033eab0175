"""What a replica and its ranks say to each other; pickled over a pipe for each rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fluxsampler_api.app_args import Layout
    from fluxsampler_serve.devices import RankPlace
    from fluxsampler_serve.engines.protocol import Sample, SampleRequest
    from fluxsampler_serve.weights import PreparedModel


@dataclass(frozen=True, slots=True)
class Start:
    """First message to every rank: who it is, and what to load."""

    rank: int
    layout: Layout
    place: RankPlace
    prepared: PreparedModel
    warmup_steps: int
    encoders_on_cpu: bool
    collective_timeout: float


@dataclass(frozen=True, slots=True)
class Encode:
    """To rank 0, which holds the encoders: encode the prompts of a request and keep the result."""

    serial: int
    request: SampleRequest


@dataclass(frozen=True, slots=True)
class Draw:
    """To every rank: take the encoded prompts from rank 0, and draw."""

    serial: int
    request: SampleRequest


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor in the arena: ``dtype`` is torch's name without ``torch.``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Forward:
    """To every rank: one forward of the transformer on tensors in the arena; rank 0 writes its output at ``output``."""

    serial: int
    inputs: tuple[TensorPlace, ...]
    output: int


Command = Encode | Draw | Forward


@dataclass(frozen=True, slots=True)
class Ready:
    """A rank has joined its group and loaded; ``seconds`` by phase."""

    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The prompts are encoded; ``truncated_tokens`` were cut off the (positive) one."""

    serial: int
    seconds: float
    truncated_tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The prompt is too long; nothing else was touched."""

    serial: int
    message: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """From the rank that decodes, after each step."""

    serial: int
    step: int
    preview: npt.NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """The request is done; the rank that decodes has the picture. ``memory``: peak GiB of this rank's card."""

    serial: int
    sample: Sample | None
    memory: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The forward is done; rank 0 says where its output lies."""

    serial: int
    output: TensorPlace | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The request was cancelled; this rank stopped at the boundary after ``step``."""

    serial: int
    step: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The rank is broken."""

    error: str
    traceback: str


Reply = Ready | Encoded | Refused | Stepped | Drawn | Forwarded | Stopped | Failed
