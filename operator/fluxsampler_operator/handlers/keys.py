"""Which FluxSampler an event is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluxsampler_api.sampler import API_VERSION, KIND
from fluxsampler_operator.manifest import SAMPLER_LABEL, child_name
from fluxsampler_operator.queue import Key


class Samplers:
    """The FluxSamplers that exist, to be found by the label of their children (whose names may be shortened)."""

    def __init__(self) -> None:
        self._by_child: dict[tuple[str, str], Key] = {}

    def saw(self, key: Key) -> Key:
        """Remember a FluxSampler."""
        self._by_child[(key.namespace, child_name(key.name))] = key
        return key

    def lost(self, key: Key) -> Key:
        """Forget one that was deleted."""
        self._by_child.pop((key.namespace, child_name(key.name)), None)
        return key

    def of_child(self, body: Mapping[str, Any]) -> Key | None:
        """The FluxSampler of a child: by ownerReference, else (pods belong to KubeRay) by label."""
        meta = body["metadata"]
        for reference in meta.get("ownerReferences") or ():
            if reference.get("kind") == KIND and reference.get("apiVersion") == API_VERSION:
                return Key(meta["namespace"], reference["name"])
        label = (meta.get("labels") or {}).get(SAMPLER_LABEL)
        return None if label is None else self._by_child.get((meta["namespace"], label))
