"""Host memory: sizes, the inequalities, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxsampler_api.loading import load_file
from fluxsampler_planner import app_args, plan
from fluxsampler_planner.errors import Infeasible
from fluxsampler_planner.gpus import GIB, MIB
from fluxsampler_planner.host import GATEWAYS, PICTURES, Host, host_memory, payload_size
from tests.unit.planner.samplers import sampler, tiny

EXAMPLES = Path(__file__).parents[3] / "examples"

EIGHT: dict[str, Any] = {
    "cuda": True, "cards": 8, "ranks": 8, "fallbacks": 2, "payload": GIB, "weights": 40 * GIB, "activations": 0,
    "wanted_store": None, "node": 256 * GIB, "shm_size": None,
}  # fmt: skip
LAPTOP: dict[str, Any] = {
    **EIGHT, "cuda": False, "cards": 2, "ranks": 2, "fallbacks": 1, "payload": 100 * MIB, "weights": 10 * MIB, "node": 8 * GIB,
}  # fmt: skip


def proven(host: Host) -> None:
    assert host.shm >= host.store + host.transport + host.headroom
    assert host.limit >= host.shm + host.heap + host.weights + host.system
    assert host.node is None or host.node >= host.limit


def test_gpu_nodes_get_eight_gib_a_card() -> None:
    host = host_memory(**EIGHT)
    assert host.store == 64 * GIB
    proven(host)


def test_payloads_may_need_more() -> None:
    assert host_memory(**{**EIGHT, "payload": 100 * GIB}).store == 120 * GIB


def test_a_laptop_gets_a_small_store() -> None:
    host = host_memory(**LAPTOP)
    assert host.store == 256 * MIB
    assert host.limit < 4 * GIB
    proven(host)


def test_unknown_node_states_what_it_must_offer() -> None:
    host = host_memory(**{**EIGHT, "node": None})
    assert "not stated" in host.proof[-1]
    assert len(host.proof) == 3


def test_asked_for_store_is_kept_and_checked() -> None:
    assert host_memory(**{**EIGHT, "wanted_store": 16 * GIB}).store == 16 * GIB
    with pytest.raises(
        Infeasible, match=r"spec\.objectStore\.memory: 1 GiB do not hold the payloads in flight \(1\.2 GiB"
    ):
        host_memory(**{**EIGHT, "wanted_store": GIB})


def test_a_node_that_is_too_small_is_refused_with_a_size_that_works() -> None:
    with pytest.raises(
        Infeasible,
        match=r"spec\.hardware\.memory: the node offers 100 GiB, .* set spec\.objectStore\.memory to (\d+)Mi",
    ) as caught:
        host_memory(**{**EIGHT, "node": 100 * GIB})
    smaller = int(str(caught.value).rpartition(" to ")[2].split("Mi")[0]) * MIB
    proven(host_memory(**{**EIGHT, "node": 100 * GIB, "wanted_store": smaller}))
    with pytest.raises(Infeasible, match=r"spec\.objectStore\.memory: the node offers"):
        host_memory(**{**EIGHT, "wanted_store": 240 * GIB})
    with pytest.raises(Infeasible, match="use a node with more memory"):
        host_memory(**{**EIGHT, "node": 60 * GIB})


def test_a_store_beyond_dev_shm_is_refused_on_one_machine() -> None:
    with pytest.raises(
        Infeasible, match=r"/dev/shm has 0\.06 GiB, the plan needs .* set it to (\d+)Mi or less"
    ) as caught:
        host_memory(**{**LAPTOP, "shm_size": 64 * MIB})
    assert str(caught.value).startswith("spec.objectStore.memory")
    proven(host_memory(**{**LAPTOP, "shm_size": GIB}))


@given(
    st.integers(1, 16),
    st.integers(0, 16),
    st.integers(0, 50 * GIB),
    st.booleans(),
    st.none() | st.integers(GIB, 200 * GIB),
)
def test_what_is_returned_is_always_proven(
    cards: int, fallbacks: int, payload: int, cuda: bool, wanted: int | None
) -> None:
    try:
        host = host_memory(
            cuda=cuda, cards=cards, ranks=cards, fallbacks=fallbacks, payload=payload, weights=40 * GIB, activations=GIB,
            wanted_store=wanted, node=256 * GIB, shm_size=None,
        )  # fmt: skip
    except Infeasible:
        return
    proven(host)
    assert host.store >= payload * 1.2 - 1


SQUARE: dict[str, int] = {
    "text_tokens": 512,
    "text_width": 4096,
    "image_tokens": 4096,
    "channels": 64,
    "pixels": 1 << 20,
}


def test_payloads_of_both_gateways_and_every_picture_of_a_request() -> None:
    drawn = payload_size(ongoing=1, queued=0, **SQUARE)
    # Context 4 MiB, latents 1, pixels 3, and ten pictures of 3 at the most; in either gateway.
    assert drawn == 2 * (4 + 1 + 3 + 10 * 3) * MIB
    waiting = payload_size(ongoing=0, queued=1, **SQUARE)
    assert waiting == 2 * 4 * MIB
    assert payload_size(ongoing=8, queued=64, **SQUARE) == 8 * drawn + 64 * waiting


def test_payloads_count_what_the_service_is_built_with() -> None:
    serving = app_args(sampler(), plan(sampler())).serving
    assert (serving.gateway_replicas, serving.max_pictures) == (GATEWAYS, PICTURES)


@pytest.mark.parametrize(
    ("file", "gib"),
    [("flux-dev-8x4090.yaml", 64), ("flux-schnell-8x4090.yaml", 64), ("flux-dev-4x4090.yaml", 32)],
)
def test_payloads_leave_the_store_of_the_examples_at_eight_gib_a_card(file: str, gib: int) -> None:
    (example,) = load_file(EXAMPLES / file)
    assert plan(example).host.store == gib * GIB


def test_payloads_of_the_built_in_model_are_small() -> None:
    assert plan(tiny({"objectStore.memory": "80Mi"})).host.store == 80 * MIB


FOUR = {"parallelism.gpusPerReplica": 2}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_changes_in_place_does_not_resize_the_pod(kind: str) -> None:
    def sized(**changes: Any) -> Host:
        named = {path.replace("__", "."): value for path, value in changes.items()}
        return plan(tiny(FOUR | named, ranks=4) if kind == "cpu" else sampler(named)).host

    once = sized()
    assert sized(replicas=0).limit == once.limit
    assert sized(fallback__minReplicas=2).limit == once.limit
    assert sized(fallback__maxReplicas=3).limit == once.limit
    assert sized(serving__maxOngoingRequests=8, serving__requestTimeoutSeconds=60).limit == once.limit
    if kind == "cpu":
        assert sized(replicas=2).limit == once.limit
        assert sized(fallback__enabled=False).limit == once.limit


def test_a_node_without_that_room_is_counted_for_what_is_asked_now() -> None:
    roomy = plan(tiny(FOUR, ranks=4)).host
    small = plan(tiny(FOUR | {"hardware.memory": str(roomy.limit - 1)}, ranks=4)).host
    assert small.limit < roomy.limit
    proven(small)
