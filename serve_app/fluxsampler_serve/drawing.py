"""What travels between the gateway and the samplers: one request, and the events that answer it.

Failures travel as values rather than as exceptions: they are part of the answer, they survive every
way of serialising, and Serve does not log a traceback for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fluxsampler_serve.errors import EngineFailed, PictureRefused, PromptTooLong, RequestRefused, ServeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fluxsampler_serve.engines.protocol import EngineName, SampleRequest

PictureFormat = Literal["png", "jpeg", "webp"]

FailureKind = Literal["Refused", "PromptTooLong", "PictureRefused", "EngineFailed", "Cancelled"]
"""Why a sampler gave no picture. Only `PromptTooLong` is the caller's fault on every engine."""


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """One picture to draw and how to encode it. ``quality`` (0..100) is for JPEG and WebP.

    ``previews`` is the largest number of preview pictures to send while drawing.
    """

    sample: SampleRequest
    format: PictureFormat = "png"
    quality: int = 100
    previews: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """After a denoising step; ``preview`` is an encoded picture in the request's format, or None."""

    step: int
    steps: int
    preview: bytes | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """An encoded picture that the guard let through."""

    picture: bytes
    engine: EngineName
    truncated_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """No picture, and why: one sentence for the person who asked."""

    kind: FailureKind
    message: str

    def error(self) -> ServeError:
        """The same as an exception."""
        match self.kind:
            case "PromptTooLong":
                return PromptTooLong(self.message)
            case "Refused":
                return RequestRefused(self.message)
            case "PictureRefused":
                return PictureRefused(self.message)
            case _:
                return EngineFailed(self.message)


Outcome = Drawn | Failure
DrawEvent = Step | Drawn | Failure


ON_DEMAND = "OnDemand"
"""The reason of a sampler that is not loaded, and would be for a request."""


@dataclass(frozen=True, slots=True)
class SamplerStatus:
    """What a sampler says of itself; ``reason`` is one CamelCase word."""

    ready: bool
    reason: str
    message: str = ""
    fingerprint: str | None = None
    load_seconds: float | None = None
    pid: int = 0
