"""Draws the transformer's training pictures and encodes them once, size by size."""

import logging
import random
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL

from .autoencoder import as_tensor
from .drawing import draw
from .schedule import length_weight
from .scope import SIDES, Scene, all_scenes

log = logging.getLogger(__name__)

ENCODE_BATCH: Final[int] = 49
SQUARE_WEIGHT: Final[int] = 3
"""How much more often a square size is trained on than another: those are asked for most."""

SHAPE_WEIGHTS: Final[dict[str, float]] = {"star": 2.0, "cross": 1.5}
"""How much more often the shapes with long outlines are trained on than the others."""


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(batch, 16, height / 8, width / 8) to Flux's tokens (batch, height / 16 * width / 16, 64)."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def image_ids(width: int, height: int) -> torch.Tensor:
    """Flux's token positions for a picture of `width` x `height` pixels: (tokens, 3) of (0, row, column)."""
    rows, columns = height // 16, width // 16
    positions = torch.zeros(rows, columns, 3)
    positions[..., 1] += torch.arange(rows)[:, None]
    positions[..., 2] += torch.arange(columns)[None, :]
    return positions.view(rows * columns, 3)


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderKL, path: Path, copies: int, seed: int = 12) -> None:
    """Draw every scene `copies` times at every size, encode, and save {"WxH": packed latents} in bfloat16.

    Row `i` of each tensor shows scene `i % number of scenes`.
    """
    rng = random.Random(seed)
    scenes = all_scenes() * copies
    store: dict[str, torch.Tensor] = {}
    for width in SIDES:
        for height in SIDES:
            encoded = []
            for start in range(0, len(scenes), ENCODE_BATCH):
                pictures = [draw(scene, width, height, rng) for scene in scenes[start : start + ENCODE_BATCH]]
                mean = autoencoder.encode(as_tensor(pictures)).latent_dist.mean
                scaled = (mean - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor
                encoded.append(pack(scaled).to(torch.bfloat16))
            store[f"{width}x{height}"] = torch.cat(encoded)
        log.info("encoded the pictures that are %d wide", width)
    torch.save(store, path)


class LatentSource:
    """Random batches of encoded pictures of one size, with the scenes they show."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self._store: dict[str, torch.Tensor] = torch.load(path, mmap=True)
        self._rng = rng
        self._scenes = all_scenes()
        self._scene_weights = [SHAPE_WEIGHTS.get(scene.shape, 1.0) for scene in self._scenes]
        self._sizes = [(width, height) for width in SIDES for height in SIDES]

    def _weight(self, width: int, height: int, progress: float) -> float:
        """How often a size is trained on, relative to the others."""
        return length_weight(width * height // 256, progress) * (SQUARE_WEIGHT if width == height else 1)

    def batch(self, count: int, progress: float) -> tuple[torch.Tensor, torch.Tensor, list[Scene]]:
        """Packed latents (count, tokens, 64), their positions (tokens, 3), and their scenes.

        Early in the run, `progress` near 0, small pictures are more frequent.
        """
        weights = [self._weight(width, height, progress) for width, height in self._sizes]
        ((width, height),) = self._rng.choices(self._sizes, weights)
        latents = self._store[f"{width}x{height}"]
        chosen = self._rng.choices(range(len(self._scenes)), self._scene_weights, k=count)
        copies = len(latents) // len(self._scenes)
        rows = [index + len(self._scenes) * self._rng.randrange(copies) for index in chosen]
        return latents[rows].float(), image_ids(width, height), [self._scenes[index] for index in chosen]
