"""What Prometheus sees of the gateway, through ``ray.util.metrics`` (exported with a ``ray_`` prefix)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

LATENCY_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0]


RECORD_SECONDS = 1.0


class Metrics(Protocol):
    """What the gateway reports; a test brings its own."""

    def answered(self, engine: str, reason: str, status: int, seconds: float) -> None:
        """One request is over."""

    def drew(self, engine: str, steps: int) -> None:
        """One picture is there."""

    def fell_back(self, reason: str) -> None:
        """The fallback was asked for a picture."""

    def refused(self, engine: str) -> None:
        """The guard refused a picture."""

    def load(self, running: int, queued: int) -> None:
        """Requests in the gateway now."""

    def unexpected(self) -> None:
        """Something raised what nobody expected."""


class GatewayMetrics:
    """The instruments of one gateway replica; used from its event loop only.

    One record costs about 30 µs in a Ray worker, and a request makes eight; so they are summed up here
    and recorded once a second.
    """

    def __init__(self) -> None:
        self._requests = Counter(
            "fluxsampler_requests",
            "Requests for pictures, and those without a valid key, by engine, its reason and HTTP status.",
            ("engine", "reason", "status"),
        )
        self._latency = Histogram(
            "fluxsampler_request_seconds",
            "Seconds from the request's arrival to its last byte.",
            boundaries=LATENCY_SECONDS,
            tag_keys=("engine",),
        )
        self._pictures = Counter("fluxsampler_pictures", "Pictures drawn.", ("engine",))
        self._steps = Counter("fluxsampler_steps", "Denoising steps of the pictures drawn.", ("engine",))
        self._fallbacks = Counter(
            "fluxsampler_fallbacks", "Pictures that the fallback was asked for, by reason.", ("reason",)
        )
        self._refusals = Counter(
            "fluxsampler_guard_refusals", "Pictures that the guard refused.", ("engine",)
        )
        self._queued = Gauge("fluxsampler_queued_requests", "Requests waiting in this gateway.")
        self._running = Gauge("fluxsampler_running_requests", "Requests being drawn for this gateway.")
        self._errors = Counter("fluxsampler_unexpected_errors", "Exceptions that no rule expected.")
        self._sums: dict[tuple[Counter, tuple[str, ...]], float] = {}
        self._seconds: list[tuple[str, float]] = []
        self._load = (0, 0)
        self._due = False

    def answered(self, engine: str, reason: str, status: int, seconds: float) -> None:
        """One request is over."""
        self._add(self._requests, 1, engine, reason, str(status))
        self._seconds.append((engine, seconds))

    def drew(self, engine: str, steps: int) -> None:
        """One picture is there."""
        self._add(self._pictures, 1, engine)
        self._add(self._steps, steps, engine)

    def fell_back(self, reason: str) -> None:
        """The fallback was asked for a picture."""
        self._add(self._fallbacks, 1, reason)

    def refused(self, engine: str) -> None:
        """The guard refused a picture."""
        self._add(self._refusals, 1, engine)

    def load(self, running: int, queued: int) -> None:
        """Requests in the gateway now."""
        self._load = running, queued
        self._record_soon()

    def unexpected(self) -> None:
        """Something raised what nobody expected."""
        self._add(self._errors, 1)

    def _add(self, counter: Counter, value: float, *labels: str) -> None:
        key = counter, labels
        self._sums[key] = self._sums.get(key, 0) + value
        self._record_soon()

    def _record_soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(RECORD_SECONDS, self._record)

    def _record(self) -> None:
        self._due = False
        sums, self._sums = self._sums, {}
        seconds, self._seconds = self._seconds, []
        for (counter, labels), value in sums.items():
            counter.inc(value, tags=dict(zip(counter.info["tag_keys"], labels, strict=True)))
        for engine, spent in seconds:
            self._latency.observe(spent, tags={"engine": engine})
        running, queued = self._load
        self._running.set(running)
        self._queued.set(queued)
