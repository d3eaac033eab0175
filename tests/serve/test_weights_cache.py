"""The cache of prepared models: what it refuses, shares, repairs and survives."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxsampler_serve import weights
from fluxsampler_serve.errors import ModelCorrupt, ModelError, ModelMismatch, ModelNotFound
from fluxsampler_serve.weights.prepared import WeightsProgress
from tests.support.model_folders import copy_builtin, model_args, recast, shard
from tests.support.model_folders import weights as weights_of

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.timeout(1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = copy_builtin(tmp_path / "model")
    recast(folder, torch.float32)
    return folder


def _prepare(folder: Path, cache: Path, **changes: object) -> weights.PreparedModel:
    return weights.prepare(model_args(f"file://{folder}", cache, **changes))


def _truncate(folder: Path) -> None:
    path = weights_of(folder, "transformer")
    os.truncate(path, path.stat().st_size - 100)


def _empty(folder: Path) -> None:
    weights_of(folder, "vae").write_bytes(b"")


def _break_header(folder: Path) -> None:
    with weights_of(folder, "text_encoder_2").open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xfe\xfd")


def _change(component: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(weights_of(folder, component))
        change(tensors)
        save_file(tensors, weights_of(folder, component))

    return apply


def _drop_tensor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["context_embedder.bias"]


def _add_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lora.weight"] = torch.zeros(2)


def _add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["x_embedder.weight"] += 1


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["x_embedder.weight"] = tensors["x_embedder.weight"][1:].contiguous()


def _to_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["x_embedder.weight"] = tensors["x_embedder.weight"].to(torch.int8)


def _bad_json(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text('{"act_fn": ')


def _other_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "SD3Transformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))


def _impossible_config(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 0}))


def _remove(*names: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return apply


def _lose_shard(folder: Path) -> None:
    shard(folder, "transformer", 3)
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()


def _lose_tokenizer(folder: Path) -> None:
    for path in (folder / "tokenizer_2").iterdir():
        path.unlink()
    (folder / "tokenizer_2").rmdir()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            _truncate,
            ModelCorrupt,
            r"transformer/diffusion_pytorch_model\.safetensors .* where its header promises",
        ),
        (_empty, ModelCorrupt, r"vae/diffusion_pytorch_model\.safetensors .*cut off"),
        (_break_header, ModelCorrupt, r"text_encoder_2/model\.safetensors .*header is damaged"),
        (
            _change("transformer", _drop_tensor),
            ModelCorrupt,
            r"transformer/.* lacks tensor context_embedder\.bias:",
        ),
        (
            _change("transformer", _add_tensor),
            ModelCorrupt,
            r"transformer/.* has unexpected tensor lora\.weight:",
        ),
        (
            _change("transformer", _reshape),
            ModelCorrupt,
            r"x_embedder\.weight has shape \[\d+, 64\] where .*config\.json wants \[\d+, 64\]",
        ),
        (_change("transformer", _to_integers), ModelMismatch, r"x_embedder\.weight is stored as I8"),
        (_bad_json, ModelCorrupt, r"vae/config\.json cannot be read as JSON"),
        (_other_class, ModelMismatch, "declares transformer as SD3Transformer2DModel"),
        (_impossible_config, ModelMismatch, "configuration of text_encoder does not fit CLIPTextModel"),
        (
            _remove("model_index.json"),
            ModelNotFound,
            r"has no model_index\.json: give the folder of a diffusers",
        ),
        (_remove("vae/config.json"), ModelNotFound, "lacks the component vae"),
        (_remove("text_encoder/model.safetensors"), ModelNotFound, "lacks the weights of text_encoder: put"),
        (_lose_shard, ModelNotFound, "lacks the shard diffusion_pytorch_model-00002-of-00003"),
        (_lose_tokenizer, ModelNotFound, "lacks the component tokenizer_2"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(
    damage: Callable[[Path], None], error: type[ModelError], message: str, folder: Path, tmp_path: Path
) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        _prepare(folder, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "models").exists()


def test_a_source_that_fits_is_mapped_where_it_lies(folder: Path, tmp_path: Path) -> None:
    recast(folder, torch.bfloat16)
    in_place = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    converted = _prepare(folder, tmp_path / "cache", dtype="float32")
    assert all(path.resolve().is_relative_to(folder) for path in in_place.components.values())
    assert not any(path.resolve().is_relative_to(folder) for path in converted.components.values())


def test_a_single_shard_with_an_index_is_one_file(folder: Path, tmp_path: Path) -> None:
    shard(folder, "text_encoder_2", 1)
    prepared = _prepare(folder, tmp_path / "cache")
    assert prepared.components["text_encoder_2"].resolve().is_relative_to(folder)


def test_shards_become_one_file_that_everyone_may_read(folder: Path, tmp_path: Path) -> None:
    whole = _prepare(folder, tmp_path / "cache")
    shard(folder, "transformer", 3)
    before = os.umask(0o077)
    try:
        merged = _prepare(folder, tmp_path / "cache")
    finally:
        os.umask(before)
    path = merged.components["transformer"].resolve()
    assert path.is_relative_to(tmp_path / "cache")
    assert path.stat().st_mode & 0o777 == 0o644
    assert merged.fingerprint == whole.fingerprint


def test_names_of_published_clip_and_t5_checkpoints_are_understood(folder: Path, tmp_path: Path) -> None:
    plain = _prepare(folder, tmp_path / "cache")
    clip, t5 = weights_of(folder, "text_encoder"), weights_of(folder, "text_encoder_2")
    old = {f"text_model.{name}": tensor for name, tensor in load_file(clip).items()}
    save_file({**old, "text_model.embeddings.position_ids": torch.arange(77)[None]}, clip)
    tied = load_file(t5)
    save_file({**tied, "encoder.embed_tokens.weight": tied["shared.weight"].clone()}, t5)
    published = _prepare(folder, tmp_path / "cache")
    assert published.fingerprint == plain.fingerprint
    for ours, theirs in zip(
        weights.load_text_encoders(published), weights.load_text_encoders(plain), strict=True
    ):
        for (name, tensor), other in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            assert torch.equal(tensor, other), name


def test_dtypes_share_nothing_and_quantisations_share_the_rest(folder: Path, tmp_path: Path) -> None:
    plain = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    stored = _prepare(folder, tmp_path / "cache", dtype="bfloat16", quantization="fp8")
    for name in ("vae", "text_encoder", "text_encoder_2"):
        assert plain.components[name].resolve() == stored.components[name].resolve()
    assert plain.components["transformer"].resolve() != stored.components["transformer"].resolve()
    size = {
        name: model.components["transformer"].stat().st_size
        for name, model in (("bf16", plain), ("fp8", stored))
    }
    assert size["fp8"] < 0.6 * size["bf16"]
    assert plain.fingerprint != stored.fingerprint


def test_the_second_time_nothing_is_read_or_written(folder: Path, tmp_path: Path) -> None:
    first = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    state = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    heard: list[WeightsProgress] = []
    again = weights.prepare(
        model_args(f"file://{folder}", tmp_path / "cache", dtype="bfloat16"), heard.append
    )
    assert again == first
    assert heard == []
    assert state == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()
    }


def test_a_changed_source_is_prepared_anew_and_the_old_one_stays_mapped(folder: Path, tmp_path: Path) -> None:
    old = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    transformer = weights.load_transformer(old)
    before = transformer.x_embedder.weight.clone()
    _change("transformer", _add_one)(folder)
    new = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    assert new.fingerprint != old.fingerprint
    assert new.fingerprints["vae"] == old.fingerprints["vae"]
    assert torch.equal(transformer.x_embedder.weight, before)
    assert not torch.equal(weights.load_transformer(new).x_embedder.weight, before)


def test_a_damaged_cache_is_repaired_under_the_feet_of_nobody(folder: Path, tmp_path: Path) -> None:
    prepared = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    path = prepared.components["vae"].resolve()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-50])
    vae = weights_of(folder, "vae")
    repaired = _prepare(folder, tmp_path / "cache", dtype="bfloat16")
    assert repaired.fingerprint == prepared.fingerprint
    assert repaired.components["vae"].read_bytes() == content
    assert vae.exists()


def _die_in_the_middle(folder: str, cache: str, component: str) -> None:
    def die(progress: WeightsProgress) -> None:
        if progress.what == component and progress.done > progress.total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    weights.prepare(model_args(f"file://{folder}", Path(cache), dtype="bfloat16"), die)


def test_a_killed_preparation_leaves_only_what_was_whole(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    child = multiprocessing.get_context("spawn").Process(
        target=_die_in_the_middle, args=(str(folder), str(cache), "text_encoder_2")
    )
    child.start()
    child.join(timeout=900)
    assert child.exitcode == -signal.SIGKILL
    published = [path for path in (cache / "components").iterdir() if not path.name.startswith(".")]
    assert [json.loads((path / "component.json").read_text())["component"] for path in published] == [
        "transformer"
    ]
    assert not (cache / "models").exists()

    heard: list[WeightsProgress] = []
    prepared = weights.prepare(model_args(f"file://{folder}", cache, dtype="bfloat16"), heard.append)
    assert "transformer" not in {progress.what for progress in heard}
    assert weights.load_vae(prepared).dtype is torch.bfloat16
    left = [path for path in cache.rglob("*") if path.name.endswith((".partial", ".lock", ".old"))]
    assert left == []


def test_a_full_disk_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 20})())
    with pytest.raises(
        ModelError,
        match=r"has 1 MiB free and the transformer needs \d+ MiB: enlarge it or set spec.model.cache",
    ):
        _prepare(folder, tmp_path / "cache", dtype="bfloat16")


def test_a_cache_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot be written \(Not a directory\): set spec.model.cache"):
        _prepare(folder, tmp_path / "file" / "cache")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = model_args("builtin://tiny-shapes", tmp_path).model_copy(update={"cache_dir": None})
    monkeypatch.delenv("FLUXSAMPLER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_root(args) == tmp_path / "xdg" / "fluxsampler"
    monkeypatch.setenv("FLUXSAMPLER_CACHE", str(tmp_path / "own"))
    assert weights.cache_root(args) == tmp_path / "own"
    assert weights.cache_root(model_args("builtin://tiny-shapes", tmp_path)) == tmp_path
