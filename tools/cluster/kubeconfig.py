"""Kubeconfig files that need no other file, and what is read back from one."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from tools.cluster.certificates import Authority, Identity
from tools.cluster.files import publish


def write(
    path: Path, server: str, authority: Authority, identity: Identity, name: str = "fluxsampler"
) -> Path:
    """A kubeconfig at ``path`` for ``identity`` at ``server``, everything inside, readable by its owner only."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": text(authority.certificate)},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": text(identity.certificate),
                    "client-key-data": text(identity.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return publish(path, yaml.safe_dump(document, sort_keys=False), 0o600)
