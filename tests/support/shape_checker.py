"""Judges pictures of one coloured shape on white by colour and contour statistics, with OpenCV.

Nothing here is learned, and nothing is shared with `tools/train_tiny_shapes`: hue ranges, outlines and
thresholds are written down from what the words mean, so a picture that passes is a picture of its prompt.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""Height x width x 3, 8-bit RGB."""
Mask = npt.NDArray[np.uint8]
"""Height x width, 255 where the shape is and 0 elsewhere."""
Points = npt.NDArray[np.float64]
"""Corner points, count x 2 of (x, y), y pointing down."""

ZOOM: Final[int] = 4
"""Pictures are enlarged this much before their contours are followed, so that small shapes are smooth."""
FOREGROUND_DISTANCE: Final[int] = 60
"""Largest channel difference to the background, of 255, from which a pixel belongs to a shape."""
BACKGROUND_MIN: Final[int] = 225
"""Every channel of a white background is at least this."""
BACKGROUND_NOISE_MAX: Final[float] = 10.0
"""Mean channel difference of background pixels to the background."""
DEBRIS_MAX: Final[float] = 0.05
"""Area of everything beside the shape, as a share of the shape's; the same limit holds for its holes."""
UNIFORM_MIN: Final[float] = 0.85
"""Share of the shape's inner pixels that must be near its colour."""
UNIFORM_DISTANCE: Final[int] = 50
"""What near means there: the largest channel difference."""
DEVIATION_MAX: Final[float] = 0.05
"""Mean distance between the contour and the ideal outline of the same area, as a share of the radius.

The same for all shapes, which one limit on the overlap is not: a star has twice a circle's outline for its area.
"""
SMALL_BELOW: Final[float] = 0.20
BIG_ABOVE: Final[float] = 0.335
"""Radius as a share of the picture's shorter side: small below the one, big above the other."""
OFF_CENTRE: Final[float] = 0.11
"""Distance from the middle, as a share of the width or height, from which a shape is beside it."""
SMALLEST_AREA: Final[float] = 0.01
"""Area below which nothing is drawn, as a share of the squared shorter side."""

HUES: Final[tuple[tuple[str, float, float], ...]] = (
    ("red", 0, 14),
    ("orange", 18, 42),
    ("yellow", 44, 66),
    ("green", 85, 165),
    ("blue", 205, 252),
    ("purple", 265, 300),
    ("pink", 305, 345),
    ("red", 346, 360),
)
"""Colour words and their hue in degrees, of clearly coloured pixels."""


def _polygon(corners: list[tuple[float, float]]) -> Points:
    return np.array(corners, dtype=np.float64)


def _regular(count: int, inner_radius: float = 1.0) -> Points:
    """A regular outline, first point up; with an inner radius, every second point lies there."""
    angles = np.arange(count) * 2 * math.pi / count
    radii = np.where(np.arange(count) % 2 == 0, 1.0, inner_radius)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _heart() -> Points:
    angles = np.linspace(0, 2 * math.pi, 90, endpoint=False)
    height = (
        13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    ) / 16.0
    return np.stack([np.sin(angles) ** 3, -height], axis=1)


