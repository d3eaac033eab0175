"""A Ray with Serve of our own on this machine, which meets no other Ray there.

It has its own temporary folder, its own ports for everything (the defaults of Serve and HAProxy are
the same for every Ray of a machine), listens on the loopback interface, wants a token of its own,
and ignores what RAY_* variables or another Ray's files say. Two may run at once in two processes.

::

    with LocalRay.start("demo", object_store_bytes=80 << 20) as ray:
        ray.run(app)          # a ray.serve Application
        httpx.get(ray.url)

"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import randrange
from typing import TYPE_CHECKING, Any, Self

import structlog

from fluxsampler_api.serve_config import APPLICATION, RAY_ENVIRONMENT, SERVE_LOGS
from fluxsampler_cli import loopback, processes
from fluxsampler_cli.errors import LocalError
from fluxsampler_cli.ports import PortReservation, check_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ray.serve.schema import LoggingConfig

# HAProxy takes socket names of 97 bytes, and Serve puts its node's id of 56 into them: see serve_environment.
# Ray's own, of up to 107 bytes, append about 65 to the folder.
_LONGEST_FOLDER = 31
# Ray refuses a smaller object store (ray._private.ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES).
SMALLEST_OBJECT_STORE = 75 << 20
_REPLICA_PORTS = 64
_RAY_ATTEMPTS = 3

_log = structlog.get_logger(__name__)


def new_instance(name: str) -> str:
    """An id that no other instance of this machine has or had: letters, digits and dashes."""
    return f"{re.sub('[^a-z0-9]+', '-', name.lower())[:12].strip('-')}-{secrets.token_hex(3)}"


def instance_folder(instance: str) -> Path:
    """Where ``instance`` keeps sockets, logs and temporary files: short, since sockets live in it."""
    parent = Path(tempfile.gettempdir())
    folder = parent / f"fxs-{instance}"
    return folder if len(str(folder)) <= _LONGEST_FOLDER else Path("/tmp", folder.name)  # noqa: S108 - too long otherwise


def serve_environment(instance: str, folder: Path, reservation: PortReservation) -> dict[str, str]:
    """Environment of every process of ``instance``: as in a cluster's pods, with ports and folders of its own."""
    metrics, statistics, fallback_http, fallback_grpc = reservation.take(4)
    # Replicas bind without SO_REUSEADDR, so their ports cannot be held; Serve tries the next one
    # of the range when one is taken. The range is away from the reservations.
    first_http = randrange(10000, 20000 - 2 * _REPLICA_PORTS)  # noqa: S311 - spreads neighbours, no secret
    haproxy = folder / "h"
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's switch for "this machine only": node address and all of its servers on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        loopback.HOOK_VARIABLE: loopback.HOOK,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_http + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_http + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_http + 2 * _REPLICA_PORTS),
        # What any process of the instance puts aside vanishes with the instance.
        "TMPDIR": str(folder),
    }
    return processes.marker_environment(instance) | RAY_ENVIRONMENT | own


