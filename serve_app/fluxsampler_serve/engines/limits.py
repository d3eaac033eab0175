"""What an engine cannot draw, decided from numbers alone: no torch, no model, nothing loaded.

The rules of a layout are the faults of xfuser 0.7.0 that would otherwise be met while drawing, two of
them as pictures that are silently wrong (``docs/dev/engines.md`` has the table and the tests).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_serve.errors import ModelMismatch

if TYPE_CHECKING:
    from fluxsampler_api.app_args import Layout
    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.weights import ModelFacts

TOKEN_SIDE = 16  # pixels that one token covers: the VAE's 8, and FLUX's patches of 2
FEED_FORWARD = 4  # width of FLUX's feed-forward, in hidden sizes (diffusers' FeedForward mult)


def check_model(facts: ModelFacts) -> None:
    """Raise :class:`~fluxsampler_serve.errors.ModelMismatch` for a VAE of another scale than FLUX's."""
    if 2 * facts.vae_scale != TOKEN_SIDE:
        raise ModelMismatch(
            f"the model's VAE scales by {facts.vae_scale}, FLUX's by {TOKEN_SIDE // 2}: use a FLUX VAE"
        )


def refuses_request(request: SampleRequest, max_text_tokens: int) -> str | None:
    """Why no engine of this model can draw ``request``, or None."""
    if (
        request.width % TOKEN_SIDE
        or request.height % TOKEN_SIDE
        or min(request.width, request.height) < TOKEN_SIDE
    ):
        return f"width and height must be multiples of {TOKEN_SIDE}, and are {request.width}x{request.height}"
    if request.steps < 1:
        return f"steps must be at least 1, and is {request.steps}"
    if not 1 <= request.max_text_tokens <= max_text_tokens:
        return f"max_text_tokens must be 1 to {max_text_tokens}, and is {request.max_text_tokens}"
    if request.true_cfg_scale > 1 and request.negative_prompt is None:
        return "true_cfg_scale above 1 needs a negative_prompt (an empty one will do)"
    return None


def refuses_layout(
    layout: Layout, facts: ModelFacts, warmup_steps: int = 1, quantization: str = "none"
) -> str | None:
    """Why xfuser cannot, or must not, split this model by ``layout``, or None."""
    if layout.ranks < 2:
        return "a gang has at least 2 ranks: use the single-device engine"
    if layout.tensor > 1 and layout.sequence > 1:
        return f"tensor {layout.tensor} with sequence {layout.sequence} draws wrong pictures without an error in xfuser"
    if facts.heads % layout.ulysses:
        return f"ulysses {layout.ulysses} does not divide {facts.heads} attention heads"
    if layout.tensor > 1 and quantization != "none":
        return f"tensor {layout.tensor} would split {quantization} weights and not their scales"
    channels = FEED_FORWARD * facts.heads * facts.head_dim
    if channels % layout.tensor:
        return f"tensor {layout.tensor} does not divide the feed-forward's {channels} channels"
    if layout.pipefusion == 1:
        return None
    if warmup_steps < 1:
        return "pipefusion needs at least 1 warm-up step: without one its first patches attend to nothing"
    blocks = facts.double_blocks + facts.single_blocks
    if layout.stage_blocks is None:
        return "pipefusion needs stage_blocks: xfuser's own split can leave a stage without a block, which crashes"
    if min(layout.stage_blocks) < 1 or sum(layout.stage_blocks) != blocks:
        return f"stage_blocks {layout.stage_blocks} must be positive and sum to the model's {blocks} blocks"
    return None


def refuses_split(request: SampleRequest, layout: Layout) -> str | None:
    """Why ``layout`` cannot split this request, or None."""
    rows, columns = request.height // TOKEN_SIDE, request.width // TOKEN_SIDE
    sequence = layout.sequence
    if request.max_text_tokens % sequence:
        return (
            f"{request.max_text_tokens} text tokens cannot be split over {sequence} ranks: "
            f"max_text_tokens must be a multiple of {sequence}"
        )
    if layout.pipefusion == 1:
        if rows * columns % sequence:
            return f"{request.width}x{request.height} is {rows * columns} tokens, which {sequence} ranks cannot share"
        return None
    if request.true_cfg_scale > 1:
        return "pipefusion draws without true_cfg_scale: its patches are in flight across steps"
    if rows % sequence:
        return f"{rows} token rows cannot be split over {sequence} ranks: height must be a multiple of {TOKEN_SIDE * sequence}"
    patches = patch_rows(rows, layout.pipefusion, sequence)
    if sequence > 1 and patches[-1] != patches[0]:
        # xfuser 0.7.0 then gives its sequence ranks different numbers of tokens, which aborts the process.
        return (
            f"{rows} token rows give {layout.pipefusion} stages of {sequence} ranks uneven patches: "
            f"height must be a multiple of {TOKEN_SIDE * layout.pipefusion * sequence}"
        )
    if len(patches) < 2:
        return (
            f"{rows} token rows cannot be cut into patches for {layout.pipefusion} stages of {sequence} ranks"
        )
    return None


def patch_rows(rows: int, stages: int, sequence: int) -> list[int]:
    """Token rows of each PipeFusion patch: as many patches as stages, or fewer where they would be too thin.

    xfuser's rule (``DiTRuntimeState._calc_patches_metadata``): every patch but the last has the same
    number of rows, a multiple of the sequence ranks that share it.
    """
    each = -(-rows // stages)
    each = -(-each // sequence) * sequence
    count = -(-rows // each)
    return [each] * (count - 1) + [rows - each * (count - 1)]
