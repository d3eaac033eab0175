"""Sampling with diffusers' FluxPipeline, one step boundary after another; shared by single device and gang.

Both engines run this very loop, one with diffusers' transformer and one with xfuser's drop-in for it,
so that they can differ only by what the transformer returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxPipeline
from diffusers.utils.torch_utils import randn_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.engines.text import Conditioning

LATENT_SCALE = 8  # pixels a latent covers
OnStep = Callable[[int, torch.Tensor, float], None]
"""Called at the boundary after each step: its number (1-based), the latents [1, tokens, 64], and the noise
level (sigma) they are at. Whatever it raises ends the sampling there."""

DENOISE_ARGUMENTS = (
    "hidden_states",
    "encoder_hidden_states",
    "pooled_projections",
    "timestep",
    "guidance",
    "img_ids",
    "txt_ids",
)


class Denoiser:
    """A transformer and a scheduler; knows nothing of prompts and pictures."""

    def __init__(self, transformer: Any, scheduler: Any, device: torch.device) -> None:
        self.pipeline = FluxPipeline(
            scheduler=scheduler,
            vae=None,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=transformer,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.transformer = transformer
        self.device = device

    def sample(
        self,
        request: SampleRequest,
        positive: Conditioning,
        negative: Conditioning | None,
        noise: torch.Tensor,
        on_step: OnStep,
    ) -> torch.Tensor:
        """From ``noise`` to finished latents, both packed [1, tokens, 64]."""
        scheduler = self.pipeline.scheduler

        def boundary(
            _: object, index: int, __: object, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            on_step(index + 1, tensors["latents"], float(scheduler.sigmas[index + 1]))
            return {}

        with torch.inference_mode():
            return self.pipeline(  # type: ignore[no-any-return]  # diffusers is untyped
                prompt_embeds=positive.embeds,
                pooled_prompt_embeds=positive.pooled,
                negative_prompt_embeds=None if negative is None else negative.embeds,
                negative_pooled_prompt_embeds=None if negative is None else negative.pooled,
                true_cfg_scale=request.true_cfg_scale,
                width=request.width,
                height=request.height,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                max_sequence_length=request.max_text_tokens,
                latents=noise,
                output_type="latent",
                callback_on_step_end=boundary,
                return_dict=False,
            )[0]

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One forward of the transformer; see :meth:`~.protocol.Engine.denoise`."""
        given = {name: inputs[name].to(self.device) for name in DENOISE_ARGUMENTS if name in inputs}
        with torch.inference_mode():
            return self.transformer(**given, return_dict=False)[0]  # type: ignore[no-any-return]  # untyped


def first_noise(request: SampleRequest, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The noise that ``request`` starts from, packed [1, tokens, 64].

    Drawn on the CPU in the model's dtype, as ``FluxPipeline(generator=torch.Generator("cpu"))`` does, so
    that every device and every rank has the same.
    """
    height, width = request.height // LATENT_SCALE, request.width // LATENT_SCALE
    generator = torch.Generator("cpu").manual_seed(request.seed)
    noise = randn_tensor((1, 16, height, width), generator=generator, device=device, dtype=dtype)
    return FluxPipeline._pack_latents(noise, 1, 16, height, width)  # type: ignore[no-any-return]  # untyped
