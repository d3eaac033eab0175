"""Memory of one card, component by component.

Sizes are exact where they follow from the model's configuration, and stated assumptions elsewhere;
``docs/user/planning.md`` shows them next to a real plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from fluxsampler_planner.gpus import GIB, MIB
from fluxsampler_planner.models import ModelFacts
from fluxsampler_planner.split import Split, stage_parameters

# CUDA context, cuBLAS and cuDNN workspaces of one process: 0.4-0.6 GiB with torch 2.x on an Ada card.
CUDA_CONTEXT = GIB // 2
# NCCL's channel buffers for the communicators of one gang (NCCL_BUFFSIZE 4 MiB × channels × peers).
NCCL_BUFFERS = 400 * MIB
# torch's caching allocator rounds and fragments: 5 % of what it serves besides the weights.
ALLOCATOR_SHARE = 0.05
# A rank on CPU: an interpreter forked from the warm forkserver (51-117 MiB) and gloo's buffers.
CPU_PROCESS = 160 * MIB
# DESIGN §5: activations of a block are about 15·h·b bytes per token.
ACTIVATION_PLANES = 15
# VAE decoding holds maps of 256 channels at full resolution and their fp32 norms: 2.5 GiB at 1024² in bf16.
DECODE_BYTES_PER_PIXEL = 2560
# Marks what a fallback holds on a card that it shares.
FALLBACK_PREFIX = "fallback: "


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in a card's memory, in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Form:
    """How the weights are held: ``element`` bytes of dtype, ``fp8`` whether the linears are stored in 8 bits."""

    element: int
    fp8: bool
    cuda: bool

    def linear(self, parameters: int) -> int:
        """Bytes of ``parameters`` block weights; fp8 adds one scale per row, well below 1 %."""
        return int(parameters * 1.005) if self.fp8 else parameters * self.element


@dataclass(frozen=True, slots=True)
class Picture:
    """The largest picture a card must hold: image tokens, text tokens, pixels."""

    image_tokens: int
    text_tokens: int
    pixels: int


def encoders_size(model: ModelFacts, form: Form) -> int:
    """Bytes of T5 and CLIP (8.9 + 0.2 GiB for FLUX.1 in bf16)."""
    return (model.t5_parameters + model.clip_parameters) * form.element


def transformer_size(model: ModelFacts, form: Form) -> int:
    """Bytes of the whole transformer (22.2 GiB for FLUX.1 in bf16)."""
    blocks = model.transformer_parameters - model.embedder_parameters
    return form.linear(blocks) + model.embedder_parameters * form.element


def _decode(picture: Picture, form: Form) -> int:
    return picture.pixels * DECODE_BYTES_PER_PIXEL * form.element // 2


def rank_parts(
    model: ModelFacts,
    split: Split,
    blocks: tuple[int, ...],
    form: Form,
    picture: Picture,
    *,
    stage: int,
    first: bool,
    decodes: bool,
    encoders: bool,
) -> tuple[Part, ...]:
    """What one rank of pipeline stage ``stage`` holds; ``first``: it is rank 0, which encodes when ``encoders``."""
    tokens = picture.image_tokens + picture.text_tokens
    plane = tokens * model.hidden * form.element
    weights = (
        form.linear(stage_parameters(model, blocks, split.tensor)[stage])
        + model.embedder_parameters * form.element
    )
    parts = [Part("transformer", weights)]
    if encoders and first:
        parts.append(Part("T5", model.t5_parameters * form.element))
        parts.append(Part("CLIP", model.clip_parameters * form.element))
    if decodes:
        parts.append(Part("VAE", model.vae_parameters * form.element))
    activations = ACTIVATION_PLANES * plane // split.sequence
    # The decoder runs when the denoiser is done: the two peaks do not add up.
    peak = max(activations, _decode(picture, form)) if decodes else activations
    parts.append(Part("activations", peak))
    held = 0
    if split.pipefusion > 1:
        # Keys and values of every block of the stage for the whole picture (PipeFusion's stale context).
        held = 2 * plane * blocks[stage]
        parts.append(Part("PipeFusion keys and values", held))
    if form.cuda:
        parts.append(Part("CUDA context", CUDA_CONTEXT))
        if split.ranks > 1:
            parts.append(Part("NCCL buffers", NCCL_BUFFERS))
        parts.append(Part("allocator", int(ALLOCATOR_SHARE * (peak + held))))
    else:
        parts.append(Part("process", CPU_PROCESS))
    return tuple(parts)


def single_parts(model: ModelFacts, form: Form, picture: Picture, *, encoders: bool) -> tuple[Part, ...]:
    """What one single-device replica (a fallback) holds."""
    return rank_parts(
        model, Split(), (model.blocks,), form, picture, stage=0, first=True, decodes=True, encoders=encoders
    )


def total(parts: tuple[Part, ...]) -> int:
    """Sum of ``parts`` in bytes."""
    return sum(part.size for part in parts)


def stage_totals(
    model: ModelFacts, split: Split, blocks: tuple[int, ...], form: Form, picture: Picture
) -> tuple[int, ...]:
    """Bytes of an inner rank (neither encoding nor decoding) of each stage: the sum of :func:`rank_parts`, without the list.

    The search asks this for hundreds of layouts; tests hold the two together.
    """
    plane = (picture.image_tokens + picture.text_tokens) * model.hidden * form.element
    peak = ACTIVATION_PLANES * plane // split.sequence
    fixed = model.embedder_parameters * form.element + peak
    if form.cuda:
        fixed += CUDA_CONTEXT + (NCCL_BUFFERS if split.ranks > 1 else 0)
    else:
        fixed += CPU_PROCESS
    totals = []
    for parameters, count in zip(stage_parameters(model, blocks, split.tensor), blocks, strict=True):
        held = 2 * plane * count if split.pipefusion > 1 else 0
        allocator = int(ALLOCATOR_SHARE * (peak + held)) if form.cuda else 0
        totals.append(form.linear(parameters) + fixed + held + allocator)
    return tuple(totals)


def extra_of_first(model: ModelFacts, form: Form) -> int:
    """Bytes that rank 0 holds more when it encodes."""
    return encoders_size(model, form)


def extra_of_decoder(model: ModelFacts, split: Split, form: Form, picture: Picture) -> int:
    """Bytes that the decoding rank holds more: the VAE, and what its peak exceeds the denoiser's by (allocator included, rounded up)."""
    plane = (picture.image_tokens + picture.text_tokens) * model.hidden * form.element
    more = max(0, _decode(picture, form) - ACTIVATION_PLANES * plane // split.sequence)
    return model.vae_parameters * form.element + more + (int(ALLOCATOR_SHARE * more) + 1 if form.cuda else 0)
