"""`status` of a FluxSampler from what was observed, and the Events of its changes. Pure.

Status is written only when it differs, so equal input gives equal output. What each condition means
stands in `findings.py`, what can be wrong in `diagnosis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fluxsampler_api.status import ConditionType, FluxSamplerStatus, Performance
from fluxsampler_operator.observed import Observed
from fluxsampler_operator.reasons import PROGRESS, WAITING, Reason
from fluxsampler_operator.status import conditions
from fluxsampler_operator.status.conditions import Finding
from fluxsampler_operator.status.findings import View

Json = Mapping[str, Any]

LONGEST_NOTE = 1000
"""Characters of an Event's message: the API server takes 1024 bytes of events.k8s.io notes."""


@dataclass(frozen=True, slots=True)
class EventNote:
    """An Event to write about a FluxSampler."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def next_status(sampler: Json, observed: Observed, previous: Json | None, now: datetime) -> dict[str, Any]:
    """The JSON of :class:`FluxSamplerStatus` to write.

    ``sampler`` is the live object (it may be invalid: only generation, replicas and canary are read),
    ``previous`` its present status. Conditions that are being checked again keep their last value.
    """
    view = View(sampler, observed, previous)
    findings = view.findings()
    written = FluxSamplerStatus(
        observed_generation=view.generation,
        phase=_phase(sampler, findings),
        plan=observed.plan,
        engine=view.engine(),
        replicas=view.replicas(),
        fallback_replicas=view.fallbacks(),
        url=observed.url,
        performance=_performance(observed, view),
        selector=observed.selector or None,
    )
    made: dict[str, Any] = written.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"conditions"}
    )
    made["conditions"] = conditions.merge(conditions.of(previous), findings.values(), now)
    if observed.picture is None and view.engine() != "none" and "performance" in (previous or {}):
        # Measured anew when the next picture comes back; until then the last figure is the best one.
        made["performance"] = (previous or {})["performance"]
    if observed.plan is None and observed.rayservice is not None and previous and "plan" in previous:
        # A spec that was not accepted leaves what runs alone; so stays its plan.
        made["plan"] = previous["plan"]
    return made


def transitions(previous: Json | None, new: Json) -> tuple[EventNote, ...]:
    """An Event for each condition that changed its status or its cause; none when nothing changed.

    Ready only tells that it came or went, since the condition that it rests on tells why.
    """
    before = conditions.of(previous)
    notes: list[EventNote] = []
    for condition in conditions.of(new):
        old = conditions.find(before, str(condition["type"]))
        note = _note(condition, old)
        if note is not None:
            notes.append(note)
    return tuple(notes)


def _performance(observed: Observed, view: View) -> Performance | None:
    picture = observed.picture
    if picture is None or not picture.drawn or picture.seconds <= 0:
        return None
    replicas = (view.replicas() if picture.engine == "parallel" else view.fallbacks()) or 1
    return Performance(
        images_per_minute=round(60 * replicas / picture.seconds, 1), p50_seconds=round(picture.seconds, 3)
    )


def _note(new: Json, old: Json | None) -> EventNote | None:
    type_, status, reason = str(new["type"]), new["status"], str(new["reason"])
    was = (old or {}).get("status")
    good = (status == "True") != (type_ == "Degraded")
    message = conditions.shorten(str(new["message"]), LONGEST_NOTE)
    if was == status:
        moved = (
            (old or {}).get("reason") != reason and reason not in PROGRESS and not good and type_ != "Ready"
        )
        return EventNote("Warning", reason, message) if moved else None
    if type_ == "Degraded":
        if status == "True":
            return EventNote("Warning", reason, message)
        return (
            EventNote("Normal", "ParallelRestored", message)
            if was == "True" and reason == Reason.AS_EXPECTED
            else None
        )
    if good:
        return EventNote("Normal", type_, message)
    if type_ == "Ready":
        return EventNote("Warning", "NotReady", message) if was == "True" else None
    if reason in PROGRESS:
        return EventNote("Normal", reason, message) if was == "True" else None
    return EventNote("Warning", reason, message)


def _phase(
    sampler: Json, found: Mapping[ConditionType, Finding]
) -> Literal["Pending", "Starting", "Ready", "Degraded", "Failed", "Deleting"]:
    if (sampler.get("metadata") or {}).get("deletionTimestamp"):
        return "Deleting"
    ready = found["Ready"]
    if found["Degraded"].holds:
        return "Degraded"
    if ready.holds:
        return "Ready"
    if found["Serving"].holds:
        # The form before still answers, while the new one is not accepted or does not come up.
        return "Degraded"
    if ready.reason in WAITING or ready.reason == Reason.PLANNING:
        return "Pending"
    return "Starting" if ready.reason in PROGRESS else "Failed"
