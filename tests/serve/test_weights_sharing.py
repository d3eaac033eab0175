"""One copy of the weights for all processes, and nobody writes to it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxsampler_serve import weights
from fluxsampler_serve.gang.linux import die_with_parent
from fluxsampler_serve.weights.tensors import Planned, write_stream
from tests.support.model_folders import copy_builtin, model_args
from tests.support.model_folders import weights as weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

# Starvation by a busy machine is no failure of what is tested here.
pytestmark = pytest.mark.timeout(1000)

RANKS = 4
MIB = 1 << 20
# Some 300 MiB in float32: what a process costs beside the weights must not drown them.
LARGE = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 8, "attention_head_dim": 96}
AXES = {"axes_dims_rope": [16, 40, 40]}


def _enlarge(folder: Path) -> None:
    """Replace the transformer by a large one of random weights."""
    path = folder / "transformer" / "config.json"
    config = {**json.loads(path.read_text()), **LARGE, **AXES}
    path.write_text(json.dumps(config))
    with init_empty_weights():
        empty = FluxTransformer2DModel.from_config(config)
    planned = [Planned(name, "F32", tuple(tensor.shape)) for name, tensor in empty.state_dict().items()]
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(plan.shape, generator=generator) * 0.02 for plan in planned)
    target = weights_of(folder, "transformer")
    target.unlink()
    write_stream(target, planned, tensors, lambda _: None)


def _forward(prepared: weights.PreparedModel) -> FluxTransformer2DModel:
    """Load the transformer and run it once, so that every weight has been read."""
    transformer = weights.load_transformer(prepared)
    facts = prepared.facts
    with torch.no_grad():
        transformer(
            hidden_states=torch.ones(1, 4, 64),
            encoder_hidden_states=torch.ones(1, 8, facts.text_dim),
            pooled_projections=torch.ones(1, facts.pooled_dim),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([1.0]) if facts.guidance_embeds else None,
            img_ids=torch.zeros(4, 3),
            txt_ids=torch.zeros(8, 3),
        )
    return transformer


def mapped_kib(path: Path) -> dict[str, int]:
    """Sums over this process's mappings of ``path``, in KiB: Rss, Pss, Private_Dirty, ..."""
    sums: dict[str, int] = {}
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.endswith(" kB"):
            key, value = line.split(":")
            sums[key] = sums.get(key, 0) + int(value.split()[0])
    return sums


