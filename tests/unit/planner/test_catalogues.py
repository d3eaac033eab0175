"""GPU and model catalogues against their sources."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

import fluxsampler_serve
from fluxsampler_api.spec import Hardware as HardwareSpec
from fluxsampler_planner.errors import UnknownGpu, UnknownModel
from fluxsampler_planner.gpus import GIB, GPUS, Gpu, find_gpu
from fluxsampler_planner.models import FLUX_DEV, FLUX_SCHNELL, TINY_SHAPES, ModelFacts, find_model

TINY_FOLDER = Path(fluxsampler_serve.__file__).parent / "builtin" / "tiny_shapes"


def test_every_gpu_that_a_spec_can_name_is_in_the_catalogue() -> None:
    for key in GPUS:
        assert (
            HardwareSpec.model_validate({"gpu": key, "device": "cpu" if key == "cpu" else "cuda"}).gpu == key
        )
    assert set(GPUS) == {"rtx-4090", "rtx-5090", "l20", "l40", "l40s", "a100", "h100", "cpu"}


@pytest.mark.parametrize("gpu", GPUS.values(), ids=str)
def test_gpu_facts_are_plausible_and_sourced(gpu: Gpu) -> None:
    assert gpu.source
    assert 0 < gpu.usable <= gpu.memory
    assert gpu.fp8 is None or gpu.fp8 >= 1.9 * gpu.bf16


def test_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(
        UnknownGpu, match=r"spec\.hardware\.gpu: 'rtx-4900' is not in the catalogue; did you mean rtx-4090\?"
    ):
        find_gpu("rtx-4900")
    with pytest.raises(UnknownGpu, match="catalogue; known: rtx-4090"):
        find_gpu("zzz")


def test_flux_dev_has_its_published_size() -> None:
    # DESIGN §5: 11.9 B parameters, 6.455e9 per token, 22.2 GiB in bf16.
    assert FLUX_DEV.transformer_parameters == pytest.approx(11.9e9, rel=1e-3)
    assert FLUX_DEV.parameters_per_token == pytest.approx(6.455e9, rel=1e-3)
    assert FLUX_DEV.transformer_parameters * 2 / GIB == pytest.approx(22.2, abs=0.05)
    assert FLUX_DEV.t5_parameters * 2 / GIB == pytest.approx(8.9, abs=0.05)
    assert FLUX_DEV.image_tokens(1024, 1024) == 4096
    assert FLUX_SCHNELL.transformer_parameters < FLUX_DEV.transformer_parameters


def numbers(component: str) -> int:
    """Parameters in a component's safetensors files, read from the headers."""
    total = 0
    for file in (TINY_FOLDER / component).glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def test_tiny_shapes_is_what_the_package_ships() -> None:
    config = json.loads((TINY_FOLDER / "transformer/config.json").read_text())
    own = ModelFacts.from_config(config, name="tiny-shapes")
    for field in (
        "double_blocks",
        "single_blocks",
        "heads",
        "head_dim",
        "text_width",
        "pooled_width",
        "guidance",
        "channels",
    ):
        assert getattr(TINY_SHAPES, field) == getattr(own, field), field
    assert TINY_SHAPES.transformer_parameters == pytest.approx(numbers("transformer"), rel=0.02)
    assert TINY_SHAPES.t5_parameters == pytest.approx(numbers("text_encoder_2"), rel=0.1)
    assert TINY_SHAPES.clip_parameters == pytest.approx(numbers("text_encoder"), rel=0.1)
    assert TINY_SHAPES.vae_parameters == pytest.approx(numbers("vae"), rel=0.1)


def test_tiny_shapes_has_the_defaults_that_the_package_ships() -> None:
    shipped = json.loads((TINY_FOLDER / "fluxsampler.json").read_text())
    assert shipped["defaults"] == {
        "width": TINY_SHAPES.default_width,
        "height": TINY_SHAPES.default_height,
        "steps": TINY_SHAPES.default_steps,
        "guidance_scale": TINY_SHAPES.default_guidance,
        "max_text_tokens": TINY_SHAPES.default_text_tokens,
    }
    assert shipped["sizes"] == {
        "multiple_of": TINY_SHAPES.multiple_of,
        "min": TINY_SHAPES.min_side,
        "max": TINY_SHAPES.max_side,
    }
    assert shipped["max_text_tokens"] == TINY_SHAPES.max_text_tokens


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://black-forest-labs/FLUX.1-dev", FLUX_DEV),
        ("pvc://models/FLUX.1-schnell/", FLUX_SCHNELL),
        ("file:///models/flux.1-dev", FLUX_DEV),
        ("builtin://tiny-shapes", TINY_SHAPES),
    ],
)
def test_sources_are_recognised(source: str, expected: ModelFacts) -> None:
    assert find_model(source) is expected


def test_other_models_come_from_their_configuration() -> None:
    with pytest.raises(UnknownModel, match=r"spec\.model\.source: file:///mine is not in the catalogue"):
        find_model("file:///mine")
    config = {"num_layers": 4, "num_single_layers": 8, "num_attention_heads": 16, "attention_head_dim": 64}
    config |= {
        "joint_attention_dim": 2048,
        "pooled_projection_dim": 768,
        "in_channels": 64,
        "guidance_embeds": True,
    }
    mine = ModelFacts.from_config(config, name="mine")
    assert (mine.blocks, mine.hidden, mine.default_steps) == (12, 1024, 28)
    with pytest.raises(UnknownModel, match=r"num_layers is None"):
        ModelFacts.from_config({}, name="x")
    with pytest.raises(UnknownModel, match="num_layers is True"):
        ModelFacts.from_config({**config, "num_layers": True}, name="x")
    with pytest.raises(UnknownModel, match="SD3Transformer2DModel is not supported"):
        ModelFacts.from_config({**config, "_class_name": "SD3Transformer2DModel"}, name="x")
