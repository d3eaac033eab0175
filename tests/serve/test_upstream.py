"""xfuser itself: the faults that our refusals stand for, and the pipeline that our loop replaces.

When one of these fails after an upgrade of xfuser, a refusal may have become unnecessary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.limits import refuses_layout, refuses_split
from fluxsampler_serve.engines.protocol import Sample, SampleRequest
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.gang.gang import Gang, GangError, Timeouts
from fluxsampler_serve.gang.messages import Draw, Drawn, Encode
from fluxsampler_serve.weights import PreparedModel, prepare
from tests.serve.conftest import StartGang
from tests.support.requests import draw, request

STAGES = Layout(pipefusion=2, stage_blocks=(3, 3))
EQUAL = 1e-5
WRONG = 100 * EQUAL

Singles = Callable[[ModelArgs], SingleEngine]
Unguarded = Callable[[Layout], AbstractContextManager[Gang]]


@pytest.fixture(scope="module")
def prepared(random24: ModelArgs) -> PreparedModel:
    return prepare(random24)


@pytest.fixture
def unguarded(forkserver: Forkserver, prepared: PreparedModel) -> Unguarded:
    """A gang without the engine around it, which would refuse."""

    @contextmanager
    def start(layout: Layout) -> Iterator[Gang]:
        gang = Gang(
            forkserver,
            layout,
            "cpu",
            prepared=prepared,
            warmup_steps=1,
            encoders_on_cpu=False,
            timeouts=Timeouts(step=20),
        )
        try:
            yield gang
        finally:
            gang.kill()

    return start


def draw_unguarded(gang: Gang, layout: Layout, wanted: SampleRequest) -> Sample:
    gang.tell([0], Encode(1, wanted))
    gang.collect([0])
    gang.tell(range(layout.ranks), Draw(1, wanted))
    reply = gang.collect(range(layout.ranks))[layout.ranks - 1]
    assert isinstance(reply, Drawn)
    assert reply.sample is not None
    return reply.sample


def error(first: Sample, second: Sample) -> float:
    return float(np.abs(first.latents - second.latents).max())


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        (Layout(ulysses=2), request(max_text_tokens=17)),
        (Layout(ring=2), request(max_text_tokens=17)),
        (Layout(tensor=2, ulysses=2), request()),
    ],
    ids=["text-ulysses", "text-ring", "tensor-ulysses"],
)
def test_silently_wrong_where_we_refuse(
    layout: Layout,
    wanted: SampleRequest,
    prepared: PreparedModel,
    random24: ModelArgs,
    unguarded: Unguarded,
    single: Singles,
) -> None:
    assert refuses_layout(layout, prepared.facts) or refuses_split(wanted, layout)
    with unguarded(layout) as gang:
        got = draw_unguarded(gang, layout, wanted)
    assert got.latents_finite
    assert error(got, draw(single(random24), wanted)) > WRONG


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        (Layout(ulysses=2), request(width=80, height=80)),
        (Layout(pipefusion=2, ulysses=2, stage_blocks=(3, 3)), request(height=80)),
        (Layout(pipefusion=2, ulysses=2, stage_blocks=(3, 3)), request(height=96)),
    ],
    ids=["image-tokens", "rows", "uneven-patches"],
)
def test_crashes_where_we_refuse(layout: Layout, wanted: SampleRequest, unguarded: Unguarded) -> None:
    assert refuses_split(wanted, layout)
    with unguarded(layout) as gang, pytest.raises(GangError):
        draw_unguarded(gang, layout, wanted)


def test_stage_without_a_block_crashes_where_we_refuse(prepared: PreparedModel, unguarded: Unguarded) -> None:
    # Six blocks over four stages, by xfuser's own rule: two each, and none for the last.
    layout = Layout(pipefusion=4)
    assert refuses_layout(layout, prepared.facts)
    with pytest.raises(GangError), unguarded(layout) as gang:
        draw_unguarded(gang, layout, request())


def test_heads_that_cannot_be_split_fail_at_the_start(prepared: PreparedModel, unguarded: Unguarded) -> None:
    layout = Layout(ulysses=5)
    assert refuses_layout(layout, prepared.facts)
    with pytest.raises(GangError, match="24 heads"), unguarded(layout):
        pass


def test_our_pipefusion_is_xfusers(
    random24: ModelArgs, prepared: PreparedModel, start_gang: StartGang, tmp_path: Path
) -> None:
    wanted = [
        request(guidance_scale=3.5),
        request(width=96, height=128, seed=2, steps=5),
        request(height=80, max_text_tokens=32, seed=3),
    ]
    arguments = {
        "root": str(prepared.root),
        "stage_blocks": STAGES.stage_blocks,
        "warmup": 2,
        "requests": [asdict(one) for one in wanted],
    }
    out = tmp_path / "latents.npz"
    subprocess.run(
        [sys.executable, "-m", "tests.support.upstream_pipefusion", json.dumps(arguments), str(out)],
        check=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.DEVNULL,
    )
    upstream = np.load(out)
    gang = start_gang(random24, STAGES, warmup_steps=2)
    for number, one in enumerate(wanted):
        # Both are four orders of magnitude further from the exact latents (test_parity).
        assert np.abs(upstream[f"arr_{number}"] - draw(gang, one).latents).max() <= EQUAL, one
