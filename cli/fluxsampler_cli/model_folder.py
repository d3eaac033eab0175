"""A diffusers FLUX pipeline in a local folder, as the planner wants to know it; read without torch."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fluxsampler_api.model_settings import FILE_NAME, ModelSettings
from fluxsampler_cli.errors import InputError
from fluxsampler_planner import ModelFacts

if TYPE_CHECKING:
    from pathlib import Path

# A safetensors file begins with the length of its JSON header, eight bytes little-endian; headers of
# published models are below 1 MiB, the format's own limit is 100 MB.
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000


COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "vae")


def check(folder: Path) -> None:
    """Raise :class:`InputError` when ``folder`` is not there, holds no pipeline, or a cut-off weight file."""
    if not folder.is_dir():
        raise InputError(
            f"spec.model.source: there is no folder {folder}; correct the path, or download the model there"
        )
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"spec.model.source: {folder} holds no model_index.json; name the folder of a diffusers FLUX pipeline"
        )
    for component in COMPONENTS:
        parameters(folder / component)


def facts(folder: Path) -> ModelFacts:
    """What the planner's catalogue would say of the pipeline in ``folder``.

    Raises:
        InputError: a configuration or weight file is missing or damaged.
        PlanError: the transformer is not FLUX's.
    """
    config = folder / "transformer" / "config.json"
    made = ModelFacts.from_config(
        _json(config, config.read_bytes() if config.is_file() else b""),
        name=folder.name,
        t5_parameters=parameters(folder / "text_encoder_2"),
        clip_parameters=parameters(folder / "text_encoder"),
        vae_parameters=parameters(folder / "vae"),
        source=str(config),
    )
    return _with_settings(made, folder / FILE_NAME)


def _with_settings(made: ModelFacts, file: Path) -> ModelFacts:
    """The facts with what the folder itself says of its sizes and defaults."""
    if not file.is_file():
        return made
    try:
        own = ModelSettings.model_validate(_json(file, file.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"spec.model.source: {file}: {where}: {first['msg']}; correct or remove the file"
        ) from error
    if own.max_text_tokens is not None:
        made = replace(made, max_text_tokens=own.max_text_tokens, default_text_tokens=own.max_text_tokens)
    if own.sizes is not None:
        made = replace(
            made,
            min_side=own.sizes.min,
            max_side=own.sizes.max,
            max_pixels=own.sizes.area,
            multiple_of=own.sizes.multiple_of,
        )
    if own.defaults is not None:
        made = replace(
            made,
            default_width=own.defaults.width,
            default_height=own.defaults.height,
            default_steps=own.defaults.steps,
            default_guidance=own.defaults.guidance_scale,
            default_text_tokens=own.defaults.max_text_tokens,
        )
    return made


def parameters(component: Path) -> int:
    """Numbers in all safetensors files of a component."""
    files = sorted(component.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"spec.model.source: {component} holds no .safetensors file; download the model again"
        )
    return sum(_numbers(file) for file in files)


def _numbers(file: Path) -> int:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - _LENGTH_BYTES):
            raise _damaged(file, "its header does not fit into it")
        header = _json(file, opened.read(length))
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    end = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    if size != _LENGTH_BYTES + length + end:
        raise _damaged(file, f"it has {size} bytes, its header says {_LENGTH_BYTES + length + end}")
    return sum(prod(tensor["shape"]) for tensor in tensors)


def _json(file: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _damaged(file, "its JSON cannot be read" if data else "it is missing or empty") from error
    if not isinstance(found, dict):
        raise _damaged(file, "its JSON is not an object")
    return found


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"spec.model.source: {file} is damaged: {why}; download the model again")
