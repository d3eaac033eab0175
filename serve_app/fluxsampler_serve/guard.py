"""Refuses pictures that no model meant: not finite, one flat colour, or noise.

Such pictures come from a broken path (a rank that returned its raw noise, a half-written buffer, an
overflow in low precision), not from a prompt. The guard must never refuse a real picture, however
plain, so each test asks for evidence that a plain picture does not give; see ``docs/user/api.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fluxsampler_serve.errors import PictureRefused

if TYPE_CHECKING:
    import numpy.typing as npt

    from fluxsampler_serve.engines.protocol import Sample

FLAT_RANGE = 2
"""Levels of 255 between the darkest and the brightest pixel of a channel that still count as flat."""

CELL = 8
"""Side of the cells whose means are compared: one latent pixel of FLUX's VAE."""

NOISE_CORRELATION = 0.15
"""Below this correlation between neighbouring cells, a picture has no shape in it."""


def inspect(sample: Sample) -> None:
    """Raise :class:`~fluxsampler_serve.errors.PictureRefused` if ``sample`` is no picture."""
    if not sample.latents_finite or not np.isfinite(sample.latents).all():
        raise PictureRefused("the latents are not finite (NaN or infinity)")
    if is_flat(sample.pixels):
        raise PictureRefused("the picture is one flat colour")
    if is_noise(sample.pixels):
        raise PictureRefused("the picture is noise")


def is_flat(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether every channel is constant up to rounding."""
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    return bool((high.astype(int) - low <= FLAT_RANGE).all())


def is_noise(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether neighbouring cells of the picture know nothing of each other."""
    return cell_correlation(pixels) < NOISE_CORRELATION


def cell_correlation(pixels: npt.NDArray[np.uint8]) -> float:
    """Correlation of neighbouring cell means, the larger of the two directions; 1 for a smooth picture, 0 for noise."""
    height, width = (side // CELL * CELL for side in pixels.shape[:2])
    cells = pixels[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(1, 3))
    cells = cells - cells.mean(axis=(0, 1))
    power = float((cells * cells).mean())
    if power == 0.0:
        return 1.0
    across = float((cells[:, 1:] * cells[:, :-1]).mean()) / power
    down = float((cells[1:] * cells[:-1]).mean()) / power
    return max(across, down)
