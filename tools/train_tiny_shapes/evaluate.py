"""Asks a model for every prompt and lets the independent checker judge the pictures.

`python -m tools.train_tiny_shapes.evaluate --model DIR --json OUT --sheet PNG`, from the repository's root.
"""

import argparse
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image
from tests.support.shape_checker import judge, matches

from .drawing import Picture
from .prompts import reword
from .scope import COLOURS, MODIFIERS, SHAPES, Scene, all_scenes

log = logging.getLogger(__name__)

BATCH: Final[int] = 14
SHEET_CELL: Final[int] = 64
"""Side in pixels of a picture on the contact sheet."""
SUBSET: Final[int] = 5
"""The variants beyond the main table are judged on every so many prompts."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How a set of pictures is asked for. Sizes in pixels, text in tokens."""

    width: int
    height: int
    steps: int
    text_tokens: int
    reworded: bool = False

    @property
    def name(self) -> str:
        """A short label for tables."""
        wording = ", reworded" if self.reworded else ""
        return f"{self.width}x{self.height}, {self.steps} steps, {self.text_tokens} tokens{wording}"


class Painter:
    """The unmodified diffusers pipeline, asked in batches with one generator per picture."""

    def __init__(self, model: Path) -> None:
        self._pipeline: Any = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)

    def paint(self, prompts: list[str], seed: int, condition: Condition) -> Iterator[Picture]:
        """One picture per prompt, all of them with the same seed."""
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            images: np.ndarray[Any, Any] = self._pipeline(
                batch,
                width=condition.width,
                height=condition.height,
                num_inference_steps=condition.steps,
                max_sequence_length=condition.text_tokens,
                guidance_scale=0.0,
                generator=[torch.Generator().manual_seed(seed) for _ in batch],
                output_type="np",
            ).images
            yield from (images * 255).round().astype(np.uint8)


def examine(painter: Painter, scenes: list[Scene], seeds: list[int], condition: Condition) -> dict[str, Any]:
    """Draw the scenes with every seed; return how many are right, and what is wrong with the others."""
    started = time.monotonic()
    wrong: list[dict[str, Any]] = []
    misses: Counter[str] = Counter()
    rng = random.Random(0)
    for seed in seeds:
        prompts = [reword(scene, rng) if condition.reworded else scene.prompt for scene in scenes]
        for scene, prompt, picture in zip(
            scenes, prompts, painter.paint(prompts, seed, condition), strict=True
        ):
            if not matches(picture, scene.prompt):
                wrong.append({"prompt": prompt, "seed": seed, "seen": str(judge(picture))})
                misses.update([scene.colour, scene.shape, f"{scene.size}{scene.place}" or "plain"])
    count = len(scenes) * len(seeds)
    result = {
        "pictures": count,
        "right": count - len(wrong),
        "percent": round(100 * (count - len(wrong)) / count, 2),
        "seconds_per_picture": round((time.monotonic() - started) / count, 3),
        "misses": dict(misses.most_common()),
        "wrong": wrong,
    }
    log.info("%s: %s of %s, %s %%", condition.name, result["right"], count, result["percent"])
    return result


def contact_sheet(painter: Painter, path: Path, condition: Condition, seed: int = 0) -> None:
    """Save a grid: a row per shape, a column per colour, the modifier moving on from cell to cell."""
    rows = []
    for row, shape in enumerate(SHAPES):
        scenes = [
            Scene(colour, shape, *MODIFIERS[(row + column) % len(MODIFIERS)])
            for column, colour in enumerate(COLOURS)
        ]
        pictures = painter.paint([scene.prompt for scene in scenes], seed + row, condition)
        cells = [
            np.asarray(Image.fromarray(picture).resize((SHEET_CELL, SHEET_CELL), Image.Resampling.BOX))
            for picture in pictures
        ]
        rows.append(np.concatenate(cells, axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, optimize=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--sheet", type=Path, help="PNG file for the contact sheet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--every", type=int, default=1, help="judge every so many prompts of the main table")
    parser.add_argument(
        "--variants", action="store_true", help="other steps, text lengths, sizes, wordings too"
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Judge the model and write the figures and the contact sheet."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    defaults = json.loads((arguments.model / "fluxsampler.json").read_text())["defaults"]
    steps, tokens = defaults["steps"], defaults["max_text_tokens"]
    usual = Condition(defaults["width"], defaults["height"], steps, tokens)
    painter = Painter(arguments.model)
    if arguments.sheet:
        contact_sheet(painter, arguments.sheet, usual)
    scenes = all_scenes()
    main_table = [Condition(side, side, steps, tokens) for side in arguments.sides]
    report = {
        condition.name: examine(painter, scenes[:: arguments.every], arguments.seeds, condition)
        for condition in main_table
    }
    if arguments.variants:
        for condition in _variants(usual):
            report[condition.name] = examine(painter, scenes[::SUBSET], [3], condition)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _variants(usual: Condition) -> list[Condition]:
    """Other steps and text lengths, non-square sizes, and free wordings."""
    width, height, steps, tokens = usual.width, usual.height, usual.steps, usual.text_tokens
    return [
        *(Condition(width, height, count, tokens) for count in (4, 6, 12, 20)),
        *(Condition(64, 64, count, tokens) for count in (4, 20)),
        *(Condition(width, height, steps, count) for count in (16, 64)),
        *(Condition(64, 64, steps, count) for count in (16, 64)),
        *(Condition(a, b, steps, tokens) for a, b in ((64, 96), (128, 64), (80, 80), (112, 112), (96, 128))),
        Condition(width, height, steps, tokens, reworded=True),
        Condition(64, 64, steps, tokens, reworded=True),
    ]


if __name__ == "__main__":
    main()
