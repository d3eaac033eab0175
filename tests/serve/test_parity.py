"""Every layout draws what the single-device engine draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.protocol import Sample, SampleRequest
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.errors import EngineStartFailed, RequestRefused
from tests.serve.conftest import StartGang
from tests.support.model_folders import BUILTIN, model_args
from tests.support.random_flux import POOLED_DIM, TEXT_DIM
from tests.support.requests import RED_CIRCLE, draw, draw_watched, request
from tests.support.shape_checker import matches

ULYSSES = Layout(ulysses=2)
RING = Layout(ring=2)
BOTH = Layout(ulysses=2, ring=2)
TENSOR = Layout(tensor=2)
STAGES = Layout(pipefusion=2, stage_blocks=(3, 3))
STAGES_ULYSSES = Layout(pipefusion=2, ulysses=2, stage_blocks=(2, 4))

EXACT = 1e-5
"""Largest difference of float32 latents (of standard deviation about 1) that counts as equal."""

Singles = Callable[[ModelArgs], SingleEngine]
Exact = Callable[[ModelArgs, SampleRequest], Sample]

# One gang draws them one after another: sizes, shapes, text lengths, steps and seeds change in between.
MIXED: tuple[SampleRequest, ...] = (
    request(steps=4, guidance_scale=3.5),
    request(steps=4, width=96, height=128, seed=2),
    request(max_text_tokens=64, steps=3, seed=3, prompt="a big blue square on the left"),
    request(width=64, height=128, steps=2, max_text_tokens=32, guidance_scale=1.0),
    request(steps=4, guidance_scale=3.5),
)

UNEVEN = request(steps=4, width=64, height=80, seed=4)
"""Five rows of tokens: patches of three and two for two stages."""


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


@pytest.fixture(scope="module")
def exact(single: Singles) -> Exact:
    """What a single device draws; once for all layouts that are compared with it."""
    drawn: dict[tuple[str, SampleRequest], Sample] = {}

    def draw_once(model: ModelArgs, wanted: SampleRequest) -> Sample:
        key = (model.model_dump_json(), wanted)
        if key not in drawn:
            drawn[key] = draw(single(model), wanted)
        return drawn[key]

    return draw_once


@pytest.mark.parametrize("name", ["tiny", "random24"])
@pytest.mark.parametrize("layout", [ULYSSES, RING, BOTH, TENSOR], ids=str)
def test_split_computation_equals_a_single_device(
    layout: Layout, name: str, start_gang: StartGang, exact: Exact, request: pytest.FixtureRequest
) -> None:
    model: ModelArgs = request.getfixturevalue(name)
    gang = start_gang(model, layout)
    for wanted in MIXED:
        expected, got = exact(model, wanted), draw(gang, wanted)
        assert distance(expected.latents, got.latents) <= EXACT, wanted
        assert np.abs(expected.pixels.astype(int) - got.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["tiny", "random24"])
@pytest.mark.parametrize("layout", [STAGES, STAGES_ULYSSES], ids=str)
def test_pipefusion_with_only_warm_up_steps_equals_a_single_device(
    layout: Layout, name: str, start_gang: StartGang, exact: Exact, request: pytest.FixtureRequest
) -> None:
    model: ModelArgs = request.getfixturevalue(name)
    gang = start_gang(model, layout, warmup_steps=100)
    for wanted in (*MIXED, UNEVEN) if layout.sequence == 1 else MIXED:
        assert distance(exact(model, wanted).latents, draw(gang, wanted).latents) <= EXACT, wanted


@pytest.mark.parametrize("name", ["tiny", "random24"])
@pytest.mark.parametrize("layout", [STAGES, STAGES_ULYSSES], ids=str)
def test_pipefusion_repeats_itself_and_its_distance_is_known(
    layout: Layout,
    name: str,
    start_gang: StartGang,
    exact: Exact,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    model: ModelArgs = request.getfixturevalue(name)
    gang = start_gang(model, layout)
    mixed = (*MIXED, UNEVEN) if layout.sequence == 1 else MIXED
    first = [draw(gang, wanted) for wanted in mixed]
    again = [draw(gang, wanted) for wanted in reversed(mixed)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.latents, other.latents)
        assert np.array_equal(one.pixels, other.pixels)
    expected = [exact(model, wanted) for wanted in mixed]
    far = [distance(one.latents, other.latents) for one, other in zip(first, expected, strict=True)]
    record_property("pipefusion_distance", far)
    print(f"{name} {layout}: max|difference| of latents {[f'{value:.1e}' for value in far]}")
    # Patches attend to keys and values that are one step old: near, and not equal.
    assert all(EXACT < value < 1.0 for value in far)


def test_sequence_parallel_stages_draw_what_plain_stages_draw(tiny: ModelArgs, start_gang: StartGang) -> None:
    plain, split = (
        start_gang(tiny, STAGES),
        start_gang(tiny, STAGES_ULYSSES.model_copy(update={"stage_blocks": (3, 3)})),
    )
    for wanted in MIXED:
        assert distance(draw(plain, wanted).latents, draw(split, wanted).latents) <= EXACT


@pytest.mark.parametrize("layout", [ULYSSES, BOTH], ids=str)
def test_true_classifier_free_guidance(
    layout: Layout, random24: ModelArgs, start_gang: StartGang, exact: Exact
) -> None:
    wanted = request(true_cfg_scale=3.0, negative_prompt="a blue square", guidance_scale=2.0)
    plain = exact(random24, request(guidance_scale=2.0))
    expected = exact(random24, wanted)
    got = draw(start_gang(random24, layout), wanted)
    assert distance(expected.latents, got.latents) <= EXACT
    assert distance(plain.latents, expected.latents) > 100 * EXACT


def test_stages_refuse_true_classifier_free_guidance(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, STAGES)
    with pytest.raises(RequestRefused, match="true_cfg_scale"):
        draw(gang, request(true_cfg_scale=3.0, negative_prompt=""))
    draw(gang, RED_CIRCLE)


@pytest.mark.parametrize("layout", [ULYSSES, RING, STAGES, TENSOR], ids=str)
def test_bfloat16(layout: Layout, engine_cache: Path, start_gang: StartGang, exact: Exact) -> None:
    model = model_args(f"file://{BUILTIN}", engine_cache, dtype="bfloat16")
    gang = start_gang(model, layout, warmup_steps=100)
    expected, got = exact(model, RED_CIRCLE), draw(gang, RED_CIRCLE)
    # Eight bits of mantissa: results agree to a few rounding errors, on average far below one.
    assert np.abs(expected.latents - got.latents).mean() < 2e-2
    assert got.latents_finite


@pytest.mark.parametrize("layout", [ULYSSES, STAGES], ids=str)
def test_float8_storage(
    layout: Layout, engine_cache: Path, start_gang: StartGang, exact: Exact, tiny: ModelArgs
) -> None:
    model = model_args(f"file://{BUILTIN}", engine_cache, quantization="fp8")
    gang = start_gang(model, layout, warmup_steps=100)
    expected, got = exact(model, RED_CIRCLE), draw(gang, RED_CIRCLE)
    assert distance(expected.latents, got.latents) <= EXACT
    assert distance(exact(tiny, RED_CIRCLE).latents, got.latents) > EXACT  # it is in use
    assert matches(got.pixels, "a red circle")


def test_float8_storage_with_tensor_parallelism_is_refused(engine_cache: Path, start_gang: StartGang) -> None:
    with pytest.raises(EngineStartFailed, match="fp8"):
        start_gang(model_args(f"file://{BUILTIN}", engine_cache, quantization="fp8"), TENSOR)


@pytest.mark.parametrize("layout", [ULYSSES, BOTH], ids=str)
def test_one_forward(layout: Layout, random24: ModelArgs, start_gang: StartGang, single: Singles) -> None:
    gang = start_gang(random24, layout)
    for tokens, text in ((16, 16), (64, 32), (16, 16)):
        inputs = forward_inputs(tokens, text)
        assert torch.allclose(gang.denoise(inputs), single(random24).denoise(inputs), atol=EXACT)


def test_one_forward_is_refused_where_it_cannot_be_split(random24: ModelArgs, start_gang: StartGang) -> None:
    with pytest.raises(RequestRefused, match="step by step"):
        start_gang(random24, STAGES).denoise(forward_inputs(16, 16))
    gang = start_gang(random24, ULYSSES)
    with pytest.raises(RequestRefused, match="17 text tokens"):
        gang.denoise(forward_inputs(16, 17))
    assert gang.denoise(forward_inputs(16, 16)).shape == (1, 16, 64)


@pytest.mark.parametrize("layout", [ULYSSES, RING, BOTH, TENSOR, STAGES, STAGES_ULYSSES], ids=str)
def test_every_layout_draws_a_red_circle(layout: Layout, tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, layout)
    sample, heard = draw_watched(gang, request(preview_every=4))
    assert matches(sample.pixels, "a red circle")
    assert [progress.step for progress in heard] == list(range(1, 9))
    previews = {progress.step: progress.preview for progress in heard if progress.preview is not None}
    assert set(previews) == {4, 8}
    # The last preview estimates from the last step: it is the picture.
    assert np.abs(previews[8].astype(int) - sample.pixels.astype(int)).mean() < 2


def test_single_device_draws_a_red_circle(tiny: ModelArgs, single: Singles) -> None:
    assert matches(draw(single(tiny), RED_CIRCLE).pixels, "a red circle")


def forward_inputs(tokens: int, text: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens + text)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    ids = torch.zeros(tokens, 3)
    ids[:, 2] = torch.arange(tokens)
    return {
        "hidden_states": noise(1, tokens, 64),
        "encoder_hidden_states": noise(1, text, TEXT_DIM),
        "pooled_projections": noise(1, POOLED_DIM),
        "timestep": torch.tensor([0.7]),
        "guidance": torch.tensor([3.5]),
        "img_ids": ids,
        "txt_ids": torch.zeros(text, 3),
    }
