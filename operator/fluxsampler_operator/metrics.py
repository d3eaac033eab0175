"""The operator's own metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Histogram(
    "fluxsampler_operator_reconcile_seconds",
    "Duration of one reconcile, by its outcome: ok, retryable, permanent or failed.",
    ["result"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
API_CALLS = Counter(
    "fluxsampler_operator_api_calls_total",
    "Calls to the Kubernetes API by verb, resource and HTTP status (0: no answer).",
    ["verb", "resource", "code"],
)
QUEUED = Gauge("fluxsampler_operator_queued_objects", "FluxSamplers that wait for a reconcile or are in one.")
PICTURES = Counter(
    "fluxsampler_operator_pictures_total", "Canary pictures asked for, by what came back.", ["result"]
)
LEADER = Gauge(
    "fluxsampler_operator_leader", "1 while this operator works, 0 while it waits for the one that does."
)
CONDITION = Gauge(
    "fluxsampler_condition",
    "1 for the status that a condition of a FluxSampler has now.",
    ["namespace", "name", "condition", "status"],
)
STATUSES = ("True", "False", "Unknown")


def show_conditions(namespace: str, name: str, conditions: Iterable[dict[str, Any]]) -> None:
    """Publish the conditions of one FluxSampler."""
    for condition in conditions:
        for status in STATUSES:
            value = 1 if condition["status"] == status else 0
            CONDITION.labels(namespace, name, condition["type"], status).set(value)


def forget_conditions(namespace: str, name: str) -> None:
    """Take the series of a deleted FluxSampler away."""
    CONDITION.remove_by_labels({"namespace": namespace, "name": name})
