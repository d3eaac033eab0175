"""float8 storage of the transformer's linear layers: half the bytes, the same arithmetic.

A weight row w (one output channel) is stored as float8 e4m3 values q and one power of two s, with
w ≈ q·s. Since q has 3 mantissa bits and s only moves the exponent, q·s is exact in bfloat16 and
float32: the layer computes precisely what a plain linear layer with the rounded weight would.
A power of two loses nothing against a free scale but at the very bottom of e4m3's range.

:class:`Fp8Linear` decodes one layer at a time, when it runs, into a temporary. The stored tensor is
only read, so it may stay a mapped file. diffusers' layerwise casting instead moves each module
between dtypes (``module.to``), which leaves every process with a private copy.

Norms, embeddings, the input and output projections and all biases keep the compute dtype: they are
few and carry the most error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from fluxsampler_serve.errors import ModelCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

STORAGE = torch.float8_e4m3fn
# Largest finite e4m3 value (S.1111.110).
_LARGEST = 448.0
SCALE_SUFFIX = ".weight_scale"
# Linear layers of the blocks; everything around them keeps its dtype.
_QUANTISED_IN = ("transformer_blocks.", "single_transformer_blocks.")


def is_quantised(name: str, dimensions: int) -> bool:
    """Is the tensor ``name`` stored as float8? True for the matrices of the transformer's blocks."""
    return name.startswith(_QUANTISED_IN) and name.endswith(".weight") and dimensions == 2


def scale_name(weight: str) -> str:
    """Name of the scale that belongs to the tensor ``weight``."""
    return weight.removesuffix(".weight") + SCALE_SUFFIX


def encode(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``weight`` [out, in] as e4m3 [out, in] and float32 powers of two [out, 1].

    Raises :class:`ModelCorrupt` when the weight holds NaN or infinity."""
    wide = weight.to(torch.float32)
    peak = wide.abs().amax(dim=1, keepdim=True)
    if not bool(torch.isfinite(peak).all()):
        raise ModelCorrupt(
            "a weight is NaN or infinite, which float8 cannot hold: restore the model from its source"
        )
    # Smallest power of two that brings the row within range; 1 for a row of zeros.
    exponent = torch.ceil(torch.log2(torch.where(peak > 0, peak, torch.full_like(peak, _LARGEST)) / _LARGEST))
    scale = torch.exp2(exponent)
    return (wide / scale).to(STORAGE), scale


def decode(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """q·s in ``dtype``: exact in bfloat16 and float32."""
    return stored.to(dtype).mul_(scale.to(dtype))


class Fp8Linear(nn.Linear):
    """A linear layer whose weight is stored as float8 and decoded for the length of one call."""

    weight_scale: torch.Tensor

    @classmethod
    def replacing(cls, linear: nn.Linear) -> Self:
        """An empty layer (meta device) in the place of ``linear``."""
        self = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        stored = torch.empty(linear.out_features, linear.in_features, dtype=STORAGE, device="meta")
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.register_buffer("weight_scale", torch.empty(linear.out_features, 1, device="meta"))
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """As nn.Linear, in the input's dtype."""
        return F.linear(input, decode(self.weight, self.weight_scale, input.dtype), self.bias)

    def _apply(
        self,
        fn: Callable[[torch.Tensor], torch.Tensor],
        recurse: bool = True,  # noqa: ARG002 - nn.Module's signature; there is nothing below a layer
    ) -> Self:
        """Follow ``.to(device)`` and ignore ``.to(dtype)``: the storage is the point of this layer.

        As integers the weight and its scale move between devices but are left alone by casts."""
        with torch.no_grad():
            stored, scale = fn(self.weight.data.view(torch.uint8)), fn(self.weight_scale.view(torch.int32))
            self.weight = nn.Parameter(stored.view(STORAGE), requires_grad=False)
            self.weight_scale = scale.view(torch.float32)
            if self.bias is not None:
                self.bias = nn.Parameter(fn(self.bias.data), requires_grad=False)
        return self


def use_fp8_linears(model: nn.Module) -> int:
    """Put an empty :class:`Fp8Linear` wherever the file holds float8; returns how many."""
    replaced = 0
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and is_quantised(f"{name}.weight", 2):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Fp8Linear.replacing(module))
            replaced += 1
    return replaced
