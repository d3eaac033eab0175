"""From a prompt to what the transformer is conditioned on; encoded once per prompt, wherever the encoders are."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers import FluxPipeline

from fluxsampler_serve.prompts import encode_prompt
from fluxsampler_serve.weights import load_text_encoders, load_tokenizers

if TYPE_CHECKING:
    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.weights import PreparedModel

REMEMBERED_PROMPTS = 8  # 4 MB each for FLUX.1; several pictures of one prompt encode it once


@dataclass(frozen=True, slots=True)
class Conditioning:
    """One encoded prompt. ``embeds``: [1, max_text_tokens, text_dim]; ``pooled``: [1, pooled_dim]."""

    embeds: torch.Tensor
    pooled: torch.Tensor
    truncated_tokens: int = 0

    def to(self, device: torch.device) -> Conditioning:
        """The same on another device."""
        return Conditioning(self.embeds.to(device), self.pooled.to(device), self.truncated_tokens)


class TextEncoder:
    """CLIP and T5 with their tokenizers, held as a FluxPipeline without the rest."""

    def __init__(self, prepared: PreparedModel, device: torch.device) -> None:
        clip, t5 = load_text_encoders(prepared, device)
        tokenizer, tokenizer_2 = load_tokenizers(prepared)
        self._pipeline = FluxPipeline(
            scheduler=None,
            vae=None,
            text_encoder=clip,
            tokenizer=tokenizer,
            text_encoder_2=t5,
            tokenizer_2=tokenizer_2,
            transformer=None,
        )
        self._remembered: OrderedDict[tuple[str, int, bool], Conditioning] = OrderedDict()

    def encode(self, request: SampleRequest) -> tuple[Conditioning, Conditioning | None]:
        """The prompt, and the negative one where true CFG asks for it.

        Raises :class:`~fluxsampler_serve.errors.PromptTooLong` unless the request truncates. The limit
        is T5's; CLIP, which only gives the pooled vector, cuts at its own 77 tokens as FLUX always does.
        """
        positive = self._encode(request.prompt, request)
        if request.true_cfg_scale > 1 and request.negative_prompt is not None:
            return positive, self._encode(request.negative_prompt, request)
        return positive, None

    def _encode(self, prompt: str, request: SampleRequest) -> Conditioning:
        key = (prompt, request.max_text_tokens, request.truncate_prompt)
        known = self._remembered.pop(key, None)
        if known is None:
            encoded = encode_prompt(self._pipeline, prompt, request.max_text_tokens, request.truncate_prompt)
            known = Conditioning(
                encoded.prompt_embeds, encoded.pooled_prompt_embeds, encoded.truncated_tokens
            )
        self._remembered[key] = known
        if len(self._remembered) > REMEMBERED_PROMPTS:
            self._remembered.popitem(last=False)
        return known