@dataclass(slots=True)
class LocalRay:
    """A running one; make it with :meth:`start`, end it with :meth:`stop` or as a context manager."""

    instance: str
    folder: Path
    host: str
    port: int
    _undo: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def url(self) -> str:
        """Where the service answers, for programs of this machine."""
        return service_url(self.host, self.port)

    @classmethod
    def start(
        cls,
        name: str,
        object_store_bytes: int,
        http_port: int = 0,
        *,
        host: str = "127.0.0.1",
        instance: str | None = None,
        cpus: int = 4,
        gpus: int = 0,
        resources: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start Ray and Serve (controller and HAProxy) in this process' name.

        Args:
            name: part of the instance's id, for people.
            object_store_bytes: Ray's object store, at least 75 MiB (less is raised to it).
            http_port: of the service; 0 takes a free one.
            host: address the service listens on.
            instance: id from :func:`new_instance`; None makes one.
            cpus: logical CPUs of this Ray: how many actors of one CPU each may run.
            gpus: GPUs of this Ray.
            resources: custom resources of this Ray, as a cluster's nodes offer them.
            environment: more variables for all of its processes.

        Raises:
            PortInUse: something listens on ``http_port``.
            LocalError: this process already has a Ray, or imported Ray too early.
        """
        instance = instance or new_instance(name)
        folder = instance_folder(instance)
        with ExitStack() as undo:
            reservation = undo.enter_context(PortReservation())
            if http_port:
                check_port(host, http_port)
            else:
                (http_port,) = reservation.take(1)
            folder.mkdir(mode=0o700, exist_ok=True)
            undo.callback(processes.end_instance, instance, folder)
            variables = serve_environment(instance, folder, reservation) | dict(environment or {})
            undo.enter_context(_environment(variables))
            offered = {"num_cpus": cpus, "num_gpus": gpus, "resources": dict(resources or {})}
            _start_ray(instance, folder, max(object_store_bytes, SMALLEST_OBJECT_STORE), offered, undo)
            _start_serve(host, http_port)
            _log.debug("ray started", instance=instance, folder=str(folder), port=http_port)
            return cls(instance, folder, host, http_port, undo.pop_all())

    def run(self, app: Any, *, wait: bool = True) -> None:
        """Deploy a ``ray.serve`` Application at ``/``; with ``wait`` until each of its deployments runs.

        Raises:
            RuntimeError: Serve could not deploy it; the message holds the cause.
        """
        from ray.serve import api as serve_api  # reads its environment at import

        serve_api._run(app, name=APPLICATION, route_prefix="/", logging_config=_logging(), _blocking=wait)

    def stop(self) -> None:
        """End every process and remove every file; idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def service_url(host: str, port: int) -> str:
    """What a program on this machine opens to reach a service that listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compares
    return f"http://{reachable}:{port}"


def _start_ray(
    instance: str, folder: Path, object_store_bytes: int, offered: dict[str, Any], undo: ExitStack
) -> None:
    if "ray.serve" in sys.modules and not _imported_in_haproxy_mode():
        raise LocalError(
            "ray.serve was imported before LocalRay.start and has read other settings; import it afterwards, "
            "or set RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before"
        )
    import ray  # slow, and reads its environment at import

    if ray.is_initialized():
        raise LocalError("this process is connected to a Ray already; call ray.shutdown() first")
    _follow_environment()
    undo.callback(ray.shutdown)
    for attempt in range(1, _RAY_ATTEMPTS + 1):
        try:
            with _node_settings(instance):
                ray.init(
                    address="local",
                    namespace="fluxsampler",
                    **offered,
                    object_store_memory=object_store_bytes,
                    include_dashboard=False,
                    log_to_driver=True,
                    logging_level="warning",
                    _temp_dir=str(folder),
                )
        except _RayletEnded:
            _log.warning("Ray's node ended while it started", attempt=attempt)
            ray.shutdown()
            processes.end_instance(instance, None)
        else:
            return
    raise LocalError(
        f"Ray's node ended while it started, {_RAY_ATTEMPTS} times: it gives its helpers 30 seconds, "
        "and this machine is too busy or out of memory; free some of it, and try again"
    )


class _RayletEnded(Exception):
    """The raylet is not there any more; not a RuntimeError, which Ray would go on waiting after."""


@contextmanager
def _node_settings(instance: str) -> Iterator[None]:
    """What `ray start` has flags for and `ray.init` has not; and the raylet's end is noticed.

    The agent of every Ray of a machine wants port 52365, and the first one keeps it from the
    others; and no cluster autoscaler has anything to scale here. A raylet ends when its agents take
    more than 30 s to import on a busy machine, while Ray goes on waiting for it.
    """
    from ray._private import parameter, services

    params, get_node = parameter.RayParams, services.get_node

    def get_living_node(*arguments: Any) -> Any:
        try:
            return get_node(*arguments)
        except RuntimeError:
            if not processes.named(instance, "raylet"):
                raise _RayletEnded from None
            raise

    parameter.RayParams = partial(params, dashboard_agent_listen_port=0, no_monitor=True)
    services.get_node = get_living_node
    try:
        yield
    finally:
        parameter.RayParams, services.get_node = params, get_node


def _imported_in_haproxy_mode() -> bool:
    from ray.serve._private import constants

    return bool(constants.RAY_SERVE_ENABLE_HA_PROXY and constants.RAY_SERVE_THROUGHPUT_OPTIMIZED)


def _follow_environment() -> None:
    """Make a Ray that was imported earlier (a test's) use this environment's switch and token."""
    from ray import _raylet
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]  # not in Ray's stub


def _start_serve(host: str, port: int) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    try:
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=host, port=port),
            logging_config=_logging(),
        )
    except TimeoutError:
        # Serve waits a fixed minute for its proxy; who waits for the application waits for the proxy too.
        _log.warning("the proxy takes long to start")


def _logging() -> LoggingConfig:
    """Serve's own logs: warnings, and no line per call (the app logs each request itself)."""
    from ray.serve.schema import LoggingConfig

    return LoggingConfig.model_validate(SERVE_LOGS)


class _environment:  # noqa: N801 - used like contextlib.redirect_stdout
    """``os.environ`` without foreign RAY_* variables and with ``variables``, until the exit."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._before: dict[str, str] = {}

    def __enter__(self) -> None:
        self._before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)
