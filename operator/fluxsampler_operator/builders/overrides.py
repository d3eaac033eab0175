"""`spec.podTemplate` on the pods it speaks of.

Containers called `ray-head` and `ray-worker` patch the Ray container of head or workers, `ray` that
of both; containers of any other name are sidecars of both. Everything else applies to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fluxsampler_operator.builders.strategic_merge import merge
from fluxsampler_operator.errors import WrongPatch

if TYPE_CHECKING:
    from fluxsampler_operator.manifest import Manifest

RAY, HEAD, WORKER = "ray", "ray-head", "ray-worker"
FIELD = "spec.podTemplate"


def apply(template: Manifest, patch: Mapping[str, Any], container: str) -> Manifest:
    """``template`` with ``patch``; ``container`` is the name of its Ray container.

    Raises :class:`WrongPatch` when the patch cannot be merged, or takes the Ray container away.
    """
    if not patch:
        return template
    merged = merge(template, _for(patch, container), at=FIELD)
    containers = merged.get("spec", {}).get("containers") or [{}]
    if containers[0].get("name") != container:
        # KubeRay runs Ray in the first container, whatever its name is.
        raise WrongPatch(f"{FIELD}.spec.containers", f"takes {container} away; patch its fields instead")
    return merged


def _for(patch: Mapping[str, Any], container: str) -> dict[str, Any]:
    """``patch`` as it concerns the pod whose Ray container is called ``container``."""
    spec = patch.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("containers"), list):
        return dict(patch)
    mine = [_one(item, container) for item in spec["containers"]]
    return {**patch, "spec": {**spec, "containers": mine}}


def _one(item: Any, container: str) -> Any:
    """One item of the patch's containers; what speaks of the other pod patches nothing here, in its place."""
    name = item.get("name") if isinstance(item, Mapping) else None
    if name == RAY:
        return {**item, "name": container}
    return {"name": container} if name in (HEAD, WORKER) and name != container else item
