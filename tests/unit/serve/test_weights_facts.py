"""What a model folder says about the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_serve.errors import ModelCorrupt, ModelMismatch
from fluxsampler_serve.weights.facts import read_facts

FLUX = {
    "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip


def _folder(root: Path, own: Any = None, **transformer: Any) -> Path:
    for name, config in (
        ("transformer", {**FLUX, **transformer}),
        ("vae", {"block_out_channels": [128, 256, 512, 512]}),
    ):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    if own is not None:
        (root / "fluxsampler.json").write_text(own if isinstance(own, str) else json.dumps(own))
    return root


def test_flux_dev_and_schnell_are_known(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "schnell").mkdir()
    dev = read_facts(_folder(tmp_path / "dev"))
    schnell = read_facts(_folder(tmp_path / "schnell", guidance_embeds=False))
    assert (dev.family, dev.defaults.steps, dev.defaults.guidance_scale, dev.max_text_tokens) == (
        "FLUX.1-dev", 28, 3.5, 512,
    )  # fmt: skip
    assert (schnell.family, schnell.defaults.steps, schnell.max_text_tokens) == ("FLUX.1-schnell", 4, 256)
    assert (dev.heads, dev.double_blocks, dev.single_blocks, dev.vae_scale) == (24, 19, 38, 8)
    assert dev.sizes.multiple_of == 16


def test_a_model_of_another_size_is_some_flux(tmp_path: Path) -> None:
    assert read_facts(_folder(tmp_path, num_layers=2)).family == "Flux"


def test_own_defaults_and_sizes_win(tmp_path: Path) -> None:
    own = {
        "defaults": {"width": 128, "height": 96, "steps": 8, "guidance_scale": 0.0, "max_text_tokens": 32},
        "sizes": {"multiple_of": 32, "min": 64, "max": 128},
        "max_text_tokens": 64,
    }
    facts = read_facts(_folder(tmp_path, own))
    assert (facts.defaults.height, facts.max_text_tokens) == (96, 64)
    assert (facts.sizes.min_side, facts.sizes.max_side, facts.sizes.multiple_of) == (64, 128, 32)
    assert facts.sizes.max_pixels == 128 * 128


def test_fields_of_a_later_version_are_left_alone(tmp_path: Path) -> None:
    assert (
        read_facts(_folder(tmp_path, {"max_text_tokens": 128, "license": "apache-2.0"})).max_text_tokens
        == 128
    )


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ("{not json", "cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
        ({"sizes": {"min": 64}}, r"sizes\.max: Field required"),
        ({"defaults": {"width": 128}}, r"defaults\.height: Field required"),
        ({"max_text_tokens": 4096}, "max_text_tokens: Input should be less than or equal to 512"),
    ],
)
def test_a_damaged_facts_file_is_named(own: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=rf"fluxsampler\.json.*{why}"):
        read_facts(_folder(tmp_path, own))


def test_a_transformer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "transformer" / "config.json").write_text(json.dumps({"num_layers": 24}))
    with pytest.raises(ModelMismatch, match=r"not that of a Flux transformer.*num_single_layers"):
        read_facts(folder)
