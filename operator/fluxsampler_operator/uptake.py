"""Whether KubeRay's words about Serve are about the RayService's present spec.

KubeRay 1.6 asks Serve for its state *before* it hands a changed document on, and then writes that state
together with the new ``observedGeneration`` (rayservice_controller.go: reconcileServe, calculateStatus). So for one
more of its rounds, two seconds later, RUNNING is what the application was before the change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fluxsampler_operator.observed import Json
from fluxsampler_operator.observed.serve_state import application
from fluxsampler_operator.queue import Key

NEXT_ROUND_SECONDS = 5.0
"""KubeRay looks again after 2 s, and waits up to 2 s for each answer of Ray's dashboard."""


class Uptake:
    """Remembers, for each key, that a change was on its way; ``clock`` is for tests.

    An operator that starts anew in these few seconds has forgotten it and takes KubeRay at its word.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[Key, float | None] = {}

    def missing(self, key: Key, rayservice: Json | None) -> float | None:
        """Seconds until KubeRay's words count; 0 when they do, None while it has not seen the spec."""
        if rayservice is None:
            self.forget(key)
            return None
        status: Any = rayservice.get("status") or {}
        if int(status.get("observedGeneration") or 0) < int(rayservice["metadata"].get("generation") or 0):
            # Before Serve has heard of an application there is nothing to mistake for the new one.
            if application(rayservice).status:
                self._until[key] = None
            return None
        if key not in self._until:
            return 0.0
        until = self._until[key]
        if until is None:
            until = self._until[key] = self._clock() + NEXT_ROUND_SECONDS
        left = until - self._clock()
        # Anything but RUNNING is news, or was true before the change and is looked at again anyway.
        if left <= 0 or not application(rayservice).running:
            del self._until[key]
            return 0.0
        return left

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._until.pop(key, None)
