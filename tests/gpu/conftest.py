"""What the GPU tests share. Each skips with what exactly is missing here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fluxsampler_api.app_args import ModelArgs
from fluxsampler_serve.gang.forkserver import Forkserver
from tests.support.model_folders import BUILTIN, model_args
from tests.support.random_flux import SMALL, build


def missing(cards: int, gib: float = 0.0) -> str | None:
    """Why a test that needs so many cards, each with so much memory, cannot run here; None: it can."""
    if torch.version.cuda is None:
        return f"needs {cards} CUDA card(s): torch {torch.__version__} is built without CUDA (install the CUDA build)"
    if not torch.cuda.is_available():
        return f"needs {cards} CUDA card(s): torch {torch.__version__} finds no driver or no card (see nvidia-smi)"
    found = torch.cuda.device_count()
    if found < cards:
        return f"needs {cards} CUDA cards, {found} visible: {torch.cuda.get_device_name(0)}"
    smallest = min(torch.cuda.get_device_properties(index).total_memory for index in range(cards)) / (1 << 30)
    if smallest < gib:
        return f"needs {gib:.0f} GiB on each of {cards} card(s), the smallest has {smallest:.0f}"
    return None


@pytest.fixture
def need() -> Callable[..., None]:
    """Skips the test unless the cards are there."""

    def check(cards: int, gib: float = 0.0) -> None:
        reason = missing(cards, gib)
        if reason is not None:
            pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def cuda_forkserver() -> Iterator[Forkserver]:
    """Imports once for all gangs of the session; only asked for where there is CUDA."""
    server = Forkserver("cuda")
    server.wait_ready()
    yield server
    server.close()


@pytest.fixture(scope="session")
def random24(tmp_path_factory: pytest.TempPathFactory) -> ModelArgs:
    """Random weights, 24 heads, float32."""
    folder = build(tmp_path_factory.mktemp("random24") / "model", SMALL)
    return model_args(f"file://{folder}", tmp_path_factory.mktemp("components"), name="random24")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelArgs:
    """The built-in model."""
    return model_args(f"file://{BUILTIN}", tmp_path_factory.mktemp("tiny") / "components")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test builds a model of its own."""
    return tmp_path
