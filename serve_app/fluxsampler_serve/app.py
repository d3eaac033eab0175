"""The composition: typed args in, a Ray Serve application out.

``import_path: fluxsampler_serve.app:build`` on a cluster, ``serve.run(build(args))`` on one machine.
There all of :class:`AppArgs` is given here; on a cluster only its start, and the rest comes as
overrides of the deployments' options (:mod:`fluxsampler_api.serve_config`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxsampler_api.app_args import AppArgs, FallbackArgs, ParallelArgs, StartArgs
from fluxsampler_api.serve_config import FALLBACK as FALLBACK_NAME
from fluxsampler_api.serve_config import GATEWAY as GATEWAY_NAME
from fluxsampler_api.serve_config import PARALLEL as PARALLEL_NAME
from fluxsampler_api.serve_config import SERVE_LOGS, autoscaling
from fluxsampler_serve import cards
from fluxsampler_serve.deployments import FALLBACK, PARALLEL
from fluxsampler_serve.engines.build import build_engine
from fluxsampler_serve.gateway.deployment import GATEWAY

if TYPE_CHECKING:
    from ray.serve import Application

    from fluxsampler_serve.engines.build import EngineFactory

GATEWAY_REQUESTS = 4096
"""HTTP requests in one gateway at once (HAProxy's own limit): admission is ours, since Serve's back pressure
answers 503 without Retry-After."""

SAMPLER_REQUESTS = 2
"""Pictures in one sampler at once: one being drawn, and the next one (or the last one's encoding) beside it."""

HEALTH_SECONDS = 5.0
"""How often Serve asks a replica for its health; a sampler whose engine broke is replaced then."""


def build(args: StartArgs | dict[str, Any]) -> Application:
    """The application with real engines. ``args``: :class:`AppArgs` or the start of it, or its JSON as Serve
    hands it over."""
    return compose(args if isinstance(args, StartArgs) else _read(args), build_engine)


def compose(args: StartArgs, engines: EngineFactory) -> Application:
    """The application with the engines that ``engines`` builds."""
    start = args.start() if isinstance(args, AppArgs) else args
    return GATEWAY.options(
        name=GATEWAY_NAME,
        max_ongoing_requests=GATEWAY_REQUESTS,
        logging_config=SERVE_LOGS,
        ray_actor_options={"num_cpus": 0},
        **_gateway(args),
    ).bind(start, _parallel(args, start, engines), _fallback(args, start, engines))


def _read(args: dict[str, Any]) -> StartArgs:
    return (AppArgs if "plan" in args else StartArgs).model_validate(args)


def _parallel(args: StartArgs, start: StartArgs, engines: EngineFactory) -> Application | None:
    gang = args.parallel
    if gang is None:
        return None
    counts = (
        _replicas(gang.replicas, gang.most, gang.target_ongoing_requests)
        if isinstance(gang, ParallelArgs)
        else {}
    )
    return PARALLEL.options(
        name=PARALLEL_NAME,
        **_sampler(args),
        **cards.gang_options(gang, args.placement),
        **counts,
    ).bind(start, engines)


def _fallback(args: StartArgs, start: StartArgs, engines: EngineFactory) -> Application | None:
    single = args.fallback
    if single is None:
        return None
    counts = _replicas(single.min_replicas, single.most, 1) if isinstance(single, FallbackArgs) else {}
    return FALLBACK.options(
        name=FALLBACK_NAME,
        **_sampler(args),
        **cards.single_options(single, args.placement),
        **counts,
    ).bind(start, engines)


def _gateway(args: StartArgs) -> dict[str, Any]:
    if not isinstance(args, AppArgs):
        return {}
    return {
        "num_replicas": args.serving.gateway_replicas,
        "graceful_shutdown_timeout_s": args.serving.request_timeout_seconds,
        "user_config": args.live(),
    }


def _sampler(args: StartArgs) -> dict[str, Any]:
    """What every deployment of samplers is told."""
    options = {
        "max_ongoing_requests": SAMPLER_REQUESTS,
        "health_check_period_s": HEALTH_SECONDS,
        "logging_config": SERVE_LOGS,
    }
    if isinstance(args, AppArgs):
        options["graceful_shutdown_timeout_s"] = args.serving.request_timeout_seconds
    return options


def _replicas(least: int, most: int, ongoing: int) -> dict[str, Any]:
    """A fixed number, or Serve's autoscaling between two."""
    return (
        {"num_replicas": least}
        if most == least > 0
        else {"autoscaling_config": autoscaling(least, most, ongoing)}
    )
