"""FLUX models with random weights, built offline in diffusers' layout: real shapes, no hub.

Everything but the transformer is the built-in model's own, so prompts and pictures go through real
tokenizers, encoders and a real VAE; only what is drawn is noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from tests.support.model_folders import BUILTIN, copy_builtin, recast, weights

_BUILTIN_CONFIG = json.loads((BUILTIN / "transformer" / "config.json").read_text())
TEXT_DIM: int = _BUILTIN_CONFIG["joint_attention_dim"]
POOLED_DIM: int = _BUILTIN_CONFIG["pooled_projection_dim"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a transformer: double and single blocks, attention heads and their width."""

    double: int
    single: int
    heads: int
    head_dim: int

    @property
    def config(self) -> dict[str, object]:
        """For FluxTransformer2DModel; the rotary axes share a head's width as FLUX's (16, 56, 56) do."""
        other = self.head_dim * 56 // 128 // 2 * 2
        first = self.head_dim - 2 * other
        return {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": self.double,
            "num_single_layers": self.single,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "joint_attention_dim": TEXT_DIM,
            "pooled_projection_dim": POOLED_DIM,
            "guidance_embeds": True,
            "axes_dims_rope": (first, other, other),
        }


SMALL = Shape(double=2, single=4, heads=24, head_dim=16)
"""As many heads as FLUX.1, 10 M parameters."""
GIGABYTE = Shape(double=1, single=3, heads=24, head_dim=128)
"""Blocks as wide as FLUX.1's: 0.78 billion parameters, 1.5 GiB in bfloat16."""
EIGHTH = Shape(double=1, single=2, heads=24, head_dim=48)
"""0.09 billion parameters: what a test can afford to map many times."""


def build(folder: Path, shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A model in ``folder``; the same bytes for the same arguments."""
    copy_builtin(folder)
    (folder / "fluxsampler.json").unlink(missing_ok=True)
    if dtype != torch.float32:
        recast(folder, dtype)
    with torch.device("meta"):
        skeleton = FluxTransformer2DModel(**shape.config)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, place in skeleton.state_dict().items():
        # Matrices keep the size of what goes through them; vectors (biases, norms) are all different, so
        # that a parameter taken for another is seen.
        wide = place.ndim > 1
        scale = place.shape[-1] ** -0.5 if wide else 0.05
        offset = 1.0 if ".norm_" in name and not wide else 0.0
        values = torch.randn(place.shape, generator=generator, dtype=torch.float32) * scale + offset
        tensors[name] = values.to(dtype)
    target = weights(folder, "transformer")
    save_file(tensors, target, metadata={"format": "pt"})
    config = {"_class_name": "FluxTransformer2DModel", **shape.config}
    target.with_name("config.json").write_text(json.dumps(config))
    return folder
