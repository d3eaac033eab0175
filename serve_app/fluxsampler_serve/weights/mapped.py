"""Loading a prepared model: tensors are the mapped file itself, one copy for all processes.

Modules are built without weights and every parameter is set to the mapped tensor of its name. The
mapping is private and copy-on-write, so a process that did write to a weight would get its own copy
of that page, unseen; nothing here does, and a test maps the files read-only to prove it. For the
same reason nothing is cast: a file in another dtype than the caller planned is refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fluxsampler_serve.errors import ModelCorrupt, ModelMismatch
from fluxsampler_serve.weights import components as parts
from fluxsampler_serve.weights import fp8
from fluxsampler_serve.weights.convert import TORCH_DTYPES
from fluxsampler_serve.weights.facts import read_json
from fluxsampler_serve.weights.locks import exclusive
from fluxsampler_serve.weights.prepared import PreparedModel, Progress, WeightsProgress, silent

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from torch import nn
    from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

    from fluxsampler_serve.weights.components import Component

Device = str | torch.device
_CHUNK = 16 << 20


def load_transformer(
    prepared: PreparedModel, cls: type[FluxTransformer2DModel] | None = None, device: Device = "cpu"
) -> FluxTransformer2DModel:
    """The transformer, as ``cls`` (diffusers' own class, or xfuser's wrapper of it), in eval mode.

    On CPU its weights stay in the mapped file; on other devices they are copied there once. Raises
    :class:`ModelCorrupt` for a damaged file, :class:`ModelMismatch` for another dtype.
    """
    return _load(prepared, parts.TRANSFORMER, device, cls)


def load_vae(prepared: PreparedModel, device: Device = "cpu") -> AutoencoderKL:
    """The VAE; see :func:`load_transformer`."""
    return _load(prepared, parts.VAE, device)


def load_text_encoders(
    prepared: PreparedModel, device: Device = "cpu"
) -> tuple[CLIPTextModel, T5EncoderModel]:
    """CLIP (``text_encoder``) and T5 (``text_encoder_2``); see :func:`load_transformer`."""
    return _load(prepared, parts.CLIP, device), _load(prepared, parts.T5, device)


def load_tokenizers(prepared: PreparedModel) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """CLIP's and T5's tokenizers."""
    from transformers import CLIPTokenizer, T5TokenizerFast  # seconds to import

    return (
        _from_files(CLIPTokenizer, prepared.root / "tokenizer"),
        _from_files(T5TokenizerFast, prepared.root / "tokenizer_2"),
    )


def load_scheduler(prepared: PreparedModel) -> FlowMatchEulerDiscreteScheduler:
    """A new scheduler; schedulers hold state, so no two samplings at once may share one."""
    from diffusers import FlowMatchEulerDiscreteScheduler  # seconds to import

    return _from_files(FlowMatchEulerDiscreteScheduler, prepared.root / "scheduler")


def load_pipeline(
    prepared: PreparedModel, device: Device = "cpu", transformer: nn.Module | None = None
) -> FluxPipeline:
    """A whole FluxPipeline on ``device``, around ``transformer`` if one is given."""
    from diffusers import FluxPipeline  # seconds to import

    clip, t5 = load_text_encoders(prepared, device)
    tokenizer, tokenizer_2 = load_tokenizers(prepared)
    pipeline = FluxPipeline(
        scheduler=load_scheduler(prepared),
        vae=load_vae(prepared, device),
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer_2,
        transformer=load_transformer(prepared, device=device) if transformer is None else transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _from_files(cls: Any, folder: Path) -> Any:
    try:
        return cls.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelCorrupt(
            f"{folder} cannot be loaded ({error}): restore it from the model's source"
        ) from error


def _load(prepared: PreparedModel, component: Component, device: Device, cls: Any = None) -> Any:
    path = prepared.components[component.name]
    model = parts.skeleton(component, read_json(prepared.root / component.name / "config.json"), cls)
    if component is parts.TRANSFORMER and prepared.quantization == "fp8":
        fp8.use_fp8_linears(model)
    try:
        tensors = load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise ModelCorrupt(f"{path} is gone: prepare the model again") from error
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(
            f"{path} cannot be mapped ({error}): restore it from the model's source"
        ) from error
    named = {component.canonical(name): tensor for name, tensor in tensors.items()}
    for ignored in component.ignored:
        named.pop(ignored, None)
    aliases = dict(component.alias)
    for alias, name in aliases.items():
        if alias in named:
            named.setdefault(name, named.pop(alias))
    _assign(model, named, aliases, TORCH_DTYPES[prepared.dtype], path)
    for owner in model.modules():
        for leaf, buffer in owner.named_buffers(recurse=False):
            if buffer.device != torch.device(device):
                setattr(owner, leaf, buffer.to(device))
    return model


def _assign(
    model: nn.Module,
    tensors: dict[str, torch.Tensor],
    aliases: dict[str, str],
    dtype: torch.dtype,
    path: Path,
) -> None:
    """Make each tensor the parameter or buffer of its name, without a copy."""
    wanted = {name: value for name, value in model.state_dict().items() if name not in aliases}
    parts.check_names(str(path), set(tensors), set(wanted))
    for name, place in wanted.items():
        tensor = tensors[name]
        if tensor.shape != place.shape:
            raise ModelCorrupt(
                f"{path}: tensor {name} has shape {list(tensor.shape)} where the configuration wants "
                f"{list(place.shape)}: weights and configuration must come from the same model"
            )
        stored = place.dtype if _is_quantised(name, place) else dtype
        if tensor.dtype != stored:
            raise ModelMismatch(
                f"{path}: tensor {name} is {_short(tensor.dtype)} and {_short(stored)} was planned: "
                "prepare the model in that dtype; it is never converted while loading"
            )
        _set(model, name, tensor)
        for alias, target in aliases.items():
            if target == name:
                _set(model, alias, tensor)
    tie = getattr(model, "tie_weights", None)
    if aliases and tie is not None:
        tie()


def _is_quantised(name: str, place: torch.Tensor) -> bool:
    return place.dtype is fp8.STORAGE or name.endswith(fp8.SCALE_SUFFIX)


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._parameters:
        setattr(owner, leaf, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(owner, leaf, tensor)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def warm_page_cache(prepared: PreparedModel, progress: Progress | None = None) -> int:
    """Read every weight file from front to back, unless it is in memory already.

    Ranks that map a cold file fault it in page by page, each at its own place; one sequential reader
    beforehand is faster on any disk. Returns the bytes read. Callers on one node take turns, and
    those who come later find nothing left to read.
    """
    hear = progress or silent
    read = 0
    # Beside models/, so that every process of this cache meets at the same lock.
    locks = prepared.root.parent.parent / "locks"
    for name, path in prepared.components.items():
        with exclusive(locks / f"read-{path.resolve().parent.name}-{name}.lock"):
            read += _read_through(name, path, hear)
    return read


def _read_through(name: str, path: Path, progress: Progress) -> int:
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        if _in_memory(file.fileno(), total):
            return 0
        os.posix_fadvise(file.fileno(), 0, total, os.POSIX_FADV_SEQUENTIAL)
        done = 0
        while count := file.readinto(buffer):
            done += count
            progress(WeightsProgress("read", name, done, total))
    return done


def _in_memory(descriptor: int, size: int) -> bool:
    """Is the file in the page cache? Asked at one byte of every chunk, without waiting for the disk."""
    probe = bytearray(1)
    for offset in range(0, size, _CHUNK):
        try:
            if os.preadv(descriptor, [probe], offset, os.RWF_NOWAIT) == 0:
                return False
        except BlockingIOError:
            return False
        except OSError:
            # The file system cannot tell (EOPNOTSUPP): reading is always right.
            return False
    return True
