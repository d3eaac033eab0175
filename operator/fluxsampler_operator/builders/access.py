"""What the pods may do in Kubernetes: nothing, under a name of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_operator.manifest import metadata

if TYPE_CHECKING:
    from fluxsampler_operator.manifest import Manifest, Owner


def service_account(owner: Owner) -> Manifest:
    """The pods' ServiceAccount: no rights, and no token in any pod that uses it."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner, "access"),
        "automountServiceAccountToken": False,
    }
