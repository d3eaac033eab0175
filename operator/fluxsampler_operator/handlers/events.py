"""Watches. Kopf's `on.event` handlers keep nothing on the objects: no finalizer, no annotation, no status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import kopf

from fluxsampler_api.sampler import GROUP, PLURAL
from fluxsampler_operator.handlers.keys import Samplers
from fluxsampler_operator.manifest import SAMPLER_LABEL
from fluxsampler_operator.queue import Key

Add = Callable[[Key], None]
"""Takes a key, from any thread."""

KUBERAY_KINDS = (("ray.io", "rayservices"),)
BUILT_IN_KINDS = (
    ("", "pods"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
)


def watch_samplers(registry: kopf.OperatorRegistry, samplers: Samplers, add: Add) -> None:
    """Every change of a FluxSampler makes it due."""

    @kopf.on.event(GROUP, PLURAL, registry=registry)
    async def sampler_changed(type: str | None, namespace: str | None, name: str, **_: Any) -> None:  # noqa: A002  (kopf's name)
        key = Key(namespace or "", name)
        add(samplers.lost(key) if type == "DELETED" else samplers.saw(key))


def watch_children(
    registry: kopf.OperatorRegistry, kinds: Sequence[tuple[str, str]], samplers: Samplers, add: Add
) -> None:
    """Every change of a child makes its FluxSampler due."""

    async def child_changed(body: kopf.Body, **_: Any) -> None:
        key = samplers.of_child(body)
        if key is not None:
            add(key)

    for group, plural in kinds:
        kopf.on.event(group, plural, registry=registry, id=f"{plural}-changed")(child_changed)


def only_ours(settings: kopf.OperatorSettings) -> None:
    """Let the API server send only objects with our label: a cluster has many pods."""
    for group, plural in (*BUILT_IN_KINDS, *KUBERAY_KINDS):
        settings.watching.label_selectors[group, plural] = SAMPLER_LABEL
