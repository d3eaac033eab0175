"""Conditions as Kubernetes defines them (meta/v1), pure: ``lastTransitionTime`` moves only with ``status``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from fluxsampler_api.status import ConditionType
from fluxsampler_operator.reasons import Reason

TYPES: tuple[ConditionType, ...] = get_args(ConditionType)
"""The order in which conditions stand in status, each resting on the one before."""

LONGEST_MESSAGE = 2048
"""Characters; the schema would take 32768, but status is for reading and is kept in etcd for each object."""

Status = Literal["True", "False", "Unknown"]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is true now of one condition; ``generation`` is that of the spec it was found for."""

    type: ConditionType
    status: Status
    reason: Reason
    message: str
    generation: int

    @property
    def holds(self) -> bool:
        """Whether the status is True."""
        return self.status == "True"


def find(conditions: Iterable[Json], type_: str) -> Json | None:
    """The condition of that type, or None."""
    return next((each for each in conditions if each.get("type") == type_), None)


def of(status: Json | None) -> Sequence[Json]:
    """The conditions of a status, which may not exist yet."""
    return (status or {}).get("conditions") or ()


def merge(previous: Sequence[Json], findings: Iterable[Finding], now: datetime) -> list[dict[str, Any]]:
    """The conditions to write, in the order of :data:`TYPES`; types that are not found anew are kept, last.

    ``now`` is an aware time; its fraction of a second is dropped, as metav1.Time has none.
    """
    found = {finding.type: finding for finding in findings}
    made: list[dict[str, Any]] = []
    for type_ in TYPES:
        before = find(previous, type_)
        if type_ in found:
            made.append(_condition(found[type_], before, now))
        elif before is not None:
            made.append(dict(before))
    return made + [dict(each) for each in previous if each.get("type") not in TYPES]


def _condition(finding: Finding, previous: Json | None, now: datetime) -> dict[str, Any]:
    since = (
        previous.get("lastTransitionTime") if previous and previous.get("status") == finding.status else None
    )
    return {
        "type": finding.type,
        "status": finding.status,
        "reason": str(finding.reason),
        "message": shorten(finding.message),
        "lastTransitionTime": since or timestamp(now),
        "observedGeneration": finding.generation,
    }


def shorten(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """The message, cut in its middle if it is too long: causes stand first, exceptions last."""
    if len(message) <= longest:
        return message
    half = (longest - 3) // 2
    return f"{message[:half]} … {message[-half:]}"


def timestamp(now: datetime) -> str:
    """As metav1.Time writes it."""
    return now.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
