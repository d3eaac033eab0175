"""Reading and writing the safetensors format."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxsampler_serve.errors import ModelCorrupt
from fluxsampler_serve.weights.tensors import Fingerprint, Planned, hash_file, read_header, write_stream

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0),
    "q": torch.tensor([0.5, 448.0, -1.0]).to(torch.float8_e4m3fn),
}
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


def _write(path: Path) -> str:
    planned = [Planned(name, DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in TENSORS.items()]
    return write_stream(path, planned, iter(TENSORS.values()), lambda _: None)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    _write(tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in TENSORS.items()
    }
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name].float(), tensor.float())


def test_neighbours_may_read_the_file_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        _write(tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_existing_file_is_never_written_to(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"mapped by someone")
    with pytest.raises(FileExistsError):
        _write(target)
    assert target.read_bytes() == b"mapped by someone"


def test_data_starts_on_a_page(tmp_path: Path) -> None:
    _write(tmp_path / "w.safetensors")
    assert min(info.start for info in read_header(tmp_path / "w.safetensors").values()) % 4096 == 0


def test_the_fingerprint_is_of_the_tensors_and_not_of_the_file(tmp_path: Path) -> None:
    written = _write(tmp_path / "ours.safetensors")
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt", "by": "someone else"})
    same = {name: name for name in TENSORS}
    assert hash_file(tmp_path / "ours.safetensors", same, lambda _: None) == written
    assert hash_file(tmp_path / "theirs.safetensors", same, lambda _: None) == written


def test_one_bit_changes_the_fingerprint(tmp_path: Path) -> None:
    before = _write(tmp_path / "w.safetensors")
    content = bytearray((tmp_path / "w.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    assert hash_file(tmp_path / "w.safetensors", {name: name for name in TENSORS}, lambda _: None) != before


def test_shape_and_name_count() -> None:
    def of(name: str, shape: tuple[int, ...]) -> str:
        fingerprint = Fingerprint()
        fingerprint.add(name, "F32", shape, "0" * 64)
        return fingerprint.hexdigest()

    assert len({of("a", (2, 3)), of("a", (3, 2)), of("b", (2, 3))}) == 3


def _header(entries: object) -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "header is cut off"),
        (b"\x10\x00", "header is cut off"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header is cut off"),
        (struct.pack("<Q", 50) + b'{"a": {"dtype"', "header is cut off"),
        (struct.pack("<Q", 4) + b"\xff\xfe\x00\x00", "header is damaged"),
        (_header([1, 2]), "header is damaged"),
        (_header({"a": {"dtype": "F32"}}) + bytes(8), "header is damaged"),
        (_header({"a": {**GOOD, "dtype": "F99"}}) + bytes(8), "header is damaged"),
        (_header({"a": {**GOOD, "shape": [3]}}) + bytes(8), "header is damaged"),
        (_header({"a": {**GOOD, "data_offsets": [8, 16]}}) + bytes(16), "does not fit its data at tensor a"),
        (_header({"a": GOOD, "b": GOOD}) + bytes(8), "does not fit its data at tensor b"),
        (_header({"a": GOOD}) + bytes(7), "where its header promises"),
        (_header({"a": GOOD}) + bytes(9), "where its header promises"),
    ],
)
def test_damage_is_named(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=rf"{path} is no usable safetensors file: .*{why}.*; restore it"):
        read_header(path)


def test_a_missing_file_is_damage_too(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
