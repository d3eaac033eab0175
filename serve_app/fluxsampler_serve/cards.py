"""The cards that Ray gave to a gang's replica.

Ray's ``num_gpus`` above 1 must be whole, and a gang may leave a part of some cards to a warm
fallback. So a gang is a placement group with one bundle per rank, which Ray keeps on one node and
whose shares it books card by card; the replica then makes exactly these cards visible, in the order
of the ranks. Nothing is named by hand: whichever card Ray picks for a bundle, its rank goes there.
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


def deployment_options(shares: Sequence[float]) -> dict[str, Any]:
    """Serve's options for a replica that holds ``shares`` of as many cards, one per rank; none on CPU."""
    if not shares:
        return {"ray_actor_options": {"num_cpus": 0}}
    return {
        # The replica itself takes the first bundle, the ranks are its processes.
        "ray_actor_options": {"num_cpus": 0, "num_gpus": shares[0]},
        "placement_group_bundles": [{"GPU": share} for share in shares],
        "placement_group_strategy": "STRICT_PACK",
    }


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
