"""The rest of `spec`: replicas, fallback, admission, upgrades, canary, monitoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fluxsampler_api.messages import plain_bool
from fluxsampler_api.quantity import AutoOrQuantity, Quantity, auto_or_int
from fluxsampler_api.rules import Rule, RuledModel
from fluxsampler_api.spec.model import SecretRef

# The smallest object store that Ray starts with: ray/_private/ray_constants.py, OBJECT_STORE_MINIMUM_MEMORY_BYTES (75 MiB).
MINIMUM_OBJECT_STORE = "75Mi"

AutoOrReplicas = Annotated[Literal["Auto"] | int, *auto_or_int(1, 64)]
Switch = Annotated[Literal["Auto", "Enabled", "Disabled"], plain_bool("Enabled", "Disabled")]


class Autoscaling(RuledModel):
    """Replicas by load; takes the place of `replicas`."""

    min_replicas: int = Field(1, ge=0, le=64, description="Fewest parallel replicas.")
    max_replicas: int = Field(1, ge=1, le=64, description="Most parallel replicas.")
    target_ongoing_requests: int = Field(1, ge=1, le=64, description="Requests per replica to aim at.")

    RULES = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda a: a.min_replicas <= a.max_replicas,
            message="minReplicas is above maxReplicas; raise maxReplicas or lower minReplicas",
            field="minReplicas",
        ),
    )


class ObjectStore(RuledModel):
    """Ray's shared-memory store, for payloads."""

    memory: AutoOrQuantity = Field(
        "Auto", description="Size on each node, such as 64Gi. Auto: payloads + 20 %, at least 8 GiB per GPU."
    )

    RULES = (
        Rule(
            cel=f"string(self.memory) == 'Auto' || !quantity(string(self.memory)).isLessThan(quantity('{MINIMUM_OBJECT_STORE}'))",
            holds=lambda o: o.memory == "Auto" or o.memory >= Quantity(MINIMUM_OBJECT_STORE),
            message=f"Ray does not start with a store below {MINIMUM_OBJECT_STORE}; raise it, or write Auto",
            field="memory",
        ),
    )


class Backoff(RuledModel):
    """Seconds between probes of a broken parallel path; doubles from the first to the last."""

    initial_seconds: int = Field(10, ge=1, le=3600, description="Before the second probe.")
    max_seconds: int = Field(300, ge=1, le=86400, description="Never longer than this.")

    RULES = (
        Rule(
            cel="self.initialSeconds <= self.maxSeconds",
            holds=lambda b: b.initial_seconds <= b.max_seconds,
            message="initialSeconds is above maxSeconds; raise maxSeconds or lower initialSeconds",
            field="initialSeconds",
        ),
    )


class Promote(RuledModel):
    """How the parallel path comes back."""

    probe_seconds: int = Field(
        30, ge=1, le=3600, description="Seconds a rebuilt gang must stay healthy before it is promoted."
    )
    backoff: Backoff = Backoff()


class Fallback(RuledModel):
    """Single-device replicas that answer when the parallel path cannot."""

    enabled: bool = Field(True, description="False: nothing answers while the parallel path is down.")
    placement: Literal["Auto", "CoResident", "Reserved", "OnDemand"] = Field(
        "Auto",
        description="Where they live: on a rank's card, on a card of their own, or on the cards of a dead gang.",
    )
    min_replicas: int = Field(1, ge=0, le=64, description="Warm replicas.")
    max_replicas: AutoOrReplicas = Field(
        "Auto", description="Auto, one per card that has the room; or 1 to 64."
    )
    after_seconds: int = Field(
        30,
        ge=1,
        le=3600,
        description="Seconds the parallel path may be unhealthy before the operator re-plans.",
    )
    promote: Promote = Promote()

    RULES = (
        Rule(
            cel="type(self.maxReplicas) != int || self.maxReplicas >= self.minReplicas",
            holds=lambda f: f.max_replicas == "Auto" or f.max_replicas >= f.min_replicas,
            message="maxReplicas is below minReplicas; raise maxReplicas, or write Auto",
            field="maxReplicas",
        ),
    )


class Serving(RuledModel):
    """Admission, deadlines and access."""

    max_ongoing_requests: int = Field(4, ge=1, le=1024, description="Requests in work at once, per gateway.")
    max_queued_requests: int = Field(
        64, ge=0, le=65536, description="Requests waiting beyond those; more are answered 429."
    )
    request_timeout_seconds: int = Field(
        300, ge=1, le=86400, description="Deadline of a request, queueing included."
    )
    auth_secret_ref: SecretRef | None = Field(None, description="API token; without it the API is open.")
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        "ClusterIP", description="Type of the Service that clients use."
    )


class Upgrade(RuledModel):
    """How a change that needs new pods is rolled out."""

    strategy: Literal["InPlace", "Recreate", "NewCluster"] = Field(
        "InPlace",
        description="InPlace renews only what a change touches; Recreate ends all Ray pods first; NewCluster keeps them until new ones are ready, "
        "and needs a second set of GPUs.",
    )


class Canary(RuledModel):
    """A picture drawn before traffic is let in."""

    enabled: bool = Field(True, description="False: Ready without a picture.")
    prompt: str = Field("a red circle", min_length=1, max_length=1024, description="What it shows.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of its noise.")
    tolerance: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest mean difference between parallel and single-device pictures, as a share of full scale.",
    )


class Monitoring(RuledModel):
    """Which monitoring objects to create; Auto creates them where their CRDs exist."""

    pod_monitor: Switch = Field("Auto", description="PodMonitor that scrapes the Ray pods.")
    prometheus_rule: Switch = Field("Auto", description="PrometheusRule with the alerts.")
    dashboard: Switch = Field("Auto", description="ConfigMap with the Grafana dashboard.")
