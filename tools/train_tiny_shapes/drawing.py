"""Draws a scene with Pillow: the training pictures of the autoencoder and of the transformer."""

import math
import random
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .scope import BACKGROUND, COLOURS, PLACED_RADIUS, PLACES, RGB, SIZES, Scene

Picture = npt.NDArray[np.uint8]
"""Height x width x 3, 8-bit RGB."""
Point = tuple[float, float]

SUPERSAMPLING: Final[int] = 4
"""Pictures are drawn this many times larger and averaged down, for smooth edges."""
COLOUR_JITTER: Final[float] = 5.0
"""Half range of the random change of each colour channel, of 255."""
CENTRE_JITTER: Final[float] = 0.02
"""Half range of the random change of the centre, as a share of the shorter side."""
RADIUS_JITTER: Final[float] = 0.06
"""Half range of the random change of the radius, as a share of the radius."""


def _star() -> list[Point]:
    """A five-pointed star, one point up."""
    points = []
    for index in range(10):
        radius = 1.0 if index % 2 == 0 else 0.42
        angle = index * math.pi / 5
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return points


def _heart() -> list[Point]:
    """The well-known heart curve, scaled to a width of two."""
    points = []
    for index in range(64):
        angle = 2 * math.pi * index / 64
        waves = -5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        height = 13 * math.cos(angle) + waves
        points.append((math.sin(angle) ** 3, -height / 16 - 0.05))
    return points


def _cross(arm: float = 0.34) -> list[Point]:
    """An upright cross whose arms are `2 * arm` wide."""
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    points: list[Point] = []
    for _ in range(4):
        points.extend(quarter)
        quarter = [(-y, x) for x, y in quarter]
    return points


OUTLINES: Final[dict[str, list[Point]]] = {
    "circle": [
        (math.cos(2 * math.pi * index / 96), math.sin(2 * math.pi * index / 96)) for index in range(96)
    ],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
    "cross": _cross(),
}
"""Corner points of each shape, in units of its radius, y pointing down."""


def _jittered(colour: RGB, rng: random.Random) -> RGB:
    """The colour, each channel moved a little and kept within 8 bits."""
    red, green, blue = (
        int(min(255.0, max(0.0, channel + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER)))) for channel in colour
    )
    return red, green, blue


def draw(scene: Scene, width: int, height: int, rng: random.Random | None = None) -> Picture:
    """Draw a scene as a picture of `height` x `width` x 3.

    With `rng`, the colour, the centre and the radius vary a little; without, the picture is the ideal one.
    """
    shorter = min(width, height)
    radius = (PLACED_RADIUS if scene.place else SIZES[scene.size]) * shorter
    centre_x, centre_y = PLACES[scene.place][0] * width, PLACES[scene.place][1] * height
    colour = COLOURS[scene.colour]
    if rng is not None:
        radius *= 1 + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)
        centre_x += rng.uniform(-CENTRE_JITTER, CENTRE_JITTER) * shorter
        centre_y += rng.uniform(-CENTRE_JITTER, CENTRE_JITTER) * shorter
        colour = _jittered(colour, rng)
    canvas = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), BACKGROUND)
    corners = [
        ((centre_x + x * radius) * SUPERSAMPLING, (centre_y + y * radius) * SUPERSAMPLING)
        for x, y in OUTLINES[scene.shape]
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=colour)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
