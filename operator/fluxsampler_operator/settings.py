"""What the operator is told by its Deployment: environment variables, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import inf

from fluxsampler_operator.errors import Permanent

PREFIX = "FLUXSAMPLER_OPERATOR_"


def _own_version() -> str:
    try:
        return version("fluxsampler")
    except PackageNotFoundError:
        return "0.0.0"


@dataclass(frozen=True)
class Settings:
    """Settings of one operator; the chart sets each as ``FLUXSAMPLER_OPERATOR_<NAME>``.

    ``serve_image`` runs in the Ray pods unless podTemplate names another. ``watch_namespaces`` empty
    means all. ``probe_key`` signs the operator's own requests (see ``picture.py``). ``resync_seconds``
    is the slow level-based round for each object, beside the events; ``retry_seconds`` how old Serve's last word has
    to be before a start that it gave up is tried again (see ``retry.py``). ``read_nodes`` False: the role allows it not
    (the default of a namespaced installation). ``lease`` is namespace and name of the Lease without which it does not
    work; None where it is the only one. ``lease_seconds`` after which a lost leader is replaced (see ``leader.py``).
    ``metrics_port`` 0: no metrics.
    """

    serve_image: str = "fluxsampler-serve:latest"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    watch_namespaces: tuple[str, ...] = ()
    probe_key: bytes = field(default=b"", repr=False)
    read_nodes: bool = True
    resync_seconds: float = 300.0
    retry_seconds: float = 300.0
    lease: tuple[str, str] | None = None
    lease_seconds: int = 15
    health_port: int = 8080
    metrics_port: int = 9090
    log_level: str = "INFO"
    version: str = "0.0.0"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read every variable. Raises Permanent naming the variable that cannot be read."""

        def text(name: str, default: str) -> str:
            return environment.get(PREFIX + name, "").strip() or default

        def words(name: str) -> tuple[str, ...]:
            return tuple(word.strip() for word in text(name, "").split(",") if word.strip())

        policy = text("IMAGE_PULL_POLICY", cls.image_pull_policy)
        if policy not in ("Always", "IfNotPresent", "Never"):
            raise Permanent(f"{PREFIX}IMAGE_PULL_POLICY is {policy!r}; use Always, IfNotPresent or Never")

        def port(name: str, default: int) -> int:
            written = text(name, str(default))
            if not written.isdigit() or int(written) > 65535:
                raise Permanent(f"{PREFIX}{name} is {written!r}; use a port number")
            return int(written)

        def seconds(name: str, default: float) -> float:
            written = text(name, str(default))
            try:
                given = float(written)
            except ValueError:
                given = 0.0
            if not 1 <= given < inf:
                raise Permanent(f"{PREFIX}{name} is {written!r}; use a number of at least 1")
            return given

        namespaces = words("WATCH_NAMESPACES")
        nodes = text("READ_NODES", "false" if namespaces else "true").lower()
        if nodes not in ("true", "false"):
            raise Permanent(f"{PREFIX}READ_NODES is {nodes!r}; use true or false")
        level = text("LOG_LEVEL", cls.log_level).upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise Permanent(f"{PREFIX}LOG_LEVEL is {level!r}; use DEBUG, INFO, WARNING or ERROR")
        lease = text("LEASE", "")
        lease_namespace, _, lease_name = lease.partition("/")
        if lease and (not lease_namespace or not lease_name or "/" in lease_name):
            raise Permanent(f"{PREFIX}LEASE is {lease!r}; use NAMESPACE/NAME")
        return cls(
            serve_image=text("SERVE_IMAGE", cls.serve_image),
            image_pull_policy=policy,
            image_pull_secrets=words("IMAGE_PULL_SECRETS"),
            watch_namespaces=namespaces,
            probe_key=text("PROBE_KEY", "").encode(),
            read_nodes=nodes == "true",
            resync_seconds=seconds("RESYNC_SECONDS", cls.resync_seconds),
            retry_seconds=seconds("RETRY_SECONDS", cls.retry_seconds),
            lease=(lease_namespace, lease_name) if lease else None,
            lease_seconds=int(seconds("LEASE_SECONDS", cls.lease_seconds)),
            health_port=port("HEALTH_PORT", cls.health_port),
            metrics_port=port("METRICS_PORT", cls.metrics_port),
            log_level=level,
            version=_own_version(),
        )
