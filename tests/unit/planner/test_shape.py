"""What is merely scaled or switched starts no engine again and needs no other pods: every example, every such edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_api.app_args import AppArgs, StartArgs
from fluxsampler_api.loading import load_file
from fluxsampler_api.sampler import FluxSampler
from fluxsampler_api.serve_config import FALLBACK, PARALLEL, serve_config
from fluxsampler_operator.builders import desired
from fluxsampler_operator.manifest import FORM_ANNOTATION, Owner
from fluxsampler_operator.settings import Settings
from fluxsampler_planner import Hardware, Infeasible, app_args, plan
from fluxsampler_planner.gpus import GIB
from tests.unit.planner.samplers import SCHNELL, sampler, tiny

EXAMPLES = {
    path.stem: load_file(path)[0] for path in sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
}
ON_CARDS = sorted(name for name, each in EXAMPLES.items() if each.spec.hardware.device == "cuda")

# Edits that change numbers, switches or limits, and nothing that engines are made of.
SCALING: dict[str, dict[str, Any]] = {
    "no replica": {"replicas": 0},
    "autoscaling": {"autoscaling": {"minReplicas": 1, "maxReplicas": 1}},
    "autoscaling from none": {"autoscaling": {"minReplicas": 0, "maxReplicas": 1}},
    "fallback off": {"fallback": {"enabled": False}},
    "no warm fallback": {"fallback": {"minReplicas": 0}},
    "two warm fallbacks": {"fallback": {"minReplicas": 2}},
    "at most one fallback": {"fallback": {"maxReplicas": 1}},
    "at most four fallbacks": {"fallback": {"maxReplicas": 4}},
    "other limits": {
        "serving": {"maxOngoingRequests": 2, "maxQueuedRequests": 1, "requestTimeoutSeconds": 9}
    },
}


def edited(each: FluxSampler, changes: Mapping[str, Any]) -> FluxSampler:
    """``each`` with ``changes`` merged into its spec."""

    def merged(base: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        return base | {
            key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
            for key, value in more.items()
        }

    document = each.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return FluxSampler.model_validate(document | {"spec": merged(document["spec"], changes)})


def args(each: FluxSampler, hardware: Hardware | None = None) -> AppArgs:
    return app_args(each, plan(each, hardware), on_cluster=True)


def start(each: FluxSampler, hardware: Hardware | None = None) -> StartArgs:
    return args(each, hardware).start()


def form(each: FluxSampler) -> str:
    """The digest of pods and of what engines are started with, as upgrade strategy Recreate takes them together."""
    strict = edited(each, {"upgrade": {"strategy": "Recreate"}})
    manifests = desired(strict, plan(strict), Settings(version="1"), Owner("one", "default", None))
    (service,) = (manifest for manifest in manifests if manifest["kind"] == "RayService")
    digest: str = service["metadata"]["annotations"][FORM_ANNOTATION]
    return digest


@cache
def form_of_example(name: str) -> tuple[StartArgs, str]:
    return start(EXAMPLES[name]), form(EXAMPLES[name])


def gangs_of_four() -> Iterator[FluxSampler]:
    for name in ON_CARDS:
        yield edited(EXAMPLES[name], {"parallelism": {"gpusPerReplica": 4}})


@pytest.mark.parametrize("edit", SCALING)
@pytest.mark.parametrize("name", EXAMPLES)
def test_scaling_starts_no_engine_again_and_needs_no_other_pods(name: str, edit: str) -> None:
    after = edited(EXAMPLES[name], SCALING[edit])
    assert start(after) == form_of_example(name)[0]
    assert form(after) == form_of_example(name)[1]


def test_another_gang_of_the_same_size_starts_no_engine_again() -> None:
    for one in gangs_of_four():
        before, several = form(one), 2 if one.spec.hardware.gpus_per_node == 8 else 0
        for edit in ({"replicas": several}, SCALING["no replica"], SCALING["fallback off"]):
            assert form(edited(one, edit)) == before, (one.metadata.name, edit)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_scaled_is_what_serve_is_told(name: str) -> None:
    def bounds(changes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        deployments = serve_config(args(edited(EXAMPLES[name], changes)))["applications"][0]["deployments"]
        counts = {each["name"]: each.get("autoscaling_config") for each in deployments}
        return {
            key: (counts[key]["min_replicas"], -1 if "downscale_to_zero_delay_s" in counts[key] else counts[key]["max_replicas"])
            for key in (PARALLEL, FALLBACK)
        }  # fmt: skip

    none = (0, -1)
    assert bounds({"replicas": 0})[PARALLEL] == none
    assert bounds({"replicas": 0})[FALLBACK][0] == 1, "the fallback answers"
    assert bounds({"fallback": {"enabled": False}})[FALLBACK] == none
    assert bounds({"fallback": {"enabled": False}})[PARALLEL] == bounds({})[PARALLEL] != none


@pytest.mark.parametrize("name", ON_CARDS)
def test_without_a_fallback_larger_pictures_fit_and_the_limit_changes_in_place(name: str) -> None:
    on, off = args(EXAMPLES[name]), args(edited(EXAMPLES[name], {"fallback": {"enabled": False}}))
    assert off.sizes.max_pixels >= on.sizes.max_pixels
    assert (off.sizes.max_pixels > on.sizes.max_pixels) == (
        plan(EXAMPLES[name]).shape.placement == "CoResident"
    )
    assert off.start() == on.start()


def test_a_limit_holds_wherever_ray_may_put_the_fallback() -> None:
    # With one fallback at most, every rank still leaves it the share, and Ray chooses the card.
    one = args(edited(EXAMPLES["flux-dev-8x4090"], {"fallback": {"maxReplicas": 1}}))
    assert one.sizes.max_pixels == args(EXAMPLES["flux-dev-8x4090"]).sizes.max_pixels


@pytest.mark.parametrize("name", ON_CARDS)
def test_a_fallback_may_use_what_the_largest_picture_needs(name: str) -> None:
    made = plan(EXAMPLES[name])
    single = args(EXAMPLES[name]).fallback
    assert single is not None
    if made.shape.placement != "CoResident":
        assert single.memory_fraction is None
        return
    assert made.shape.fallback is not None
    assert single.memory_fraction is not None
    assert single.memory_fraction * made.node.gpu.memory > made.shape.fallback.size


# What the documentation names as starting engines again.
@pytest.mark.parametrize(
    "changes",
    [
        {"fallback.placement": "OnDemand"},
        {"fallback.placement": "Reserved"},
        {"fallback.minReplicas": 8},  # more than there is room for beside ranks
        {"replicas": 2},  # without gpusPerReplica: two gangs of four
    ],
    ids=str,
)  # fmt: skip
def test_another_shape_starts_engines_again(changes: dict[str, Any]) -> None:
    assert start(sampler(changes)) != start(sampler())


def test_a_fallback_that_costs_speed_is_not_kept_when_it_is_off() -> None:
    base = {
        "model.source": SCHNELL,
        "parallelism.objective": "throughput",
        "fallback.placement": "CoResident",
    }
    on, off = sampler(base), sampler(base | {"fallback.enabled": False})
    assert plan(off).chosen.images_per_minute > plan(on).chosen.images_per_minute
    assert plan(off).fallback.message == "fallback is off"
    assert start(off) != start(on)


def test_one_rank_keeps_its_own_precision() -> None:
    alone = {"parallelism.gpusPerReplica": 1}
    off = args(sampler(alone | {"fallback.enabled": False}, gpu="h100"))
    assert off.fallback is not None
    assert (off.fallback.quantization, off.fallback.encoders) == ("none", "device")
    assert off.start() == start(sampler(alone, gpu="h100"))
    # One card of 24 GiB holds the model in fp8, and then no text encoders.
    tight = args(sampler({"model.quantization": "fp8", "fallback.enabled": False}, gpusPerNode=1)).fallback
    assert tight is not None
    assert (tight.quantization, tight.encoders) == ("fp8", "cpu")


def test_no_replica_is_never_refused_where_one_fits() -> None:
    tried = 0
    for memory in (4, 5, 6, 8, 96, 112, 128, 136, 144, 160, 256):
        found = Hardware(host_memory=memory * GIB)
        for each in (tiny(), sampler(), sampler({"fallback.placement": "Reserved"}), sampler(gpusPerNode=4)):
            try:
                one = args(each, found)
            except Infeasible:
                continue
            tried += 1
            none = edited(each, {"replicas": 0})
            assert start(none, found) == one.start()
            assert plan(none, found).host == plan(each, found).host
    assert tried > 10


def test_on_one_machine_nothing_is_kept_for_later() -> None:
    off = sampler({"fallback.enabled": False})
    made = app_args(off, plan(off))
    assert made.fallback is None
    assert made.parallel is not None
    assert set(made.parallel.gpu_shares) == {1.0}
