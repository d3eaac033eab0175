"""`spec` of a FluxSampler: what a person asks for. Every field of DESIGN §4.

Models only; sizes of hardware and models live in the planner's catalogues. A number here that is
not obvious names where it comes from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fluxsampler_api.messages import one_of, plain_bool
from fluxsampler_api.quantity import AutoOrQuantity, Quantity, auto_or_int
from fluxsampler_api.rules import Rule, RuledModel, TransitionRule

# Flux.1's transformer has 24 heads of 128 (config.json of black-forest-labs/FLUX.1-dev), tiny-shapes 8 of 16.
FLUX_HEADS = 24
TINY_HEADS = 8
# The smallest object store that Ray starts with: ray/_private/ray_constants.py, OBJECT_STORE_MINIMUM_MEMORY_BYTES (75 MiB).
MINIMUM_OBJECT_STORE = "75Mi"

Degree = Annotated[int, Field(ge=1, le=64)]
AutoOrCards = Annotated[Literal["Auto"] | int, *auto_or_int(1, 16)]
AutoOrReplicas = Annotated[Literal["Auto"] | int, *auto_or_int(1, 64)]
Gpu = Annotated[
    Literal["Auto", "rtx-4090", "rtx-5090", "l20", "l40", "l40s", "a100", "h100", "cpu"],
    one_of("Auto", "rtx-4090", "rtx-5090", "l20", "l40", "l40s", "a100", "h100", "cpu"),
]
Switch = Annotated[Literal["Auto", "Enabled", "Disabled"], plain_bool("Enabled", "Disabled")]


class SecretRef(RuledModel):
    """A key of a Secret in the FluxSampler's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = Field("token", min_length=1, max_length=253, description="Key inside the Secret.")


class Cache(RuledModel):
    """Where downloaded and converted components are kept."""

    host_path: str | None = Field(None, pattern="^/", description="Folder on the node; survives pods.")
    claim: str | None = Field(None, description="PersistentVolumeClaim to mount.")
    empty_dir: bool = Field(False, description="Scratch space of the pod; downloads again after each restart.")
    size: Quantity | None = Field(None, description="Limit of the scratch space, e.g. 80Gi.")

    RULES = (
        Rule(
            cel="(has(self.hostPath) ? 1 : 0) + (has(self.claim) ? 1 : 0) + (self.emptyDir ? 1 : 0) <= 1",
            holds=lambda c: (c.host_path is not None) + (c.claim is not None) + c.empty_dir <= 1,
            message="hostPath, claim and emptyDir exclude each other; keep one",
        ),
        Rule(
            cel="!has(self.size) || self.emptyDir",
            holds=lambda c: c.size is None or c.empty_dir,
            message="size limits an emptyDir only; set emptyDir: true or remove size",
            field="size",
        ),
    )


class Model(RuledModel):
    """Which model, from where, in which form."""

    source: str = Field(
        max_length=512,
        description="hf://owner/name, pvc://claim/path, file:///absolute/folder or builtin://tiny-shapes.",
    )
    revision: str | None = Field(None, max_length=128, description="Commit, tag or branch of an hf:// source; pin a commit.")
    token_secret_ref: SecretRef | None = Field(None, description="Token for gated hf:// sources.")
    dtype: Literal["Auto", "float32", "bfloat16"] = Field(
        "Auto", description="Number format of the weights in use; Auto is bfloat16 on CUDA and float32 on CPU."
    )
    quantization: Literal["none", "fp8"] = Field(
        "none", description="fp8 stores the transformer's linear weights in 8 bits and computes in dtype."
    )
    max_text_tokens: int | None = Field(
        None, ge=8, le=512, description="Most T5 tokens a request may use; default: the model's own (FLUX.1-dev 512, -schnell 256)."
    )
    cache: Cache = Field(Cache(), description="Where downloads and converted weights are kept.")

    RULES = (
        Rule(
            cel=(
                "self.source.matches('^hf://[^/]+/[^/]+$') || self.source.matches('^pvc://[^/]+(/.*)?$') || "
                "self.source.matches('^file:///.+$') || self.source == 'builtin://tiny-shapes'"
            ),
            holds=lambda m: _known_source(m.source),
            message="write hf://owner/name, pvc://claim/path, file:///absolute/folder or builtin://tiny-shapes",
            field="source",
        ),
        Rule(
            cel="!has(self.revision) || self.source.startsWith('hf://')",
            holds=lambda m: m.revision is None or m.source.startswith("hf://"),
            message="only an hf:// source has revisions; remove revision",
            field="revision",
        ),
        Rule(
            cel="!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            holds=lambda m: m.token_secret_ref is None or m.source.startswith("hf://"),
            message="only an hf:// source takes a token; remove tokenSecretRef",
            field="tokenSecretRef",
        ),
        Rule(
            cel="!has(self.maxTextTokens) || self.maxTextTokens % 8 == 0",
            holds=lambda m: m.max_text_tokens is None or m.max_text_tokens % 8 == 0,
            message="text tokens are split over ranks; use a multiple of 8",
            field="maxTextTokens",
        ),
    )


