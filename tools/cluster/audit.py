"""The API server's audit log: who asked for what, as values. Tests count writes and used rights with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

# Every request once, when it is answered, without bodies. Reads by the cluster's own parts say nothing
# about FluxSampler and would be most of the log.
_OWN_USERS = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy",
              "system:coredns", "fluxsampler-node-keeper"]  # fmt: skip
_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]},
        {"level": "None", "users": _OWN_USERS, "verbs": ["get", "list", "watch"]},
        {
            "level": "None",
            "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"],
            "verbs": ["get", "list", "watch"],
        },
        {"level": "Metadata"},
    ],
}


def policy() -> str:
    """The audit policy file."""
    return yaml.safe_dump(_POLICY, sort_keys=False)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One answered request. A watch appears when it ends. ``code`` is the HTTP status."""

    verb: str
    user: str
    groups: tuple[str, ...]
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    agent: str
    uri: str
    time: str

    @property
    def writes(self) -> bool:
        """Whether the request could change something (a dry run could not)."""
        return self.verb in WRITES and "dryRun=" not in self.uri


class AuditLog:
    """The log at ``path``, read from wherever a test began to care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """The present end; give it to :meth:`events`."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def events(self, since: int = 0) -> Iterator[AuditEvent]:
        """Requests answered after mark ``since``, in order."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(since)
            for line in file:
                if line.endswith(b"\n"):
                    yield _event(json.loads(line))

    def writes(self, since: int = 0, user: str | None = None) -> list[AuditEvent]:
        """Those that write, of ``user`` only if one is given; refused requests are among them."""
        return [event for event in self.events(since) if event.writes and user in (None, event.user)]


def _event(document: dict[str, Any]) -> AuditEvent:
    target = document.get("objectRef", {})
    return AuditEvent(
        verb=document["verb"],
        user=document["user"]["username"],
        groups=tuple(document["user"].get("groups", ())),
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=document.get("responseStatus", {}).get("code", 0),
        agent=document.get("userAgent", ""),
        uri=document["requestURI"],
        time=document["stageTimestamp"],
    )
