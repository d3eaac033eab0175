"""Metrics are summed up, and recorded with their labels a moment later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.util.metrics import Counter, Gauge, Histogram

from fluxsampler_serve import metrics


async def test_sums_are_recorded_once_with_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[str, float, dict[str, str] | None]] = []

    def remember(self: Any, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        recorded.append((self.info["name"], value, tags))

    monkeypatch.setattr(Counter, "inc", remember)
    monkeypatch.setattr(Histogram, "observe", remember)
    monkeypatch.setattr(Gauge, "set", remember)
    monkeypatch.setattr(metrics, "RECORD_SECONDS", 0.0)
    instruments = metrics.GatewayMetrics()
    for _ in range(3):
        instruments.answered("parallel", "Planned", 200, 0.5)
        instruments.drew("parallel", 8)
    instruments.fell_back("GangFailed")
    instruments.refused("parallel")
    instruments.unexpected()
    instruments.load(2, 1)
    assert recorded == []
    async with asyncio.timeout(30):
        while not recorded:
            await asyncio.sleep(0)
    labels = {"engine": "parallel", "reason": "Planned", "status": "200"}
    assert ("fluxsampler_requests", 3, labels) in recorded
    assert ("fluxsampler_steps", 24, {"engine": "parallel"}) in recorded
    assert ("fluxsampler_fallbacks", 1, {"reason": "GangFailed"}) in recorded
    assert ("fluxsampler_guard_refusals", 1, {"engine": "parallel"}) in recorded
    assert ("fluxsampler_unexpected_errors", 1, {}) in recorded
    assert ("fluxsampler_running_requests", 2, None) in recorded
    assert sum(name == "fluxsampler_request_seconds" for name, _, _ in recorded) == 3
    count = len(recorded)
    await asyncio.sleep(0.01)
    assert len(recorded) == count
