"""The shipped `builtin://tiny-shapes`: it loads as any FluxPipeline does, and draws what it is asked for."""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from tools.train_tiny_shapes.drawing import draw
from tools.train_tiny_shapes.scope import Scene, all_scenes

import fluxsampler_serve
from tests.support.shape_checker import Image, judge, matches

MODEL = Path(fluxsampler_serve.__file__).parent / "builtin" / "tiny_shapes"
SCENES = [
    Scene("red", "circle"),
    Scene("green", "square", "small"),
    Scene("blue", "triangle", "big"),
    Scene("yellow", "star", "", "on the left"),
    Scene("purple", "heart", "", "on the right"),
    Scene("orange", "diamond", "", "at the top"),
    Scene("black", "cross", "", "at the bottom"),
    Scene("pink", "circle", "big"),
]
SIZES = [(64, 64), (96, 96), (128, 128), (128, 64)]


def paint(pipeline: Any, prompts: list[str], width: int, height: int, **options: Any) -> list[Image]:
    """Draw one picture per prompt with the model's defaults; return 8-bit RGB arrays."""
    arguments = {"num_inference_steps": 8, "max_sequence_length": 32, "guidance_scale": 0.0, **options}
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipeline(
        prompts, width=width, height=height, generator=generators, output_type="np", **arguments
    ).images
    return list((images * 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    loaded = FluxPipeline.from_pretrained(MODEL, torch_dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_draws_its_prompts(pipeline: Any, width: int, height: int) -> None:
    """One of the eight may miss: docs/dev/tiny-shapes.md has the rate over all prompts."""
    pictures = paint(pipeline, [scene.prompt for scene in SCENES], width, height)
    wrong = [
        (scene.prompt, judge(picture))
        for scene, picture in zip(SCENES, pictures, strict=True)
        if not matches(picture, scene.prompt)
    ]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("options", [{"num_inference_steps": 4}, {"num_inference_steps": 20}])
def test_draws_with_few_and_many_steps(pipeline: Any, options: dict[str, int]) -> None:
    (picture,) = paint(pipeline, ["a red circle"], 128, 128, **options)
    assert matches(picture, "a red circle")


@pytest.mark.parametrize("text_tokens", [16, 64])
def test_draws_with_other_text_lengths(pipeline: Any, text_tokens: int) -> None:
    (picture,) = paint(pipeline, ["a blue triangle"], 64, 64, max_sequence_length=text_tokens)
    assert matches(picture, "a blue triangle")


@pytest.mark.parametrize(
    "prompt", ["A red circle.", "A PICTURE OF A RED CIRCLE", "red circle", "  a photo of a red circle!"]
)
def test_tolerates_wording(pipeline: Any, prompt: str) -> None:
    (picture,) = paint(pipeline, [prompt], 128, 128)
    assert matches(picture, "a red circle")


@pytest.mark.parametrize(
    "prompt", ["", " ", "一个红色的圆", "🙂" * 300, "zebra " * 200, "\x00\n\t", "<pad></s>"]
)
def test_accepts_any_text(pipeline: Any, prompt: str) -> None:
    (picture,) = paint(pipeline, [prompt], 64, 64, num_inference_steps=4)
    assert picture.shape == (64, 64, 3)


def test_same_seed_gives_same_picture(pipeline: Any) -> None:
    first, second = (paint(pipeline, ["a green star"], 96, 64)[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_checker_refuses_other_prompts(pipeline: Any) -> None:
    pictures = paint(pipeline, [scene.prompt for scene in SCENES], 128, 128)
    for picture, asked in zip(pictures, SCENES, strict=True):
        others = [scene.prompt for scene in all_scenes()[::25] if scene != asked]
        assert not [prompt for prompt in others if matches(picture, prompt)]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 96)])
def test_checker_accepts_what_is_drawn_by_hand(width: int, height: int) -> None:
    scenes = all_scenes()[::9]
    assert all(matches(draw(scene, width, height), scene.prompt) for scene in scenes)


def test_checker_refuses_pictures_of_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    both = np.minimum(
        draw(Scene("red", "circle", "", "on the left"), 64, 64),
        draw(Scene("red", "circle", "", "on the right"), 64, 64),
    )
    assert not any(judge(picture).clean for picture in (noise, grey, white, both))


def test_checker_refuses_a_prompt_without_a_shape() -> None:
    with pytest.raises(ValueError, match="one colour and one shape"):
        matches(np.zeros((64, 64, 3), dtype=np.uint8), "a girl")


def test_files_are_small_readable_and_float32() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    for path in weights:
        with safe_open(path, framework="pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F32"}  # noqa: SIM118 - no dict


def test_describes_its_own_defaults() -> None:
    description = json.loads((MODEL / "fluxsampler.json").read_text())
    defaults, sizes = description["defaults"], description["sizes"]
    for side in (defaults["width"], defaults["height"]):
        assert sizes["min"] <= side <= sizes["max"]
        assert side % sizes["multiple_of"] == 0
    assert defaults["max_text_tokens"] <= description["max_text_tokens"]
    assert defaults["max_text_tokens"] % 8 == 0
    transformer = json.loads((MODEL / "transformer" / "config.json").read_text())
    assert transformer["num_attention_heads"] == 8
    assert transformer["num_layers"] >= 2
    assert transformer["num_single_layers"] >= 4