def _known_source(source: str) -> bool:
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        owner, slash, name = rest.partition("/")
        return bool(owner and slash and name and "/" not in name)
    if scheme == "pvc":
        return bool(rest.partition("/")[0])
    if scheme == "file":
        return rest.startswith("/") and len(rest) > 1
    return source == "builtin://tiny-shapes"


class Toleration(RuledModel):
    """A Kubernetes toleration (core/v1)."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(None, ge=0, description="Seconds to stay on a NoExecute taint.")


class Hardware(RuledModel):
    """What to run on. Auto fields are read from the nodes, or from this machine by `fluxsampler up`."""

    gpu: Gpu = Field("Auto", description="Key of the planner's catalogue.")
    gpus_per_node: AutoOrCards = Field("Auto", description="Cards per node; on CPU, rank processes per node.")
    nodes: int = Field(1, ge=1, le=64, description="Nodes to use. A replica never crosses nodes.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=32, strict=False, description="Taints to tolerate.")
    runtime_class_name: str | None = Field(None, description="RuntimeClass of the Ray pods, e.g. nvidia.")
    device: Literal["cuda", "cpu"] = Field("cuda", description="Where to compute; cpu runs every rank on gloo.")
    memory: AutoOrQuantity = Field("Auto", description="Host memory of one node that FluxSampler may use.")

    RULES = (
        Rule(
            cel="self.device != 'cpu' || self.gpu in ['Auto', 'cpu']",
            holds=lambda h: h.device != "cpu" or h.gpu in ("Auto", "cpu"),
            message="device is cpu; use gpu: cpu, or set device: cuda",
            field="gpu",
        ),
        Rule(
            cel="self.device != 'cuda' || self.gpu != 'cpu'",
            holds=lambda h: h.device != "cuda" or h.gpu != "cpu",
            message="gpu is cpu; set device: cpu, or name a card such as rtx-4090",
            field="device",
        ),
    )
    TRANSITIONS = (
        TransitionRule(
            cel="self.device == oldSelf.device",
            holds=lambda new, old: bool(new.device == old.device),
            message="device cannot change; delete the FluxSampler and apply it anew",
            field="device",
        ),
    )


class Target(RuledModel):
    """The request that the plan is optimised for."""

    width: int | None = Field(None, ge=64, le=8192, description="Pixels; default: the model's own.")
    height: int | None = Field(None, ge=64, le=8192, description="Pixels; default: the model's own.")
    steps: int | None = Field(None, ge=1, le=200, description="Denoising steps; default: the model's own.")

    # FLUX packs 2×2 latents of 8×8 pixels into a token: diffusers pipeline_flux.py, vae_scale_factor * 2.
    RULES = tuple(
        Rule(
            cel=f"!has(self.{side}) || self.{side} % 16 == 0",
            holds=lambda t, side=side: getattr(t, side) is None or getattr(t, side) % 16 == 0,
            message="FLUX draws in tokens of 16×16 pixels; use a multiple of 16",
            field=side,
        )
        for side in ("width", "height")
    )


class Parallelism(RuledModel):
    """How one picture is split over cards. Auto lets the planner choose; Manual names the degrees."""

    mode: Literal["Auto", "Manual"] = "Auto"
    objective: Literal["latency", "throughput"] = Field("latency", description="What Auto optimises: seconds per picture, or pictures per minute.")
    target: Target = Target()
    exact: bool = Field(False, description="Only layouts equal to one device up to rounding: no PipeFusion staleness.")
    pipefusion: Degree | None = Field(None, description="Pipeline stages (Manual).")
    tensor: Degree | None = Field(None, description="Tensor-parallel degree (Manual).")
    ulysses: Degree | None = Field(None, description="Ulysses sequence-parallel degree (Manual).")
    ring: Degree | None = Field(None, description="Ring sequence-parallel degree (Manual).")
    gpus_per_replica: int | None = Field(None, ge=1, le=16, description="Cards of one replica; the product of the degrees.")

    @property
    def degrees(self) -> tuple[int, int, int, int]:
        """(pipefusion, tensor, ulysses, ring), 1 where not named."""
        return (self.pipefusion or 1, self.tensor or 1, self.ulysses or 1, self.ring or 1)

    @property
    def product(self) -> int:
        """Number of ranks that the named degrees ask for."""
        pipefusion, tensor, ulysses, ring = self.degrees
        return pipefusion * tensor * ulysses * ring

    RULES = (
        Rule(
            cel="self.mode == 'Manual' || !(has(self.pipefusion) || has(self.tensor) || has(self.ulysses) || has(self.ring))",
            holds=lambda p: p.mode == "Manual" or all(d is None for d in (p.pipefusion, p.tensor, p.ulysses, p.ring)),
            message="degrees are read in mode Manual only; set mode: Manual, or remove pipefusion, tensor, ulysses and ring",
            field="mode",
        ),
        Rule(
            cel="self.mode != 'Manual' || has(self.gpusPerReplica)",
            holds=lambda p: p.mode != "Manual" or p.gpus_per_replica is not None,
            message="mode Manual needs gpusPerReplica; set it to ulysses*ring*pipefusion*tensor",
            field="gpusPerReplica",
        ),
        Rule(
            cel=(
                "self.mode != 'Manual' || !has(self.gpusPerReplica) || (has(self.ulysses) ? self.ulysses : 1) * (has(self.ring) ? self.ring : 1) "
                "* (has(self.pipefusion) ? self.pipefusion : 1) * (has(self.tensor) ? self.tensor : 1) == self.gpusPerReplica"
            ),
            holds=lambda p: p.mode != "Manual" or p.gpus_per_replica is None or p.product == p.gpus_per_replica,
            message=(
                "'ulysses*ring*pipefusion*tensor is ' + string((has(self.ulysses) ? self.ulysses : 1) * (has(self.ring) ? self.ring : 1) "
                "* (has(self.pipefusion) ? self.pipefusion : 1) * (has(self.tensor) ? self.tensor : 1)) + ', gpusPerReplica is ' "
                "+ string(self.gpusPerReplica) + '; make them equal'",
                lambda p: f"ulysses*ring*pipefusion*tensor is {p.product}, gpusPerReplica is {p.gpus_per_replica}; make them equal",
            ),
            field="gpusPerReplica",
        ),
        # Silently wrong in xfuser 0.7.0 (3e-2 off): DESIGN §6, shown by tests/serve/test_parity.py.
        Rule(
            cel="!has(self.tensor) || self.tensor == 1 || (has(self.ulysses) ? self.ulysses : 1) * (has(self.ring) ? self.ring : 1) == 1",
            holds=lambda p: (p.tensor or 1) == 1 or (p.ulysses or 1) * (p.ring or 1) == 1,
            message="tensor above 1 together with ulysses or ring draws wrong pictures in xfuser 0.7.0; set tensor: 1, or ulysses: 1 and ring: 1",
            field="tensor",
        ),
        Rule(
            cel="!self.exact || !has(self.pipefusion) || self.pipefusion == 1",
            holds=lambda p: not p.exact or (p.pipefusion or 1) == 1,
            message="pipefusion reuses activations of the step before; set pipefusion: 1, or exact: false",
            field="pipefusion",
        ),
    )


class Autoscaling(RuledModel):
    """Replicas by load; takes the place of `replicas`."""

    min_replicas: int = Field(1, ge=0, le=64)
    max_replicas: int = Field(1, ge=1, le=64)
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

    memory: AutoOrQuantity = Field("Auto", description="Size on each node. Auto: payloads + 20 %, at least 8 GiB per GPU.")

    RULES = (
        Rule(
            cel=f"self.memory == 'Auto' || !quantity(string(self.memory)).isLessThan(quantity('{MINIMUM_OBJECT_STORE}'))",
            holds=lambda o: o.memory == "Auto" or o.memory >= Quantity(MINIMUM_OBJECT_STORE),
            message=f"Ray does not start with a store below {MINIMUM_OBJECT_STORE}; raise it, or write Auto",
            field="memory",
        ),
    )


class Backoff(RuledModel):
    """Seconds between probes of a broken parallel path; doubles from the first to the last."""

    initial_seconds: int = Field(10, ge=1, le=3600)
    max_seconds: int = Field(300, ge=1, le=86400)

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

    probe_seconds: int = Field(30, ge=1, le=3600, description="Seconds a rebuilt gang must stay healthy before it is promoted.")
    backoff: Backoff = Backoff()


class Fallback(RuledModel):
    """Single-device replicas that answer when the parallel path cannot."""

    enabled: bool = True
    placement: Literal["Auto", "CoResident", "Reserved", "OnDemand"] = Field("Auto", description="Where they live: on a rank's card, on a card of their own, or on the cards of a dead gang.")
    min_replicas: int = Field(1, ge=0, le=64, description="Warm replicas.")
    max_replicas: AutoOrReplicas = Field("Auto", description="Auto: one per card that has the room.")
    after_seconds: int = Field(30, ge=1, le=3600, description="Seconds the parallel path may be unhealthy before the operator re-plans.")
    promote: Promote = Promote()

    RULES = (
        Rule(
            cel="self.maxReplicas == 'Auto' || type(self.maxReplicas) != int || self.maxReplicas >= self.minReplicas",
            holds=lambda f: f.max_replicas == "Auto" or f.max_replicas >= f.min_replicas,
            message="maxReplicas is below minReplicas; raise maxReplicas, or write Auto",
            field="maxReplicas",
        ),
    )


class Serving(RuledModel):
    """Admission, deadlines and access."""

    max_ongoing_requests: int = Field(4, ge=1, le=1024, description="Requests in work at once, per gateway.")
    max_queued_requests: int = Field(64, ge=0, le=65536, description="Requests waiting beyond those; more are answered 429.")
    request_timeout_seconds: int = Field(300, ge=1, le=86400, description="Deadline of a request, queueing included.")
    auth_secret_ref: SecretRef | None = Field(None, description="API token; without it the API is open.")
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"


class Upgrade(RuledModel):
    """How a change that needs new pods is rolled out."""

    strategy: Literal["InPlace", "Recreate", "NewCluster"] = Field("InPlace", description="NewCluster needs a second set of GPUs.")


class Canary(RuledModel):
    """A picture drawn before traffic is let in."""

    enabled: bool = True
    prompt: str = Field("a red circle", min_length=1, max_length=1024)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    tolerance: float = Field(0.05, ge=0, le=1, description="Largest mean difference between parallel and single-device pictures, as a share of full scale.")


class Monitoring(RuledModel):
    """Which monitoring objects to create; Auto creates them where their CRDs exist."""

    pod_monitor: Switch = "Auto"
    prometheus_rule: Switch = "Auto"
    dashboard: Switch = "Auto"


def _heads(model: Model) -> int | None:
    """Attention heads of a model whose source tells them; None for models known by their config only."""
    if model.source.startswith("builtin://"):
        return TINY_HEADS
    return FLUX_HEADS if model.source.startswith("hf://black-forest-labs/FLUX.1-") else None


def _heads_rule(prefix: str, heads: int, fit: str) -> Rule:
    return Rule(
        cel=f"!self.model.source.startsWith('{prefix}') || !has(self.parallelism.ulysses) || {heads} % self.parallelism.ulysses == 0",
        holds=lambda s: not s.model.source.startswith(prefix) or heads % (s.parallelism.ulysses or 1) == 0,
        message=(
            f"string(self.parallelism.ulysses) + ' does not divide {heads} attention heads; use {fit}'",
            lambda s: f"{s.parallelism.ulysses} does not divide {heads} attention heads; use {fit}",
        ),
        field="parallelism.ulysses",
    )


class FluxSamplerSpec(RuledModel):
    """What a FluxSampler asks for."""

    model: Model
    hardware: Hardware = Hardware()
    parallelism: Parallelism = Parallelism()
    replicas: int = Field(1, ge=0, le=64, description="Parallel replicas; 0 leaves only fallbacks.")
    autoscaling: Autoscaling | None = None
    object_store: ObjectStore = ObjectStore()
    fallback: Fallback = Fallback()
    serving: Serving = Serving()
    upgrade: Upgrade = Upgrade()
    canary: Canary = Canary()
    monitoring: Monitoring = Monitoring()
    pod_template: dict[str, Any] = Field(default_factory=dict, description="Strategic-merge patch of the Ray pods (core/v1 PodTemplateSpec).")

    RULES = (
        _heads_rule("hf://black-forest-labs/FLUX.1-", FLUX_HEADS, "1, 2, 3, 4, 6 or 8"),
        _heads_rule("builtin://", TINY_HEADS, "1, 2, 4 or 8"),
        Rule(
            cel="type(self.hardware.gpusPerNode) != int || !has(self.parallelism.gpusPerReplica) || self.parallelism.gpusPerReplica <= self.hardware.gpusPerNode",
            holds=lambda s: s.hardware.gpus_per_node == "Auto" or (s.parallelism.gpus_per_replica or 1) <= s.hardware.gpus_per_node,
            message="a replica never crosses nodes; lower gpusPerReplica to hardware.gpusPerNode or below",
            field="parallelism.gpusPerReplica",
        ),
        Rule(
            cel="self.replicas > 0 || self.fallback.enabled || has(self.autoscaling)",
            holds=lambda s: s.replicas > 0 or s.fallback.enabled or s.autoscaling is not None,
            message="replicas is 0 and fallback is off, nothing would answer; set replicas: 1, or fallback.enabled: true",
            field="replicas",
        ),
    )

    @property
    def heads(self) -> int | None:
        """Attention heads where the source tells them."""
        return _heads(self.model)
