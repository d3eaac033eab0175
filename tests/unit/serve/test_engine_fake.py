"""The fake engine does what its script says, as a real one would."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from fluxsampler_serve.engines.build import FakeFactory, build_engine
from fluxsampler_serve.engines.fake import FakeEngine, FakeScript
from fluxsampler_serve.engines.protocol import Cancel, Progress, SampleRequest
from fluxsampler_serve.errors import Cancelled, EngineFailed, EngineStartFailed, RequestRefused
from tests.support.app_args import tiny_app_args

REQUEST = SampleRequest(
    prompt="", width=64, height=48, steps=3, seed=7, guidance_scale=1.0, max_text_tokens=16, preview_every=2
)


def loaded(script: FakeScript | None = None) -> FakeEngine:
    engine = FakeEngine("fallback", script)
    engine.load()
    return engine


def test_draws_the_same_picture_for_the_same_seed_and_reports_every_step() -> None:
    heard: list[Progress] = []
    first = loaded().sample(REQUEST, heard.append, Cancel())
    assert first.pixels.shape == (48, 64, 3)
    assert first.latents.shape == (12, 64)
    assert first.latents_finite
    assert [progress.step for progress in heard] == [1, 2, 3]
    assert [progress.preview is not None for progress in heard] == [False, True, False]
    again = FakeEngine("parallel")
    again.load()
    assert np.array_equal(first.pixels, again.sample(REQUEST, heard.append, Cancel()).pixels)


def test_acts_in_order_and_then_afterwards() -> None:
    engine = loaded(FakeScript(acts=("nan", "grey", "noise", "refuse"), afterwards="raise"))
    nan, grey, noise = (engine.sample(REQUEST, lambda _: None, Cancel()) for _ in range(3))
    assert not nan.latents_finite
    assert np.isnan(nan.latents).any()
    assert grey.pixels.std() == 0
    assert noise.pixels.std() > 60
    with pytest.raises(RequestRefused):
        engine.sample(REQUEST, lambda _: None, Cancel())
    assert engine.health().ready
    with pytest.raises(EngineFailed):
        engine.sample(REQUEST, lambda _: None, Cancel())
    assert not engine.health().ready


def test_hangs_until_cancelled() -> None:
    engine, cancel = loaded(FakeScript(acts=("hang",))), Cancel()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(Cancelled):
        engine.sample(REQUEST, lambda _: None, cancel)
    assert engine.sample(REQUEST, lambda _: None, Cancel()).latents_finite


def test_refuses_sizes_and_fails_to_load_when_told() -> None:
    engine = loaded(FakeScript(refused_sizes=frozenset({(64, 48)})))
    assert engine.refuses(REQUEST) is not None
    assert loaded(FakeScript(refused_multiple=32)).refuses(REQUEST) is not None
    assert loaded().refuses(REQUEST) is None
    with pytest.raises(EngineStartFailed, match="no card"):
        loaded(FakeScript(load_error="no card"))


def test_is_not_ready_before_load_nor_after_close() -> None:
    engine = FakeEngine("parallel")
    with pytest.raises(EngineFailed):
        engine.sample(REQUEST, lambda _: None, Cancel())
    engine.load()
    engine.close()
    assert engine.health().reason == "Closed"


def test_factories_travel_and_build_by_name() -> None:
    factory = pickle.loads(pickle.dumps(FakeFactory(parallel=FakeScript(step_seconds=0.25))))
    engine = factory(tiny_app_args(), "parallel")
    assert engine.name == "parallel"
    assert engine.script.step_seconds == 0.25
    assert factory(tiny_app_args(), "fallback").script == FakeScript()
    assert pickle.loads(pickle.dumps(build_engine)) is build_engine


def test_cancel_tells_its_listeners_once() -> None:
    cancel, heard = Cancel(), []
    cancel.on_set(lambda: heard.append("early"))
    assert not cancel.wait(0)
    cancel.set()
    cancel.set()
    cancel.on_set(lambda: heard.append("late"))
    assert heard == ["early", "late"]
    assert cancel.is_set()