def anonymous_kib() -> int:
    """KiB of this process that no file backs and that it has written to."""
    found = re.search(r"Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1])


def measure_ranks(prepared: weights.PreparedModel) -> list[dict[str, Any]]:
    """Fork ranks, have each load and run the transformer, and measure while all of them hold it."""
    path = prepared.components["transformer"].resolve()
    results, go = os.pipe(), os.pipe()
    parent, children = os.getpid(), []
    for _ in range(RANKS):
        child = os.fork()
        if child:
            children.append(child)
            continue
        die_with_parent(parent)
        before = anonymous_kib()
        transformer = _forward(prepared)
        os.write(results[1], b"r")
        os.read(go[0], 1)
        found = {
            **mapped_kib(path),
            "grown": anonymous_kib() - before,
            "blocks": len(transformer.transformer_blocks),
        }
        os.write(results[1], json.dumps(found).encode() + b"\n")
        # All of them stay until all have measured: a rank that left would no longer share its part.
        os.read(go[0], 1)
        os._exit(0)
    ready = b""
    while len(ready) < RANKS:
        ready += os.read(results[0], RANKS)
    os.write(go[1], b"g" * RANKS)
    lines = b""
    while lines.count(b"\n") < RANKS:
        lines += os.read(results[0], 1 << 16)
    os.write(go[1], b"g" * RANKS)
    for child in children:
        os.waitpid(child, 0)
    return [json.loads(line) for line in lines.splitlines()]


_PREAMBLE = """
from fluxsampler_serve.gang.linux import die_with_parent
die_with_parent({parent})
import torch
torch.set_num_threads(1)
"""


def _in_a_process_of_its_own(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PREAMBLE.format(parent=os.getpid()) + script, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
    )


_MEASURE = """
import json, pathlib, sys
import diffusers
from fluxsampler_serve import weights
from tests.serve.test_weights_sharing import measure_ranks
from tests.support.model_folders import model_args
diffusers.FluxTransformer2DModel  # imported before the ranks are forked, as a gang's forkserver does
for quantization in ("none", "fp8"):
    args = model_args("file://" + sys.argv[1], pathlib.Path(sys.argv[2]), quantization=quantization)
    prepared = weights.prepare(args)
    size = prepared.components["transformer"].stat().st_size
    print(json.dumps({"quantization": quantization, "size": size, "ranks": measure_ranks(prepared)}))
"""


def test_all_ranks_together_hold_one_copy(tmp_path: Path) -> None:
    folder = copy_builtin(tmp_path / "model")
    _enlarge(folder)
    done = _in_a_process_of_its_own(_MEASURE, str(folder), str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    plain, stored = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    _assert_shared(plain, beside=0)
    # float8 is decoded one layer at a time. What malloc keeps of that varies; all of it at once would be the plain file.
    _assert_shared(stored, beside=plain["size"] / 1024 / 2)


def _assert_shared(found: dict[str, Any], beside: float) -> None:
    """Each rank has read the whole file, together they hold it once, and nobody has written to it.

    ``beside`` is what a rank may hold of its own, in KiB, over 5 % of the file."""
    kib, ranks = found["size"] / 1024, found["ranks"]
    assert [rank["blocks"] for rank in ranks] == [LARGE["num_layers"]] * RANKS
    assert all(rank["Rss"] > 0.95 * kib for rank in ranks)
    assert 0.95 * kib < sum(rank["Pss"] for rank in ranks) < 1.02 * kib
    assert [rank["Private_Dirty"] for rank in ranks] == [0] * RANKS
    assert [rank["Anonymous"] for rank in ranks] == [0] * RANKS
    assert max(rank["grown"] for rank in ranks) < 0.05 * kib + beside


def protect(path: Path) -> int:
    """Take away this process's right to write to its mappings of ``path``; returns their bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    protected = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
            if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 1):
                raise OSError(ctypes.get_errno(), "mprotect")
            protected += end - start
    return protected


def draw_read_only(cache: Path, dtype: str, quantization: str, write: bool) -> None:
    """Draw twice with every weight mapped read-only; ``write`` writes to one first."""
    prepared = weights.prepare(
        model_args("builtin://tiny-shapes", cache, dtype=dtype, quantization=quantization)
    )
    pipeline = weights.load_pipeline(prepared)
    for path in prepared.components.values():
        if protect(path.resolve()) < path.stat().st_size:
            raise AssertionError(f"{path} is not mapped")
    if write:
        pipeline.vae.decoder.conv_in.weight.data.add_(1)
    for size in (64, 128):
        pipeline(
            "a red circle",
            height=size,
            width=size,
            num_inference_steps=2,
            guidance_scale=0.0,
            max_sequence_length=32,
        )


def exit_of(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does ``work``: negative for a signal."""
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent(parent)
        try:
            work()
        except BaseException:  # noqa: BLE001 - printed, and told by the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


_READ_ONLY = """
import json, pathlib, sys
import diffusers, transformers
from tests.serve.test_weights_sharing import draw_read_only, exit_of
diffusers.FluxPipeline, transformers.T5EncoderModel
cases = [("float32", "none", False), ("bfloat16", "none", False), ("bfloat16", "fp8", False), ("float32", "none", True)]
print(json.dumps([exit_of(lambda: draw_read_only(pathlib.Path(sys.argv[1]), *case)) for case in cases]))
"""


def test_drawing_writes_to_no_weight(tmp_path: Path) -> None:
    """With the mappings made read-only a single write ends the process, as the last case shows."""
    done = _in_a_process_of_its_own(_READ_ONLY, str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, 0, -signal.SIGSEGV], done.stderr[-3000:]
