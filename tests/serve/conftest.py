"""What the tests with real engines share: one warm forkserver, and models with a single-device engine each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.gang.forkserver import Forkserver
from tests.support.model_folders import BUILTIN, model_args
from tests.support.random_flux import SMALL, build

StartGang = Callable[..., ParallelEngine]


@pytest.fixture(scope="session")
def forkserver() -> Iterator[Forkserver]:
    """Imports once for all gangs of the session."""
    server = Forkserver("cpu")
    server.wait_ready()
    yield server
    server.close()


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where converted components go."""
    return tmp_path_factory.mktemp("components")


@pytest.fixture(scope="session")
def tiny(engine_cache: Path) -> ModelArgs:
    """The built-in model."""
    return model_args(f"file://{BUILTIN}", engine_cache)


@pytest.fixture(scope="session")
def random24(engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelArgs:
    """Random weights, 24 heads."""
    folder = build(tmp_path_factory.mktemp("random24") / "model", SMALL)
    return model_args(f"file://{folder}", engine_cache, name="random24")


@pytest.fixture(scope="session")
def single() -> Iterator[Callable[[ModelArgs], SingleEngine]]:
    """The single-device engine of a model, loaded once."""
    torch.set_num_threads(1)
    engines: dict[str, SingleEngine] = {}

    def get(model: ModelArgs) -> SingleEngine:
        key = model.model_dump_json()
        if key not in engines:
            engines[key] = SingleEngine(model, "cpu")
            engines[key].load()
        return engines[key]

    yield get
    for engine in engines.values():
        engine.close()


@pytest.fixture
def start_gang(forkserver: Forkserver) -> Iterator[StartGang]:
    """Starts gangs (half a second each from the warm forkserver) and ends them after the test."""
    engines: list[ParallelEngine] = []

    def start(model: ModelArgs, layout: Layout, **options: object) -> ParallelEngine:
        engine = ParallelEngine(model, layout, "cpu", forkserver=forkserver, **options)  # type: ignore[arg-type]  # options by name
        engines.append(engine)
        engine.load()
        return engine

    yield start
    for engine in engines:
        engine.close()
