"""Tensors in memory that the replica and all ranks share: written once, read by everyone, sent to nobody.

Like the step board it is a memfd, so nothing is left behind. It grows to the largest call it has seen.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import torch

from fluxsampler_serve.gang.messages import TensorPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALIGNMENT = 64


class Arena:
    """One memfd, mapped by each process that has it."""

    def __init__(self, fd: int | None = None) -> None:
        """A new arena, or (with ``fd``, which it then owns) the one that another process made."""
        self.fd = os.memfd_create("fluxsampler-arena", os.MFD_CLOEXEC) if fd is None else fd
        self._map: mmap.mmap | None = None

    def place(
        self, tensors: Mapping[str, torch.Tensor], start: int = 0
    ) -> tuple[tuple[TensorPlace, ...], int]:
        """Copy ``tensors`` in, one after another from byte ``start``: where they are, and where the free space begins."""
        places: list[TensorPlace] = []
        for name, tensor in tensors.items():
            places.append(
                TensorPlace(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), start)
            )
            start += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self._reach(start)
        for place, tensor in zip(places, tensors.values(), strict=True):
            self._view(place).copy_(tensor)
        return tuple(places), start

    def take(self, places: Iterable[TensorPlace]) -> dict[str, torch.Tensor]:
        """Copies of the tensors at ``places``."""
        return {place.name: self._view(place).clone() for place in places}

    def close(self) -> None:
        """Close; idempotent. The memory is gone with the last process that maps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._map = None

    def _view(self, place: TensorPlace) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, place.dtype)
        count = 1
        for side in place.shape:
            count *= side
        self._reach(place.offset + count * dtype.itemsize)
        if count == 0:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=place.offset).view(place.shape)

    def _reach(self, size: int) -> None:
        if self._map is not None and len(self._map) >= size:
            return
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)
        if size:
            self._map = mmap.mmap(self.fd, os.fstat(self.fd).st_size)
