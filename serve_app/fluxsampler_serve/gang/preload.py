"""What the forkserver imports before it forks: everything ranks need that does not compute.

Nothing here may run a parallel operation or touch CUDA: a thread pool or a CUDA context does not
survive a fork.
"""

from __future__ import annotations

import importlib
import warnings

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
    # xfuser 0.7.0 calls what torch 2.13 renames; each rank would say so at its first picture.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    for name in MODULES:
        importlib.import_module(name)
    if device == "cpu":
        importlib.import_module("fluxsampler_serve.xfuser_adapter").load()
