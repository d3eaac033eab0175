"""Where models come from, with the real hub client against a small hub on loopback."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from huggingface_hub import constants

from fluxsampler_serve import weights
from fluxsampler_serve.errors import ModelAuthFailed, ModelCorrupt, ModelError, ModelMismatch, ModelNotFound
from fluxsampler_serve.weights import hub as hub_module
from fluxsampler_serve.weights.tensors import read_header
from tests.support.hub_server import Break, Hub, serve_hub
from tests.support.model_folders import (
    BUILTIN,
    copy_builtin,
    model_args,
    recast,
    shard,
)
from tests.support.model_folders import (
    weights as weights_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(1000)

REPO = "studio/tiny-flux"
SOURCE = f"hf://{REPO}"
T5_FILE = "text_encoder_2/model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = copy_builtin(tmp_path / "published")
    recast(folder, torch.float32)
    # What real repositories hold besides: other formats and single-file checkpoints.
    (folder / "flux1-tiny.safetensors").write_bytes(b"x" * 1000)
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(b"x" * 1000)
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x" * 1000)
    (folder / "README.md").write_text("# tiny")
    monkeypatch.setattr(hub_module, "BACKOFF_SECONDS", (0.01, 0.01))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve_hub(REPO, folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_hub_model_is_the_model_it_was_published_from(hub: Hub, tmp_path: Path) -> None:
    heard: list[weights.WeightsProgress] = []
    prepared = weights.prepare(model_args(SOURCE, tmp_path / "cache"), heard.append)
    local = weights.prepare(model_args("builtin://tiny-shapes", tmp_path / "cache"))

    assert prepared.revision == hub.commit
    assert prepared.fingerprint == local.fingerprint
    assert weights.load_transformer(prepared).config.num_layers == prepared.facts.double_blocks
    asked = {seen.path.split(hub.commit + "/")[-1] for seen in hub.seen if "/resolve/" in seen.path}
    assert T5_FILE in asked
    assert not [
        name for name in asked if name.endswith((".bin", ".md", ".fp16.safetensors")) or "flux1-tiny" in name
    ]
    downloaded = [heard_of for heard_of in heard if heard_of.phase == "download"]
    assert downloaded[-1].done == downloaded[-1].total > prepared.nbytes


def test_a_commit_that_is_there_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    args = model_args(SOURCE, tmp_path / "cache", revision=hub.commit)
    first = weights.prepare(args)
    hub.seen.clear()
    assert weights.prepare(args) == first
    assert hub.seen == []


def test_a_branch_is_pinned_to_its_commit_and_survives_a_hub_that_is_down(hub: Hub, tmp_path: Path) -> None:
    args = model_args(f"{SOURCE}@main", tmp_path / "cache")
    first = weights.prepare(args)
    assert first.revision == hub.commit
    hub.failures["/api/"] = 1000
    assert weights.prepare(args) == first


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_broken_connection_is_resumed_where_it_stopped(
    hub: Hub, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = "transformer/diffusion_pytorch_model.safetensors"
    # The client keeps whole chunks of 10 MiB; this model is smaller than one.
    chunk, after = 1 << 18, (hub.folder / transformer).stat().st_size * 7 // 8
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    hub.breaks.append(Break(transformer, after=after, how=how))  # type: ignore[arg-type]  # parametrised
    prepared = weights.prepare(model_args(SOURCE, tmp_path / "cache"))

    assert prepared.components["transformer"].read_bytes() == (hub.folder / transformer).read_bytes()
    ranges = [seen.range for seen in hub.asked("GET", transformer) if seen.path.startswith("/blob/")]
    assert ranges[0] is None
    assert len(ranges) == 2
    resumed_at = int(str(ranges[1]).removeprefix("bytes=").rstrip("-"))
    assert chunk <= resumed_at <= after
    assert resumed_at % chunk == 0


def test_a_busy_hub_is_asked_again_and_not_for_ever(hub: Hub, tmp_path: Path) -> None:
    hub.failures["/api/"] = 1
    assert weights.prepare(model_args(SOURCE, tmp_path / "one")).revision == hub.commit
    hub.failures["/api/"] = 10_000
    with pytest.raises(ModelError, match="could not be downloaded"):
        weights.prepare(model_args(SOURCE, tmp_path / "two"))


def test_damaged_bytes_are_noticed_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.corrupt.add(T5_FILE)
    with pytest.raises(ModelCorrupt, match=r"text_encoder_2/model\.safetensors.*arrived damaged"):
        weights.prepare(model_args(SOURCE, tmp_path / "cache"))
    hub.corrupt.clear()
    prepared = weights.prepare(model_args(SOURCE, tmp_path / "cache"))
    assert prepared.components["text_encoder_2"].read_bytes() == (hub.folder / T5_FILE).read_bytes()


def test_a_private_repository_wants_the_token_of_the_named_variable(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_right"
    args = model_args(SOURCE, tmp_path / "cache", token_env="STUDIO_TOKEN")
    with pytest.raises(ModelAuthFailed, match=r"\(401\).*put a token into STUDIO_TOKEN .*tokenSecretRef"):
        weights.prepare(args)
    monkeypatch.setenv("STUDIO_TOKEN", "hf_wrong")
    with pytest.raises(ModelAuthFailed, match=r"\(401\).*token in STUDIO_TOKEN is not valid"):
        weights.prepare(args)
    monkeypatch.setenv("STUDIO_TOKEN", "hf_right")
    assert weights.prepare(args).revision == hub.commit


def test_a_gated_repository_says_how_to_get_in(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(ModelAuthFailed, match=r"\(403\): it is gated, so accept its terms"):
        weights.prepare(model_args(SOURCE, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        (
            "hf://studio/no-such-model",
            None,
            r"\(404\): there is no such repository, so correct spec.model.source",
        ),
        (SOURCE, "v9", r"at revision v9 \(404\): there is no such revision, so correct spec.model.revision"),
        (SOURCE, "f" * 40, r"\(404\): there is no such revision"),
        ("hf://just-a-name", None, "is not hf://owner/name"),
        (f"{SOURCE}@v1", "v2", "names revision v1 and spec.model.revision is v2"),
    ],
)
def test_what_the_hub_does_not_have(
    hub: Hub, tmp_path: Path, source: str, revision: str | None, message: str
) -> None:
    with pytest.raises(ModelNotFound, match=message):
        weights.prepare(model_args(source, tmp_path / "cache", revision=revision))


def test_offline_says_so_and_works_with_what_is_there(hub: Hub, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": hub.endpoint,
        "PYTHONPATH": os.getcwd(),
    }
    script = (
        "import sys; from tests.support.model_folders import model_args; from pathlib import Path\n"
        "from fluxsampler_serve import weights, errors\n"
        f"args = model_args({SOURCE!r}, Path(sys.argv[1]))\n"
        "try: print(weights.prepare(args).revision)\n"
        "except errors.ModelNotFound as error: print(error)\n"
    )

    def offline() -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "cache")]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=900, check=True
        )
        return done.stdout.strip().splitlines()[-1]

    assert "HF_HUB_OFFLINE forbids" in offline()
    weights.prepare(model_args(SOURCE, tmp_path / "cache"))
    hub.seen.clear()
    assert offline() == hub.commit
    assert hub.seen == []


def _prepare_in_child(cache: str, queue: multiprocessing.Queue[str]) -> None:
    torch.set_num_threads(1)
    queue.put(weights.prepare(model_args(SOURCE, Path(cache), dtype="bfloat16")).fingerprint)


def test_two_callers_download_and_convert_once(hub: Hub, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    callers = [
        context.Process(target=_prepare_in_child, args=(str(tmp_path / "cache"), queue), daemon=True)
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    first, second = (queue.get(timeout=900) for _ in callers)
    for caller in callers:
        caller.join(timeout=60)

    assert first == second
    for name in (T5_FILE, "transformer/diffusion_pytorch_model.safetensors"):
        assert len([seen for seen in hub.asked("GET", name) if seen.path.startswith("/blob/")]) == 1
    assert list((tmp_path / "cache" / "locks").iterdir()) == []


def test_a_full_model_of_shards_in_another_dtype_has_the_fingerprint_of_the_plain_one(
    hub: Hub, tmp_path: Path
) -> None:
    recast(hub.folder, torch.bfloat16)
    shard(hub.folder, "transformer", 3)
    shard(hub.folder, "text_encoder_2", 2)
    sharded = weights.prepare(model_args(SOURCE, tmp_path / "cache", dtype="bfloat16"))
    plain = weights.prepare(model_args("builtin://tiny-shapes", tmp_path / "cache", dtype="bfloat16"))
    assert sharded.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("builtin://tiny-circles", "no built-in model 'tiny-circles': use one of builtin://tiny-shapes"),
        ("builtin://../engines", "no built-in model"),
        ("file:///no/such/folder", "model folder /no/such/folder does not exist"),
        ("file://relative/folder", "write three slashes"),
        ("s3://bucket/model", "is none of builtin://tiny-shapes, file:///folder and hf://owner/name"),
        ("/models/flux", "is none of"),
    ],
)
def test_sources_that_are_none(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=message):
        weights.prepare(model_args(source, tmp_path / "cache"))


def test_a_folder_with_spaces_in_its_name(tmp_path: Path) -> None:
    folder = copy_builtin(tmp_path / "my models" / "tiny flux")
    source = "file://" + str(folder).replace(" ", "%20")
    assert weights.prepare(model_args(source, tmp_path / "cache")).components["vae"].resolve() == weights_of(
        folder, "vae"
    )


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    folder = copy_builtin(tmp_path / "model")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("FluxPipeline", "StableDiffusion3Pipeline"))
    with pytest.raises(ModelMismatch, match=r"describes a StableDiffusion3Pipeline.*FluxPipeline"):
        weights.prepare(model_args(f"file://{folder}", tmp_path / "cache"))


def test_the_builtin_model_is_mapped_where_it_lies(tmp_path: Path) -> None:
    stored = {info.dtype for info in read_header(weights_of(BUILTIN, "transformer")).values()}
    dtype = {"F32": "float32", "BF16": "bfloat16"}[stored.pop()]
    prepared = weights.prepare(model_args("builtin://tiny-shapes", tmp_path / "cache", dtype=dtype))
    for component, path in prepared.components.items():
        assert path.resolve() == weights_of(BUILTIN, component).resolve()
