"""Prompts to embeddings: what diffusers computes, and what becomes of long and strange text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from fluxsampler_serve import weights
from fluxsampler_serve.errors import PromptTooLong
from fluxsampler_serve.prompts import check_prompt, encode_prompt
from tests.support.model_folders import model_args

TEN_MEGABYTES = 10_000_000


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> FluxPipeline:
    torch.set_num_threads(1)
    cache: Path = tmp_path_factory.mktemp("cache")
    return weights.load_pipeline(weights.prepare(model_args("builtin://tiny-shapes", cache)))


@pytest.mark.parametrize(
    "prompt", ["a red circle", "", " ", "a big  blue\tsquare\n", "ein roter Kreis, größer", "红色圆圈 🟥"]
)
@pytest.mark.parametrize("length", [16, 64])
def test_embeddings_are_those_of_diffusers(pipeline: FluxPipeline, prompt: str, length: int) -> None:
    ours = encode_prompt(pipeline, prompt, length, truncate=True)
    with torch.no_grad():
        embeds, pooled, ids = pipeline.encode_prompt(prompt, None, max_sequence_length=length)
    assert torch.equal(ours.prompt_embeds, embeds)
    assert torch.equal(ours.pooled_prompt_embeds, pooled)
    assert torch.equal(ours.text_ids, ids)


def test_a_truncated_prompt_is_what_diffusers_truncates_to(pipeline: FluxPipeline) -> None:
    prompt = "a red circle and a blue square " * 60
    ours = encode_prompt(pipeline, prompt, 32, truncate=True)
    with torch.no_grad():
        embeds, pooled, _ = pipeline.encode_prompt(prompt, None, max_sequence_length=32)
    assert torch.equal(ours.prompt_embeds, embeds)
    assert torch.equal(ours.pooled_prompt_embeds, pooled)
    assert ours.truncated_tokens == ours.tokens - 32 == len(pipeline.tokenizer_2(prompt).input_ids) - 32


def test_a_long_prompt_is_refused_with_the_count_and_the_way_out(pipeline: FluxPipeline) -> None:
    prompt = "a red circle " * 31
    count = len(pipeline.tokenizer_2(prompt).input_ids)
    with pytest.raises(PromptTooLong) as caught:
        encode_prompt(pipeline, prompt, 32, truncate=False, limit=64)
    assert str(caught.value) == (
        f"prompt has {count} tokens, max_text_tokens is 32: "
        "shorten it, raise max_text_tokens up to 64 or set truncate_prompt"
    )
    with pytest.raises(PromptTooLong, match=r": shorten it or set truncate_prompt$"):
        encode_prompt(pipeline, prompt, 64, truncate=False, limit=64)
    with pytest.raises(PromptTooLong, match=r": shorten it, raise max_text_tokens or set truncate_prompt$"):
        encode_prompt(pipeline, prompt, 64, truncate=False)


def test_the_limit_itself_fits(pipeline: FluxPipeline) -> None:
    prompt = "red " * 31
    assert len(pipeline.tokenizer_2(prompt).input_ids) == 32
    assert check_prompt(pipeline.tokenizer_2, prompt, 32, truncate=False) == 0
    with pytest.raises(PromptTooLong, match="has 33 tokens"):
        check_prompt(pipeline.tokenizer_2, prompt + "red", 32, truncate=False)


def test_lone_surrogates_and_zero_bytes_are_text_too(pipeline: FluxPipeline) -> None:
    assert torch.isfinite(
        encode_prompt(pipeline, "red \ud800 \x00 circle", 32, truncate=False).prompt_embeds
    ).all()


@pytest.mark.parametrize("text", ["a red circle ", "x", "é red "])
def test_ten_megabytes_are_cut_or_refused_by_their_beginning(pipeline: FluxPipeline, text: str) -> None:
    prompt = text * (TEN_MEGABYTES // len(text.encode()))
    with pytest.raises(PromptTooLong, match=r"prompt has more than .* tokens, max_text_tokens is 64"):
        encode_prompt(pipeline, prompt, 64, truncate=False)
    assert encode_prompt(pipeline, prompt, 64, truncate=True).truncated_tokens > 1000


@pytest.mark.parametrize("blank", [" ", "\u200b", "\x01", "🟥"])
def test_ten_megabytes_without_words_are_refused(pipeline: FluxPipeline, blank: str) -> None:
    with pytest.raises(PromptTooLong, match="has 10000000 characters and hardly a word that T5 knows"):
        encode_prompt(pipeline, blank * TEN_MEGABYTES, 64, truncate=True)


def test_nothing_is_said_about_clips_own_limit(
    pipeline: FluxPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    encode_prompt(pipeline, "a red circle " * 200, 64, truncate=True)
    assert caplog.records == []
