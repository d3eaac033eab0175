"""From a plan to what the Serve app is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxsampler_api.app_args import AppArgs
from fluxsampler_api.loading import load_file
from fluxsampler_planner import Hardware, app_args, plan
from tests.unit.planner.samplers import SCHNELL, sampler, tiny

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_arguments_that_survive_json(path: Path) -> None:
    for each in load_file(path):
        args = app_args(each, plan(each))
        assert AppArgs.model_validate_json(args.model_dump_json()) == args
        assert args.name == each.metadata.name


def test_tiny_local() -> None:
    args = app_args(tiny(), plan(tiny()))
    assert (args.device, args.model.name, args.model.dtype) == ("cpu", "tiny-shapes", "float32")
    assert args.parallel is not None
    assert str(args.parallel.layout) == "u2"
    assert args.parallel.gpu_shares == ()
    assert args.fallback is not None
    assert (args.fallback.placement, args.fallback.min_replicas, args.fallback.gpus_per_replica) == (
        "CoResident",
        1,
        0,
    )
    assert args.fallback.memory_fraction is None
    assert (args.defaults.width, args.defaults.steps, args.defaults.max_text_tokens) == (128, 8, 32)
    assert (args.sizes.min_side, args.sizes.max_side, args.sizes.max_pixels) == (64, 128, 128 * 128)


def test_eight_4090_share_cards_with_a_capped_fallback() -> None:
    made = plan(sampler())
    args = app_args(sampler(), made)
    assert args.model.name == "FLUX.1-dev"
    assert args.parallel is not None
    assert args.parallel.layout.stage_blocks == made.chosen.blocks
    assert args.fallback is not None
    assert args.fallback.quantization == "fp8"
    assert args.fallback.encoders == "cpu"
    cards = made.fallback.cards
    for rank, share in enumerate(args.parallel.gpu_shares):
        assert share + args.fallback.gpus_per_replica == pytest.approx(1) if rank in cards else share == 1, (
            rank
        )
    # The cap admits the fallback and leaves the rest to the rank.
    assert args.fallback.memory_fraction is not None
    for card in (made.cards[index] for index in made.fallback.cards):
        rank = sum(part.size for part in card.parts if not part.name.startswith("fallback: "))
        assert rank + args.fallback.memory_fraction * made.node.gpu.memory <= made.node.gpu.memory
    assert (args.defaults.width, args.defaults.height, args.defaults.steps, args.defaults.guidance_scale) == (
        1024,
        1024,
        28,
        3.5,
    )


def test_the_models_own_defaults_unless_they_do_not_fit() -> None:
    target = {"width": 512, "height": 512, "steps": 8}
    args = app_args(small := sampler({"parallelism.target": target}), plan(small))
    assert (args.defaults.width, args.defaults.steps) == (1024, 28)
    tight = sampler(
        {"parallelism.target": target, "model.quantization": "fp8", "fallback.enabled": False}, gpusPerNode=1
    )
    # A card that holds fp8 FLUX and 512² but not the decoding of 1024².
    made = plan(tight, Hardware(card_memory=int(13.5 * 2**30)))
    assert app_args(tight, made).defaults.width == 512
    assert app_args(tight, made).sizes.max_pixels < 1024 * 1024


def test_one_rank_is_no_gang() -> None:
    single = sampler(
        {"parallelism.gpusPerReplica": 1, "parallelism.objective": "throughput", "model.source": SCHNELL},
        gpu="h100",
    )
    made = plan(single)
    args = app_args(single, made)
    assert args.parallel is None
    assert args.fallback is not None
    assert args.fallback.min_replicas == made.chosen.replicas + made.fallback.warm
    alone = sampler({"parallelism.gpusPerReplica": 1, "fallback.enabled": False}, gpu="h100")
    args = app_args(alone, plan(alone))
    assert args.parallel is None
    assert args.fallback is not None
    assert (args.fallback.min_replicas, args.fallback.gpus_per_replica) == (1, 1)


def test_fallback_off_leaves_the_gang_alone() -> None:
    off = sampler({"fallback.enabled": False})
    args = app_args(off, plan(off))
    assert args.fallback is None
    assert args.parallel is not None
    assert args.parallel.gpu_shares == (1,) * args.parallel.layout.ranks


def test_autoscaling_and_serving_are_passed_on() -> None:
    each = sampler(
        {
            "autoscaling": {"minReplicas": 1, "maxReplicas": 2, "targetOngoingRequests": 3},
            "serving": {
                "maxOngoingRequests": 2,
                "maxQueuedRequests": 5,
                "requestTimeoutSeconds": 60,
                "authSecretRef": {"name": "token"},
            },
            "model.cache": {"hostPath": "/var/cache/flux"},
            "model.maxTextTokens": 256,
        },
        gpu="h100",
    )
    args = app_args(each, plan(each))
    assert args.parallel is not None
    assert (args.parallel.replicas, args.parallel.max_replicas, args.parallel.target_ongoing_requests) == (
        1,
        2,
        3,
    )
    assert (
        args.serving.max_ongoing_requests,
        args.serving.max_queued_requests,
        args.serving.request_timeout_seconds,
    ) == (2, 5, 60)
    assert args.serving.auth_token_env == "FLUXSAMPLER_API_TOKEN"
    assert args.model.cache_dir == "/var/cache/flux"
    assert args.model.max_text_tokens == args.defaults.max_text_tokens == 256


def test_on_a_cluster_an_engine_without_replicas_is_kept_in_mind() -> None:
    off = tiny({"fallback.enabled": False})
    assert app_args(off, plan(off)).fallback is None
    kept = app_args(off, plan(off), on_cluster=True).fallback
    assert kept is not None
    assert kept.most == 0
    on = app_args(tiny(), plan(tiny()), on_cluster=True)
    assert app_args(off, plan(off), on_cluster=True).start() == on.start()
    none = tiny({"replicas": 0})
    assert app_args(none, plan(none)).parallel is None
    gang = app_args(none, plan(none), on_cluster=True).parallel
    assert gang is not None
    assert gang.most == 0


def test_on_cards_nothing_but_the_cards_decides() -> None:
    made = app_args(sampler(), plan(sampler()), on_cluster=True)
    assert made.placement is None
    assert made.parallel is not None
    assert made.parallel.gpu_shares
