"""Who waits for a RayService whose FluxSampler is gone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from fluxsampler_operator.cluster import RAY_SERVICES, Cluster
from fluxsampler_operator.manifest import SAMPLER_LABEL
from fluxsampler_operator.removal import finish_removal
from tests.support.fake_cluster import FakeCluster

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
OWNED = [{"kind": "FluxSampler", "name": "tiny", "uid": "u", "controller": True}]


@pytest.mark.parametrize(
    ("meta", "waits"),
    [
        ({"ownerReferences": OWNED}, True),
        ({}, False),
        ({"deletionTimestamp": "2026-11-22T12:00:00Z"}, True),
    ],
    ids=["garbage collection comes", "left behind on purpose", "on its way out"],
)
async def test_only_what_is_about_to_go_is_waited_for(meta: dict[str, Any], waits: bool) -> None:
    cluster = FakeCluster()
    cluster.put(RAY_SERVICES, {"metadata": {"name": "tiny", "labels": {SAMPLER_LABEL: "tiny"}, **meta}})
    assert await finish_removal(cast(Cluster, cluster), "default", "tiny", NOON) is waits
    assert cluster.writes == []
