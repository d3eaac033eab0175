"""xfuser's own PipeFusion pipeline, run as xfuser means it: ``python -m tests.support.upstream_pipefusion ARGS OUT``.

ARGS is JSON: ``root`` (a prepared model), ``stage_blocks``, ``warmup``, and ``requests`` (fields of
SampleRequest). The last rank writes the latents of each request to the .npz file OUT.

On gloo its pipeline needs two more changes than the adapter makes, since our loop replaces that part:
a send whose Work is dropped is lost, and the exchange of shapes waits for its own sends, which on gloo
wait for the peer's receive, so that two stages wait for each other.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def patch_for_gloo() -> None:
    from xfuser.core.distributed.group_coordinator import PipelineGroupCoordinator

    plain_isend = PipelineGroupCoordinator._pipeline_isend
    kept: list[Any] = []

    def isend(self: Any, tensor: torch.Tensor) -> Any:
        kept.append((work := plain_isend(self, tensor), tensor))
        return work

    def exchange_shapes(self: Any, tensor_send_to_next: Any = None, recv_prev: bool = False) -> torch.Size:
        if tensor_send_to_next is not None:
            for numbers in ([tensor_send_to_next.dim()], list(tensor_send_to_next.size())):
                message = torch.tensor(numbers)
                kept.append((dist.isend(message, self.next_rank, group=self.device_group), message))
        if not recv_prev:
            return torch.Size([0, 0, 0])
        count = torch.empty(1, dtype=torch.int64)
        dist.recv(count, self.prev_rank, group=self.device_group)
        shape = torch.empty(int(count), dtype=torch.int64)
        dist.recv(shape, self.prev_rank, group=self.device_group)
        return torch.Size(shape.tolist())

    PipelineGroupCoordinator._pipeline_isend = isend
    PipelineGroupCoordinator._communicate_shapes = exchange_shapes


def run(rank: int, rendezvous: int, wanted: dict[str, Any], out: str) -> None:
    torch.set_num_threads(1)
    from diffusers import FluxPipeline
    from xfuser import xFuserArgs, xFuserFluxPipeline
    from xfuser.core.distributed import get_runtime_state, init_distributed_environment

    patch_for_gloo()
    stages = wanted["stage_blocks"]
    init_distributed_environment(
        world_size=len(stages),
        rank=rank,
        local_rank=0,
        distributed_init_method=f"file:///proc/self/fd/{rendezvous}",
        backend="gloo",
    )
    config, _ = xFuserArgs(
        model="flux",
        pipefusion_parallel_degree=len(stages),
        attn_layer_num_for_pp=stages,
        warmup_steps=wanted["warmup"],
        attention_backend="SDPA",
    ).create_config()
    config.runtime_config.dtype = torch.float32
    base = FluxPipeline.from_pretrained(wanted["root"], torch_dtype=torch.float32, local_files_only=True)
    pipeline = xFuserFluxPipeline(base, config)
    pipeline.set_progress_bar_config(disable=True)
    drawn: list[np.ndarray] = []
    for fields in wanted["requests"]:
        state = get_runtime_state()
        state.runtime_config.warmup_steps = wanted["warmup"]
        state._reset_recv_buffer()
        result = pipeline(
            prompt=fields["prompt"],
            width=fields["width"],
            height=fields["height"],
            num_inference_steps=fields["steps"],
            guidance_scale=fields["guidance_scale"],
            max_sequence_length=fields["max_text_tokens"],
            generator=torch.Generator("cpu").manual_seed(fields["seed"]),
            output_type="latent",
        )
        if result is not None:
            drawn.append(result.images[0].float().numpy())
    dist.barrier()
    if drawn:
        np.savez(out, *drawn)


def main() -> int:
    from fluxsampler_serve import xfuser_adapter

    wanted, out = json.loads(sys.argv[1]), sys.argv[2]
    xfuser_adapter.load()
    rendezvous = os.memfd_create("upstream")
    children: list[int] = []
    for rank in range(len(wanted["stage_blocks"])):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(rank, rendezvous, wanted, out)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


if __name__ == "__main__":
    sys.exit(main())
