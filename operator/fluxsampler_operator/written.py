"""What the API server kept of a status: it drops fields that its definition of FluxSampler does not know.

An operator that is newer than the definition would see a difference for ever and write in every round. So what was
sent stands for what came back of it, for as long as the object says just that.
"""

from __future__ import annotations

import re

import structlog

from fluxsampler_operator.comparison import differences
from fluxsampler_operator.manifest import Manifest
from fluxsampler_operator.observed import Json
from fluxsampler_operator.queue import Key

_log = structlog.get_logger(__name__)

FIX = "upgrade the CRD (helm upgrade with crds.install=true, or kubectl apply -f crds/), then restart the operator"
"""Without the restart a FluxSampler shows the fields from its next change of status on: what is remembered here hides them."""


class Written:
    """Remembers, for each key, the last status that did not come back as it was sent."""

    def __init__(self) -> None:
        self._changed: dict[Key, tuple[Manifest, Manifest]] = {}
        self._told: set[str] = set()

    def read(self, key: Key, live: Json | None) -> Json | None:
        """The status as it was sent, if ``live`` is what became of it; else ``live``."""
        sent, kept = self._changed.get(key, (None, None))
        return sent if sent is not None and kept == live else live

    def note(self, key: Key, sent: Manifest, kept: Manifest) -> None:
        """``kept`` came back for ``sent``; fields that are dropped are told once, whatever the object."""
        if sent == kept:
            self.forget(key)
            return
        self._changed[key] = (sent, kept)
        dropped = {re.sub(r"\[\d+\]", "[]", path) for path in differences(sent, kept)}
        if dropped - self._told:
            self._told |= dropped
            _log.warning(
                "the CRD is older than the operator", dropped=sorted(dropped), sampler=str(key), fix=FIX
            )

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._changed.pop(key, None)
