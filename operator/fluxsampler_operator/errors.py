"""Every exception of the operator, as one tree. Whether to try again is in the type.

::

    OperatorError
    ├── LeadershipLost            another operator may work now: this process ends
    ├── Retryable                 the same call may succeed later
    │   ├── ClusterUnavailable    the API server did not answer, or answered 429 or 5xx
    │   ├── Conflict              another writer was first
    │   ├── NotLeading            nothing was sent, since this process does not lead
    │   └── WebhookFailed         an admission webhook did not answer for this object
    └── Permanent                 the same call fails again until a person or an object changes
        ├── NotFound              there is no such object
        ├── NotOurs               an object of that name belongs to somebody else
        ├── Forbidden             RBAC does not allow it
        ├── Refused               the API server refuses the object: schema, admission, Pod Security, quota
        ├── WrongPatch            spec.podTemplate cannot be merged into the pods
        └── KindMissing           the cluster does not know the kind, such as RayService without KubeRay
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all errors of the operator."""


class LeadershipLost(OperatorError):
    """The Lease is somebody else's, or could not be renewed in time."""


class Retryable(OperatorError):
    """The same call may succeed later; ``after_seconds`` is the server's own wish, if it has one."""

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class ClusterUnavailable(Retryable):
    """The API server did not answer in time, or asked to come back."""


class Conflict(Retryable):
    """Another writer was first."""


class NotLeading(Retryable):
    """A write was not sent, since the Lease that allows it has run out."""


class WebhookFailed(Retryable):
    """An admission webhook of the cluster did not answer for this object; a person should know meanwhile."""


class Permanent(OperatorError):
    """The same call fails again until something else changes."""


class NotFound(Permanent):
    """There is no such object; never shown to a person, the caller knows what its absence means."""


class NotOurs(Permanent):
    """An object of the name that a manifest needs exists and belongs to somebody else."""


class Forbidden(Permanent):
    """RBAC does not allow the call; the message names verb, resource and namespace."""


class Refused(Permanent):
    """The API server refuses the object."""


class KindMissing(Permanent):
    """The cluster does not know the kind."""


class WrongPatch(Permanent):
    """`spec.podTemplate` cannot be merged into the pods; ``path`` is the field to correct, ``detail`` says how."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail
