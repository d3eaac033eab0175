"""Words of conditions: of pods, of counts, of what Serve is at work on. Pure."""

from __future__ import annotations

from typing import Any

from fluxsampler_operator.diagnosis.serve_checks import sentence
from fluxsampler_operator.observed import pod_state
from fluxsampler_operator.observed.serve_state import Application
from fluxsampler_operator.reasons import Reason

CHANGING = "a change is being rolled out, and what drew before goes on"


def known(word: Any) -> Reason:
    """A reason as it stands in a status, which another version of the operator may have written."""
    return Reason(word) if word in set(Reason) else Reason.RUNNING


def count(number: int, what: str) -> str:
    """`1 warm fallback`, `2 warm fallbacks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def of_pod(pod: pod_state.Pod) -> str:
    """What a pod that is not ready, or does not run, waits for."""
    waiting = next(
        (str(each.waiting["reason"]) for each in pod.containers if each.waiting.get("reason")), None
    )
    state = "is not ready" if pod.runs else f"is {waiting or pod.phase}"
    return f"the {pod.role} pod {pod.name} {state}"


def deploying(application: Application) -> str:
    """What Serve is at work on."""
    parts = [
        f"{name} {each.status}" for name, each in sorted(application.deployments.items()) if not each.healthy
    ]
    said = next((text for _, text in application.texts()), "")
    return (
        f"Serve says {application.status}"
        + (f": {', '.join(parts)}" if parts else "")
        + (f"; {sentence(said)}" if said else "")
    )
