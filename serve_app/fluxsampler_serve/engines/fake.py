"""An engine without a model: for tests of everything around an engine.

It draws a disc whose colour and place follow from the seed, as fast or as slowly as it is told, and
fails in the ways a real engine does when its script says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fluxsampler_serve.engines.protocol import (
    Cancel,
    EngineName,
    Health,
    Progress,
    ProgressCallback,
    Sample,
    SampleRequest,
)
from fluxsampler_serve.errors import Cancelled, EngineFailed, EngineStartFailed, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

Act = Literal["draw", "raise", "refuse", "nan", "grey", "noise", "hang"]
"""What one call does: draw a disc; raise EngineFailed (and stay unhealthy); raise RequestRefused; give NaN
latents, a flat grey picture or plain noise; or do nothing until it is cancelled."""

TOKEN_SIDE = 16  # pixels that one packed FLUX latent token covers: VAE scale 8, patches of 2


@dataclass(frozen=True, slots=True)
class FakeScript:
    """How a :class:`FakeEngine` behaves; picklable, so that it travels into a Ray actor.

    ``acts`` are consumed one per :meth:`FakeEngine.sample`; when they are used up, ``afterwards``
    is repeated. ``refused_sizes`` are (width, height) pairs; ``refused_multiple`` refuses every
    side that it does not divide, as a layout does. ``load_error`` makes :meth:`FakeEngine.load`
    raise :class:`~fluxsampler_serve.errors.EngineStartFailed` with that message.
    """

    step_seconds: float = 0.0
    load_seconds: float = 0.0
    acts: tuple[Act, ...] = ()
    afterwards: Act = "draw"
    refused_sizes: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    refused_multiple: int = 1
    load_error: str | None = None


class FakeEngine:
    """Satisfies :class:`~fluxsampler_serve.engines.protocol.Engine` without torch."""

    fingerprint: str | None = None

    def __init__(self, name: EngineName, script: FakeScript | None = None) -> None:
        self.name = name
        self.script = script or FakeScript()
        self.calls = 0
        self._health = Health(ready=False, reason="NotLoaded", message="the engine has not been loaded")

    def load(self) -> None:
        """Raises EngineStartFailed if the script says so."""
        time.sleep(self.script.load_seconds)
        if self.script.load_error is not None:
            raise EngineStartFailed(self.script.load_error)
        self._health = Health(ready=True)

    def warm_up(self, sizes: tuple[tuple[int, int], ...], steps: int) -> None:
        """Nothing to warm."""

    def refuses(self, request: SampleRequest) -> str | None:
        """The script's sizes."""
        side = self.script.refused_multiple
        if (
            (request.width, request.height) in self.script.refused_sizes
            or request.width % side
            or request.height % side
        ):
            return f"the fake engine cannot split {request.width}x{request.height}"
        return None

    def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        """Play the next act of the script."""
        if not self._health.ready:
            raise EngineFailed(f"the engine is not ready: {self._health.message}")
        act = self.script.acts[self.calls] if self.calls < len(self.script.acts) else self.script.afterwards
        self.calls += 1
        reason = self.refuses(request) or ("the script refuses this call" if act == "refuse" else None)
        if reason is not None:
            raise RequestRefused(reason)
        if act == "hang":
            cancel.wait(None)
            raise Cancelled("cancelled while hanging")
        pixels = picture(request.seed, request.width, request.height)
        start = time.perf_counter()
        for step in range(1, request.steps + 1):
            if cancel.wait(self.script.step_seconds) if self.script.step_seconds else cancel.is_set():
                raise Cancelled(f"cancelled after step {step - 1} of {request.steps}")
            if act == "raise":
                self._health = Health(
                    ready=False, reason="EngineFailed", message="the script broke this engine"
                )
                raise EngineFailed("the script broke this engine")
            preview = (
                pixels[::8, ::8].copy()
                if request.preview_every and step % request.preview_every == 0
                else None
            )
            progress(Progress(step, request.steps, preview))
        noise = np.random.default_rng(request.seed)
        latents = noise.standard_normal((request.width * request.height // TOKEN_SIDE**2, 64)).astype(
            np.float32
        )
        if act == "nan":
            latents[0, 0] = np.nan
        elif act == "grey":
            pixels = np.full_like(pixels, 128)
        elif act == "noise":
            pixels = noise.integers(0, 256, pixels.shape, dtype=np.uint8)
        return Sample(
            pixels=pixels,
            latents=latents,
            latents_finite=act != "nan",
            steps=request.steps,
            seconds={"encode": 0.0, "denoise": time.perf_counter() - start, "decode": 0.0},
        )

    def denoise(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The prediction is the input: enough to tell that the bytes went both ways."""
        return inputs["hidden_states"]

    def health(self) -> Health:
        """Ready from :meth:`load` until an act raises or :meth:`close`."""
        return self._health

    def close(self) -> None:
        """Not ready from now on."""
        self._health = Health(ready=False, reason="Closed", message="the engine was closed")


def picture(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A disc on a slight gradient, uint8 [height, width, 3]; the same for the same seed and size."""
    random = np.random.default_rng(seed)
    colour = random.integers(0, 256, 3)
    centre_x, centre_y = random.uniform(0.35, 0.65, 2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    background = 200 + 55 * x / width
    inside = (x / width - centre_x) ** 2 + (y / height - centre_y) ** 2 < 0.09
    return np.where(inside[..., None], colour, background[..., None]).astype(np.uint8)
