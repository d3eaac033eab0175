"""Manifests, whose they are, and how they are named and labelled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from fluxsampler_api.sampler import API_VERSION, GROUP, KIND

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""

FIELD_MANAGER = "fluxsampler-operator"
NAME_LABEL = "app.kubernetes.io/name"
SAMPLER_LABEL = f"{GROUP}/sampler"
FORM_ANNOTATION = f"{GROUP}/form"
"""Digest of what Ray's pods are made of: on the RayService, its RayClusters and their pods (builders/form.py)."""
# KubeRay refuses longer names of a RayService: rayservice_controller_utils.go, ValidateRayServiceMetadata.
LONGEST_NAME = 47
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Owner:
    """The FluxSampler that a manifest belongs to; ``uid`` is None where there is no cluster (render)."""

    name: str
    namespace: str
    uid: str | None = None

    @property
    def child(self) -> str:
        """Name of its children."""
        return child_name(self.name)

    @property
    def references(self) -> list[Manifest]:
        """ownerReferences of its children; without blockOwnerDeletion, which would need more rights."""
        if self.uid is None:
            return []
        return [
            {"apiVersion": API_VERSION, "kind": KIND, "name": self.name, "uid": self.uid, "controller": True}
        ]


def child_name(name: str) -> str:
    """A DNS-1035 label of at most 47 characters; shortened or changed names end in a hash of the whole.

    The same name always gives the same child, two names never the same one.
    """
    plain = name.replace(".", "-")
    if not plain[0].isalpha():
        plain = f"fxs-{plain}"
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{plain[: LONGEST_NAME - _DIGEST - 1].rstrip('-')}-{digest}"


def labels(owner: Owner, component: str) -> dict[str, str]:
    """Labels of a child: Kubernetes' recommended ones, and ours to find it by."""
    return {
        NAME_LABEL: "fluxsampler",
        # A label's value ends at 63 characters, a name does not.
        "app.kubernetes.io/instance": owner.name if len(owner.name) <= 63 else owner.child,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        SAMPLER_LABEL: owner.child,
    }


def selector(owner: Owner) -> dict[str, str]:
    """Labels that choose all pods of a FluxSampler."""
    return {SAMPLER_LABEL: owner.child}


def metadata(owner: Owner, component: str, suffix: str = "") -> Manifest:
    """``metadata`` of a child; ``suffix`` tells children of one kind apart."""
    made: Manifest = {
        "name": f"{owner.child}{suffix}",
        "namespace": owner.namespace,
        "labels": labels(owner, component),
    }
    if owner.references:
        made["ownerReferences"] = owner.references
    return made
