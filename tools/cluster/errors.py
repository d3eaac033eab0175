"""What can go wrong with the cluster, each with the sentence that says what to do.

ClusterError
├── CannotRun          this machine lacks something: no root, no packages, no Go, a port taken
├── BuildFailed        a program could not be built or fetched
├── NotReady           something started and did not become ready in time, or ended
├── CommandFailed      kubectl or a system program ended with an error
└── ApiFailure         the API server refused a request
"""

from __future__ import annotations


class ClusterError(Exception):
    """Any failure of this package; its text is written for people."""


class CannotRun(ClusterError):
    """The machine lacks something that only its owner can give."""


class BuildFailed(ClusterError):
    """A program could not be built or fetched; the text names its log."""


class NotReady(ClusterError):
    """A part did not become ready in time, or ended; the text holds the end of its log."""


class CommandFailed(ClusterError):
    """A program that was run ended with an error; the text is what it printed."""


class ApiFailure(ClusterError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.answer = message
