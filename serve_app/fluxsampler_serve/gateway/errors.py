"""Errors as OpenAI's clients expect them, and what each error of the Serve app becomes in HTTP."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from fluxsampler_serve.errors import (
    DeadlineExceeded,
    EngineError,
    NotReady,
    PictureRefused,
    PromptTooLong,
    QueueFull,
    RequestRefused,
    ServeError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError

ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat every 5xx twice by themselves unless this header says not to."""


UNROUTED = {
    401: "Unauthorized",
    404: "NotFound",
    405: "MethodNotAllowed",
    429: "NotAdmitted",
    500: "Unexpected",
    503: "NotReady",
    504: "DeadlineExceeded",
}
"""Why no engine stands behind an error, where it is not that the request was `Invalid`."""


class ApiError(Exception):
    """An answer that is an error. ``message`` is one sentence that names the fix; ``param`` the field's path.

    Its headers say that no engine was asked, and why, unless ``headers`` know better.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = {
            "x-fluxsampler-engine": "none",
            "x-fluxsampler-engine-reason": UNROUTED.get(status, "Invalid"),
            **(headers or {}),
        }

    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        kind = ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def content(self) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body()).encode()


def from_serve_error(error: ServeError, retry_after: int) -> ApiError:
    """What the caller is told. ``retry_after``: seconds, for the answers that ask to come back."""
    message = str(error)
    later = {"retry-after": str(retry_after)}
    match error:
        case PromptTooLong():
            return ApiError(422, "prompt_too_long", message, "prompt")
        case RequestRefused():
            return ApiError(422, "not_drawable", message)
        case QueueFull():
            return ApiError(429, "queue_full", message, headers=later)
        case NotReady():
            return ApiError(503, "not_ready", message, headers=later)
        case DeadlineExceeded():
            return ApiError(504, "deadline_exceeded", message, headers=NO_RETRY)
        case PictureRefused():
            return ApiError(
                502, "no_valid_picture", f"no engine produced a valid picture: {message}", headers=NO_RETRY
            )
        case EngineError():
            return ApiError(502, "engine_failed", f"no engine could draw the picture: {message}")
        case _:
            return internal_error()


def internal_error() -> ApiError:
    """What is said of an exception that nobody expected: nothing but that it is logged."""
    return ApiError(500, "internal_error", "an unexpected error; its log line carries this request's id")


def from_validation(error: ValidationError, fields: Iterable[str]) -> ApiError:
    """The first fault of a body, with the field's path and the fix."""
    fault = error.errors(include_url=False, include_context=True)[0]
    if fault["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is not JSON: {fault['ctx']['error']}")
    path = _shown(".".join(str(part) for part in fault["loc"])) or None
    match fault["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(_shown(str(fault["loc"][-1])), list(fields), n=1)
            hint = f"did you mean `{close[0]}`?" if close else "see /openapi.json for the fields"
            return ApiError(422, "unknown_field", f"{path}: unknown field; {hint}", path)
        case "missing":
            return ApiError(422, "missing_field", f"{path}: this field is required", path)
        case "value_error":
            text = str(fault["ctx"]["error"])
        case _:
            text = fault["msg"][0].lower() + fault["msg"][1:]
    return ApiError(422, "invalid_value", f"{path}: {text}" if path else text, path)


def _shown(text: str) -> str:
    """A field's name as given, cut to a readable length: a caller may send a megabyte of it."""
    return text if len(text) <= 80 else f"{text[:77]}..."
