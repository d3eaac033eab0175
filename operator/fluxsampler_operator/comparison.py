"""Does a live object still say what a manifest asked for? Pure; decides whether an apply is sent at all.

Fields that the manifest does not name belong to others: the API server's defaults, other controllers. Lists are
whole: a container or port that somebody added to a list of ours is a difference. So are selectors: one label more
chooses other pods, or none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from fluxsampler_api.quantity import Quantity
from fluxsampler_operator.manifest import Manifest

# Fields that hold quantities, which the API server writes in its own way (1000m is 1).
_QUANTITIES = frozenset({"limits", "requests", "sizeLimit", "storage"})
# Atomic in Kubernetes' schema: an apply replaces them as a whole.
_WHOLE = frozenset({"selector", "podSelector", "namespaceSelector", "labelSelector", "matchLabels"})


def digest(manifest: Manifest) -> str:
    """Short hash of a manifest; an object that carries another one lacks what was removed or added since."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(wanted: Any, live: Any) -> tuple[str, ...]:
    """Dotted paths at which ``live`` does not say what ``wanted`` does; empty when nothing is to be applied."""
    return tuple(_walk(wanted, live, "", quantity=False))


def _walk(wanted: Any, live: Any, path: str, *, quantity: bool) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            below = f"{path}.{key}" if path else str(key)
            if key in live:
                yield from _walk(value, live[key], below, quantity=quantity or key in _QUANTITIES)
                if key in _WHOLE and isinstance(value, dict) and isinstance(live[key], dict):
                    yield from (f"{below}.{added}" for added in sorted(set(live[key]) - set(value)))
            elif value not in (None, {}, []):
                yield below
    elif isinstance(wanted, list) and isinstance(live, list):
        if len(wanted) != len(live):
            yield f"{path}[#]"
        for index, (ours, theirs) in enumerate(zip(wanted, live, strict=False)):
            yield from _walk(ours, theirs, f"{path}[{index}]", quantity=quantity)
    elif wanted != live and not (quantity and _same_quantity(wanted, live)):
        yield path


def _same_quantity(one: Any, other: Any) -> bool:
    try:
        return bool(Quantity(str(one)) == Quantity(str(other)))
    except ValueError:
        return False
