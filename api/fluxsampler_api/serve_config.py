"""The document that Ray Serve deploys on a cluster: ``serveConfigV2`` of a RayService. Pure, no ray.

Serve hashes import path, runtime environment and ``args`` of an application (and how many of its
deployments scale by load) into one version: when that changes, every replica of every deployment is
replaced. So ``args`` hold :meth:`AppArgs.start` and nothing else. What may change in place is said
beside them, in the overrides of each deployment: counts of replicas and time to finish, and for the
gateway the rest of :class:`AppArgs` as ``user_config``, which reaches its ``reconfigure``.

Both samplers always have an ``autoscaling_config``, also where their number is fixed: Serve refuses
``num_replicas: 0``, and a deployment that changes between a number and autoscaling changes the version.
Read in ray 2.60: ``serve/schema.py``, ``serve/_private/deploy_utils.py`` (``get_app_code_version``),
``serve/_private/autoscaling_state.py`` (``register``, ``apply_bounds``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxsampler_api.app_args import AppArgs

APPLICATION = "fluxsampler"
IMPORT_PATH = "fluxsampler_serve.app:build"
HTTP_PORT = 8000

GATEWAY = "Gateway"
PARALLEL = "ParallelSampler"
FALLBACK = "FallbackSampler"

SERVE_LOGS = {"enable_access_log": False, "log_level": "WARNING"}
"""Serve's own lines: one for each call costs a tenth of a millisecond, and ours says more."""

LEAVE_SECONDS = 5.0
"""How long the last replica of an engine stays after Serve has seen it asked for no more, until every gateway knows."""
LOOK_BACK_SECONDS = 12.0
"""Serve sees that when no request was under way for so long. Its 30 seconds would keep the cards that much longer; it
wants more than the 10 between two reports of a gateway (ray 2.60, ``AutoscalingConfig.look_back_period_s``)."""

RAY_ENVIRONMENT = {
    # A request through Serve's Python proxy costs 10 to 14 ms, through HAProxy 0.5 to 2 (docs/dev/serving.md).
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Our code in the replica's own event loop, handles that pass bytes by value.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Throughput mode would keep what replicas say in files that end with the pod; logs are standard error.
    "RAY_SERVE_LOG_TO_STDERR": "1",
    # One thread forwards more than any gang draws; Serve's four would share the pod's processors with the ranks.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # Gateways answer HTTP themselves, on ports of these ranges in their pod, and keep a port closed for 150 s
    # after its replica. Serve's own gRPC range lies in the one that Linux gives to outgoing connections.
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "30000",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "30099",
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "30100",
    "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "30199",
    # Patience: on a busy node Serve would kill its proxy, and Ray its workers, again and again before they
    # have started. They give 5, 30 and 60 seconds.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    # Nothing here calls the makers of Ray.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Logs are collected as they are: no colours, no line left out because another process said the same.
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Environment of every Ray process, of head and worker pods alike: Ray and Serve read it when they are imported.
One machine's Ray (`fluxsampler up`) sets the same, with ports and folders of its own."""


def serve_config(args: AppArgs) -> dict[str, Any]:
    """The document for ``args``, as JSON values."""
    deployments = [_gateway(args)]
    if args.parallel is not None:
        gang = args.parallel
        counts = autoscaling(gang.replicas, gang.most, gang.target_ongoing_requests)
        deployments.append(_sampler(PARALLEL, args, counts))
    if args.fallback is not None:
        deployments.append(
            _sampler(FALLBACK, args, autoscaling(args.fallback.min_replicas, args.fallback.most, 1))
        )
    return {
        # A proxy on the head and on every node with a replica: whichever pods serve can be asked.
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": HTTP_PORT},  # noqa: S104 (of a pod; its NetworkPolicy says who)
        "logging_config": SERVE_LOGS,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": args.start().model_dump(mode="json"),
                "deployments": deployments,
            }
        ],
    }


def autoscaling(least: int, most: int, ongoing: int) -> dict[str, Any]:
    """Serve's autoscaling between two numbers of replicas, which may be equal; ``most`` 0 keeps none.

    No `initial_replicas`: Serve would go back to it at every change of the document.
    """
    bounds = {"min_replicas": least, "max_replicas": max(1, most), "target_ongoing_requests": float(ongoing)}
    leave = {"downscale_to_zero_delay_s": LEAVE_SECONDS, "look_back_period_s": LOOK_BACK_SECONDS}
    return bounds if most else bounds | leave


def _gateway(args: AppArgs) -> dict[str, Any]:
    return {
        "name": GATEWAY,
        "num_replicas": args.serving.gateway_replicas,
        "graceful_shutdown_timeout_s": args.serving.request_timeout_seconds,
        "user_config": args.live(),
    }


def _sampler(name: str, args: AppArgs, counts: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "autoscaling_config": counts,
        "graceful_shutdown_timeout_s": args.serving.request_timeout_seconds,
    }
