"""Plans to look at: eight cards of a large model, and two processes of the built-in one."""

from __future__ import annotations

from typing import Any

from fluxsampler_api.plan import PlanStatus


def _card(index: int, role: str, usable: float, components: dict[str, float]) -> dict[str, Any]:
    return {
        "index": index,
        "role": role,
        "components": [{"name": name, "gib": gib} for name, gib in components.items()],
        "total_gib": sum(components.values()),
        "usable_gib": usable,
    }


def _large(index: int, transformer: float) -> dict[str, Any]:
    encoders = {"T5": 8.87, "CLIP": 0.229} if index == 0 else {}
    common = {"VAE": 0.156, "activations": 0.396, "PipeFusion keys and values": 0.369}
    runtime = {"CUDA context": 0.5, "NCCL buffers": 0.391, "allocator": 0.038}
    single = {"fallback: transformer": 11.196, "fallback: VAE": 0.156, "fallback: activations": 2.5}
    parts = {"transformer": transformer, **encoders, **common, **runtime, **(single if index > 5 else {})}
    role = f"rank {index} of gang 0{', fallback' if index > 5 else ''}"
    return _card(index, role, 23.488, parts)


def _small(index: int) -> dict[str, Any]:
    parts = {"transformer": 0.009, "VAE": 0.001, "activations": 0.078, "process": 0.156}
    return _card(index, "fallback" if index == 2 else f"rank {index} of gang 0", 8.0, parts)


EIGHT_CARDS = PlanStatus.model_validate(
    {
        "layout": {
            "pipefusion": 8,
            "gpus_per_replica": 8,
            "replicas": 1,
            "stage_blocks": [4, 5, 4, 4, 9, 10, 11, 10],
            "encoders": "on card 0",
            "summary": "pp8",
        },
        "fallback": {
            "placement": "CoResident",
            "replicas": 2,
            "max_replicas": 2,
            "cards": [6, 7],
            "quantization": "fp8",
            "message": "a warm fp8 replica of 13.9 GiB fits beside a rank",
        },
        "memory": {
            "cards": [
                _large(index, transformer)
                for index, transformer in enumerate((4.55, 4.55, 3.81, 1.97, 1.97, 1.97, 1.97, 2.23))
            ],
            "host": {
                "object_store_gib": 64,
                "shm_gib": 70,
                "heap_gib": 24,
                "weights_gib": 31.4,
                "system_gib": 6,
                "limit_gib": 148,
                "node_gib": 256,
                "proof": [
                    "shm 70.0 GiB ≥ store 64.0 + NCCL 2.0 + headroom 4.0",
                    "limit 148.0 GiB ≥ shm 70.0 + heap 24.0 + weights 31.4 + system 6.0",
                ],
            },
        },
        "estimate": {
            "width": 1024,
            "height": 1024,
            "steps": 28,
            "seconds_per_image": 4.52,
            "images_per_minute": 13.3,
            "error_percent": 7.6,
            "calibrated": True,
        },
        "rejected": [
            {
                "family": "ulysses 8",
                "reason": "GpuMemory",
                "message": "22.2 GiB of transformer on every card leave no room on 22.6 usable GiB; "
                "use pipefusion ≥ 2, tensor ≥ 2 or fp8.",
                "candidates": 4,
            },
            {
                "family": "tensor × sequence",
                "reason": "UpstreamFault",
                "message": "xfuser 0.7.0 draws silently wrong pictures when both are above 1.",
                "candidates": 9,
            },
        ],
    }
)

TWO_PROCESSES = PlanStatus.model_validate(
    {
        "layout": {
            "ulysses": 2,
            "gpus_per_replica": 2,
            "replicas": 1,
            "encoders": "in process 0",
            "summary": "u2",
        },
        "fallback": {
            "placement": "Reserved",
            "replicas": 1,
            "max_replicas": 1,
            "cards": [2],
            "message": "a warm full-precision replica of 0.2 GiB fits beside a rank",
        },
        "memory": {
            "cards": [_small(index) for index in range(3)],
            "host": {
                "object_store_gib": 0.25,
                "shm_gib": 0.5,
                "heap_gib": 1.5,
                "weights_gib": 0.01,
                "system_gib": 1,
                "limit_gib": 4,
                "node_gib": 24,
                "proof": ["shm 0.50 GiB ≥ store 0.25 + gloo 0.06 + headroom 0.19"],
            },
        },
        "estimate": {
            "width": 128,
            "height": 128,
            "steps": 8,
            "seconds_per_image": 0.31,
            "images_per_minute": 190,
            "error_percent": 0,
            "calibrated": False,
        },
    }
)


def info(plan: PlanStatus, *, large: bool) -> dict[str, Any]:
    """What `/v1/info` answers for ``plan``."""
    side = 1024 if large else 128
    return {
        "name": "flux-dev" if large else "tiny-local",
        "device": "cuda" if large else "cpu",
        "model": {
            "id": "FLUX.1-dev" if large else "tiny-shapes",
            "source": "hf://black-forest-labs/FLUX.1-dev" if large else "builtin://tiny-shapes",
        },
        "defaults": {
            "width": side,
            "height": side,
            "steps": 28 if large else 8,
            "guidance_scale": 3.5 if large else 0.0,
            "max_text_tokens": 512 if large else 32,
        },
        "sizes": {
            "multiple_of": 16,
            "min_side": 256 if large else 64,
            "max_side": 2048 if large else 128,
            "max_pixels": 4194304 if large else 16384,
        },
        "limits": {"max_steps": 200},
        "plan": plan.model_dump(mode="json", by_alias=True),
    }
