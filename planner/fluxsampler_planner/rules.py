"""Why a split is refused before any arithmetic: an ordered list of named pure checks.

Each rule is a fault of xfuser 0.7.0 that DESIGN §6 measured, or a fact of the model; none of them may be
run into, several are silently wrong pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fluxsampler_planner.models import ModelFacts
from fluxsampler_planner.split import Split


@dataclass(frozen=True, slots=True)
class Request:
    """What the rules look at besides the split: the model, the target's pixels, prompt tokens, exactness, form."""

    model: ModelFacts
    width: int
    height: int
    text_tokens: tuple[int, ...]
    exact: bool
    fp8: bool = False
    float32_on_cuda: bool = False

    @property
    def rows(self) -> int:
        """Rows of tokens of the target picture."""
        return self.height // 16

    @property
    def image_tokens(self) -> int:
        """Tokens of the target picture."""
        return self.model.image_tokens(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Refusal:
    """``reason`` is one CamelCase word, ``field`` the degree below spec.parallelism to change, ``message`` names the fix."""

    reason: str
    field: str
    family: str
    message: str


def divisors(number: int, most: int) -> str:
    """`1, 2, 3 or 6`: the divisors of ``number`` up to ``most``."""
    found = [str(value) for value in range(1, most + 1) if number % value == 0]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _exact(split: Split, request: Request) -> Refusal | None:
    if not request.exact or split.pipefusion == 1:
        return None
    return Refusal(
        "NotExact",
        "pipefusion",
        "pipefusion",
        "pipefusion reuses activations of the step before; set pipefusion: 1, or exact: false",
    )


def _tensor_with_sequence(split: Split, _: Request) -> Refusal | None:
    if split.tensor == 1 or split.sequence == 1:
        return None
    return Refusal(
        "WrongPictures", "tensor", "tensor × ulysses/ring",
        "tensor above 1 together with ulysses or ring draws wrong pictures in xfuser 0.7.0 (3e-2 off); set tensor: 1, or ulysses: 1 and ring: 1",
    )  # fmt: skip


def _tensor_with_pipefusion(split: Split, _: Request) -> Refusal | None:
    if split.tensor == 1 or split.pipefusion == 1:
        return None
    return Refusal(
        "NotProven", "tensor", "tensor × pipefusion",
        "tensor above 1 together with pipefusion was never shown to draw the same picture; set tensor: 1, or pipefusion: 1",
    )  # fmt: skip


def _tensor_with_fp8(split: Split, request: Request) -> Refusal | None:
    if split.tensor == 1 or not request.fp8:
        return None
    return Refusal(
        "ScaleNotSplit", "tensor", "tensor × fp8",
        "xfuser splits an fp8 weight and not its scale; set tensor: 1, or model.quantization: none",
    )  # fmt: skip


def _ring_in_float32(split: Split, request: Request) -> Refusal | None:
    if split.ring == 1 or not request.float32_on_cuda:
        return None
    return Refusal(
        "NoKernel", "ring", "ring × float32",
        "ring attention needs the flash kernel, which takes no float32 on CUDA; set model.dtype: bfloat16, or ring: 1",
    )  # fmt: skip


def _heads(split: Split, request: Request) -> Refusal | None:
    heads, wide = request.model.heads, 4 * request.model.hidden
    if heads % split.ulysses:
        return Refusal(
            "HeadsNotDivisible",
            "ulysses",
            f"ulysses {split.ulysses}",
            f"{split.ulysses} does not divide {heads} attention heads; use {divisors(heads, min(heads, 8))}",
        )
    if wide % split.tensor:
        return Refusal(
            "ChannelsNotDivisible",
            "tensor",
            f"tensor {split.tensor}",
            f"{split.tensor} does not divide the feed-forward's {wide} channels; use {divisors(wide, 8)}",
        )
    return None


def _text(split: Split, request: Request) -> Refusal | None:
    for tokens in request.text_tokens:
        if tokens % split.sequence:
            return Refusal(
                "TextNotDivisible", "ulysses" if split.ulysses > 1 else "ring", f"ulysses·ring {split.sequence}",
                f"ulysses·ring {split.sequence} does not divide {tokens} text tokens, which xfuser 0.7.0 answers with wrong pictures (4e-2 off); "
                f"use {divisors(tokens, 16)}",
            )  # fmt: skip
    return None


def _rows(split: Split, request: Request) -> Refusal | None:
    if request.rows % split.sequence == 0 and request.image_tokens % split.sequence == 0:
        return None
    return Refusal(
        "RowsNotDivisible", "ulysses" if split.ulysses > 1 else "ring", f"ulysses·ring {split.sequence}",
        f"ulysses·ring {split.sequence} does not divide the {request.rows} rows of tokens of a {request.width}×{request.height} picture; "
        f"use {divisors(request.rows, 16)}, or another target.height",
    )  # fmt: skip


def _stages(split: Split, request: Request) -> Refusal | None:
    if split.pipefusion <= request.model.blocks:
        return None
    return Refusal(
        "StageWithoutBlock", "pipefusion", f"pipefusion {split.pipefusion}",
        f"a stage without a block crashes, and the model has {request.model.blocks}; use at most {request.model.blocks}",
    )  # fmt: skip


def _patches(split: Split, request: Request) -> Refusal | None:
    rows = request.rows // split.sequence
    if split.pipefusion == 1:
        return None
    if split.sequence > 1 and rows % split.pipefusion:
        # xfuser then gives the sequence ranks of a stage different numbers of tokens, which aborts the process.
        return Refusal(
            "PatchesUneven", "pipefusion", "pipefusion × ulysses/ring",
            f"{request.rows} rows of tokens give {split.pipefusion} stages of {split.sequence} ranks uneven patches; "
            f"use a target.height that is a multiple of {16 * split.pipefusion * split.sequence}",
        )  # fmt: skip
    if split.pipefusion <= rows:
        return None
    return Refusal(
        "PatchWithoutRow", "pipefusion", f"pipefusion {split.pipefusion}",
        f"{split.pipefusion} patches of whole rows do not fit into {rows} rows of tokens; use at most {rows}, or a taller target",
    )  # fmt: skip


Rule = Callable[[Split, Request], Refusal | None]
RULES: tuple[Rule, ...] = (
    _exact,
    _tensor_with_sequence,
    _tensor_with_pipefusion,
    _tensor_with_fp8,
    _ring_in_float32,
    _heads,
    _text,
    _rows,
    _stages,
    _patches,
)


def refusal(split: Split, request: Request) -> Refusal | None:
    """The first rule that ``split`` breaks, or None."""
    for rule in RULES:
        if (found := rule(split, request)) is not None:
            return found
    return None
