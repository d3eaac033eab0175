"""A gang's cards: booked with Ray in one bundle per rank, and made visible in the order of the ranks.

Ray books more than one GPU for an actor only in whole ones, and a gang may leave part of some of its
cards to a fallback. So each rank's share is a bundle of the replica's placement group. The replica
lives in the first; in each of the others a small actor holds the share and names its card. Shares are
above one half, so that no two ranks are given the same card.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fluxsampler_serve.errors import EngineStartFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


def options(shares: Sequence[float]) -> dict[str, Any]:
    """Deployment options that book ``shares`` of as many cards of one node; none on CPU."""
    if not shares:
        return {"ray_actor_options": {"num_cpus": 0}}
    return {
        "ray_actor_options": {"num_cpus": 0, "num_gpus": shares[0]},
        "placement_group_bundles": [{"GPU": share} for share in shares],
        "placement_group_strategy": "STRICT_PACK",
    }


class Holder:
    """Holds one rank's share for as long as the replica lives."""

    def card(self) -> str:
        """The card's id."""
        return own_card()


async def claim(shares: Sequence[float]) -> list[Any]:
    """Make the gang's cards visible to this process, rank by rank; the holders must outlive the gang.

    Raises:
        EngineStartFailed: two ranks were given one card.
    """
    if not shares:
        return []
    group = get_current_placement_group()
    holders = [
        ray.remote(Holder)
        .options(
            num_cpus=0,
            num_gpus=share,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        )
        .remote()
        for index, share in enumerate(shares[1:], 1)
    ]
    cards = [own_card(), *await asyncio.gather(*(holder.card.remote() for holder in holders))]
    if len(set(cards)) < len(cards):
        raise EngineStartFailed(f"Ray gave ranks the same card: {cards}; each share must be above one half")
    os.environ[VISIBLE] = ",".join(cards)
    return holders


def own_card() -> str:
    """The only card that Ray gave this process."""
    (card,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return str(card)
