"""What the Serve app is told: a plan and its spec as :class:`~fluxsampler_api.app_args.AppArgs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.app_args import (
    AppArgs,
    FallbackArgs,
    Layout,
    ModelArgs,
    ParallelArgs,
    Placement,
    RequestDefaults,
    ServingArgs,
    SizeLimits,
)
from fluxsampler_api.mounts import CACHE_FOLDER, mounted_source
from fluxsampler_planner.pictures import fallback_size, largest_picture
from fluxsampler_planner.plan import Plan, dtype_of

if TYPE_CHECKING:
    from fluxsampler_api.sampler import FluxSampler

AUTH_TOKEN_ENV = "FLUXSAMPLER_API_TOKEN"  # noqa: S105  (the variable's name, not a secret)
# Shares of a card that Ray schedules by when a rank and a fallback live on it; memory is capped separately.
SHARED_RANK = 0.6
SHARED_FALLBACK = 0.4


def app_args(
    sampler: FluxSampler, plan: Plan, *, on_cluster: bool = False, probe_token_sha256: str | None = None
) -> AppArgs:
    """The Serve app's arguments for ``sampler`` as planned.

    A layout of one rank needs no gang: the single-device engine draws, as many replicas as the plan has.

    ``on_cluster``: in pods, where volumes have their own places (:mod:`fluxsampler_api.mounts`), and where
    an engine that has no replica now is kept in mind, so that it can be given some in place.
    ``probe_token_sha256`` is the hash of the operator's own API token; it counts only with an `authSecretRef`.
    """
    spec, model = sampler.spec, plan.model
    cuda = plan.node.device == "cuda"
    most_text = spec.model.max_text_tokens or model.max_text_tokens
    kept = largest_picture(plan.inputs, plan.shape, fallback=True)
    pixels = largest_picture(plan.inputs, plan.shape, fallback=plan.fallback.placement != "None")
    work = plan.inputs.work
    secured = spec.serving.auth_secret_ref is not None
    # The model's own good defaults, unless the plan was made for something smaller than they need.
    own = model.default_width * model.default_height <= kept
    return AppArgs(
        name=sampler.metadata.name,
        device=spec.hardware.device,
        model=ModelArgs(
            name=model.name,
            source=mounted_source(spec.model.source) if on_cluster else spec.model.source,
            revision=spec.model.revision,
            dtype=dtype_of(spec),
            quantization=spec.model.quantization,
            max_text_tokens=most_text,
            cache_dir=CACHE_FOLDER if on_cluster else spec.model.cache.host_path,
        ),
        defaults=RequestDefaults(
            width=model.default_width if own else work.width,
            height=model.default_height if own else work.height,
            steps=model.default_steps,
            guidance_scale=model.default_guidance,
            max_text_tokens=min(model.default_text_tokens, most_text),
        ),
        sizes=SizeLimits(
            multiple_of=model.multiple_of,
            min_side=model.min_side,
            max_side=model.max_side,
            max_pixels=pixels,
        ),
        parallel=_parallel(sampler, plan, cuda=cuda, dormant=on_cluster),
        fallback=_fallback(plan, kept, cuda=cuda, dormant=on_cluster),
        serving=ServingArgs(
            max_ongoing_requests=spec.serving.max_ongoing_requests,
            max_queued_requests=spec.serving.max_queued_requests,
            request_timeout_seconds=spec.serving.request_timeout_seconds,
            auth_token_env=AUTH_TOKEN_ENV if secured else None,
            probe_token_sha256=probe_token_sha256 if secured else None,
        ),
        placement=Placement() if on_cluster and not cuda else None,
        plan=plan.status(),
    )


def _parallel(sampler: FluxSampler, plan: Plan, *, cuda: bool, dormant: bool) -> ParallelArgs | None:
    shape, replicas, scaling = plan.shape, plan.chosen.replicas, sampler.spec.autoscaling
    split = shape.split
    if split.ranks == 1 or (replicas == 0 and not dormant):
        return None
    # Ray may put a fallback on any card that has the share left, so only ranks with the room leave one.
    shared = shape.rooms if shape.placement == "CoResident" and (dormant or plan.fallback.most) else ()
    return ParallelArgs(
        layout=Layout(
            pipefusion=split.pipefusion,
            tensor=split.tensor,
            ulysses=split.ulysses,
            ring=split.ring,
            stage_blocks=shape.blocks if split.pipefusion > 1 else None,
        ),
        replicas=replicas if scaling is None else scaling.min_replicas,
        max_replicas=None if scaling is None else replicas,
        target_ongoing_requests=1 if scaling is None else scaling.target_ongoing_requests,
        encoders=shape.encoders,
        gpu_shares=tuple(SHARED_RANK if rank in shared else 1.0 for rank in range(split.ranks))
        if cuda
        else (),
    )


def _fallback(plan: Plan, pixels: int, *, cuda: bool, dormant: bool) -> FallbackArgs | None:
    """The single devices; ``pixels`` is the largest picture that one of them ever has to draw beside a rank."""
    shape, now = plan.shape, plan.fallback
    alone, form = shape.split.ranks == 1, shape.fallback
    own = plan.chosen.replicas if alone else 0
    if not (alone or dormant or now.most):
        return None
    shared = cuda and shape.placement == "CoResident" and not alone
    most_bytes = fallback_size(plan.inputs, form, pixels) if form is not None else 0
    return FallbackArgs(
        placement="Reserved" if shape.placement == "None" else shape.placement,
        min_replicas=own + now.warm,
        max_replicas=own + now.most,
        quantization=("fp8" if plan.inputs.form.fp8 else "none") if form is None else form.quantization,
        encoders=(shape.encoders if alone else "device") if form is None else form.encoders,
        gpus_per_replica=(SHARED_FALLBACK if shared else 1.0) if cuda else 0.0,
        memory_fraction=min(1.0, round(most_bytes / plan.node.gpu.memory, 3)) if shared else None,
    )
