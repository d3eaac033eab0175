"""One component from its source files to the one file that everyone maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from fluxsampler_serve.errors import ModelCorrupt, ModelMismatch
from fluxsampler_serve.weights import fp8
from fluxsampler_serve.weights.tensors import Planned, write_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from fluxsampler_serve.weights.components import SourceTensor
    from fluxsampler_serve.weights.prepared import Dtype, Quantization

TORCH_DTYPES: Mapping[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The format's names of what a component is used in.
FILE_DTYPES: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16"}
# What can be cast without knowing more about the file; integers would need their scales.
_CASTABLE = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def fits_in_place(tensors: Mapping[str, SourceTensor], dtype: Dtype, quantization: Quantization) -> bool:
    """Can the source be mapped as it is: one file, already in the dtype it is used in?"""
    return (
        quantization == "none"
        and len({tensor.path for tensor in tensors.values()}) == 1
        and all(tensor.info.dtype == FILE_DTYPES[dtype] for tensor in tensors.values())
    )


def convert(
    tensors: Mapping[str, SourceTensor],
    dtype: Dtype,
    quantization: Quantization,
    target: Path,
    written: Callable[[int], None],
) -> str:
    """Write ``tensors`` to the new file ``target`` in ``dtype``; returns their fingerprint.

    ``written`` hears the bytes of each tensor. One tensor is in memory at a time, read from a mapped source. Raises :class:`ModelMismatch` for a
    source whose numbers cannot be cast, :class:`ModelCorrupt` for one that cannot be read.
    """
    for tensor in tensors.values():
        if tensor.info.dtype not in _CASTABLE:
            raise ModelMismatch(
                f"{tensor.path}: tensor {tensor.name} is stored as {tensor.info.dtype}, which is quantised in a way "
                "this service does not know: use the unquantised checkpoint, with spec.model.quantization: fp8 if wanted"
            )
    steps = _steps(tensors, dtype, quantization)
    return write_stream(target, [plan for plan, _ in steps], _cast(steps), written)


def converted_bytes(tensors: Mapping[str, SourceTensor], dtype: Dtype, quantization: Quantization) -> int:
    """Bytes that :func:`convert` will write, headers aside."""
    return sum(plan.nbytes for plan, _ in _steps(tensors, dtype, quantization))


def _steps(
    tensors: Mapping[str, SourceTensor], dtype: Dtype, quantization: Quantization
) -> list[tuple[Planned, SourceTensor]]:
    """What to write from what, wide items first: each tensor then lies on a multiple of its item size."""
    wide: list[tuple[Planned, SourceTensor]] = []
    narrow: list[tuple[Planned, SourceTensor]] = []
    scales: list[tuple[Planned, SourceTensor]] = []
    for name, tensor in tensors.items():
        shape = tensor.info.shape
        if quantization == "fp8" and fp8.is_quantised(name, len(shape)):
            narrow.append((Planned(name, "F8_E4M3", shape), tensor))
            scales.append((Planned(fp8.scale_name(name), "F32", (shape[0], 1)), tensor))
        else:
            wide.append((Planned(name, FILE_DTYPES[dtype], shape), tensor))
    return scales + wide + narrow


def _cast(steps: list[tuple[Planned, SourceTensor]]) -> Iterator[torch.Tensor]:
    files = {source.path: None for _, source in steps}
    try:
        handles = {path: safe_open(str(path), framework="pt", device="cpu") for path in files}
        for plan, source in steps:
            tensor: torch.Tensor = handles[source.path].get_tensor(source.info.name)  # type: ignore[no-untyped-call]  # safetensors types no methods
            yield _as_planned(plan, source, tensor)
    except SafetensorError as error:
        names = ", ".join(str(path) for path in files)
        raise ModelCorrupt(f"{names} cannot be read ({error}): restore it from the model's source") from error


def _as_planned(plan: Planned, source: SourceTensor, tensor: torch.Tensor) -> torch.Tensor:
    if plan.dtype == "F8_E4M3" or plan.name.endswith(fp8.SCALE_SUFFIX):
        try:
            stored, scale = fp8.encode(tensor)
        except ModelCorrupt as error:
            raise ModelCorrupt(f"{source.path}: {source.name}: {error}") from error
        return stored if plan.dtype == "F8_E4M3" else scale
    wanted = torch.float32 if plan.dtype == "F32" else torch.bfloat16
    return tensor.to(wanted).contiguous()
