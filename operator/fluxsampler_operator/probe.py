"""The token that the operator shows when it asks for its own picture, without reading anybody's Secret.

It is derived from the operator's key and the FluxSampler's identity; the pods learn only its digest.
"""

from __future__ import annotations

import hashlib
import hmac

from fluxsampler_operator.manifest import Owner


def probe_token(key: bytes, owner: Owner) -> str:
    """Bearer token for ``owner``: hex HMAC-SHA256 of its namespace, name and uid."""
    identity = f"{owner.namespace}/{owner.name}/{owner.uid or ''}"
    return hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()


def probe_digest(key: bytes, owner: Owner) -> str:
    """Hex SHA-256 of the token: what the Gateway compares with."""
    return hashlib.sha256(probe_token(key, owner).encode()).hexdigest()
