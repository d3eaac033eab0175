"""Where a pod finds what Kubernetes mounts into it: the model's cache, and models on claims."""

from __future__ import annotations

CACHE_FOLDER = "/cache"
"""`spec.model.cache`, whatever kind of volume it is."""

CLAIMS_FOLDER = "/models"
"""Below it one folder for each claim of a `pvc://` source, read-only."""

_SCHEME = "pvc://"


def claim_of(source: str) -> str | None:
    """The PersistentVolumeClaim that ``source`` names; None for sources of another kind."""
    return source.removeprefix(_SCHEME).partition("/")[0] if source.startswith(_SCHEME) else None


def mounted_source(source: str) -> str:
    """``source`` as the pod sees it: ``pvc://claim/path`` is a folder there, everything else stays."""
    if claim_of(source) is None:
        return source
    return f"file://{CLAIMS_FOLDER}/{source.removeprefix(_SCHEME).rstrip('/')}"
