"""Plans: the examples, the eight RTX 4090 of the issue, objectives, modes, placements, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fluxsampler_api.loading import load_file
from fluxsampler_api.plan import PlanStatus
from fluxsampler_planner import (
    Hardware,
    Infeasible,
    Links,
    ManualLayoutRefused,
    ModelFacts,
    UnknownGpu,
    UnknownModel,
    plan,
)
from fluxsampler_planner.gpus import GIB
from fluxsampler_planner.pictures import largest_picture
from fluxsampler_planner.plan import Plan
from fluxsampler_planner.split import Split
from tests.unit.planner.samplers import SCHNELL, sampler, tiny

WIDTHS = {"joint_attention_dim": 4096, "pooled_projection_dim": 768}
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def sound(made: Plan) -> None:
    """What holds for every plan."""
    for card in made.cards:
        assert card.used <= card.usable, card
    taken = [card for card in made.cards if "rank" in card.role]
    assert len(taken) == made.chosen.replicas * made.split.ranks
    host = made.host
    assert host.shm >= host.store + host.transport + host.headroom
    assert host.limit >= host.shm + host.heap + host.weights + host.system
    assert made.seconds_per_image > 0
    assert len(made.rejected) <= 12
    for line in made.rejected:
        assert line.message
        assert line.reason.isalpha()
    status = made.status()
    assert PlanStatus.model_validate_json(status.model_dump_json(by_alias=True)) == status
    assert str(made.split) in made.explain()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_planned(path: Path) -> None:
    for each in load_file(path):
        sound(plan(each))


def test_eight_4090() -> None:
    # The issue's own case: FLUX.1-dev, 1024², 28 steps, bf16.
    made = plan(
        sampler(
            {"parallelism.target": {"width": 1024, "height": 1024, "steps": 28}, "model.dtype": "bfloat16"}
        )
    )
    sound(made)
    refused = {line.family: line for line in made.rejected}["ulysses/ring"]
    assert refused.reason == "InsufficientGPUMemory"
    assert "25.8 GiB on a card, 23.5 usable" in refused.message
    assert made.split.ranks == 8
    assert made.fallback.placement == "CoResident"
    assert made.fallback.warm == 1
    assert made.host.store == 64 * GIB
    assert made.seconds_per_image < 16 / 2
    assert made.status().memory.host.object_store_gib == 64


def test_tiny_local_runs_two_ranks_with_a_fallback_beside_them() -> None:
    made = plan(tiny())
    sound(made)
    assert made.split == Split(ulysses=2)
    assert made.fallback.placement == "CoResident"
    assert (made.fallback.warm, made.fallback.most) == (1, 1)
    assert made.host.store <= GIB // 2
    assert [card.role for card in made.cards] == ["rank 0 of gang 0", "rank 1 of gang 0", "fallback"]


def test_exact_excludes_pipefusion() -> None:
    made = plan(sampler({"parallelism.exact": True}, gpu="h100"))
    assert made.split.pipefusion == 1
    assert "NotExact" in {line.reason for line in made.rejected}
    sound(made)


def test_throughput_draws_more_pictures_than_latency() -> None:
    fast = plan(sampler({"model.source": SCHNELL}, gpu="h100"))
    many = plan(sampler({"model.source": SCHNELL, "parallelism.objective": "throughput"}, gpu="h100"))
    sound(many)
    assert many.chosen.replicas > fast.chosen.replicas == 1
    assert many.chosen.images_per_minute > fast.chosen.images_per_minute
    assert fast.seconds_per_image < many.seconds_per_image


def test_replicas_are_kept_and_do_not_cross_nodes() -> None:
    made = plan(sampler({"replicas": 3}, nodes=2, gpusPerNode=4, gpu="h100"))
    sound(made)
    assert made.chosen.replicas == 3
    # Three gangs on two nodes of four cards: two on one node, so at most two cards each.
    assert made.split.ranks <= 2


def test_autoscaling_plans_for_the_most_replicas() -> None:
    made = plan(sampler({"autoscaling": {"minReplicas": 1, "maxReplicas": 4}}, gpu="a100"))
    assert made.chosen.replicas == 4
    assert made.split.ranks <= 2
    sound(made)


def test_without_a_gang_as_many_fallbacks_draw_as_there_are_cards() -> None:
    scaled = {"replicas": 0, "fallback.placement": "Reserved", "fallback.minReplicas": 2}
    made = plan(sampler(scaled, gpu="h100"))
    sound(made)
    assert (made.chosen.replicas, made.fallback.placement) == (0, "Reserved")
    assert (made.fallback.warm, made.fallback.most) == (2, 8)
    # The speed is that of two single cards, not of the gang that does not run.
    assert made.chosen.images_per_minute == pytest.approx(120 / made.seconds_per_image)
    gang = plan(sampler(scaled | {"replicas": 1}, gpu="h100"))
    assert made.seconds_per_image > gang.seconds_per_image


def test_without_a_gang_fallbacks_that_share_a_card_are_one() -> None:
    # Ray would put a second one on the same card.
    made = plan(sampler({"replicas": 0, "fallback.minReplicas": 2}))
    sound(made)
    assert (made.fallback.placement, made.fallback.warm, made.fallback.most) == ("CoResident", 1, 1)
    assert made.fallback.message.startswith("no gang runs: a fp8 replica of 14.5 GiB")
    assert [card.role for card in made.cards] == ["fallback", *["idle"] * 7]


def test_a_cold_fallback_is_warm_without_a_gang() -> None:
    made = plan(sampler({"replicas": 0, "fallback.placement": "OnDemand", "fallback.maxReplicas": 3}))
    sound(made)
    assert (made.fallback.placement, made.fallback.warm, made.fallback.most) == ("Reserved", 1, 3)
    assert "has a card of its own" in made.fallback.message


@pytest.mark.parametrize("placement", ["Reserved", "OnDemand"])
@pytest.mark.parametrize("replicas", [0, 1])
def test_a_cpu_has_no_cards_to_speak_of(placement: str, replicas: int) -> None:
    made = plan(tiny({"replicas": replicas, "fallback.placement": placement}))
    assert made.fallback.placement == placement
    assert "card" not in made.fallback.message
    waits = placement == "OnDemand" and replicas
    assert made.fallback.message.endswith(
        "in the place of a dead gang" if waits else "has a process of its own"
    )


def test_what_has_no_room_for_a_gang_draws_alone() -> None:
    crowd = {"fallback.placement": "Reserved", "fallback.minReplicas": 8}
    with pytest.raises(Infeasible):
        plan(sampler(crowd))
    made = plan(sampler({"replicas": 0, **crowd}))
    sound(made)
    assert (made.fallback.placement, made.fallback.warm) == ("Reserved", 8)


@pytest.mark.parametrize("placement", ["CoResident", "Reserved", "OnDemand"])
def test_a_placement_that_is_asked_for_is_kept(placement: str) -> None:
    made = plan(sampler({"fallback.placement": placement}))
    sound(made)
    assert made.fallback.placement == placement
    assert (made.fallback.warm == 0) == (placement == "OnDemand")
    if placement == "Reserved":
        assert made.split.ranks < 8
    assert ("as asked" in made.fallback.message) == (placement == "OnDemand")


def test_fallback_off() -> None:
    made = plan(sampler({"fallback.enabled": False}))
    sound(made)
    assert made.fallback.placement == "None"
    assert made.fallback.message.startswith("fallback is off; its place is kept")
    assert made.status().fallback.max_replicas == 0


def test_fallback_limits_are_kept() -> None:
    made = plan(sampler({"fallback.minReplicas": 2, "fallback.maxReplicas": 3}))
    assert (made.fallback.warm, made.fallback.most, len(made.fallback.cards)) == (2, 3, 3)


def test_a_warm_fallback_may_cost_a_stated_share_of_speed() -> None:
    auto = plan(sampler())
    cold = plan(sampler({"fallback.placement": "OnDemand"}))
    assert auto.seconds_per_image <= cold.seconds_per_image * 1.15


def test_manual_layout_is_taken_as_it_is() -> None:
    made = plan(
        sampler({"parallelism": {"mode": "Manual", "pipefusion": 4, "ulysses": 2, "gpusPerReplica": 8}})
    )
    sound(made)
    assert made.split == Split(pipefusion=4, ulysses=2)


@pytest.mark.parametrize(
    ("changes", "hardware", "message"),
    [
        (
            {
                "model.source": "file:///FLUX.1-dev",
                "parallelism": {"mode": "Manual", "ulysses": 5, "gpusPerReplica": 5},
            },
            {},
            "spec.parallelism.ulysses: 5 does not divide 24 attention heads; use 1, 2, 3, 4, 6 or 8",
        ),
        (
            {"parallelism": {"mode": "Manual", "ring": 3, "gpusPerReplica": 3}},
            {},
            "spec.parallelism.ring: ulysses·ring 3 does not divide 512 text tokens",
        ),
        (
            {
                "parallelism": {
                    "mode": "Manual",
                    "ring": 8,
                    "gpusPerReplica": 8,
                    "target": {"height": 1040, "width": 1024},
                }
            },
            {},
            "does not divide the 65 rows of tokens of a 1024×1040 picture",
        ),
    ],
)
def test_manual_layouts_that_break_a_rule_are_refused_with_the_fix(
    changes: dict[str, Any], hardware: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManualLayoutRefused) as caught:
        plan(sampler(changes, **hardware))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "hardware", "path", "advice"),
    [
        ({}, {"gpusPerNode": 1}, "spec.hardware", ["spec.model.quantization: fp8", "cards a node or more", "a card of 32 GiB such as rtx-5090"]),
        (
            {"parallelism": {"mode": "Manual", "ulysses": 8, "gpusPerReplica": 8}},
            {},
            "spec.parallelism",
            ["needs 25.8 GiB on a card at the least, 23.5 usable", "spec.model.quantization: fp8", "mode: Auto"],
        ),
        ({"parallelism.gpusPerReplica": 1}, {}, "spec.hardware", ["another spec.parallelism.gpusPerReplica"]),
        (
            {"fallback.placement": "CoResident", "parallelism.gpusPerReplica": 2},
            {},
            "spec.fallback.placement",
            ["no layout leaves room for 1 fallback(s) of 14.5 GiB", "spec.fallback.placement: Auto", "spec.fallback.enabled: false"],
        ),
        ({"fallback.placement": "Reserved", "fallback.minReplicas": 7}, {}, "spec.fallback.placement", ["spec.fallback.minReplicas: 1"]),
        ({"replicas": 9}, {}, "spec.replicas", ["9 replicas of 1 or more cards do not fit on 1 node(s) of 8; use 8 or fewer"]),
        (
            {"parallelism": {"exact": True, "gpusPerReplica": 7}},
            {},
            "spec.parallelism",
            ["every layout breaks a rule", "another spec.parallelism.gpusPerReplica, or none"],
        ),
        ({"model.maxTextTokens": 512, "model.source": SCHNELL}, {}, "spec.model.maxTextTokens", ["use 256 or fewer"]),
        ({"parallelism.target": {"width": 64}}, {}, "spec.parallelism.target.width", ["use 256 to 4096"]),
        ({}, {"memory": "64Gi"}, "spec.hardware.memory", ["the node offers 64 GiB"]),
        ({"objectStore.memory": "100Mi"}, {}, "spec.objectStore.memory", ["do not hold the payloads in flight"]),
    ],
)  # fmt: skip
def test_infeasible_says_what_would_make_it_fit(
    changes: dict[str, Any], hardware: dict[str, Any], path: str, advice: list[str]
) -> None:
    with pytest.raises(Infeasible) as caught:
        plan(sampler(changes, **hardware))
    assert caught.value.problems[0].path == path
    for words in advice:
        assert words in str(caught.value)


def test_gpus_per_replica_above_the_node() -> None:
    with pytest.raises(
        Infeasible, match=r"spec\.parallelism\.gpusPerReplica: 8 cards a replica, a node has 4"
    ):
        plan(sampler({"parallelism.gpusPerReplica": 8}, gpusPerNode="Auto"), Hardware(cards_per_node=4))


def test_nothing_helps_a_model_that_is_far_too_large() -> None:
    huge = ModelFacts.from_config(
        {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1024, "attention_head_dim": 128, **WIDTHS},
        name="huge",
    )  # fmt: skip
    with pytest.raises(Infeasible, match="no change of one field makes it fit"):
        plan(sampler(), model=huge)


def test_flux_on_a_small_cpu_machine_is_refused() -> None:
    with pytest.raises(
        Infeasible, match=r"FLUX\.1-dev needs .* GiB in a rank process at the least, 8\.0 usable on CPU"
    ):
        plan(tiny({"model.source": SCHNELL.replace("schnell", "dev")}), Hardware(host_memory=16 * GIB))


def test_fp8_is_refused_on_cpu() -> None:
    with pytest.raises(Infeasible, match=r"spec\.model\.quantization: fp8 is 4 to 17 times slower on CPU"):
        plan(tiny({"model.quantization": "fp8"}))


def test_fp8_fits_one_card() -> None:
    made = plan(sampler({"model.quantization": "fp8", "fallback.enabled": False}, gpusPerNode=1))
    sound(made)
    assert made.split.ranks == 1
    assert made.chosen.encoders == "cpu"
    assert "text encoders on the CPU" in made.explain()
    assert made.chosen.seconds.encode > 1


def test_auto_hardware_is_read_from_the_node() -> None:
    auto = sampler(gpu="Auto", gpusPerNode="Auto")
    made = plan(auto, Hardware(gpu="l20", cards_per_node=4, host_memory=256 * GIB))
    assert (made.node.gpu.key, made.node.cards) == ("l20", 4)
    assert made.cost.calibrated
    assert made.host.node == 256 * GIB
    with pytest.raises(UnknownGpu, match=r"spec\.hardware\.gpu: Auto, and no node told its card"):
        plan(auto)
    with pytest.raises(UnknownGpu, match=r"spec\.hardware\.gpusPerNode: Auto, and no node told"):
        plan(sampler(gpusPerNode="Auto"))
    with pytest.raises(Infeasible, match=r"spec\.hardware\.gpusPerNode: 8 cards asked for, the node has 4"):
        plan(sampler(), Hardware(cards_per_node=4))
    with pytest.raises(
        Infeasible, match=r"spec\.hardware\.memory: 512\.0 GiB asked for, the node has 256\.0"
    ):
        plan(sampler(memory="512Gi"), Hardware(host_memory=256 * GIB))


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_cpu_ranks_default_to_two_and_are_used(cores: int) -> None:
    made = plan(
        tiny({"hardware.gpusPerNode": "Auto"}), Hardware(cores=cores, host_memory=16 * GIB, shm=8 * GIB)
    )
    assert made.split == Split(ulysses=2)
    assert {line.family: line.reason for line in made.rejected}["single card"] == "FewerRanks"
    assert made.node.gpu.memory == 8 * GIB


def test_measured_card_memory_counts() -> None:
    with pytest.raises(
        Infeasible, match=r"needs .* GiB on a card at the least, 7\.5 usable.*16 cards a node|a card of"
    ):
        plan(sampler({"fallback.enabled": False}, gpusPerNode=2), Hardware(card_memory=8 * GIB))


def test_exact_may_be_what_does_not_fit() -> None:
    with pytest.raises(Infeasible, match=r"spec\.parallelism\.exact: false \(allows pipefusion\)"):
        plan(sampler({"parallelism.exact": True, "fallback.enabled": False}), Hardware(card_memory=18 * GIB))


def test_slow_links_change_the_layout() -> None:
    # On a host whose all-to-all collapses, Ulysses over eight cards loses.
    sound(quick := plan(sampler({"parallelism.exact": True}, gpu="a100")))
    slow = plan(
        sampler({"parallelism.exact": True}, gpu="a100"),
        links=Links(ring={2: 20, 8: 20}, all_to_all={2: 0.5, 8: 0.5}),
    )
    assert quick.split.ulysses == 8
    assert slow.split.ulysses == 1
    assert plan(sampler(gpu="a100"), links=Links(neighbour=5)).cost.ring == ((2, 5e9),)


def test_nvlink_missing_is_no_longer_calibrated() -> None:
    made = plan(sampler(gpu="a100"), Hardware(nvlink=False))
    assert made.node.through_host
    assert not made.status().estimate.calibrated


def test_an_unknown_model_needs_its_facts() -> None:
    mine = sampler({"model.source": "file:///models/mine"})
    with pytest.raises(UnknownModel):
        plan(mine)
    config = {
        "num_layers": 4,
        "num_single_layers": 8,
        "num_attention_heads": 16,
        "attention_head_dim": 64,
        **WIDTHS,
    }
    made = plan(mine, model=ModelFacts.from_config(config, name="mine"))
    sound(made)
    assert made.model.name == "mine"


def test_the_largest_picture_still_fits_and_the_next_size_does_not() -> None:
    made = plan(sampler())
    most = largest_picture(made.inputs, made.shape, fallback=True)
    assert 1024 * 1024 <= most < 4096 * 4096
    without = largest_picture(made.inputs, made.shape, fallback=False)
    assert most < without <= 4096 * 4096
    small = plan(tiny())
    assert largest_picture(small.inputs, small.shape, fallback=True) == 128 * 128
    alone = plan(sampler({"replicas": 0, "fallback.placement": "Reserved", "fallback.minReplicas": 8}))
    assert 1024 * 1024 <= largest_picture(alone.inputs, alone.shape, fallback=True) < 4096 * 4096


def test_too_many_families_are_folded_into_one_line() -> None:
    # A node of 15 cards has layouts of every family and many odd degrees.
    made = plan(
        sampler(
            {"parallelism.exact": True, "parallelism.target": {"height": 1008}}, gpusPerNode=15, gpu="l40"
        )
    )
    sound(made)
    assert sum(line.candidates for line in made.rejected) > 50
