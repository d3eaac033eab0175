"""What Prometheus sees of the gateway, through ``ray.util.metrics`` (exported with a ``ray_`` prefix)."""

from __future__ import annotations

from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

LATENCY_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0]


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
    """The instruments of one gateway replica."""

    def __init__(self) -> None:
        labels = ("engine", "reason", "status")
        self._requests = Counter(
            "fluxsampler_requests", "Requests for pictures, by engine, its reason and HTTP status.", labels
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

    def answered(self, engine: str, reason: str, status: int, seconds: float) -> None:
        """One request is over."""
        self._requests.inc(tags={"engine": engine, "reason": reason, "status": str(status)})
        self._latency.observe(seconds, tags={"engine": engine})

    def drew(self, engine: str, steps: int) -> None:
        """One picture is there."""
        tags = {"engine": engine}
        self._pictures.inc(tags=tags)
        self._steps.inc(steps, tags=tags)

    def fell_back(self, reason: str) -> None:
        """The fallback was asked for a picture."""
        self._fallbacks.inc(tags={"reason": reason})

    def refused(self, engine: str) -> None:
        """The guard refused a picture."""
        self._refusals.inc(tags={"engine": engine})

    def load(self, running: int, queued: int) -> None:
        """Requests in the gateway now."""
        self._running.set(running)
        self._queued.set(queued)

    def unexpected(self) -> None:
        """Something raised what nobody expected."""
        self._errors.inc()
