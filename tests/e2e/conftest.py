"""Tests on the whole cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import LiveCluster, cluster, fresh_namespace

__all__ = ["cluster", "namespace"]


@pytest.fixture
def namespace(cluster: LiveCluster) -> Iterator[str]:
    """A namespace of the test's own."""
    with fresh_namespace(cluster.kubectl) as name:
        yield name
