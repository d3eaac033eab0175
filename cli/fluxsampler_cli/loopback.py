"""Keeps a local Ray's workers off the network: Ray runs :func:`listen_on_loopback` as each starts.

Ray itself stays on loopback by a switch (see :mod:`.local_ray`). Three listeners of Serve 2.60 have
no option for their address: each replica's gRPC server, which unpickles what it is sent without
asking for a token, and HAProxy's metrics and statistics pages. On a cluster a NetworkPolicy stands
in front of them; on somebody's own machine nothing does.
"""

from __future__ import annotations

from typing import Any

HOOK = f"{__name__}.listen_on_loopback"
# What Ray reads the name of the hook from; its runtime_env would set the same, but costs every
# worker a start of its own.
HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"

_TEMPLATE_CHANGES = (
    ("bind :{{ config.metrics_port }}", "bind 127.0.0.1:{{ config.metrics_port }}"),
    ("bind *:{{ config.stats_port }}", "bind 127.0.0.1:{{ config.stats_port }}"),
)


def listen_on_loopback() -> None:
    """Give Serve's three listeners without an address option the loopback address.

    Raises:
        RuntimeError: another version of Ray moved the places; it is pinned for such reasons.
    """
    # The order matters: `replica` copies the function's name when ray.serve is imported.
    from ray._common import tls_utils  # only in a worker

    if not hasattr(tls_utils, "add_port_to_grpc_server"):
        raise RuntimeError(_moved("ray._common.tls_utils.add_port_to_grpc_server"))
    add_port = tls_utils.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> int:
        port: int = add_port(server, address.replace("[::]", "127.0.0.1"))
        return port

    tls_utils.add_port_to_grpc_server = add_loopback_port

    from ray.serve._private import haproxy, haproxy_templates, replica

    if replica.add_port_to_grpc_server is not add_loopback_port:
        raise RuntimeError(
            "ray.serve was imported before this hook ran, and its replicas would listen everywhere"
        )
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for before, after in _TEMPLATE_CHANGES:
        if before not in template:
            raise RuntimeError(_moved(f"`{before}` in HAPROXY_CONFIG_TEMPLATE"))
        template = template.replace(before, after)
    haproxy_templates.HAPROXY_CONFIG_TEMPLATE = haproxy.HAPROXY_CONFIG_TEMPLATE = template


def _moved(place: str) -> str:
    return f"Ray no longer has {place}; install the pinned version (ray[serve]==2.60.0)"
