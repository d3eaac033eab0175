"""The gateway as a Serve deployment: HTTP in front, the router inside, samplers behind handles."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import structlog
from ray import serve

from fluxsampler_api.app_args import AppArgs, StartArgs
from fluxsampler_serve import logs
from fluxsampler_serve.admission import Admission
from fluxsampler_serve.clients import HandleClient
from fluxsampler_serve.errors import ServeError
from fluxsampler_serve.gateway import http
from fluxsampler_serve.gateway.images import Images
from fluxsampler_serve.gateway.shell import Access, Shell
from fluxsampler_serve.metrics import GatewayMetrics
from fluxsampler_serve.router import Router

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp, Receive, Scope, Send

    from fluxsampler_serve.engines.protocol import EngineName
    from fluxsampler_serve.metrics import Metrics
    from fluxsampler_serve.router import SamplerClient

log = structlog.get_logger(__name__)


def compose(
    args: AppArgs,
    parallel: SamplerClient | None,
    fallback: SamplerClient | None,
    metrics: Metrics,
    *,
    answer_id: bool,
    admission: Admission | None = None,
) -> ASGIApp:
    """The whole HTTP application around two clients; ``admission`` None makes one.

    Raises ServeError when the token is not to be had.
    """
    router = Router(args, parallel, fallback, metrics)
    admission = admission or new_admission(args, metrics)
    app = http.create(args, Images(args, router, admission, metrics), router)
    access = Access(api_token(args), args.serving.probe_token_sha256)
    return Shell(app, access, answer_id=answer_id, metrics=metrics)


def new_admission(args: AppArgs, metrics: Metrics) -> Admission:
    """Admission with the limits of ``args``."""
    serving = args.serving
    return Admission(
        serving.max_ongoing_requests,
        serving.max_queued_requests,
        args.plan.estimate.seconds_per_image,
        metrics.load,
    )


def api_token(args: StartArgs) -> str | None:
    """The token that requests must bring. Raises ServeError if one is wanted and not set: never open by mistake."""
    name = args.serving.auth_token_env
    if name is None:
        return None
    token = os.environ.get(name, "").strip()
    if not token:
        raise ServeError(f"the API token is missing: set the environment variable {name} for the Serve app")
    return token


class Current:
    """The application that answers now. Requests that it began with the one before are ended by that."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Serve starts the lifespan before it hands the settings over, so that is answered here."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif self.app is None:
            raise ServeError("the gateway has no settings: Serve was given no user_config for it")
        else:
            await self.app(scope, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


class Gateway:
    """One replica answers HTTP; it holds no model and needs no GPU."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, start: StartArgs, parallel: DeploymentHandle | None, fallback: DeploymentHandle | None
    ) -> None:
        logs.configure()
        api_token(start)  # rather now than at the first request
        self._start = start
        self._handles: Mapping[EngineName, DeploymentHandle | None] = {
            "parallel": parallel,
            "fallback": fallback,
        }
        self._metrics = GatewayMetrics()
        self._admission: Admission | None = None
        self._clients: dict[tuple[EngineName, bool], HandleClient] = {}
        self._watches: dict[tuple[EngineName, bool], asyncio.Task[None]] = {}
        self._current = Current()

    async def reconfigure(self, live: dict[str, Any]) -> None:
        """Serve's hook for what may change in place: at the start, and with every change of it.

        Requests under way are ended as they began. Raises pydantic's ValidationError for what does not fit.
        """
        args = AppArgs.merged(self._start, live).answering()
        serving = args.serving
        if self._admission is None:
            self._admission = new_admission(args, self._metrics)
        else:
            self._admission.resize(serving.max_ongoing_requests, serving.max_queued_requests)
        wanted: dict[EngineName, bool] = {}
        if args.parallel is not None:
            wanted["parallel"] = False
        if args.fallback is not None:
            wanted["fallback"] = args.fallback.min_replicas == 0
        clients = {name: self._client(name, on_demand, args) for name, on_demand in wanted.items()}
        # Under Serve every response gets its x-request-id from Serve; a second one would confuse.
        self._current.app = compose(
            args,
            clients.get("parallel"),
            clients.get("fallback"),
            self._metrics,
            answer_id=False,
            admission=self._admission,
        )
        for key in self._watches.keys() - wanted.items():
            self._watches.pop(key).cancel()  # or its questions would keep an engine that is to go
            del self._clients[key]
        log.info("configured", engines=sorted(wanted), limit=serving.max_ongoing_requests)

    def _client(self, name: EngineName, on_demand: bool, args: AppArgs) -> HandleClient:
        """The one there is, with what it knows of its engine, or a new one."""
        silence, key = args.serving.request_timeout_seconds, (name, on_demand)
        if key in self._clients:
            self._clients[key].silence_seconds = silence
            return self._clients[key]
        handle = self._handles[name]
        if handle is None:
            raise ServeError(f"the settings ask for the {name} engine, the application has none")
        client = HandleClient(name, handle, on_demand=on_demand, silence_seconds=silence)
        self._clients[key] = client
        self._watches[key] = asyncio.create_task(client.watch())
        return client

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._current


GATEWAY: serve.Deployment = serve.deployment(serve.ingress()(Gateway))
