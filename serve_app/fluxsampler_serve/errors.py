"""Every exception of the Serve app, as one tree.

::

    ServeError
    ├── RequestRefused            the request cannot be drawn as asked; another engine may
    │   └── PromptTooLong
    ├── Cancelled                 the caller asked to stop
    ├── ModelError                the model cannot be loaded
    │   ├── ModelNotFound
    │   ├── ModelAuthFailed
    │   ├── ModelCorrupt
    │   └── ModelMismatch         dtype, architecture or catalogue differ from what was planned
    ├── EngineError
    │   ├── EngineStartFailed     a gang or device did not come up
    │   ├── EngineFailed          broke while drawing; the engine must be closed or rebuilt
    │   └── AdapterMismatch       xfuser moved under the adapter
    ├── PictureRefused            the guard refused a picture
    └── NotServed                 no engine was asked, or none answered in time
        ├── QueueFull             too many requests wait already
        ├── NotReady              no engine is loaded and healthy
        └── DeadlineExceeded      the request's time was over before its picture was drawn

Messages are one sentence and name the fix. Arguments are plain strings, so that each exception
survives pickling between processes.
"""

from __future__ import annotations


class ServeError(Exception):
    """Base of all errors of the Serve app."""


class RequestRefused(ServeError):
    """The request cannot be drawn as asked by this engine."""


class PromptTooLong(RequestRefused):
    """The prompt has more tokens than the request allows, and truncation was not asked for."""


class Cancelled(ServeError):
    """The caller asked the running call to stop."""


class ModelError(ServeError):
    """The model cannot be loaded."""


class ModelNotFound(ModelError):
    """No model at the source: a missing folder, repository, revision or component."""


class ModelAuthFailed(ModelError):
    """The model's host refused the token, or wants one."""


class ModelCorrupt(ModelError):
    """A file of the model is damaged or incomplete."""


class ModelMismatch(ModelError):
    """The model is not what was planned: another dtype, architecture or size."""


class EngineError(ServeError):
    """An engine failed."""


class EngineStartFailed(EngineError):
    """The engine did not come up."""


class EngineFailed(EngineError):
    """The engine broke while drawing."""


class AdapterMismatch(EngineError):
    """The installed xfuser is not the one that the CPU adapter was written for."""


class PictureRefused(ServeError):
    """The guard refused a picture: not finite, flat or noise."""


class NotServed(ServeError):
    """The request was not drawn for lack of room, of an engine or of time."""


class QueueFull(NotServed):
    """Too many requests wait already."""


class NotReady(NotServed):
    """No engine is loaded and healthy."""


class DeadlineExceeded(NotServed):
    """The request's time was over before its picture was drawn."""
