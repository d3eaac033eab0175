"""Copies of the built-in model, changed in one way: resharded, recast, damaged."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fluxsampler_api.app_args import ModelArgs

BUILTIN = Path(str(files("fluxsampler_serve"))) / "builtin" / "tiny_shapes"
WEIGHT_FILES = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


def model_args(source: str, cache: Path, **changes: object) -> ModelArgs:
    """float32, unquantised, unless ``changes`` say otherwise."""
    fields: dict[str, object] = {"name": "tiny", "dtype": "float32", "max_text_tokens": 64}
    return ModelArgs.model_validate({**fields, "source": source, "cache_dir": str(cache), **changes})


def copy_builtin(folder: Path) -> Path:
    """The built-in model in ``folder``."""
    shutil.copytree(BUILTIN, folder)
    return folder


def weights(folder: Path, component: str) -> Path:
    return folder / component / WEIGHT_FILES[component]


def recast(folder: Path, dtype: torch.dtype) -> None:
    """Store every component in ``dtype``."""
    for component in WEIGHT_FILES:
        path = weights(folder, component)
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)


def shard(folder: Path, component: str, count: int) -> None:
    """Split a component's file into ``count`` shards with an index, as large checkpoints come."""
    path = weights(folder, component)
    tensors = load_file(path)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(count):
        shard_name = f"{path.stem}-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, path.with_name(shard_name))
        weight_map |= dict.fromkeys(part, shard_name)
    path.unlink()
    path.with_name(f"{path.name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
