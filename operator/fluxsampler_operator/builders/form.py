"""The form of Ray's pods: a digest of everything that pods are made of.

It is written on the RayService, whose annotations KubeRay copies to each RayCluster it creates, and
into both pod templates. So each pod says which form it has, and equal digests need no new pods.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from fluxsampler_operator.manifest import FORM_ANNOTATION

if TYPE_CHECKING:
    from fluxsampler_operator.manifest import Manifest

_DIGITS = 16


def stamp(
    cluster: Manifest, serve: dict[str, Any], strategy: Literal["InPlace", "Recreate", "NewCluster"]
) -> dict[str, str]:
    """Write the form of ``cluster`` (a rayClusterConfig) into its templates; the annotation, for the RayService.

    Under Recreate what Serve would restart in living pods (its application's args) asks for new pods too.
    """
    told: list[Any] = [cluster]
    if strategy == "Recreate":
        told += [application["args"] for application in serve["applications"]]
    annotation = {FORM_ANNOTATION: _digest(told)}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        meta = group["template"]["metadata"]
        meta["annotations"] = {**meta.get("annotations", {}), **annotation}
    return dict(annotation)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
