"""The routes, as one FastAPI application, and its OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from fluxsampler_serve.gateway import info, jobs, page, schemas
from fluxsampler_serve.gateway.errors import ApiError, internal_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.gateway.images import EventStream, Images
    from fluxsampler_serve.router import Router

FORMS = ("multipart/", "image/", "audio/", "video/")
"""Media types of a body that cannot be meant as JSON; `curl -d` sends a form's type with JSON in it."""

ENGINE_HEADERS = {
    "x-fluxsampler-engine": {
        "description": "Which engine drew: `parallel` or `fallback`.",
        "schema": {"type": "string", "enum": ["parallel", "fallback"]},
    },
    "x-fluxsampler-engine-reason": {"description": "Why this engine.", "schema": {"type": "string"}},
}

ERROR_HEADERS = {
    "x-fluxsampler-engine": {
        "description": "Which engine failed, or `none`: no engine was asked.",
        "schema": {"type": "string", "enum": ["parallel", "fallback", "none"]},
    },
    "x-fluxsampler-engine-reason": {
        "description": "Why this engine, or why none.",
        "schema": {"type": "string"},
    },
}

ERRORS = {
    400: "The body is not JSON.",
    401: "No API key, or a wrong one.",
    404: "No such model or route.",
    405: "Another method is meant.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is wrong, or no engine can draw this; `param` names the field.",
    429: "Too many requests wait; `Retry-After` says when to come back.",
    500: "An unexpected error.",
    502: "The engines failed, or gave no valid picture.",
    503: "No engine is loaded yet; `Retry-After` says when to come back.",
    504: "The request's time was over.",
}


def create(args: AppArgs, images: Images, router: Router) -> FastAPI:
    """The application; :class:`~.shell.Shell` belongs around it."""
    app = FastAPI(title="FluxSampler", version=info.VERSION, docs_url=None, redoc_url=None)
    _handle_errors(app)
    guarded = args.serving.auth_token_env is not None

    def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
        named = (*statuses, 401) if guarded and statuses else statuses
        return {
            status: {"model": schemas.ErrorBody, "description": ERRORS[status], "headers": ERROR_HEADERS}
            for status in named
        }

    async def generate(request: Request) -> Response:
        request_id = request.scope["fluxsampler.request_id"]
        try:
            body = await read_body(request, args.serving.max_body_bytes)
            job = jobs.resolve(args, jobs.parse(body), request_id)
        except ApiError as error:
            images.refused(error, request_id)
            raise
        if job.stream:
            events, headers = await images.stream(job)
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return EventResponse(events, headers)
        return ImageAnswer(*await images.generate(job))

    app.router.add_api_route(
        "/v1/images/generations",
        generate,
        methods=["POST"],
        response_model=schemas.ImageResponse,
        responses=errors(400, 404, 413, 415, 422, 429, 500, 502, 503, 504),
        summary="Draw pictures",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ImageRequest"}}},
            }
        },
        route_class_override=DirectRoute,
    )
    model = schemas.Model(id=args.model.name, object="model", created=0, owned_by="fluxsampler")

    @app.get("/v1/models", responses=errors(500), summary="The models to choose from")
    async def list_models() -> schemas.ModelList:
        return schemas.ModelList(object="list", data=[model])

    @app.get("/v1/models/{model_id:path}", responses=errors(404, 500), summary="One model")
    async def get_model(model_id: str) -> schemas.Model:
        if model_id != model.id:
            raise ApiError(404, "model_not_found", f"there is no such model; use `{model.id}`", "model")
        return model

    @app.get("/v1/info", response_model=schemas.Info, responses=errors(500), summary="What runs here")
    async def get_info() -> Response:
        return JSONResponse(info.describe(args, router))

    @app.get("/healthz", response_model=schemas.State, summary="Whether this process answers")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz", response_model=schemas.State, responses=errors(503), summary="Whether an engine can draw"
    )
    async def readyz() -> Response:
        if router.ready():
            return JSONResponse({"status": "ready"})
        raise ApiError(503, "not_ready", router.unready(), headers={"retry-after": "2"})

    page.mount(app)
    app.openapi = lambda: _openapi(app, args)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


class DirectRoute(APIRoute):
    """A documented route whose endpoint takes the request and returns the response, and that is all.

    FastAPI would look for dependencies, bodies and models to fill in: a fifth of the gateway's time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook for routes of one's own."""
        return self.endpoint


class ImageAnswer(Response):
    """Pictures. ``done`` is called however the sending ends, and after it: nobody waits for the log line."""

    def __init__(self, content: bytes, headers: dict[str, str], done: Callable[[], None]) -> None:
        super().__init__(content, headers=headers, media_type="application/json")
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


class EventResponse(StreamingResponse):
    """Server-sent events, closed however the response ends: sent, left by its caller, or cancelled."""

    def __init__(self, events: EventStream, headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most ``limit`` bytes of it. Raises ApiError 413, 415."""
    kind = request.headers.get("content-type", "")
    if kind.startswith(FORMS):
        raise ApiError(
            415, "unsupported_media_type", "the body must be JSON (content-type: application/json)"
        )
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    size, chunks = 0, []
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "body_too_large", f"the body may have at most {limit} bytes")


def _handle_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> Response:
        return Response(error.content(), error.status, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def on_anything(request: Request, _: Exception) -> Response:
        return await on_api_error(request, internal_error())

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        known = {
            404: ("not_found", f"there is no {path[:100]} here; see /openapi.json"),
            405: ("method_not_allowed", f"{request.method} is not for this path; see the Allow header"),
        }
        code, message = known.get(error.status_code, ("http_error", str(error.detail)))
        api_error = ApiError(error.status_code, code, message, headers=error.headers)
        return await on_api_error(request, api_error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        path = ".".join(str(part) for part in fault["loc"])
        return await on_api_error(request, ApiError(422, "invalid_value", f"{path}: {fault['msg']}", path))


def _openapi(app: FastAPI, args: AppArgs) -> dict[str, Any]:
    """The document, with the request's schema, this service's own bounds, and the stream's media type."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    request = schemas.ImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    bounds = {
        "n": args.serving.max_pictures,
        "steps": args.serving.max_steps,
        "max_text_tokens": args.model.max_text_tokens,
        "timeout_seconds": args.serving.request_timeout_seconds,
    }
    for name, most in bounds.items():
        for choice in request["properties"][name]["anyOf"]:
            if choice["type"] != "null":
                choice["maximum"] = most
    request["properties"]["model"]["examples"] = [args.model.name]
    document["components"]["schemas"]["ImageRequest"] = request
    drawn = document["paths"]["/v1/images/generations"]["post"]["responses"]["200"]
    drawn["headers"] = ENGINE_HEADERS
    drawn["description"] = "The pictures, or with `stream` their events."
    drawn["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    if args.serving.auth_token_env is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    app.openapi_schema = document
    return document
