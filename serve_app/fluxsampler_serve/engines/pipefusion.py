"""Sampling with PipeFusion: each rank holds some of the blocks, and patches of the picture stream through.

The first ``warmup_steps`` run one after another on the whole picture and fill every block's keys and
values; from then on each stage works on one patch while its neighbours work on others, attending to
keys and values of the other patches that are one step old. The same loop runs tensor parallelism, as a
pipeline of one stage.

It follows xfuser's own (``xFuserFluxPipeline``, paper arXiv:2405.14430) message by message, and exists
beside it because that one cannot be stopped: it calls back on the last stage only, and a stage that
left early would leave messages in flight which the next request would take for its own. Here every
stage passes a boundary after each step, and in the last step, be it the last of the request or the one at
which the gang stops, nothing is sent or awaited that no one will take or send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from fluxsampler_serve.engines.limits import TOKEN_SIDE
from fluxsampler_serve.errors import Cancelled

if TYPE_CHECKING:
    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.engines.text import Conditioning
    from fluxsampler_serve.weights import ModelFacts
    from fluxsampler_serve.xfuser_adapter import Stage

OnStep = Callable[[int, torch.Tensor | None, float], None]
"""As :data:`~.denoising.OnStep`; only the last stage has latents."""


class StagedDenoiser:
    """This rank's stage, able to take part in sampling a request."""

    def __init__(
        self,
        stage: Stage,
        transformer: Any,
        scheduler: Any,
        *,
        device: torch.device,
        facts: ModelFacts,
        warmup_steps: int,
    ) -> None:
        self._stage = stage
        self._transformer = transformer
        self._scheduler = scheduler
        self._device = device
        self._guided = facts.guidance_embeds
        self._hidden = facts.heads * facts.head_dim
        self._warmup_steps = warmup_steps

    def sample(
        self,
        request: SampleRequest,
        positive: Conditioning,
        noise: torch.Tensor,
        on_step: OnStep,
        stop_after: Callable[[], int | None],
    ) -> torch.Tensor | None:
        """From ``noise`` to finished latents, both packed [1, tokens, 64]; None on all but the last stage.

        ``stop_after`` tells the step at which the gang stops, once that is decided: ``on_step`` then
        raises :class:`~fluxsampler_serve.errors.Cancelled` at that boundary.
        """
        with torch.inference_mode():
            run = _Run(self, request, positive=positive, noise=noise, on_step=on_step, stop_after=stop_after)
            try:
                latents = run.whole_steps()
                if request.steps > run.warmup:
                    latents = run.patch_steps(latents)
            except Cancelled:
                self._stage.finish_sends()
                raise
            self._stage.finish_sends()
            return self._stage.gather(latents) if self._stage.last else None


