"""What every engine can do, and the values that go in and out of it.

An engine draws pictures. The gang of xfuser ranks (:mod:`.parallel`), the single device
(:mod:`.single`) and the fake of the fast tests (:mod:`.fake`) all satisfy :class:`Engine`, so that
the router, the deployments and the tests never ask which one they hold.

Engines are synchronous and single-flight: one call at a time, made from one thread that is not an
event loop. Cancellation comes from another thread, through the :class:`Cancel` of the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

EngineName = Literal["parallel", "fallback"]


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One picture to draw; every field is already resolved (no "use the default" left).

    ``width`` and ``height`` are pixels. ``guidance_scale`` is FLUX's distilled guidance;
    ``true_cfg_scale`` > 1 with a ``negative_prompt`` runs classifier-free guidance with two
    forwards a step. ``seed`` seeds a CPU generator, so that every engine starts from the same
    noise. A prompt of more than ``max_text_tokens`` T5 tokens raises
    :class:`~fluxsampler_serve.errors.PromptTooLong`, unless ``truncate_prompt`` says to cut it.
    ``preview_every`` > 0 asks for a preview picture every that many steps.
    """

    prompt: str
    width: int
    height: int
    steps: int
    seed: int
    guidance_scale: float
    max_text_tokens: int
    true_cfg_scale: float = 1.0
    negative_prompt: str | None = None
    truncate_prompt: bool = False
    preview_every: int = 0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """After step ``step`` (1-based) of ``steps``. ``preview`` is uint8 [height', width', 3] or None."""

    step: int
    steps: int
    preview: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A drawn picture.

    ``pixels``: uint8 [height, width, 3]. ``latents``: float32, packed as diffusers packs them,
    [tokens, 64]. ``latents_finite`` is False when any latent was NaN or infinite (``pixels`` are
    then meaningless; the guard refuses them). ``truncated_tokens`` counts the prompt tokens that
    ``truncate_prompt`` cut off. ``seconds`` holds the time of each phase: encode, denoise, decode.
    """

    pixels: npt.NDArray[np.uint8]
    latents: npt.NDArray[np.float32]
    latents_finite: bool
    steps: int
    truncated_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """``ready`` to take a call; otherwise ``reason`` (one CamelCase word) and ``message`` say why."""

    ready: bool
    reason: str = "Ready"
    message: str = ""


class Cancel:
    """Asks a running call to stop at its next step boundary; thread-safe, idempotent."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask; a second time changes nothing."""
        with self._lock:
            self._event.set()
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def on_set(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` once, from the thread that asks; now, if someone has asked already."""
        with self._lock:
            if not self._event.is_set():
                self._listeners.append(listener)
                return
        listener()

    def is_set(self) -> bool:
        """Whether anyone asked."""
        return self._event.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is set, at most ``seconds``; whether it is set."""
        return self._event.wait(seconds)


ProgressCallback = Callable[[Progress], None]


class Engine(Protocol):
    """Draws pictures with one model on one set of devices."""

    name: EngineName

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the loaded weights' values; None before :meth:`load`, or without weights."""

    def load(self) -> None:
        """Map the weights, start what must run. Raises :class:`~fluxsampler_serve.errors.ModelError`
        or :class:`~fluxsampler_serve.errors.EngineStartFailed`."""

    def warm_up(self, sizes: tuple[tuple[int, int], ...], steps: int) -> None:
        """Draw once at each (width, height), so that the first request there is as fast as later ones."""

    def refuses(self, request: SampleRequest) -> str | None:
        """Why this engine cannot draw ``request`` (one sentence), or None if it can. Cheap; callable before
        :meth:`load`."""

    def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        """Draw one picture. Raises :class:`~fluxsampler_serve.errors.Cancelled` at a step boundary after
        ``cancel.set()``; :class:`~fluxsampler_serve.errors.EngineFailed` when the engine broke (the
        engine then says so in :meth:`health`); :class:`~fluxsampler_serve.errors.RequestRefused` for
        what it cannot draw. After Cancelled and RequestRefused the engine takes the next call."""

    def denoise(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One forward of the transformer: diffusers' own arguments (``hidden_states`` [b, tokens, 64],
        ``encoder_hidden_states`` [b, text, d], ``pooled_projections`` [b, p], ``timestep`` [b] in 0..1,
        ``guidance`` [b] or absent, ``img_ids`` [tokens, 3], ``txt_ids`` [text, 3]) to the prediction
        [b, tokens, 64]."""

    def health(self) -> Health:
        """Never blocks, callable from another thread while a call runs."""

    def close(self) -> None:
        """End every process and give back every resource; idempotent."""
