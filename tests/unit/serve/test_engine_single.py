"""What becomes of the single-device engine when drawing fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fluxsampler_api.app_args import ModelArgs
from fluxsampler_serve import devices
from fluxsampler_serve.engines import single
from fluxsampler_serve.engines.protocol import Cancel, Sample, SampleRequest
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.errors import EngineFailed

REQUEST = SampleRequest("a red circle", 64, 64, steps=1, seed=1, guidance_scale=0.0, max_text_tokens=32)
SAMPLE = Sample(np.zeros((64, 64, 3), np.uint8), np.zeros((16, 64), np.float32), latents_finite=True, steps=1)


class Parts:
    """Stands for the loaded model: raises each of ``errors`` once, then draws."""

    device = torch.device("cpu")
    errors: ClassVar[list[Exception]] = []

    def __init__(self, *_: object) -> None:
        pass

    def draw(self, *_: object) -> Sample:
        if self.errors:
            raise self.errors.pop(0)
        return SAMPLE


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SingleEngine:
    monkeypatch.setattr(single, "_Parts", Parts)
    monkeypatch.setattr(single, "check_model", lambda _: None)
    monkeypatch.setattr(devices, "activate", lambda _: torch.device("cpu"))
    model = ModelArgs(name="tiny-shapes", source="builtin://tiny-shapes", dtype="float32", max_text_tokens=64)
    loaded = SingleEngine(model, "cpu", prepared=SimpleNamespace(facts=None))  # type: ignore[arg-type]  # never read
    loaded.load()
    return loaded


def draw(engine: SingleEngine) -> Sample:
    return engine.sample(REQUEST, lambda _: None, Cancel())


def test_too_little_memory_for_one_picture_leaves_the_engine_ready(
    engine: SingleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(devices, "release_memory", released.append)
    monkeypatch.setattr(Parts, "errors", [torch.OutOfMemoryError("tried to allocate 9 GiB")])
    with pytest.raises(
        EngineFailed, match=r"not the memory to draw 64x64: tried to allocate 9 GiB"
    ) as failed:
        draw(engine)
    assert failed.value.__context__ is None  # nothing holds the tensors of the call
    assert released == [Parts.device]
    assert engine.health().ready
    assert draw(engine) is SAMPLE


def test_any_other_error_of_the_device_breaks_the_engine(
    engine: SingleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "errors", [RuntimeError("an illegal memory access")])
    with pytest.raises(EngineFailed, match="illegal memory access"):
        draw(engine)
    assert engine.health().reason == "EngineFailed"
    with pytest.raises(EngineFailed, match="not ready"):
        draw(engine)
