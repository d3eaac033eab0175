"""What the operator or the CLI hands to the Serve app: typed, complete, JSON.

``AppArgs`` is the other half of the contract: the Serve app never reads a FluxSampler, and the
operator never imports ray or torch. It has two parts. :class:`StartArgs` is what a replica is
started with: any change of it restarts every replica. The rest (:meth:`AppArgs.live`) changes in
place, while the samplers go on drawing: counts of replicas, limits, the plan that is shown.

On one machine ``AppArgs`` is the argument of ``fluxsampler_serve.app.build``; on a cluster the two
parts travel apart (:mod:`fluxsampler_api.serve_config`).
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fluxsampler_api.plan import PlanStatus


class ArgsModel(BaseModel):
    """Base: snake_case, frozen, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(ArgsModel):
    """How one gang splits one picture; the product of the degrees is the number of ranks."""

    pipefusion: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    ulysses: int = Field(1, ge=1)
    ring: int = Field(1, ge=1)
    stage_blocks: tuple[int, ...] | None = Field(
        None, description="Transformer blocks of each pipeline stage, in order; None for pipefusion 1."
    )

    @property
    def ranks(self) -> int:
        """Number of rank processes."""
        return prod((self.pipefusion, self.tensor, self.ulysses, self.ring))

    @property
    def sequence(self) -> int:
        """Degree of sequence parallelism."""
        return self.ulysses * self.ring

    @model_validator(mode="after")
    def _stages_match(self) -> Self:
        if self.stage_blocks is not None and len(self.stage_blocks) != self.pipefusion:
            raise ValueError(
                f"stage_blocks names {len(self.stage_blocks)} stages, pipefusion is {self.pipefusion}"
            )
        return self

    def __str__(self) -> str:
        """`pp2·u4` style: only degrees above 1; `single` when there is none."""
        named = (("pp", self.pipefusion), ("tp", self.tensor), ("u", self.ulysses), ("r", self.ring))
        return "·".join(f"{name}{degree}" for name, degree in named if degree > 1) or "single"


class ModelArgs(ArgsModel):
    """Which model, in which form."""

    name: str = Field(description="The id that /v1/models lists and requests may name.")
    source: str = Field(description="hf://owner/name, file:///folder or builtin://tiny-shapes.")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"]
    quantization: Literal["none", "fp8"] = "none"
    max_text_tokens: int = Field(ge=8, le=512, description="Upper limit of T5 tokens a request may use.")
    cache_dir: str | None = Field(
        None, description="Folder of converted components; None: the user's cache folder."
    )
    token_env: str = Field("HF_TOKEN", description="Environment variable that holds the hub's token, if any.")