class _Run:
    """One request on one stage."""

    def __init__(
        self,
        owner: StagedDenoiser,
        request: SampleRequest,
        *,
        positive: Conditioning,
        noise: torch.Tensor,
        on_step: OnStep,
        stop_after: Callable[[], int | None],
    ) -> None:
        self.stage = owner._stage
        self.request = request
        self.on_step = on_step
        self.stop_after = stop_after
        self.transformer = owner._transformer
        self.scheduler = owner._scheduler
        self.device, self.dtype = owner._device, noise.dtype
        self.hidden = owner._hidden
        self.warmup = min(owner._warmup_steps, request.steps) if self.stage.count > 1 else request.steps
        self.positive = positive
        self.text_ids = torch.zeros(request.max_text_tokens, 3, device=self.device, dtype=self.dtype)
        rows, columns = request.height // TOKEN_SIDE, request.width // TOKEN_SIDE
        ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, self.device, self.dtype)
        self.patch_ids = [ids[start:end] for start, end in self.stage.patch_spans]
        self.noise = torch.cat([noise[:, start:end] for start, end in self.stage.patch_spans], dim=1)
        self.guidance = (
            torch.full([1], request.guidance_scale, device=self.device, dtype=torch.float32)
            if owner._guided
            else None
        )
        self._set_timesteps(noise.shape[1])

    def whole_steps(self) -> torch.Tensor:
        """The synchronous steps, all tokens at once: this rank's latents after them."""
        stage = self.stage
        stage.by_patches(False)
        ids = torch.cat(self.patch_ids)
        latents = self.noise
        for step in range(1, self.warmup + 1):
            if stage.count == 1:
                given, text = latents, self.positive.embeds
            elif stage.first:
                given = latents if step == 1 else self._await(latents.shape)
                text = self.positive.embeds
            else:
                given = self._await((1, latents.shape[1], self.hidden))
                text = self._await((1, self.request.max_text_tokens, self.hidden))
            out, text = self._forward(given, text, ids, step)
            if stage.last:
                latents = self._euler(out, latents, step)
                if stage.count > 1 and not self._ends(step):
                    stage.send(latents)
            else:
                stage.send(out)
                stage.send(text)
            self._boundary(step, latents)
        return latents

    def patch_steps(self, latents: torch.Tensor) -> torch.Tensor:
        """The remaining steps, patch by patch: this rank's latents after them (on the last stage)."""
        stage = self.stage
        if stage.first:
            latents = self._await(latents.shape)  # of the last synchronous step
        stage.by_patches(True)
        patches = list(torch.split(latents, stage.patch_tokens, dim=1))
        text = self.positive.embeds
        first_step = self.warmup + 1
        expected: list[tuple[Any, torch.Tensor]] = []
        for step in range(first_step, self.request.steps + 1):
            for index in range(len(patches)):
                given = patches[index]
                if not (stage.first and step == first_step):
                    arrived = [self._arrive(item) for item in expected or self._expect(index, patches)]
                    given = arrived[-1]
                    if len(arrived) == 2:
                        text = arrived[0]
                out, text_out = self._forward(given, text, self.patch_ids[index], step)
                if stage.last:
                    patches[index] = self._euler(out, patches[index], step)
                    if not self._ends(step):
                        stage.send(patches[index])
                else:
                    if index == 0:
                        stage.send(text_out)
                    stage.send(out)
                # Await one patch ahead, so that it arrives while this stage computes, and never one
                # that will not come.
                following = index + 1 < len(patches)
                if (following or not self._ends(step)) and not (stage.first and step == first_step):
                    expected = self._expect(index + 1 if following else 0, patches)
                else:
                    expected = []
                stage.next_patch()
            self._boundary(step, torch.cat(patches, dim=1) if stage.last else latents)
        return torch.cat(patches, dim=1) if stage.last else latents

    def _ends(self, step: int) -> bool:
        """Whether the gang ends with ``step``. True on every rank that has anything of that step from rank 0."""
        return step == self.request.steps or self.stop_after() == step

    def _boundary(self, step: int, latents: torch.Tensor) -> None:
        stage, request = self.stage, self.request
        sigma = float(self.scheduler.sigmas[step])
        shown = stage.last and request.preview_every > 0
        self.on_step(step, (stage.gather(latents) if shown else latents) if stage.last else None, sigma)

    def _forward(
        self, latents: torch.Tensor, text: torch.Tensor, ids: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        timestep = self.timesteps[step - 1].expand(1).to(self.dtype)
        out, text = self.transformer(
            hidden_states=latents,
            encoder_hidden_states=text,
            pooled_projections=self.positive.pooled,
            timestep=timestep / 1000,
            guidance=self.guidance,
            img_ids=ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]
        return out, text

    def _euler(self, velocity: torch.Tensor, latents: torch.Tensor, step: int) -> torch.Tensor:
        """The scheduler's own step; it counts calls, and patches of one step are several."""
        self.scheduler._step_index = step - 1
        moved: torch.Tensor = self.scheduler.step(
            velocity, self.timesteps[step - 1], latents, return_dict=False
        )[0]
        return moved

    def _expect(self, index: int, patches: list[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
        """Start to receive what the previous stage sends for a patch: its tokens, and before the first the text."""
        tokens = patches[index].shape[1]
        if self.stage.first:
            return [self._receive((1, tokens, patches[index].shape[2]))]
        image = (1, tokens, self.hidden)
        if index:
            return [self._receive(image)]
        return [self._receive((1, self.request.max_text_tokens, self.hidden)), self._receive(image)]

    def _await(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self._arrive(self._receive(shape))

    def _receive(self, shape: tuple[int, ...]) -> tuple[Any, torch.Tensor]:
        tensor = torch.empty(shape, dtype=self.dtype, device=self.device)
        return self.stage.receive(tensor), tensor

    def _arrive(self, item: tuple[Any, torch.Tensor]) -> torch.Tensor:
        item[0].wait()
        return item[1]

    def _set_timesteps(self, tokens: int) -> None:
        """As ``FluxPipeline.__call__`` sets them."""
        config, steps = self.scheduler.config, self.request.steps
        mu = calculate_shift(
            tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        self.timesteps, _ = retrieve_timesteps(self.scheduler, steps, self.device, sigmas=sigmas, mu=mu)
        self.scheduler.set_begin_index(0)
