"""The safetensors format: headers read and checked, files written as a stream.

The library's own writer wants every tensor of a file in memory at once and leaves mode 0600; a
23 GB transformer is converted here one tensor at a time, into a file others may map.

Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes; offsets are
relative to the end of the header (huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from fluxsampler_serve.errors import ModelCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import torch

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# The library refuses longer ones too.
_MAX_HEADER = 100_000_000
# Tensor data starts on a page, so that a mapped tensor is as well aligned as an allocated one.
_PAGE = 4096
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of a header; ``start`` and ``end`` are offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of ``path`` in file order. Raises :class:`ModelCorrupt` for anything but a whole,
    well-formed file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise _corrupt(path, "its header is cut off or damaged")
            raw = file.read(length)
    except OSError as error:
        raise _corrupt(path, f"it cannot be read ({error.strerror})") from error
    try:
        entries = json.loads(raw)
        infos = [_entry(name, entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _corrupt(path, "its header is damaged") from error
    infos.sort(key=lambda info: info.start)
    at = 8 + length
    for info in infos:
        if info.start != at:
            raise _corrupt(path, f"its header does not fit its data at tensor {info.name}")
        at = info.end
    if at != size:
        raise _corrupt(path, f"it has {size} bytes where its header promises {at}")
    return {info.name: info for info in infos}


def _entry(name: str, entry: Mapping[str, Any], base: int) -> TensorInfo:
    shape = tuple(int(side) for side in entry["shape"])
    start, end = entry["data_offsets"]
    if end - start != prod(shape) * ITEM_BYTES[entry["dtype"]] or start < 0:
        raise ValueError(name)
    return TensorInfo(name, entry["dtype"], shape, base + start, base + end)


def _corrupt(path: Path, what: str) -> ModelCorrupt:
    return ModelCorrupt(f"{path} is no usable safetensors file: {what}; restore it from the model's source")


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Fingerprint:
    """SHA-256 over (name, dtype, shape, SHA-256 of the bytes) of every tensor, in order of name."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, dtype: str, shape: Iterable[int], digest: str) -> None:
        """Count one tensor in."""
        self._lines.append(f"{name} {dtype} {'x'.join(map(str, shape))} {digest}")

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256("\n".join(sorted(self._lines)).encode()).hexdigest()


def write_stream(
    path: Path, planned: list[Planned], tensors: Iterator[torch.Tensor], written: Callable[[int], None]
) -> str:
    """Write ``tensors`` (contiguous, on CPU, in the order of ``planned``) to the new file ``path``,
    mode 0644, and flush it to disk. ``written`` hears the bytes of each. Returns the fingerprint."""
    import torch  # headers are read by processes that never import torch

    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for plan in planned:
        entries[plan.name] = {
            "dtype": plan.dtype,
            "shape": plan.shape,
            "data_offsets": [at, at + plan.nbytes],
        }
        at += plan.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _PAGE)
    fingerprint = Fingerprint()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        # The umask of a replica may be stricter than what its neighbours need to map the file.
        os.fchmod(descriptor, 0o644)
        file.write(struct.pack("<Q", len(header)) + header)
        for plan, tensor in zip(planned, tensors, strict=True):
            raw = memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
            if raw.nbytes != plan.nbytes:
                raise AssertionError(f"{plan.name}: {raw.nbytes} bytes, {plan.nbytes} planned")
            file.write(raw)
            fingerprint.add(plan.name, plan.dtype, plan.shape, hashlib.sha256(raw).hexdigest())
            written(raw.nbytes)
        file.flush()
        os.fsync(descriptor)
    return fingerprint.hexdigest()


def hash_file(path: Path, names: Mapping[str, str], read: Callable[[int], None]) -> str:
    """Fingerprint of the tensors of an existing file, read once from front to back.

    ``names`` maps the tensors to count to the names they count under."""
    fingerprint = Fingerprint()
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        for info in read_header(path).values():
            file.seek(info.start)
            left, digest = info.end - info.start, hashlib.sha256()
            while left:
                count = file.readinto(memoryview(buffer)[: min(left, _CHUNK)])
                if not count:
                    raise _corrupt(path, f"it ends within tensor {info.name}")
                digest.update(memoryview(buffer)[:count])
                left -= count
                read(count)
            if info.name in names:
                fingerprint.add(names[info.name], info.dtype, info.shape, digest.hexdigest())
    return fingerprint.hexdigest()
