"""Tests against a real API server, without nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import ControlPlane, control_plane, fresh_namespace

__all__ = ["control_plane", "namespace"]


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    with fresh_namespace(control_plane.kubectl) as name:
        yield name
