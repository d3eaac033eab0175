"""From latents to pixels: the finished picture, and previews on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import FluxPipeline
from torch.nn import functional

from fluxsampler_serve.weights import load_vae

if TYPE_CHECKING:
    import numpy.typing as npt

    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.weights import PreparedModel

PREVIEW_LATENTS = 32  # longest side of a preview in latents: 256 pixels, whatever the picture's size


class Decoder:
    """The VAE's decoder."""

    def __init__(self, prepared: PreparedModel, device: torch.device) -> None:
        self._vae = load_vae(prepared, device)
        self._scale = prepared.facts.vae_scale

    def picture(self, latents: torch.Tensor, request: SampleRequest) -> npt.NDArray[np.uint8]:
        """Packed latents [1, tokens, 64] to pixels [height, width, 3]; what is not finite becomes grey."""
        return self._decode(self._unpack(latents, request))

    def preview(self, latents: torch.Tensor, request: SampleRequest) -> npt.NDArray[np.uint8]:
        """A small picture of latents that are an estimate of the finished ones.

        The latents are averaged down to at most :data:`PREVIEW_LATENTS` a side and really decoded, so a
        preview costs a 256-pixel decode at every size.
        """
        grid = self._unpack(latents, request)
        shrink = max(grid.shape[-2:]) / PREVIEW_LATENTS
        if shrink > 1:
            size = [max(1, round(side / shrink)) for side in grid.shape[-2:]]
            grid = functional.interpolate(grid.float(), size=size, mode="area").to(grid.dtype)
        return self._decode(grid)

    def _unpack(self, latents: torch.Tensor, request: SampleRequest) -> torch.Tensor:
        grid: torch.Tensor = FluxPipeline._unpack_latents(latents, request.height, request.width, self._scale)
        return grid

    def _decode(self, grid: torch.Tensor) -> npt.NDArray[np.uint8]:
        config = self._vae.config
        with torch.inference_mode():
            pixels = self._vae.decode(grid / config.scaling_factor + config.shift_factor, return_dict=False)[
                0
            ]
            unit = torch.nan_to_num(pixels[0].float() / 2 + 0.5, nan=0.5).clamp(0, 1)
            # diffusers' own rounding (VaeImageProcessor.postprocess, numpy_to_pil)
            return (unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


class Previewer:
    """Estimates the finished latents at a step boundary, and decodes them.

    Rectified flow moves along a straight line at each step, ``x' = x + (s' - s) v``, and ends at
    sigma 0; so two neighbouring states give ``v``, and ``x' - s' v`` is where the line would end.
    """

    def __init__(self, decoder: Decoder, request: SampleRequest, noise: torch.Tensor) -> None:
        self._decoder = decoder
        self._request = request
        self._latents = noise
        self._sigma = 1.0

    def after(self, step: int, latents: torch.Tensor, sigma: float) -> npt.NDArray[np.uint8] | None:
        """Call at every boundary; a preview at those that the request asks for."""
        before, level = self._latents, self._sigma
        self._latents, self._sigma = latents, sigma
        every = self._request.preview_every
        if not every or step % every or level == sigma:
            return None
        velocity = (latents - before) / (sigma - level)
        return self._decoder.preview(latents - sigma * velocity, self._request)
