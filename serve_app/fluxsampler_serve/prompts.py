"""A prompt to embeddings: tokens counted first, and never cut in silence.

FLUX reads a prompt twice. T5 gives one vector per token, up to the request's ``max_text_tokens``;
what is beyond that is lost, so it is refused or, when the caller says so, cut and counted. CLIP
gives one pooled vector from its first 77 tokens, by design and whatever the limit: that cut is part
of the model and no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fluxsampler_serve.errors import PromptTooLong

if TYPE_CHECKING:
    from collections.abc import Mapping

# Characters tokenised at first; some 4,000 tokens of English and a few milliseconds. More is only
# looked at when that much holds no token too many (white space, characters that T5 drops), and not
# without end: 10 MB of zero-width spaces are four tokens and take T5's tokenizer over a minute.
_FIRST_LOOK = 16_384
_LAST_LOOK = 16 * _FIRST_LOOK


class Encoders(Protocol):
    """What of a FluxPipeline turns text into embeddings."""

    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """``prompt_embeds`` [1, max_text_tokens, d], ``pooled_prompt_embeds`` [1, p], ``text_ids``
    [max_text_tokens, 3], in the encoders' dtype and on their device.

    ``tokens`` T5 tokens were in the prompt, its end token among them, and ``truncated_tokens`` of
    them were cut. Both are lower bounds for prompts of more than 16,384 characters.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    text_ids: torch.Tensor
    tokens: int
    truncated_tokens: int

    def arguments(self) -> Mapping[str, torch.Tensor]:
        """As keyword arguments of FluxPipeline."""
        return {"prompt_embeds": self.prompt_embeds, "pooled_prompt_embeds": self.pooled_prompt_embeds}


@dataclass(frozen=True, slots=True)
class _Counted:
    """As much of a prompt as matters, and its T5 tokens; ``whole`` when that is all of it."""

    text: str
    tokens: int
    whole: bool


def check_prompt(
    tokenizer_2: Any, prompt: str, max_text_tokens: int, truncate: bool, limit: int | None = None
) -> int:
    """Number of T5 tokens beyond ``max_text_tokens``, 0 if the prompt fits.

    Raises :class:`PromptTooLong` instead when there are some and ``truncate`` is False. ``limit`` is
    the largest ``max_text_tokens`` that the service allows, for the advice in the message.
    """
    return _cut(_count(tokenizer_2, prompt, max_text_tokens), max_text_tokens, truncate, limit)


@torch.no_grad()
def encode_prompt(
    pipeline: Encoders, prompt: str, max_text_tokens: int, truncate: bool, limit: int | None = None
) -> PromptEmbeddings:
    """The embeddings that ``FluxPipeline.encode_prompt`` gives for ``prompt``, bit for bit.

    Any text is fine: empty, any Unicode (lone surrogates become U+FFFD), megabytes long (only the
    beginning is then tokenised). Raises :class:`PromptTooLong` as :func:`check_prompt` does, and for
    text that goes on for hundreds of thousands of characters without words.
    """
    counted = _count(pipeline.tokenizer_2, prompt, max_text_tokens)
    truncated = _cut(counted, max_text_tokens, truncate, limit)
    t5, clip = pipeline.text_encoder_2, pipeline.text_encoder
    ids = _ids(pipeline.tokenizer_2, counted.text, max_text_tokens)
    embeds = t5(ids.to(t5.device), output_hidden_states=False)[0]
    clip_ids = _ids(pipeline.tokenizer, counted.text, pipeline.tokenizer.model_max_length)
    pooled = clip(clip_ids.to(clip.device), output_hidden_states=False).pooler_output
    return PromptEmbeddings(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        text_ids=torch.zeros(max_text_tokens, 3, dtype=embeds.dtype, device=embeds.device),
        tokens=counted.tokens,
        truncated_tokens=truncated,
    )


def _ids(tokenizer: Any, text: str, length: int) -> torch.Tensor:
    encoded = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded.input_ids
    return ids


def _count(tokenizer: Any, prompt: str, enough: int) -> _Counted:
    """Tokenise ``prompt`` until its end, or until it is clear that it has more than ``enough`` tokens."""
    look = _FIRST_LOOK
    while True:
        # Lone surrogates reach here through JSON escapes; the tokenizers refuse them.
        text = prompt[:look].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        # verbose: transformers would warn of more tokens than the model takes, which is dealt with here.
        tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
        whole = look >= len(prompt)
        if whole or tokens > enough:
            return _Counted(text, tokens, whole)
        if look >= _LAST_LOOK:
            raise PromptTooLong(
                f"prompt has {len(prompt)} characters and hardly a word that T5 knows in the first {look}: shorten it"
            )
        look *= 4


def _cut(counted: _Counted, max_text_tokens: int, truncate: bool, limit: int | None) -> int:
    beyond = max(0, counted.tokens - max_text_tokens)
    if beyond and not truncate:
        more = "" if counted.whole else "more than "
        up_to = f" up to {limit}" if limit is not None else ""
        raised = f", raise max_text_tokens{up_to}" if limit is None or limit > max_text_tokens else ""
        advice = f"shorten it{raised} or set truncate_prompt"
        raise PromptTooLong(
            f"prompt has {more}{counted.tokens} tokens, max_text_tokens is {max_text_tokens}: {advice}"
        )
    return beyond
