"""Words a scene in many ways, so that the model reads what people write and not one template only."""

import random
import string
from typing import Final

from .scope import COLOURS, MODIFIERS, SHAPES, Scene

OPENINGS: Final[tuple[str, ...]] = (
    "a picture of",
    "an image of",
    "a drawing of",
    "a photo of",
    "a painting of",
    "picture of",
    "draw",
)
SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "": ("",),
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
}
PLACE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "": ("", "", "in the middle", "in the center", "in the centre"),
    "on the left": ("on the left", "to the left", "on the left side", "left"),
    "on the right": ("on the right", "to the right", "on the right side", "right"),
    "at the top": ("at the top", "on top", "on the top", "top"),
    "at the bottom": ("at the bottom", "on the bottom", "bottom"),
}
BACKGROUND_WORDS: Final[tuple[str, ...]] = ("on white", "on a white background")
ARTICLES: Final[tuple[str, ...]] = ("a", "an", "one", "the", "")

PLAIN_SHARE: Final[float] = 0.55
"""Share of the training prompts that are the plain one."""
EMPTY_SHARE: Final[float] = 0.04
"""Share of the training prompts that are empty, so that an unconditional prediction exists."""
JUNK_SHARE: Final[float] = 0.12
"""Share of the reworded prompts that hold one word the model does not know."""

JUNK_LETTERS: Final[str] = string.ascii_lowercase + string.digits + "éß中λ🙂"


def known_words() -> list[str]:
    """Every lower-case word of the prompts, sorted: the whole-word part of both vocabularies."""
    phrases = [*OPENINGS, *BACKGROUND_WORDS, *ARTICLES, *COLOURS, *SHAPES, "of and with"]
    for alternatives in (*SIZE_WORDS.values(), *PLACE_WORDS.values()):
        phrases.extend(alternatives)
    phrases.extend(word for modifier in MODIFIERS for word in modifier)
    return sorted({word for phrase in phrases for word in phrase.split()})


def reword(scene: Scene, rng: random.Random) -> str:
    """One of the many wordings of a scene: synonyms, openings, junk words, punctuation."""
    words = f"{rng.choice(SIZE_WORDS[scene.size])} {scene.colour} {scene.shape}".split()
    article = ("an" if words[0][0] in "aeiou" else "a") if rng.random() < 0.7 else rng.choice(ARTICLES)
    parts = [article, *words]
    if rng.random() < 0.4:
        parts.insert(0, rng.choice(OPENINGS))
    parts.append(rng.choice(PLACE_WORDS[scene.place]))
    if rng.random() < 0.12:
        parts.append(rng.choice(BACKGROUND_WORDS))
    if rng.random() < JUNK_SHARE:
        junk = "".join(rng.choices(JUNK_LETTERS, k=rng.randint(1, 5)))
        parts.insert(rng.randint(0, len(parts)), junk)
    prompt = " ".join(part for part in parts if part)
    return prompt + rng.choice(("", "", ".", ".", "!", ","))


def training_prompt(scene: Scene, rng: random.Random) -> str:
    """The prompt that a scene is trained with this time: plain, reworded or empty."""
    chance = rng.random()
    if chance < EMPTY_SHARE:
        return ""
    return scene.prompt if chance < EMPTY_SHARE + PLAIN_SHARE else reword(scene, rng)
