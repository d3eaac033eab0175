"""The gateway as a Serve deployment: HTTP in front, the router inside, samplers behind handles."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ray import serve

from fluxsampler_serve import logs
from fluxsampler_serve.admission import Admission
from fluxsampler_serve.clients import HandleClient
from fluxsampler_serve.errors import ServeError
from fluxsampler_serve.gateway import http
from fluxsampler_serve.gateway.images import Images
from fluxsampler_serve.gateway.shell import Shell
from fluxsampler_serve.metrics import GatewayMetrics
from fluxsampler_serve.router import Router

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp

    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.metrics import Metrics
    from fluxsampler_serve.router import SamplerClient


def compose(
    args: AppArgs,
    parallel: SamplerClient | None,
    fallback: SamplerClient | None,
    metrics: Metrics,
    *,
    answer_id: bool,
) -> ASGIApp:
    """The whole HTTP application around two clients. Raises ServeError when the token is not to be had."""
    router = Router(args, parallel, fallback, metrics)
    serving = args.serving
    admission = Admission(
        serving.max_ongoing_requests,
        serving.max_queued_requests,
        args.plan.estimate.seconds_per_image,
        metrics.load,
    )
    app = http.create(args, Images(args, router, admission, metrics), router)
    return Shell(app, api_token(args), answer_id=answer_id, metrics=metrics)


def api_token(args: AppArgs) -> str | None:
    """The token that requests must bring. Raises ServeError if one is wanted and not set: never open by mistake."""
    name = args.serving.auth_token_env
    if name is None:
        return None
    token = os.environ.get(name, "").strip()
    if not token:
        raise ServeError(f"the API token is missing: set the environment variable {name} for the Serve app")
    return token


class Gateway:
    """One replica answers HTTP; it holds no model and needs no GPU."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: AppArgs, parallel: DeploymentHandle | None, fallback: DeploymentHandle | None
    ) -> None:
        logs.configure()
        silence = args.serving.request_timeout_seconds
        clients: list[HandleClient | None] = [None, None]
        if parallel is not None:
            clients[0] = HandleClient("parallel", parallel, on_demand=False, silence_seconds=silence)
        if fallback is not None and args.fallback is not None:
            on_demand = args.fallback.min_replicas == 0
            clients[1] = HandleClient("fallback", fallback, on_demand=on_demand, silence_seconds=silence)
        # Under Serve every response gets its x-request-id from Serve; a second one would confuse.
        self._asgi = compose(args, clients[0], clients[1], GatewayMetrics(), answer_id=False)
        self._watches = [asyncio.create_task(client.watch()) for client in clients if client is not None]

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._asgi


GATEWAY: serve.Deployment = serve.deployment(serve.ingress()(Gateway))