class RequestDefaults(ArgsModel):
    """What a request that names only a prompt gets."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    max_text_tokens: int


class SizeStart(ArgsModel):
    """Sizes the model accepts, in pixels."""

    multiple_of: int = 16
    min_side: int
    max_side: int


class SizeLimits(SizeStart):
    """The same, and the largest area there is memory for: a limit of requests, which no engine reserves anything by."""

    max_pixels: int


class ParallelStart(ArgsModel):
    """The gang: one replica is ``layout.ranks`` processes on one node."""

    layout: Layout
    warmup_steps: int = Field(1, ge=0, description="PipeFusion's synchronous first steps.")
    encoders: Literal["device", "cpu"] = Field(
        "device", description="Where the text encoders live: rank 0's device or CPU."
    )
    gpu_shares: tuple[Annotated[float, Field(gt=0.5, le=1)], ...] = Field(
        (),
        description="Each rank's share of its card, as Ray books it; the rest may go to a fallback. Empty on CPU.",
    )

    @model_validator(mode="after")
    def _share_per_rank(self) -> Self:
        if self.gpu_shares and len(self.gpu_shares) != self.layout.ranks:
            raise ValueError(
                f"gpu_shares names {len(self.gpu_shares)} cards, the layout has {self.layout.ranks} ranks"
            )
        return self


class ParallelArgs(ParallelStart):
    """The gang, and how many of it; 0 replicas: it may be started later, and is not asked now."""

    replicas: int = Field(1, ge=0)
    max_replicas: int | None = Field(None, description="Above `replicas`: Serve autoscales up to this.")
    target_ongoing_requests: int = 1

    @property
    def most(self) -> int:
        """The largest number of replicas."""
        return max(self.replicas, self.max_replicas or 0)


class FallbackStart(ArgsModel):
    """Single-device replicas that answer what the gang cannot or did not."""

    quantization: Literal["none", "fp8"] = "none"
    encoders: Literal["device", "cpu"] = Field(
        "device",
        description="Where the text encoders live: beside the transformer, or on the CPU of a card that is shared.",
    )
    gpus_per_replica: float = Field(0, ge=0)
    memory_fraction: float | None = Field(
        None, gt=0, le=1, description="Share of the card it may use; CUDA only."
    )


class FallbackArgs(FallbackStart):
    """The same, and how many; at most 0: they may be started later, and are not asked now."""

    placement: Literal["CoResident", "Reserved", "OnDemand"]
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=0)

    @property
    def most(self) -> int:
        """The largest number of replicas."""
        return max(self.min_replicas, self.max_replicas)


class ServingStart(ArgsModel):
    """Access."""

    auth_token_env: str | None = Field(
        None, description="Environment variable that holds the API token; None: open."
    )


class ServingArgs(ServingStart):
    """Access, admission and deadlines."""

    gateway_replicas: int = Field(2, ge=1)
    max_ongoing_requests: int = Field(ge=1, description="Requests being drawn or dispatched, per gateway.")
    max_queued_requests: int = Field(ge=0, description="Requests waiting beyond those; more answer 429.")
    request_timeout_seconds: float = Field(gt=0)
    max_body_bytes: int = Field(1 << 20, ge=1024)
    max_pictures: int = Field(10, ge=1, description="Largest `n` of one request (OpenAI's own limit is 10).")
    max_steps: int = Field(200, ge=1)
    probe_token_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Hash of a second API token, the operator's own; counts only where a first one is wanted.",
    )


class Placement(ArgsModel):
    """Custom resources that nodes offer on a cluster without GPUs, so that samplers land where they belong.

    A gang takes one ``rank`` for each of its ranks, a fallback replica one ``fallback``.
    """

    rank: str = "fluxsampler_rank"
    fallback: str = "fluxsampler_fallback"


class StartArgs(ArgsModel):
    """What every replica is started with; a change restarts all of them."""

    name: str = Field(description="Name of the FluxSampler.")
    device: Literal["cuda", "cpu"]
    model: ModelArgs
    defaults: RequestDefaults
    sizes: SizeStart
    parallel: ParallelStart | None = Field(
        None, description="None: no gang, single devices answer everything."
    )
    fallback: FallbackStart | None = None
    serving: ServingStart
    placement: Placement | None = Field(
        None, description="None: Ray may use any node. With GPUs these decide, and nothing else is needed."
    )


class AppArgs(StartArgs):
    """All that the Serve app is told."""

    sizes: SizeLimits
    parallel: ParallelArgs | None = Field(
        None, description="None: no gang, single devices answer everything."
    )
    fallback: FallbackArgs | None = None
    serving: ServingArgs
    plan: PlanStatus

    @model_validator(mode="after")
    def _some_engine(self) -> Self:
        if not any(engine is not None and engine.most for engine in (self.parallel, self.fallback)):
            raise ValueError("neither parallel nor fallback has a replica: no engine would answer")
        return self

    def start(self) -> StartArgs:
        """What replicas are started with."""
        fields = {name: getattr(self, name) for name in StartArgs.model_fields}
        fields["sizes"] = _base(SizeStart, self.sizes)
        fields["parallel"] = _base(ParallelStart, self.parallel)
        fields["fallback"] = _base(FallbackStart, self.fallback)
        fields["serving"] = _base(ServingStart, self.serving)
        return StartArgs(**fields)

    def live(self) -> dict[str, Any]:
        """The rest, as JSON: what :meth:`merged` takes. Changes of it need no restart."""
        return _rest(self.model_dump(mode="json"), self.start().model_dump(mode="json"))

    @classmethod
    def merged(cls, start: StartArgs, live: dict[str, Any]) -> Self:
        """Both parts together again. Raises pydantic's ValidationError when they do not fit."""
        return cls.model_validate(_joined(start.model_dump(mode="json"), live))

    def answering(self) -> Self:
        """The same without the engines that have no replica."""
        gone = {
            name: None
            for name in ("parallel", "fallback")
            if (engine := getattr(self, name)) is not None and not engine.most
        }
        return self.model_copy(update=gone)


def _base(kind: type[ArgsModel], value: ArgsModel | None) -> ArgsModel | None:
    """``value`` as its base class."""
    return None if value is None else kind(**{name: getattr(value, name) for name in kind.model_fields})


def _rest(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """What ``whole`` has beyond ``part``, object by object."""
    rest: dict[str, Any] = {}
    for name, value in whole.items():
        if name not in part:
            rest[name] = value
        elif isinstance(value, dict) and (inner := _rest(value, part[name])):
            rest[name] = inner
    return rest


def _joined(part: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`_rest`."""
    whole = dict(part)
    for name, value in rest.items():
        known = whole.get(name)
        whole[name] = _joined(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return whole
