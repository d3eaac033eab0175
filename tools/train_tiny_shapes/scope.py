"""What the model can draw: its colours, shapes, modifiers, sizes, and the full list of its prompts."""

from dataclasses import dataclass
from typing import Final

RGB = tuple[int, int, int]

COLOURS: Final[dict[str, RGB]] = {
    "red": (220, 30, 30),
    "orange": (245, 135, 20),
    "yellow": (245, 215, 30),
    "green": (30, 150, 50),
    "blue": (35, 70, 215),
    "purple": (130, 40, 170),
    "pink": (250, 135, 190),
    "black": (15, 15, 15),
}
"""Colour word to its 8-bit RGB value."""

SHAPES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "star", "heart", "diamond", "cross")

BACKGROUND: Final[RGB] = (250, 250, 250)
"""The plain background of every picture, 8-bit RGB."""

SIZES: Final[dict[str, float]] = {"": 0.27, "small": 0.16, "big": 0.40}
"""Size word to the shape's radius, as a share of the picture's shorter side."""

PLACED_RADIUS: Final[float] = 0.235
"""Radius of a shape beside the middle, as a share of the picture's shorter side."""

PLACES: Final[dict[str, tuple[float, float]]] = {
    "": (0.5, 0.5),
    "on the left": (0.28, 0.5),
    "on the right": (0.72, 0.5),
    "at the top": (0.5, 0.28),
    "at the bottom": (0.5, 0.72),
}
"""Place words to the shape's centre, as shares of (width, height)."""

MODIFIERS: Final[tuple[tuple[str, str], ...]] = (
    ("", ""),
    ("small", ""),
    ("big", ""),
    *(("", place) for place in PLACES if place),
)
"""Every (size word, place words) pair that the model is asked for; never both at once."""

SIDE_MULTIPLE: Final[int] = 16
SIDE_MIN: Final[int] = 64
SIDE_MAX: Final[int] = 128
SIDES: Final[tuple[int, ...]] = tuple(range(SIDE_MIN, SIDE_MAX + 1, SIDE_MULTIPLE))
"""Accepted widths and heights in pixels; any pair of them is a valid picture size."""

TEXT_LENGTHS: Final[tuple[int, ...]] = (16, 32, 64)
"""Lengths of the T5 context, in tokens, that the model is trained with."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing to draw, in words: what a prompt asks for."""

    colour: str
    shape: str
    size: str = ""
    place: str = ""

    @property
    def prompt(self) -> str:
        """The plain prompt of this scene, such as "a small blue square"."""
        words = [word for word in (self.size, self.colour, self.shape) if word]
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([article, *words, self.place]).strip()


def all_scenes() -> list[Scene]:
    """Every scene the model is asked to draw: colours x shapes x modifiers."""
    return [
        Scene(colour, shape, size, place)
        for colour in COLOURS
        for shape in SHAPES
        for size, place in MODIFIERS
    ]