OUTLINES: Final[dict[str, Points]] = {
    "circle": _regular(120),
    "square": _polygon([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "triangle": _polygon([(0, -1), (1, 0.85), (-1, 0.85)]),
    "star": _regular(10, inner_radius=0.42),
    "heart": _heart(),
    "diamond": _polygon([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]),
    "cross": _polygon(
        [
            (-1, -3),
            (1, -3),
            (1, -1),
            (3, -1),
            (3, 1),
            (1, 1),
            (1, 3),
            (-1, 3),
            (-1, 1),
            (-3, 1),
            (-3, -1),
            (-1, -1),
        ]
    )
    / 3,
}
"""Ideal outlines at radius one."""

SOLIDITY: Final[dict[str, tuple[float, float]]] = {
    "circle": (0.95, 1.0),
    "square": (0.94, 1.0),
    "triangle": (0.92, 1.0),
    "star": (0.40, 0.78),
    "heart": (0.86, 0.985),
    "diamond": (0.92, 1.0),
    "cross": (0.55, 0.86),
}
"""Area over the area of the convex hull: what tells stars and crosses from round things."""

WORDS: Final[dict[str, str]] = {
    "little": "small",
    "tiny": "small",
    "large": "big",
    "huge": "big",
}
COLOUR_WORDS: Final[frozenset[str]] = frozenset({"black", *(name for name, _, _ in HUES)})
PLACE_WORDS: Final[frozenset[str]] = frozenset({"left", "right", "top", "bottom"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture shows. A field is None where the picture does not say it clearly."""

    colour: str | None
    shape: str | None
    size: str | None
    """small, medium or big."""
    place: str | None
    """centre, left, right, top or bottom."""
    clean: bool
    """One evenly coloured shape without holes or debris on a plain white background."""


NOTHING: Final[Verdict] = Verdict(colour=None, shape=None, size=None, place=None, clean=False)


def judge(image: Image) -> Verdict:
    """Describe a picture (height x width x 3, 8-bit RGB) of one shape on white."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    enlarged = cv2.resize(image, (width * ZOOM, height * ZOOM), interpolation=cv2.INTER_CUBIC)
    background = _background(image)
    if background.min() < BACKGROUND_MIN:
        return NOTHING
    mask = _foreground(enlarged, background)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return NOTHING
    contour = max(contours, key=cv2.contourArea)
    area = cv2.contourArea(contour)
    if area < SMALLEST_AREA * (shorter * ZOOM) ** 2:
        return NOTHING
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, [contour], -1, 255, thickness=cv2.FILLED)
    shape = _shape(contour, filled)
    colour, uniform = _colour(enlarged, filled)
    plain = _is_plain(image, background, filled) and _is_alone(mask, filled)
    return Verdict(
        colour=colour,
        shape=shape,
        size=_size(area, shape, shorter * ZOOM) if shape else None,
        place=_place(contour, width * ZOOM, height * ZOOM),
        clean=plain and uniform and shape is not None,
    )


def matches(image: Image, prompt: str) -> bool:
    """Whether a picture is a clean one of its prompt.

    Each colour, shape, size and place word must hold. A prompt without a size word asks for a medium
    shape, one without a place word for the middle. A prompt that names no colour or no shape is an error.
    """
    words = [WORDS.get(word, word) for word in re.findall(r"[a-z]+", prompt.lower())]
    colours = [word for word in words if word in COLOUR_WORDS]
    shapes = [word for word in words if word in OUTLINES]
    if len(colours) != 1 or len(shapes) != 1:
        raise ValueError(f"a prompt names one colour and one shape, not {prompt!r}")
    expected = Verdict(
        colour=colours[0],
        shape=shapes[0],
        size=next((word for word in words if word in ("small", "big")), "medium"),
        place=next((word for word in words if word in PLACE_WORDS), "centre"),
        clean=True,
    )
    return judge(image) == expected


def _background(image: Image) -> npt.NDArray[np.float64]:
    """The median RGB of the picture's border, two pixels wide."""
    border = np.concatenate(
        [
            image[:2].reshape(-1, 3),
            image[-2:].reshape(-1, 3),
            image[:, :2].reshape(-1, 3),
            image[:, -2:].reshape(-1, 3),
        ]
    )
    return np.asarray(np.median(border, axis=0), dtype=np.float64)


def _foreground(image: Image, background: npt.NDArray[np.float64]) -> Mask:
    """Pixels that are more like the shape than like the background."""
    distance = np.abs(image.astype(np.float64) - background).max(axis=2)
    inside = distance[distance > FOREGROUND_DISTANCE]
    if not inside.size:
        return np.zeros(distance.shape, dtype=np.uint8)
    return np.where(distance > 0.5 * np.median(inside), 255, 0).astype(np.uint8)


def _is_plain(image: Image, background: npt.NDArray[np.float64], filled: Mask) -> bool:
    """Whether the background is even, away from the shape's soft edge."""
    outside = cv2.dilate(filled, np.ones((3 * ZOOM, 3 * ZOOM), np.uint8))
    outside = cv2.resize(outside, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
    pixels = image[outside == 0].astype(np.float64)
    return bool(pixels.size) and float(np.abs(pixels - background).mean()) <= BACKGROUND_NOISE_MAX


def _is_alone(mask: Mask, filled: Mask) -> bool:
    """Whether the shape has neither company nor holes worth mentioning."""
    area = np.count_nonzero(filled)
    debris = np.count_nonzero(mask & ~filled)
    holes = np.count_nonzero(filled & ~mask)
    return bool(max(debris, holes) <= DEBRIS_MAX * area)


def _colour(image: Image, filled: Mask) -> tuple[str | None, bool]:
    """The colour word of the shape's inner pixels, and whether nearly all of them have it."""
    inner = cv2.erode(filled, np.ones((2 * ZOOM + 1, 2 * ZOOM + 1), np.uint8))
    pixels = image[inner > 0].astype(np.float64)
    if len(pixels) < 50:
        return None, False
    median = np.median(pixels, axis=0)
    uniform = float((np.abs(pixels - median).max(axis=1) <= UNIFORM_DISTANCE).mean()) >= UNIFORM_MIN
    return _colour_word(median / 255.0), uniform


def _colour_word(rgb: npt.NDArray[np.float64]) -> str | None:
    """The word for a colour (three channels in 0..1), or None for greys, pale and in-between colours."""
    brightest, darkest = float(rgb.max()), float(rgb.min())
    if brightest < 0.28:
        return "black"
    saturation = (brightest - darkest) / brightest
    if brightest < 0.4 or saturation < 0.3:
        return None
    hsv = cv2.cvtColor(rgb.astype(np.float32).reshape(1, 1, 3), cv2.COLOR_RGB2HSV)
    hue = float(hsv[0, 0, 0])
    word = next((name for name, low, high in HUES if low <= hue <= high), None)
    vivid = saturation >= 0.6
    return word if vivid or word == "pink" else None


def _shape(contour: npt.NDArray[np.int32], filled: Mask) -> str | None:
    """The shape whose ideal outline, at the same area and centroid, overlaps best and is as solid."""
    moments = cv2.moments(filled, binaryImage=True)
    area = moments["m00"]
    centroid = np.array([moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]])
    overlaps = {name: _overlap(outline, filled, area, centroid) for name, outline in OUTLINES.items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    solidity = cv2.contourArea(contour) / max(1.0, cv2.contourArea(cv2.convexHull(contour)))
    low, high = SOLIDITY[best]
    alike = _deviation(OUTLINES[best], overlaps[best]) <= DEVIATION_MAX
    return best if alike and low <= solidity <= high else None


def _deviation(outline: Points, overlap: float) -> float:
    """Mean distance of two outlines as a share of the radius, from the overlap of their areas."""
    corners = outline.astype(np.float32)
    return float((1.0 - overlap) * cv2.contourArea(corners) / cv2.arcLength(corners, closed=True))


def _overlap(outline: Points, filled: Mask, area: float, centroid: Points) -> float:
    """Intersection over union of the shape with an outline of the same area and centroid."""
    ideal = cv2.moments(outline.astype(np.float32))
    ideal_centroid = np.array([ideal["m10"] / ideal["m00"], ideal["m01"] / ideal["m00"]])
    placed = (outline - ideal_centroid) * math.sqrt(area / abs(ideal["m00"])) + centroid
    drawn = np.zeros_like(filled)
    cv2.fillPoly(drawn, [np.round(placed * 16).astype(np.int32)], 255, shift=4)
    return np.count_nonzero(drawn & filled) / np.count_nonzero(drawn | filled)


def _size(area: float, shape: str, shorter: int) -> str:
    """The size word for an area in pixels: by the radius of the ideal shape of that area."""
    radius = math.sqrt(area / cv2.contourArea(OUTLINES[shape].astype(np.float32))) / shorter
    if radius < SMALL_BELOW:
        return "small"
    return "big" if radius > BIG_ABOVE else "medium"


def _place(contour: npt.NDArray[np.int32], width: int, height: int) -> str | None:
    """The place word for a contour: by the middle of its bounding box. None in a corner."""
    left, top, box_width, box_height = cv2.boundingRect(contour)
    across = (left + box_width / 2) / width - 0.5
    down = (top + box_height / 2) / height - 0.5
    beside, above = abs(across) > OFF_CENTRE, abs(down) > OFF_CENTRE
    if beside and above:
        return None
    if beside:
        return "left" if across < 0 else "right"
    if above:
        return "top" if down < 0 else "bottom"
    return "centre"
