"""The one module that talks to xfuser: its versions, its CPU gaps, its groups, its transformers.

xfuser is written for CUDA and cannot be imported without it. On CPU, :func:`load` fills seven named
gaps *before* and right after the import; where CUDA is present it imports xfuser as it is. Every gap
is checked to still be there first, so a new xfuser fails loudly here and nowhere else.

The gaps of xfuser 0.7.0:

1. ``core/sparge_attention/block_mask.py`` imports triton unguarded; only sparse attention needs it.
2. ``envs.get_device_version`` raises at import, when ``config`` reads the CUDA version.
3. ``envs.check_long_ctx_attn`` is False without CUDA, and is copied by value into four modules: sequence
   parallelism would quietly be of degree 1.
4. ``envs.get_torch_distributed_backend`` raises.
5. ``layers/usp.py`` keeps ``PROCESS_GROUP = None`` without CUDA.
6. ``group_coordinator`` calls ``torch.cuda.synchronize``.
7. The SDPA_FLASH attention calls an operator that only CUDA has; ring attention needs one that returns
   the log-sum-exp.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import types
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fluxsampler_serve import devices
from fluxsampler_serve.errors import AdapterMismatch

if TYPE_CHECKING:
    import torch

    from fluxsampler_api.app_args import Layout

VERSIONS = {"xfuser": "0.7.0", "yunchang": "0.6.4"}
ROW = 16  # pixels that one row of tokens covers
TRITON_MODULE = "xfuser.core.sparge_attention.block_mask"


def check_versions() -> None:
    """Raise :class:`~fluxsampler_serve.errors.AdapterMismatch` unless exactly :data:`VERSIONS` are installed."""
    for name, wanted in VERSIONS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise AdapterMismatch(f"{name} is not installed: install {name}=={wanted}") from error
        if found != wanted:
            raise AdapterMismatch(
                f"{name} {found} is installed, the adapter was written for {wanted}: "
                f"install {name}=={wanted}, or read fluxsampler_serve/xfuser_adapter.py against the new one"
            )


def load() -> None:
    """Import xfuser, adapted to the CPU where there is no CUDA; idempotent."""
    if "xfuser" in sys.modules:
        return
    check_versions()
    import torch  # the replica reads VERSIONS without it

    if torch.version.cuda is not None and torch.cuda.is_available():
        importlib.import_module("xfuser")
    else:
        _load_on_cpu()
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "xfuser"]:
        logging.getLogger(name).setLevel(logging.ERROR)  # each is at DEBUG, and prints to stdout


def _load_on_cpu() -> None:
    importlib.import_module("diffusers")  # before any stand-in: torch._dynamo looks for triton itself
    if importlib.util.find_spec("triton") is None:  # 1
        stand_in = types.ModuleType(TRITON_MODULE)
        stand_in.get_block_map_meansim = _needs_triton  # type: ignore[attr-defined]  # a module made by hand
        sys.modules[TRITON_MODULE] = stand_in

    # xfuser.envs must be changed before xfuser/__init__.py imports everything that copies from it, so it
    # is imported alone, under a package object that runs no code.
    spec = importlib.util.find_spec("xfuser")
    if spec is None or spec.submodule_search_locations is None:
        raise AdapterMismatch("xfuser is installed but is no package")
    bare = types.ModuleType("xfuser")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["xfuser"] = bare
    try:
        envs = importlib.import_module("xfuser.envs")
        _replace(envs, "get_device_version", lambda: None)  # 2
        _replace(envs, "get_torch_distributed_backend", lambda: "gloo")  # 4
        facts = envs.PACKAGES_CHECKER.packages_info
        if "has_long_ctx_attn" not in facts:
            raise AdapterMismatch("xfuser.envs no longer knows has_long_ctx_attn")
        facts["has_long_ctx_attn"] = True  # 3: yunchang is there; only its process groups are used
    finally:
        del sys.modules["xfuser"]
    xfuser: Any = importlib.import_module("xfuser")
    xfuser.envs = envs

    usp = importlib.import_module("xfuser.model_executor.layers.usp")
    _replace(usp, "PROCESS_GROUP", importlib.import_module("yunchang.globals").PROCESS_GROUP)  # 5
    _replace(
        importlib.import_module("xfuser.core.distributed.group_coordinator"), "synchronize", lambda: None
    )  # 6
    attention = importlib.import_module("xfuser.core.distributed.attention_backend")
    flash = attention.AttentionBackendType.SDPA_FLASH
    if flash not in attention.ATTENTION_FUNCTION_REGISTRY:
        raise AdapterMismatch("xfuser no longer registers SDPA_FLASH attention")
    attention.register_attention_function(flash)(_flash_attention_cpu)  # 7


def _replace(module: types.ModuleType, name: str, value: object) -> None:
    if not hasattr(module, name):
        raise AdapterMismatch(f"{module.__name__} has no {name} any more")
    setattr(module, name, value)


def _needs_triton(*_: object, **__: object) -> None:
    raise RuntimeError("sparse attention needs triton")


def _flash_attention_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout_p: float,
    is_causal: bool,
    attention_kwargs: object = None,  # noqa: ARG001 (xfuser passes it by name)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [b, heads, tokens, d] with its log-sum-exp [b, heads, tokens]."""
    import torch  # see load

    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = attend(query, key, value, dropout_p=dropout_p, is_causal=is_causal)[:2]
    return out, lse


