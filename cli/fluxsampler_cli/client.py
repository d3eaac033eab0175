"""HTTP to a service: one streamed request, its events, and its errors as ours."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx

from fluxsampler_cli.errors import InputError, NotRunning, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

# To connect; once connected, the service's own deadline decides, and this only notices a dead one.
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Step ``step`` of ``steps`` of picture ``index`` (0-based) is done."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Preview:
    """How picture ``index`` looks so far."""

    index: int
    step: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """Picture ``index`` is drawn; ``facts`` is the service's `fluxsampler` object."""

    index: int
    data: bytes
    form: str
    seed: int
    engine: str
    engine_reason: str
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


Event = Progress | Preview | Picture


class Client:
    """A connection to the service at ``url``; use it as a context manager."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--url {url} is no URL; write it as http://host:port")
        headers = {"authorization": f"Bearer {token.strip()}"} if token else {}
        timeout = httpx.Timeout(_CONNECT_SECONDS, read=_SILENCE_SECONDS, write=_SILENCE_SECONDS)
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError) as error:
            raise InputError(f"--url {url} or the token cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def draw(self, body: dict[str, Any]) -> Iterator[Event]:
        """Ask for pictures with ``body`` and yield what happens, as it happens.

        Raises:
            NotRunning: nothing answers there, or it fell silent.
            ServiceError: the service refused or failed; the message is its own.
        """
        content = json.dumps(body | {"stream": True}, ensure_ascii=False)
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        try:
            with self._http.stream(
                "POST", "/v1/images/generations", content=content, headers=headers
            ) as answer:
                if not answer.is_success:
                    raise _refused(answer.status_code, answer.read(), self.url)
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    raise ServiceError(f"{self.url} is no FluxSampler: it does not stream; check --url")
                yield from (
                    event for one in _sse(answer.iter_lines()) if (event := self._event(*one)) is not None
                )
        except httpx.ConnectError as error:
            raise NotRunning(
                f"nothing answers at {self.url}; see `fluxsampler status`, or check --url"
            ) from error
        except httpx.TimeoutException as error:
            raise NotRunning(
                f"{self.url} does not answer in time; see `fluxsampler status` and its log"
            ) from error
        except httpx.HTTPError as error:
            raise NotRunning(
                f"the connection to {self.url} broke: {error}; see `fluxsampler status`"
            ) from error

    def _event(self, name: str, text: str) -> Event | None:
        """One server-sent event; None for one that is not known here. Raises :class:`ServiceError` for an error."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ServiceError(f"{self.url} sent an event that is not JSON; is it a FluxSampler?") from error
        if name == "error":
            raise _service_error(None, data)
        own = data.get("fluxsampler", data)
        match data.get("type"):
            case "fluxsampler.progress":
                return Progress(own["index"], own["step"], own["steps"])
            case "image_generation.partial_image":
                return Preview(own["index"], own["step"], b64decode(data["b64_json"]))
            case "image_generation.completed":
                (drawn,) = own["pictures"]
                return Picture(
                    index=own["index"],
                    data=b64decode(data["b64_json"]),
                    form=data["output_format"],
                    seed=drawn["seed"],
                    engine=drawn["engine"],
                    engine_reason=drawn["engine_reason"],
                    seconds=sum(drawn["seconds"].values()),
                    facts=own,
                )
            case _:
                return None


def _sse(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event of a text/event-stream (WHATWG HTML, 9.2.6)."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            data.append(value)


def _refused(status: int, body: bytes, url: str) -> ServiceError | NotRunning:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), dict):
        return ServiceError(
            f"{url} answered {status} and no FluxSampler error; check --url, and the service's log"
        )
    return _service_error(status, answer)


def _service_error(status: int | None, answer: dict[str, Any]) -> ServiceError:
    error = answer.get("error", {})
    message = str(error.get("message") or "no message").strip()
    code = error.get("code")
    shown = " ".join(str(part) for part in (status, code) if part)
    hint = "; set FLUXSAMPLER_API_TOKEN or give --token" if status == httpx.codes.UNAUTHORIZED else ""
    return ServiceError(f"{message}{hint} ({shown})" if shown else message)
