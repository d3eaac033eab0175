"""float8 storage: how exact it is, and that it stays what it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fluxsampler_serve.errors import ModelCorrupt
from fluxsampler_serve.weights.fp8 import Fp8Linear, decode, encode, is_quantised, scale_name, use_fp8_linears


def _weight(seed: int, scale: float) -> torch.Tensor:
    return torch.randn(48, 64, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1e-3, 0.02, 1.0, 37.0, 1e5]))
def test_error_is_half_a_step_of_three_bits(seed: int, scale: float) -> None:
    weight = _weight(seed, scale)
    stored, factor = encode(weight)
    error = (decode(stored, factor, torch.float32) - weight).abs()
    # Normal numbers: relative 2^-4. Below e4m3's smallest normal 2^-6: half of its absolute step 2^-9.
    assert bool((error <= torch.maximum(weight.abs() * 2**-4, factor * 2**-10)).all())


def test_scales_are_powers_of_two_and_rows_use_the_range() -> None:
    stored, factor = encode(_weight(0, 0.02))
    mantissa, _ = torch.frexp(factor)
    assert bool((mantissa == 0.5).all())
    peak = stored.float().abs().amax(dim=1)
    assert bool(((peak > 220) & (peak <= 448)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_is_exact(dtype: torch.dtype) -> None:
    stored, factor = encode(_weight(1, 0.02))
    exact = stored.to(torch.float64) * factor.to(torch.float64)
    assert torch.equal(decode(stored, factor, dtype).to(torch.float64), exact)


def test_what_float8_holds_comes_back_unchanged() -> None:
    weight = torch.tensor([[448.0, 1.0, 0.0], [0.0, 0.0, 0.0], [-0.875, 0.125, 0.5]])
    assert torch.equal(decode(*encode(weight), torch.float32), weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(bad: float) -> None:
    weight = _weight(0, 1.0)
    weight[3, 4] = bad
    with pytest.raises(ModelCorrupt, match="NaN or infinite"):
        encode(weight)


def _layer(bias: bool) -> tuple[Fp8Linear, torch.Tensor, torch.Tensor | None]:
    plain = nn.Linear(64, 48, bias=bias)
    stored, factor = encode(plain.weight.detach())
    layer = Fp8Linear.replacing(plain)
    layer.weight = nn.Parameter(stored, requires_grad=False)
    layer.weight_scale = factor
    if bias:
        layer.bias = nn.Parameter(plain.bias.detach(), requires_grad=False)
    return layer, decode(stored, factor, torch.float32), layer.bias


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_computes_with_the_rounded_weight(bias: bool) -> None:
    layer, rounded, offset = _layer(bias)
    x = torch.randn(2, 5, 64)
    assert torch.equal(layer(x), F.linear(x, rounded, offset))


def test_a_call_leaves_the_storage_alone() -> None:
    layer, _, _ = _layer(bias=True)
    before, address = layer.weight.view(torch.uint8).clone(), layer.weight.data_ptr()
    layer(torch.randn(3, 64))
    assert layer.weight.data_ptr() == address
    assert torch.equal(layer.weight.view(torch.uint8), before)


def test_casts_reach_the_bias_and_not_the_storage() -> None:
    layer, rounded, _ = _layer(bias=True)
    model = nn.Sequential(layer).to(torch.bfloat16)
    assert layer.weight.dtype is torch.float8_e4m3fn
    assert layer.weight_scale.dtype is torch.float32
    assert layer.bias.dtype is torch.bfloat16
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    assert torch.equal(model(x), F.linear(x, rounded.to(torch.bfloat16), layer.bias))


def test_a_weight_cut_without_its_scale_is_noticed() -> None:
    """xfuser's tensor parallelism cuts `weight.data` by output channels; that must not pass for a result."""
    layer, _, _ = _layer(bias=False)
    layer.weight.data = layer.weight.data[:24]
    with pytest.raises(RuntimeError, match="size"):
        layer(torch.randn(3, 64))


def test_blocks_are_quantised_and_what_surrounds_them_is_not() -> None:
    assert is_quantised("transformer_blocks.0.attn.to_q.weight", 2)
    assert is_quantised("single_transformer_blocks.37.proj_mlp.weight", 2)
    assert not is_quantised("transformer_blocks.0.attn.norm_q.weight", 1)
    assert not is_quantised("transformer_blocks.0.attn.to_q.bias", 1)
    assert not is_quantised("x_embedder.weight", 2)
    assert not is_quantised("norm_out.linear.weight", 2)
    assert (
        scale_name("transformer_blocks.0.attn.to_q.weight") == "transformer_blocks.0.attn.to_q.weight_scale"
    )


def test_only_linear_layers_of_blocks_are_replaced() -> None:
    model = nn.Module()
    model.x_embedder = nn.Linear(4, 4)
    model.transformer_blocks = nn.ModuleList(
        [nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))]
    )
    assert use_fp8_linears(model) == 2
    assert type(model.x_embedder) is nn.Linear
    assert isinstance(model.get_submodule("transformer_blocks.0.2"), Fp8Linear)