@dataclass(frozen=True, slots=True)
class TransformerFacts:
    """What xfuser wants to know of a FluxPipeline, without one."""

    config: Any  # the transformer's diffusers config
    vae_scale_factor: int


def join(
    layout: Layout,
    rank: int,
    *,
    rendezvous_fd: int,
    where: devices.RankPlace,
    dtype: torch.dtype,
    facts: TransformerFacts,
    timeout_seconds: float,
) -> None:
    """Make this process rank ``rank`` of the gang: process groups, then xfuser's runtime state.

    ``rendezvous_fd`` is a memfd that all ranks share: torch's FileStore on its /proc name needs neither
    a port that another process could take, nor a file that could be left behind.
    """
    load()
    from torch.distributed import distributed_c10d  # only ranks get here
    from xfuser import xFuserArgs
    from xfuser.core.distributed import (
        init_distributed_environment,
        initialize_runtime_state,
    )

    # new_group() ignores the timeout given to init and takes these, 30 and 10 minutes by default.
    timeout = timedelta(seconds=timeout_seconds)
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        _replace(distributed_c10d, name, timeout)
    backend = devices.collective_backend(where.kind)
    init_distributed_environment(
        world_size=layout.ranks,
        rank=rank,
        local_rank=where.index,
        distributed_init_method=f"file:///proc/self/fd/{rendezvous_fd}",
        backend=backend,
    )
    config, _ = xFuserArgs(
        model="flux",
        pipefusion_parallel_degree=layout.pipefusion,
        tensor_parallel_degree=layout.tensor,
        ulysses_degree=layout.ulysses,
        ring_degree=layout.ring,
        attn_layer_num_for_pp=list(layout.stage_blocks) if layout.stage_blocks else None,
        attention_backend=devices.attention_backend(layout.ring),
    ).create_config()
    config.runtime_config.dtype = dtype  # fp16 by default, and the dtype of its receive buffers
    # xfuser reads the kind of model off the class' name: with "Flux" it counts 16 pixels a token row.
    shim = type("FluxFacts", (), {})()
    shim.transformer = types.SimpleNamespace(config=facts.config)
    shim.vae_scale_factor = facts.vae_scale_factor
    initialize_runtime_state(shim, config)
    # Some size that the layout can split; a pipeline is told the real one before each request.
    rows = layout.pipefusion * layout.sequence
    prepare_request(ROW, ROW * rows, steps=1, text_tokens=512, pipelined=layout.pipefusion > 1)


def prepare_request(width: int, height: int, *, steps: int, text_tokens: int, pipelined: bool) -> None:
    """Tell xfuser's runtime state the shape of the next request, and put back what the last one changed."""
    from xfuser.core.distributed import get_runtime_state  # only ranks get here

    state = get_runtime_state()
    state.runtime_config.warmup_steps = 1  # xfuser lowers it to a request's steps and never raises it again
    state.set_input_parameters(
        width=width,
        height=height,
        batch_size=1,
        num_inference_steps=steps,
        max_condition_sequence_length=text_tokens,
        split_text_embed_in_sp=not pipelined,
    )
    state.set_patched_mode(patch_mode=False)


