"""What the cluster says about one FluxSampler: one frozen value, read by diagnosis and status.

Kubernetes objects stay JSON: they are the cluster's words, and the checks that read them name the
fields they look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fluxsampler_api.errors import Problem
from fluxsampler_api.plan import PlanStatus

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no plan: ``reason`` as in the Accepted condition, ``problems`` with paths and fixes."""

    reason: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class PictureResult:
    """The last picture that the operator asked for through the Service.

    ``engine`` is the header of the answer; ``message`` says what came instead where ``drawn`` is False.
    """

    drawn: bool
    engine: Literal["parallel", "fallback", "none"]
    message: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that status and diagnosis may look at.

    ``plan`` and ``refusal`` exclude each other. ``rayservice`` is None while it does not exist.
    ``pods`` are all pods with the sampler's label, ``events`` the Warning events about them and the
    RayService, newest last. ``apply_errors`` are messages of manifests that the API server refused.
    ``picture`` is None until one was asked for since the application's present form is up.
    ``taken_up`` is False while KubeRay's words about Serve may be those of the RayService's former spec.
    ``goes_on``: a change is under way that leaves the engines running which ran before it.
    ``nodes`` are only looked at to explain why a pod cannot be scheduled. ``notes`` are sentences that
    qualify the plan, such as that no node could be read.
    """

    plan: PlanStatus | None = None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()
    kuberay: bool = True
    rayservice: Json | None = None
    taken_up: bool = True
    goes_on: bool = False
    pods: Sequence[Json] = ()
    events: Sequence[Json] = ()
    nodes: Sequence[Json] = ()
    apply_errors: tuple[str, ...] = ()
    picture: PictureResult | None = None
    url: str | None = None
    selector: str = ""
