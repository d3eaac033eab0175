"""Where samplers may run, and the cards that Ray gave to a gang's replica.

Ray's ``num_gpus`` above 1 must be whole, and a gang may leave a part of some cards to a warm
fallback. So a gang is a placement group with one bundle per rank, which Ray keeps on one node and
whose shares it books card by card; the replica then makes exactly these cards visible, in the order
of the ranks. Nothing is named by hand: whichever card Ray picks for a bundle, its rank goes there.

Without GPUs nothing of Ray's own keeps a sampler away from a node, for samplers book no CPU: on a
cluster the nodes that are meant for them offer custom resources instead.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import ray
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fluxsampler_api.app_args import FallbackStart, ParallelStart, Placement


def gang_options(gang: ParallelStart, placement: Placement | None) -> dict[str, Any]:
    """Serve's options for where a gang's replica goes: its cards, one per rank, or what ``placement`` names."""
    shares = gang.gpu_shares
    if not shares:
        return _without_cards({placement.rank: gang.layout.ranks} if placement else {})
    return {
        # The replica itself takes the first bundle, the ranks are its processes.
        "ray_actor_options": {"num_cpus": 0, "num_gpus": shares[0]},
        "placement_group_bundles": [{"GPU": share} for share in shares],
        "placement_group_strategy": "STRICT_PACK",
    }


def single_options(single: FallbackStart, placement: Placement | None) -> dict[str, Any]:
    """The same for a replica of one device."""
    if not single.gpus_per_replica:
        return _without_cards({placement.fallback: 1} if placement else {})
    return {"ray_actor_options": {"num_cpus": 0, "num_gpus": single.gpus_per_replica}}


def _without_cards(resources: dict[str, int]) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": 0}
    return {"ray_actor_options": options | {"resources": resources} if resources else options}


async def make_visible(shares: Sequence[float]) -> tuple[str, ...]:
    """Show this process and its children the gang's cards, rank by rank; their ids, empty on CPU.

    Before anything has asked CUDA for its devices. A bundle's card is told by a task that runs in it.
    """
    if not shares:
        return ()
    group = get_current_placement_group()
    others = [
        _card.options(
            num_gpus=share,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        ).remote()
        for bundle, share in enumerate(shares)
        if bundle > 0
    ]
    ids = (_own_card(), *await asyncio.gather(*others))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
    return ids


def _own_card() -> str:
    (card,) = ray.get_gpu_ids()
    return str(card)


_card = ray.remote(num_cpus=0, max_retries=3)(_own_card)