def sequence_transformer_class() -> type[Any]:
    """FluxTransformer2DModel that takes full inputs, computes its share of the tokens and returns the full output."""
    from xfuser.model_executor.models.transformers.transformer_flux import (
        xFuserFlux1Transformer2DWrapper,
    )

    return xFuserFlux1Transformer2DWrapper  # type: ignore[no-any-return]  # xfuser is untyped


def stage_transformer(transformer: Any) -> Any:
    """This rank's blocks of ``transformer`` (and its share of their feed-forwards), wrapped for patches."""
    from xfuser.model_executor.models.transformers.transformer_flux import (
        xFuserFluxTransformer2DWrapper,
    )

    return xFuserFluxTransformer2DWrapper(transformer)


def world_broadcast(tensor: torch.Tensor) -> None:
    """From rank 0 to all ranks, in place."""
    import torch.distributed as dist  # only ranks get here

    dist.broadcast(tensor, src=0)


class Stage:
    """This rank's pipeline stage: its place, its patches of the picture, its two neighbours.

    Messages between two stages arrive in the order in which they were sent. Shapes are known on both
    sides, so none is sent.
    """

    def __init__(self) -> None:
        from xfuser.core.distributed import (  # only ranks get here
            get_pp_group,
            get_runtime_state,
            get_sp_group,
        )

        self._group = get_pp_group()
        self._sequence = get_sp_group()
        self._state = get_runtime_state()
        self.count: int = self._group.world_size
        self.index: int = self._group.rank_in_group
        self.first = self.index == 0
        self.last = self.index == self.count - 1
        self._sending: list[tuple[Any, torch.Tensor]] = []

    @property
    def patch_spans(self) -> list[tuple[int, int]]:
        """Of each patch, this rank's tokens as [start, end) of the whole picture's."""
        return [(start, end) for start, end in self._state.pp_patches_token_start_end_idx_global]

    @property
    def patch_tokens(self) -> list[int]:
        """Tokens of each patch on this rank."""
        return list(self._state.pp_patches_token_num)

    def by_patches(self, on: bool) -> None:
        """From here the transformer is given one patch after another (or, off, all tokens at once)."""
        self._state.set_patched_mode(patch_mode=on)

    def next_patch(self) -> None:
        """The transformer's next call is for the next patch."""
        self._state.next_patch()

    def send(self, tensor: torch.Tensor) -> None:
        """To the next stage (from the last: to the first); returns at once."""
        import torch.distributed as dist  # see __init__

        tensor = tensor.contiguous()
        work = dist.isend(tensor, dst=self._group.next_rank, group=self._channel(self.index))
        # A work that is dropped before it is done cancels its message on gloo.
        self._sending = [item for item in self._sending if not item[0].is_completed()]
        self._sending.append((work, tensor))

    def receive(self, tensor: torch.Tensor) -> Any:
        """From the previous stage into ``tensor``, which is filled after the returned work's ``wait()``."""
        import torch.distributed as dist  # see __init__

        return dist.irecv(tensor, src=self._group.prev_rank, group=self._channel(self.index + 1))

    def finish_sends(self) -> None:
        """Wait until everything sent was taken."""
        for work, _ in self._sending:
            work.wait()
        self._sending.clear()

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """The whole picture's tokens [1, tokens, c] from all sequence ranks of this stage."""
        import torch  # see __init__

        if self._sequence.world_size == 1:
            return own
        shares = [
            share.split(self.patch_tokens, dim=1)
            for share in self._sequence.all_gather(own.contiguous(), separate_tensors=True)
        ]
        patches = range(len(self.patch_tokens))
        return torch.cat([share[patch] for patch in patches for share in shares], dim=1)

    def _channel(self, index: int) -> Any:
        # Two stages talk over two groups, one for each direction, or NCCL would put both in one queue.
        return self._group.device_groups[index % 2] if self.count == 2 else self._group.device_group
