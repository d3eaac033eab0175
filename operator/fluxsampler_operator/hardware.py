"""Nodes of the cluster as the planner's :class:`Hardware`. Pure.

A node counts when the pods of a FluxSampler could ever run on it: it has the labels of ``nodeSelector``, no
taint that is not tolerated, and on CUDA cards to give. A cordon, a node that is NotReady and pods that hold
cards now pass: scheduling tells of them (ClusterReady), and a plan that followed them would move under a service
that runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fluxsampler_api.quantity import Quantity
from fluxsampler_planner.gpus import GPUS, MIB
from fluxsampler_planner.hardware import Hardware

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec
    from fluxsampler_operator.manifest import Manifest
    from fluxsampler_operator.observed import Json

GPU_RESOURCE = "nvidia.com/gpu"
# GPU feature discovery: github.com/NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery/README.md.
PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
# Taints that the control plane sets and takes away by itself (kubernetes.io/docs: taint-based eviction).
_MOMENTARY = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/uninitialized")


@dataclass(frozen=True, slots=True)
class Found:
    """What the nodes offer: ``hardware`` of the best kind of node (None: no node counts), ``nodes`` of that kind."""

    hardware: Hardware | None
    nodes: int
    seen: int


def trimmed(node: Manifest) -> Manifest:
    """The parts of a node that anybody here reads: images and managed fields are most of the rest."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    return {
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {key: status[key] for key in ("allocatable", "capacity", "conditions") if key in status},
    }


def found_hardware(nodes: Sequence[Json], spec: FluxSamplerSpec) -> Found:
    """The best of ``nodes`` (core/v1 JSON) for ``spec``, and how many of at least its kind there are.

    Best is: most cards (as many as the spec asks for are enough), then the largest cards, then most host memory.
    Of the nodes that are wanted (``spec.hardware.nodes``) the smallest counts, since every pod is alike.
    """
    cuda = spec.hardware.device == "cuda"
    offers = [_offer(node, cuda=cuda) for node in nodes if _counts(node, spec)]
    if cuda:
        offers = [offer for offer in offers if offer.cards_per_node]
        if spec.hardware.gpu != "Auto":
            # A card without a label may be the one that the spec names.
            offers = [offer for offer in offers if offer.gpu in (None, spec.hardware.gpu)]
    if not offers:
        return Found(None, 0, len(nodes))
    asked = spec.hardware.gpus_per_node
    ranked = sorted(offers, key=lambda offer: _rank(offer, asked), reverse=True)
    kind = ranked[0].gpu
    alike = [offer for offer in ranked if offer.gpu == kind][: spec.hardware.nodes]
    return Found(_smallest(alike), len([offer for offer in ranked if offer.gpu == kind]), len(nodes))


def _rank(offer: Hardware, asked: int | str) -> tuple[int, int, int]:
    cards = offer.cards_per_node or 0
    enough = min(cards, asked) if isinstance(asked, int) else cards
    return enough, offer.card_memory or 0, offer.host_memory or 0


def _smallest(offers: Sequence[Hardware]) -> Hardware:
    def least(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return min(known) if known else None

    return Hardware(
        gpu=offers[0].gpu,
        cards_per_node=least([offer.cards_per_node for offer in offers]),
        card_memory=least([offer.card_memory for offer in offers]),
        host_memory=least([offer.host_memory for offer in offers]),
        cores=least([offer.cores for offer in offers]),
    )


def _offer(node: Json, *, cuda: bool) -> Hardware:
    """What one node has to give; allocatable, not what is free at the moment."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    labels = node["metadata"].get("labels") or {}
    memory = _amount(allocatable.get("memory"))
    cores = _amount(allocatable.get("cpu"))
    if not cuda:
        return Hardware(host_memory=memory, cores=cores)
    mib = labels.get(MEMORY_LABEL, "")
    return Hardware(
        gpu=catalogue_key(labels.get(PRODUCT_LABEL, "")),
        cards_per_node=_amount(allocatable.get(GPU_RESOURCE)),
        card_memory=int(mib) * MIB if mib.isdigit() else None,
        host_memory=memory,
        cores=cores,
    )


def _amount(text: Any) -> int | None:
    """Whole units of a quantity, rounded down; None for a missing or odd one."""
    if text is None:
        return None
    try:
        return int(Quantity(str(text)).value)
    except ValueError:
        return None


def catalogue_key(product: str) -> str | None:
    """The planner's key of a card, from its product label (``NVIDIA-GeForce-RTX-4090``); None for others.

    Shared and partitioned cards (``-SHARED``, ``-MIG-1g.10gb``) are not whole cards, laptop and D ones are others
    under the same number.
    """
    words = re.findall(r"[a-z0-9]+", product.lower())
    if {"shared", "mig", "laptop", "d"} & set(words):
        return None
    for key in sorted(GPUS, key=len, reverse=True):
        if all(part in words for part in key.split("-")):
            return key
    return None


def _counts(node: Json, spec: FluxSamplerSpec) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in spec.hardware.node_selector.items()):
        return False
    taints = (node.get("spec") or {}).get("taints") or ()
    return all(_tolerated(taint, spec) for taint in taints)


def _tolerated(taint: Json, spec: FluxSamplerSpec) -> bool:
    key, effect = taint["key"], taint.get("effect")
    if effect == "PreferNoSchedule" or key.startswith(_MOMENTARY):
        return True
    return any(
        (toleration.key is None or toleration.key == key)
        and toleration.effect in (None, effect)
        and (toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or ""))
        for toleration in spec.hardware.tolerations
    )


def kinds(nodes: Sequence[Json]) -> str:
    """The cards of all nodes in words, for a message: ``2 nodes with 8 NVIDIA-L40S, 1 node without cards``."""
    seen: Counter[str] = Counter()
    for node in nodes:
        cards = _amount(((node.get("status") or {}).get("allocatable") or {}).get(GPU_RESOURCE)) or 0
        product = (node["metadata"].get("labels") or {}).get(PRODUCT_LABEL) or "unlabelled cards"
        seen[f"{cards} {product}" if cards else "no cards"] += 1
    return (
        ", ".join(f"{count} node{'s' * (count > 1)} with {what}" for what, count in seen.most_common())
        or "no nodes"
    )
