"""The unmodified `openai` client: pictures, streams and typed errors."""

from __future__ import annotations

import base64

import openai as sdk
import pytest
from openai import OpenAI

from tests.support.live_service import TOKEN


def test_generates(openai: OpenAI) -> None:
    answer = openai.images.generate(prompt="a red circle", model="tiny-shapes", size="64x64", n=2)
    assert answer.data is not None
    first, second = answer.data
    assert base64.b64decode(first.b64_json or "").startswith(b"\x89PNG")
    assert first.b64_json != second.b64_json
    assert answer.size == "64x64"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2 * 16


def test_own_fields_travel_in_extra_body(openai: OpenAI) -> None:
    answer = openai.images.generate(prompt="a red circle", extra_body={"seed": 3, "steps": 2})
    assert answer.fluxsampler["seed"] == 3  # type: ignore[attr-defined]  # ours, not in OpenAI's type
    assert answer.fluxsampler["steps"] == 2  # type: ignore[attr-defined]  # as above


def test_streams_previews_and_the_picture(openai: OpenAI) -> None:
    stream = openai.images.generate(
        prompt="a red circle", stream=True, partial_images=2, extra_body={"seed": 3, "steps": 6}
    )
    events = list(stream)
    partials = [event for event in events if event.type == "image_generation.partial_image"]
    assert [event.partial_image_index for event in partials] == [0, 1]
    assert base64.b64decode(partials[0].b64_json).startswith(b"\x89PNG")
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.output_tokens == 64
    plain = openai.images.generate(prompt="a red circle", extra_body={"seed": 3, "steps": 6})
    assert plain.data is not None
    assert plain.data[0].b64_json == last.b64_json
    extras = [event.to_dict() for event in events]
    steps = {extra["step"] for extra in extras if extra["type"] == "fluxsampler.progress"}
    assert steps | {2, 4} == set(range(1, 7))


def test_lists_and_retrieves_models(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["tiny-shapes"]
    assert openai.models.retrieve("tiny-shapes").owned_by == "fluxsampler"
    with pytest.raises(sdk.NotFoundError):
        openai.models.retrieve("flux-99")


def test_typed_errors(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as unknown:
        openai.images.generate(prompt="a red circle", model="dall-e-3")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(sdk.UnprocessableEntityError) as wrong:
        openai.images.generate(prompt="a red circle", size="100x100")
    assert wrong.value.param == "size"
    assert "96x96" in wrong.value.message
    with pytest.raises(sdk.BadRequestError):
        openai.post("/images/generations", cast_to=object, content=b"{not json")


def test_a_wrong_key_is_an_authentication_error(scripted_url: str) -> None:
    with (
        OpenAI(base_url=f"{scripted_url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(sdk.AuthenticationError) as refused,
    ):
        client.images.generate(prompt="a red circle")
    assert refused.value.code == "invalid_api_key"
    with OpenAI(base_url=f"{scripted_url}/v1", api_key=TOKEN, max_retries=0) as client:
        assert client.images.generate(prompt="a red circle").data


def test_an_error_in_the_stream_is_an_api_error(scripted_url: str) -> None:
    with OpenAI(base_url=f"{scripted_url}/v1", api_key=TOKEN, max_retries=0) as client:
        stream = client.images.generate(prompt="parallel=noise fallback=noise", stream=True)
        with pytest.raises(sdk.APIError) as failed:
            list(stream)
    assert failed.value.code == "no_valid_picture"
