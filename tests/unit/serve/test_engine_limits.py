"""What engines refuse, from numbers alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from fluxsampler_api.app_args import Layout
from fluxsampler_planner.models import FLUX_DEV, TINY_SHAPES
from fluxsampler_planner.models import ModelFacts as PlannedModel
from fluxsampler_planner.rules import Request as Target
from fluxsampler_planner.rules import refusal
from fluxsampler_planner.split import Split, splits, stage_blocks
from fluxsampler_serve.engines.limits import (
    patch_rows,
    refuses_layout,
    refuses_request,
    refuses_split,
)
from fluxsampler_serve.engines.protocol import SampleRequest
from fluxsampler_serve.weights.facts import ModelFacts, read_facts

REQUEST = SampleRequest(
    prompt="", width=1024, height=1024, steps=4, seed=0, guidance_scale=1.0, max_text_tokens=512
)


def resized(**changes: object) -> SampleRequest:
    return replace(REQUEST, **changes)  # type: ignore[arg-type]  # fields by name


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    import fluxsampler_serve

    return read_facts(Path(fluxsampler_serve.__file__).parent / "builtin" / "tiny_shapes")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (resized(), None),
        (resized(width=16, height=16), None),
        (resized(width=1000), "multiples of 16"),
        (resized(height=0), "multiples of 16"),
        (resized(steps=0), "steps"),
        (resized(max_text_tokens=513), "1 to 512"),
        (resized(true_cfg_scale=2.0), "negative_prompt"),
        (resized(true_cfg_scale=2.0, negative_prompt=""), None),
    ],
)
def test_what_no_engine_can_draw(wanted: SampleRequest, reason: str | None) -> None:
    given = refuses_request(wanted, 512)
    assert (given is None) if reason is None else (given is not None and reason in given)


STAGES_8 = Layout(pipefusion=8, stage_blocks=(8, 7, 7, 7, 7, 7, 7, 7))
STAGES_SEQUENCE = Layout(pipefusion=2, ulysses=2, stage_blocks=(17, 40))


@pytest.mark.parametrize(
    ("layout", "wanted", "reason"),
    [
        (Layout(ulysses=8), resized(), None),
        (Layout(ulysses=8), resized(max_text_tokens=100), "multiple of 8"),
        (Layout(ring=2), resized(max_text_tokens=33), "multiple of 2"),
        (Layout(ulysses=2, ring=2), resized(width=80, height=80), "25 tokens"),
        (Layout(ulysses=2), resized(width=80, height=96), None),
        (STAGES_8, resized(), None),
        (STAGES_8, resized(true_cfg_scale=2.0, negative_prompt=""), "true_cfg_scale"),
        (STAGES_8, resized(height=16), "cannot be cut"),
        (STAGES_8, resized(height=80), None),
        (STAGES_SEQUENCE, resized(), None),
        (STAGES_SEQUENCE, resized(height=80), "multiple of 32"),
        (STAGES_SEQUENCE, resized(height=96), "multiple of 64"),
        (Layout(tensor=2), resized(max_text_tokens=33, width=80, height=80), None),
    ],
)
def test_what_a_layout_cannot_split(layout: Layout, wanted: SampleRequest, reason: str | None) -> None:
    given = refuses_split(wanted, layout)
    assert (given is None) if reason is None else (given is not None and reason in given)


@pytest.mark.parametrize("stages", [2, 3, 8])
@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_patches_cover_the_picture(stages: int, sequence: int) -> None:
    for rows in range(2 * sequence, 70 * sequence, sequence):
        patches = patch_rows(rows, stages, sequence)
        assert sum(patches) == rows
        assert len(patches) <= stages
        assert all(patch > 0 and patch % sequence == 0 for patch in patches)
        assert len(set(patches[:-1])) <= 1
        assert patches[-1] <= patches[0]


@pytest.mark.parametrize(
    ("layout", "options", "reason"),
    [
        (Layout(ulysses=2, ring=2), {}, None),
        (Layout(ulysses=8, ring=4), {}, None),
        (Layout(), {}, "at least 2"),
        (Layout(ulysses=3), {}, "8 attention heads"),
        (Layout(tensor=2, ring=2), {}, "wrong pictures"),
        (Layout(tensor=2), {"quantization": "fp8"}, "scales"),
        (Layout(tensor=3), {}, "feed-forward"),
        (Layout(pipefusion=2, stage_blocks=(3, 3)), {}, None),
        (Layout(pipefusion=2, stage_blocks=(3, 3)), {"warmup_steps": 0}, "warm-up"),
        (Layout(pipefusion=2), {}, "stage_blocks"),
        (Layout(pipefusion=3, stage_blocks=(3, 3, 0)), {}, "stage_blocks"),
        (Layout(pipefusion=2, stage_blocks=(3, 4)), {}, "6 blocks"),
    ],
)
def test_layouts_of_a_model(
    layout: Layout, options: dict[str, int | str], reason: str | None, facts: ModelFacts
) -> None:
    given = refuses_layout(layout, facts, **options)  # type: ignore[arg-type]  # options by name
    assert (given is None) if reason is None else (given is not None and reason in given)


SPLITS = tuple(split for ranks in range(2, 17) for split in splits(ranks))
SIDES = (64, 80, 96, 128, 256, 512, 768, 1008, 1024, 1072, 2048)
TEXTS = (16, 32, 33, 64, 100, 256, 512)


@pytest.mark.parametrize("fp8", [False, True], ids=["plain", "fp8"])
@pytest.mark.parametrize("model", [TINY_SHAPES, FLUX_DEV], ids=lambda model: model.name)
def test_what_the_planner_allows_the_engine_accepts(
    model: PlannedModel, fp8: bool, facts: ModelFacts
) -> None:
    shape = replace(
        facts,
        heads=model.heads,
        head_dim=model.head_dim,
        double_blocks=model.double_blocks,
        single_blocks=model.single_blocks,
    )
    allowed: set[Split] = set()
    asked = refused = 0
    for split in SPLITS:
        blocks = stage_blocks(model, split.pipefusion, "bytes") if split.pipefusion <= model.blocks else None
        layout = Layout(
            pipefusion=split.pipefusion,
            tensor=split.tensor,
            ulysses=split.ulysses,
            ring=split.ring,
            stage_blocks=blocks if split.pipefusion > 1 else None,
        )
        sound = refuses_layout(layout, shape, quantization="fp8" if fp8 else "none")
        for width, height, text in product(SIDES, SIDES, TEXTS):
            asked += 1
            if refusal(split, Target(model, width, height, (text,), exact=False, fp8=fp8)) is not None:
                refused += 1
                continue
            allowed.add(split)
            wanted = SampleRequest(
                prompt="",
                width=width,
                height=height,
                steps=4,
                seed=0,
                guidance_scale=1.0,
                max_text_tokens=text,
            )
            assert (sound, refuses_split(wanted, layout)) == (None, None), (split, width, height, text)
    assert 0 < refused < asked
    # Every kind of layout was compared, and not only refused.
    for degree in ("pipefusion", "ulysses", "ring", *(() if fp8 else ("tensor",))):
        assert any(getattr(split, degree) > 1 for split in allowed), degree
    assert any(split.pipefusion > 1 and split.sequence > 1 for split in allowed)


def test_what_the_engine_refuses_of_a_model_the_planner_refuses_too(facts: ModelFacts) -> None:
    for split in SPLITS:
        if split.pipefusion > TINY_SHAPES.blocks:
            continue  # has no stage_blocks to hand over
        blocks = stage_blocks(TINY_SHAPES, split.pipefusion, "bytes") if split.pipefusion > 1 else None
        layout = Layout(
            pipefusion=split.pipefusion,
            tensor=split.tensor,
            ulysses=split.ulysses,
            ring=split.ring,
            stage_blocks=blocks,
        )
        if refuses_layout(layout, facts) is not None:
            # A target that every number of ranks can share.
            side = 16 * 720
            assert refusal(split, Target(TINY_SHAPES, side, side, (720,), exact=False)) is not None, split
