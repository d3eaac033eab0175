"""One device, plain diffusers: the reference that every gang is compared with, and the fallback."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog

from fluxsampler_serve import devices
from fluxsampler_serve.engines.limits import check_model, refuses_request
from fluxsampler_serve.engines.protocol import Cancel, EngineName, Health, Progress, Sample, SampleRequest
from fluxsampler_serve.errors import Cancelled, EngineFailed, EngineStartFailed, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from fluxsampler_api.app_args import ModelArgs
    from fluxsampler_serve.engines.decoding import Decoder
    from fluxsampler_serve.engines.denoising import Denoiser
    from fluxsampler_serve.engines.protocol import ProgressCallback
    from fluxsampler_serve.engines.text import TextEncoder
    from fluxsampler_serve.weights import PreparedModel

log = structlog.get_logger(__name__)


class SingleEngine:
    """Satisfies :class:`~.protocol.Engine` in this very process."""

    name: EngineName = "fallback"

    def __init__(
        self,
        model: ModelArgs,
        device: devices.Kind,
        *,
        index: int = 0,
        memory_fraction: float | None = None,
        encoders: Literal["device", "cpu"] = "device",
        prepared: PreparedModel | None = None,
    ) -> None:
        """``index`` is the card among the visible ones, ``memory_fraction`` the share of it that may be used.

        ``encoders`` on the CPU leave a shared card to the transformer; the embeddings are then moved over.
        """
        self.model = model
        self.seconds: dict[str, float] = {}
        self.card_memory: list[dict[str, float]] = []
        self._place = devices.RankPlace(device, index, devices.usable_cores())
        self._memory_fraction = memory_fraction
        self._encoders_on_cpu = encoders == "cpu"
        self._prepared = prepared
        self._health = Health(ready=False, reason="NotLoaded", message="the engine has not been loaded")
        self._parts: _Parts | None = None

    @property
    def fingerprint(self) -> str | None:
        """Of the prepared weights."""
        return None if self._prepared is None else self._prepared.fingerprint

    def load(self) -> None:
        """Map the weights. Raises ModelError for a bad model, EngineStartFailed for a bad device."""
        began = time.perf_counter()
        from fluxsampler_serve.weights import prepare  # imports torch

        self.seconds["import"] = time.perf_counter() - began
        if self._prepared is None:
            self._prepared = prepare(self.model)
        check_model(self._prepared.facts)
        began = time.perf_counter()
        try:
            device = devices.activate(self._place)
            devices.limit_memory(device, self._memory_fraction)
            self._parts = _Parts(self._prepared, device, self._encoders_on_cpu)
        except (RuntimeError, ValueError) as error:
            raise EngineStartFailed(
                f"{self._place.kind} device {self._place.index} cannot hold the model: {error}"
            ) from error
        self.seconds["load"] = time.perf_counter() - began
        self._health = Health(ready=True)

    def warm_up(self, sizes: tuple[tuple[int, int], ...], steps: int) -> None:
        """Draw at each size."""
        for width, height in sizes:
            request = warm_up_request(width, height, steps, self.model.max_text_tokens)
            if self.refuses(request) is None:
                self.sample(request, lambda _: None, Cancel())

    def refuses(self, request: SampleRequest) -> str | None:
        """Only what no engine can draw."""
        return refuses_request(request, self.model.max_text_tokens)

    def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        """Draw here, in the calling thread."""
        parts = self._ready()
        reason = self.refuses(request)
        if reason is not None:
            raise RequestRefused(reason)
        sample, lacking = None, ""
        try:
            sample = parts.draw(request, progress, cancel)
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                self._health = Health(ready=False, reason="EngineFailed", message=str(error))
                raise EngineFailed(f"drawing failed on {parts.device}: {error}") from error
            lacking = str(error)
        if sample is None:
            # Only here: inside the handler the traceback still holds the tensors of the call.
            devices.release_memory(parts.device)
            raise EngineFailed(
                f"{parts.device} has not the memory to draw {request.width}x{request.height}: {lacking}"
            )
        self.card_memory = [devices.memory_facts(parts.device)]
        return sample

    def denoise(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One forward of the transformer."""
        return self._ready().denoiser.forward(inputs).cpu()

    def health(self) -> Health:
        """Ready from :meth:`load` until a failure or :meth:`close`."""
        return self._health

    def close(self) -> None:
        """Let go of the weights."""
        self._parts = None
        self._health = Health(ready=False, reason="Closed", message="the engine was closed")

    def _ready(self) -> _Parts:
        if self._parts is None or not self._health.ready:
            raise EngineFailed(f"the engine is not ready: {self._health.message}")
        return self._parts


class _Parts:
    """The loaded model."""

    def __init__(self, prepared: PreparedModel, device: torch.device, encoders_on_cpu: bool) -> None:
        import torch  # seconds to import, and only a loaded engine needs it

        from fluxsampler_serve.engines.decoding import Decoder
        from fluxsampler_serve.engines.denoising import Denoiser
        from fluxsampler_serve.engines.text import TextEncoder
        from fluxsampler_serve.weights import load_scheduler, load_transformer

        self.device = device
        self.dtype: torch.dtype = getattr(torch, prepared.dtype)
        transformer = devices.compile_transformer(load_transformer(prepared, device=device))
        self.denoiser: Denoiser = Denoiser(transformer, load_scheduler(prepared), device)
        self.text: TextEncoder = TextEncoder(prepared, torch.device("cpu") if encoders_on_cpu else device)
        self.decoder: Decoder = Decoder(prepared, device)

    def draw(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        """Encode, denoise, decode."""
        from fluxsampler_serve.engines.decoding import Previewer  # see __init__
        from fluxsampler_serve.engines.denoising import first_noise

        began = time.perf_counter()
        positive, negative = self.text.encode(request)
        positive = positive.to(self.device)
        negative = None if negative is None else negative.to(self.device)
        devices.synchronize(self.device)
        encoded = time.perf_counter()
        noise = first_noise(request, self.dtype, self.device)
        previewer = Previewer(self.decoder, request, noise)

        def on_step(step: int, latents: torch.Tensor, sigma: float) -> None:
            progress(Progress(step, request.steps, previewer.after(step, latents, sigma)))
            if cancel.is_set():
                raise Cancelled(f"stopped after step {step} of {request.steps}")

        if cancel.is_set():
            raise Cancelled("stopped before the first step")
        latents = self.denoiser.sample(request, positive, negative, noise, on_step)
        devices.synchronize(self.device)
        denoised = time.perf_counter()
        pixels = self.decoder.picture(latents, request)
        packed = latents[0].float().cpu().numpy()
        seconds = {
            "encode": encoded - began,
            "denoise": denoised - encoded,
            "decode": time.perf_counter() - denoised,
        }
        finite = bool(np.isfinite(packed).all())
        return Sample(pixels, packed, finite, request.steps, positive.truncated_tokens, seconds)


def warm_up_request(width: int, height: int, steps: int, max_text_tokens: int) -> SampleRequest:
    """A request like a real one, whose picture nobody sees."""
    return SampleRequest(
        prompt="warm up",
        width=width,
        height=height,
        steps=steps,
        seed=0,
        guidance_scale=1.0,
        max_text_tokens=max_text_tokens,
        truncate_prompt=True,
        preview_every=steps,
        request_id="warm-up",
    )
