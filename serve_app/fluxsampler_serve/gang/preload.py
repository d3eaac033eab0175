"""What the forkserver imports before it forks: everything ranks need that does not compute.

Nothing here may run a parallel operation or touch CUDA: a thread pool or a CUDA context does not
survive a fork.
"""

from __future__ import annotations

import importlib

MODULES = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.pipelines.flux.pipeline_flux",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "safetensors.torch",
    "torch.distributed",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
    "fluxsampler_serve.gang.rank",
)


def preload(device: str) -> None:
    """Import :data:`MODULES`, and on CPU the adapted xfuser (on CUDA its import asks for the card's name)."""
    for name in MODULES:
        importlib.import_module(name)
    if device == "cpu":
        importlib.import_module("fluxsampler_serve.xfuser_adapter").load()
