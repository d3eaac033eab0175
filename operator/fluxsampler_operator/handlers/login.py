"""How kopf reaches the cluster: as the official client does, like the rest of the operator."""

from __future__ import annotations

from typing import Any

import kopf


def log_in(registry: kopf.OperatorRegistry) -> None:
    """The pod's service account, else KUBECONFIG; asked again when the token expires."""

    @kopf.on.login(registry=registry)
    def by_client(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_via_client(**arguments)
