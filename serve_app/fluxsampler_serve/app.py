"""The composition: typed args in, a Ray Serve application out.

``import_path: fluxsampler_serve.app:build`` on a cluster, ``serve.run(build(args))`` on one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxsampler_api.app_args import AppArgs
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

SERVE_LOGS = {"enable_access_log": False, "log_level": "WARNING"}
"""Serve's own lines: one for each call costs a tenth of a millisecond, and ours says more."""

HEALTH_SECONDS = 5.0
"""How often Serve asks a replica for its health; a sampler whose engine broke is replaced then."""


def build(args: AppArgs | dict[str, Any]) -> Application:
    """The application with real engines. ``args``: :class:`AppArgs`, or its JSON as Serve hands it over."""
    return compose(args if isinstance(args, AppArgs) else AppArgs.model_validate(args), build_engine)


def compose(args: AppArgs, engines: EngineFactory) -> Application:
    """The application with the engines that ``engines`` builds."""
    return GATEWAY.options(
        name="Gateway",
        num_replicas=args.serving.gateway_replicas,
        max_ongoing_requests=GATEWAY_REQUESTS,
        logging_config=SERVE_LOGS,
        ray_actor_options={"num_cpus": 0},
    ).bind(args, _parallel(args, engines), _fallback(args, engines))


def _parallel(args: AppArgs, engines: EngineFactory) -> Application | None:
    gang = args.parallel
    if gang is None:
        return None
    return PARALLEL.options(
        name="ParallelSampler",
        **_sampler(args),
        **cards.deployment_options(gang.gpu_shares),
        **_replicas(gang.replicas, gang.max_replicas, gang.target_ongoing_requests),
    ).bind(args, engines)


def _fallback(args: AppArgs, engines: EngineFactory) -> Application | None:
    single = args.fallback
    if single is None:
        return None
    return FALLBACK.options(
        name="FallbackSampler",
        **_sampler(args),
        ray_actor_options={"num_cpus": 0, "num_gpus": single.gpus_per_replica},
        **_replicas(single.min_replicas, single.max_replicas, 1),
    ).bind(args, engines)


def _sampler(args: AppArgs) -> dict[str, Any]:
    """What every deployment of samplers is told."""
    return {
        "max_ongoing_requests": SAMPLER_REQUESTS,
        "health_check_period_s": HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": args.serving.request_timeout_seconds,
        "logging_config": SERVE_LOGS,
    }


def _replicas(least: int, most: int | None, ongoing: int) -> dict[str, Any]:
    """A fixed number, or Serve's autoscaling between two."""
    if most is None or most <= least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "initial_replicas": least,
            "target_ongoing_requests": ongoing,
        }
    }
