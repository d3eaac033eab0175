"""From an answer of the API server that is no success to one of :mod:`.errors`. Pure."""

from __future__ import annotations

import json
from typing import Any

from fluxsampler_operator.errors import (
    ClusterUnavailable,
    Conflict,
    Forbidden,
    KindMissing,
    NotFound,
    OperatorError,
    Refused,
    WebhookFailed,
)


def error_of(code: int, body: bytes, retry_after: str | None, verb: str, path: str) -> OperatorError:
    """The error for HTTP status ``code``; the message quotes the server's own sentence."""
    status = _status(body)
    said = str(status.get("message") or body[:200].decode(errors="replace").strip() or f"HTTP {code}")
    call = f"{verb} {path}"
    match code:
        case 401:
            return Forbidden(f"the API server does not know the operator's credentials ({call}): {said}")
        case 403 if _is_rbac(said):
            return Forbidden(f"RBAC does not allow it; extend the operator's role: {said}")
        case 404 if status.get("reason") == "NotFound" and (status.get("details") or {}).get("name"):
            return NotFound(said)
        case 404:
            # A path that nobody serves is answered in plain text, or without the name of an object.
            return KindMissing(f"the cluster does not serve {path}: {said}")
        case 409:
            return Conflict(said)
        case 422 if _is_test_failure(said):
            return Conflict(said)
        case 500 if "failed to create typed patch object" in said:
            # Server-side apply of a field that the kind does not have, or of a wrong type: no fault of the server.
            return Refused(said)
        case 500 if "failed calling webhook" in said:
            return WebhookFailed(said)
        case 410 | 429 | 500 | 502 | 503 | 504:
            return ClusterUnavailable(
                f"the API server answers {code} to {call}: {said}", after_seconds=_seconds(retry_after)
            )
        case _:
            return Refused(said)


def _status(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _is_rbac(said: str) -> bool:
    # apiserver pkg/endpoints/handlers/responsewriters: `User "x" cannot patch resource "services" in API group …`.
    # Admission (quota, Pod Security, a terminating namespace) answers 403, too, in other words.
    return " cannot " in said and " resource " in said


def _is_test_failure(said: str) -> bool:
    return "testing value" in said or "test failed" in said


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:
        return None  # a date, which Kubernetes never sends
