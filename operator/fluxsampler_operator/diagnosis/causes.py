"""A cause: what is wrong, in a typed reason and a sentence that names the fix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fluxsampler_operator.observed import Observed
from fluxsampler_operator.reasons import Reason


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a condition does not hold."""

    condition: Literal["ClusterReady", "EngineReady", "Serving"]
    reason: Reason
    message: str


Check = Callable[[Observed], Cause | None]
"""A pure look at one kind of trouble: None when it is not there."""


def cluster(reason: Reason, message: str) -> Cause:
    """A cause that keeps the Ray cluster from running."""
    return Cause("ClusterReady", reason, message)


def engine(reason: Reason, message: str) -> Cause:
    """A cause that keeps the engines from drawing."""
    return Cause("EngineReady", reason, message)
