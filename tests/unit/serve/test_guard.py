"""The guard takes pictures, however plain, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fluxsampler_serve import guard
from fluxsampler_serve.engines.fake import picture
from fluxsampler_serve.engines.protocol import Sample
from fluxsampler_serve.errors import PictureRefused

SIDE = 96
RANDOM = np.random.default_rng(0)
Pixels = npt.NDArray[np.uint8]


def noise_latents() -> npt.NDArray[np.float32]:
    """What a rank that did nothing returns; the hardest latents for a picture that is fine."""
    return RANDOM.standard_normal((SIDE * SIDE // 256, 64)).astype(np.float32)


def sample(pixels: Pixels, latents: npt.NDArray[np.float32] | None = None, *, finite: bool = True) -> Sample:
    return Sample(pixels, noise_latents() if latents is None else latents, finite, 4)


def white() -> Pixels:
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def with_square(pixels: Pixels, side: int, colour: tuple[int, int, int]) -> Pixels:
    pixels[40 : 40 + side, 40 : 40 + side] = colour
    return pixels


def grainy(level: float, grain: float) -> Pixels:
    return np.clip(RANDOM.normal(level, grain, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def gradient(top: int) -> Pixels:
    return np.broadcast_to(np.linspace(0, top, SIDE)[:, None, None], (SIDE, SIDE, 3)).astype(np.uint8)


PICTURES = {
    "a disc": picture(1, SIDE, SIDE),
    "a shape on white": with_square(white(), 32, (255, 0, 0)),
    "a dot on white": with_square(white(), 4, (0, 0, 0)),
    "a pale shape on white": with_square(white(), 32, (248, 248, 252)),
    "night: black with grain": grainy(4, 2),
    "fog: grey with grain": grainy(128, 4),
    "a dark gradient": gradient(12),
    "a checkerboard": (np.indices((SIDE, SIDE)).sum(0) // 24 % 2 * 255)[..., None]
    .repeat(3, 2)
    .astype(np.uint8),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_pass(name: str) -> None:
    guard.inspect(sample(PICTURES[name]))


@pytest.mark.parametrize("seed", range(20))
def test_the_fake_engines_pictures_pass(seed: int) -> None:
    guard.inspect(sample(picture(seed, SIDE, SIDE)))


def test_latents_that_are_not_finite_are_refused() -> None:
    broken = noise_latents()
    for value in (np.nan, np.inf):
        broken[3, 5] = value
        with pytest.raises(PictureRefused, match="not finite"):
            guard.inspect(sample(PICTURES["a disc"], broken))
    with pytest.raises(PictureRefused, match="not finite"):
        guard.inspect(sample(PICTURES["a disc"], finite=False))


def test_an_empty_buffer_is_refused() -> None:
    """Decoded zeros are no flat picture: on tiny-shapes they deviate by 50 levels."""
    with pytest.raises(PictureRefused, match="the same everywhere"):
        guard.inspect(sample(PICTURES["a disc"], np.zeros((36, 64), np.float32)))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_colour_is_refused_even_with_stray_pixels(level: int) -> None:
    flat = np.full((SIDE, SIDE, 3), level, np.uint8)
    flat[::2] ^= 1
    flat[5, 7] = 255 - level
    with pytest.raises(PictureRefused, match="one flat colour"):
        guard.inspect(sample(flat))


@pytest.mark.parametrize("scale", [1, 4, 8])
def test_noise_is_refused_whatever_its_grain(scale: int) -> None:
    cells = RANDOM.integers(0, 256, (SIDE // scale, SIDE // scale, 3), dtype=np.uint8)
    with pytest.raises(PictureRefused, match="noise"):
        guard.inspect(sample(cells.repeat(scale, 0).repeat(scale, 1)))


def packed(latents: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[16, height, width] to tokens of 2x2, as diffusers' `FluxPipeline._pack_latents` does."""
    channels, height, width = latents.shape
    grid = latents.reshape(channels, height // 2, 2, width // 2, 2)
    return grid.transpose(1, 3, 0, 2, 4).reshape(height * width // 4, 4 * channels)


def test_a_picture_of_noise_that_the_model_meant_passes() -> None:
    """Latents with shapes in them are a witness for the picture."""
    latents = RANDOM.standard_normal((16, 12, 12)).astype(np.float32)
    drawn = latents + np.roll(latents, 1, axis=2)
    guard.inspect(sample(RANDOM.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), packed(drawn)))


def test_latent_correlation_reads_diffusers_packing() -> None:
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (16, 8, 12))
    assert guard.latent_correlation(packed(ramp), 96) > 0.9
    shuffled = RANDOM.permutation(ramp.ravel()).reshape(ramp.shape)
    assert abs(guard.latent_correlation(packed(shuffled), 96)) < 0.1
