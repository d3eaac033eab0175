"""Tests against a real API server, without nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane, control_plane, fresh_namespace

__all__ = ["control_plane", "namespace"]

HERE = Path(__file__).parent
# Those that wait most, most first: whatever runs beside them (make runs several processes) fills the time.
WAITING = ("test_idle", "test_reconcile_kuberay", "test_leader", "test_rbac", "test_reconcile")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that wait come first; nothing else changes its place."""
    places = [index for index, item in enumerate(items) if HERE in item.path.parents]
    ours = sorted((items[index] for index in places), key=lambda item: _turn(item.path.stem))
    for index, item in zip(places, ours, strict=True):
        items[index] = item


def _turn(module: str) -> int:
    return WAITING.index(module) if module in WAITING else len(WAITING)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    with fresh_namespace(control_plane.kubectl) as name:
        yield name
