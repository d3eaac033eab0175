"""Pictures from the built-in model through HAProxy, two gateways and a gang of two ranks."""

from __future__ import annotations

import base64
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from fluxsampler_serve.engines.protocol import Cancel, SampleRequest
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.picture import read_metadata
from tests.support.app_args import tiny_app_args

IMAGES = "/v1/images/generations"


def picture(response: httpx.Response, index: int = 0) -> bytes:
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["data"][index]["b64_json"])


def test_a_prompt_alone_gives_the_defaults_and_the_seed_it_got(tiny: httpx.Client) -> None:
    response = tiny.post(IMAGES, json={"prompt": "a red circle"})
    own = response.json()["fluxsampler"]
    assert Image.open(BytesIO(picture(response))).size == (128, 128)
    assert (own["width"], own["steps"], own["guidance_scale"]) == (128, 8, 0.0)
    again = tiny.post(IMAGES, json={"prompt": "a red circle", "seed": own["seed"]})
    assert picture(again) == picture(response)


def test_the_same_request_gives_the_same_bytes(tiny: httpx.Client) -> None:
    body = {"prompt": "a red circle", "seed": 7, "output_format": "png"}
    first, second = (tiny.post(IMAGES, json=body) for _ in range(2))
    assert first.headers["x-fluxsampler-engine"] == second.headers["x-fluxsampler-engine"] == "parallel"
    assert picture(first) == picture(second)


def test_the_gangs_picture_is_the_single_engines(tiny: httpx.Client) -> None:
    """Pixels are latents rounded: where these differ by 1e-5, those may by one of 255."""
    args = tiny_app_args()
    engine = SingleEngine(args.model, "cpu")
    engine.load()
    request = SampleRequest("a red circle", 128, 128, steps=8, seed=7, guidance_scale=0.0, max_text_tokens=32)
    try:
        single = engine.sample(request, lambda _: None, Cancel()).pixels.astype(int)
    finally:
        engine.close()
    response = tiny.post(IMAGES, json={"prompt": "a red circle", "seed": 7})
    assert response.headers["x-fluxsampler-engine"] == "parallel"
    gang = np.asarray(Image.open(BytesIO(picture(response))).convert("RGB")).astype(int)
    assert gang.std() > 10  # two blank pictures would be equal too
    assert np.abs(gang - single).max() <= 1


def test_the_gang_draws_and_says_so(tiny: httpx.Client) -> None:
    response = tiny.post(IMAGES, json={"prompt": "a red circle", "seed": 7})
    assert response.headers["x-fluxsampler-engine"] == "parallel"
    assert response.headers["x-fluxsampler-engine-reason"] == "Planned"
    pixels = np.asarray(Image.open(BytesIO(picture(response))).convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    assert ((red > 150) & (np.maximum(green, blue) < 100)).mean() > 0.02


def test_the_picture_carries_what_it_takes_to_draw_it_again(tiny: httpx.Client) -> None:
    body = {"prompt": "a blue square — 蓝色", "seed": 5, "size": "64x64", "steps": 3}
    fields = read_metadata(picture(tiny.post(IMAGES, json=body)))
    assert fields["prompt"] == body["prompt"]
    assert (fields["seed"], fields["steps"], fields["size"]) == ("5", "3", "64x64")
    assert fields["engine"] == "parallel"
    assert fields["model_fingerprint"] == tiny.get("/v1/info").json()["model"]["fingerprint"]
    assert len(fields["model_fingerprint"]) == 64


def test_what_the_gang_cannot_split_goes_to_the_fallback(tiny: httpx.Client) -> None:
    response = tiny.post(IMAGES, json={"prompt": "a red circle", "size": "112x112", "seed": 1})
    assert response.headers["x-fluxsampler-engine"] == "fallback"
    assert response.headers["x-fluxsampler-engine-reason"] == "NotSplittable"
    assert response.json()["fluxsampler"]["pictures"][0]["engine"] == "fallback"


def test_n_pictures_have_the_seeds_from_seed_on(tiny: httpx.Client) -> None:
    many = tiny.post(IMAGES, json={"prompt": "a red circle", "n": 3, "seed": 10, "size": "64x64", "steps": 2})
    assert [p["seed"] for p in many.json()["fluxsampler"]["pictures"]] == [10, 11, 12]
    second = tiny.post(IMAGES, json={"prompt": "a red circle", "seed": 11, "size": "64x64", "steps": 2})
    assert picture(many, 1) == picture(second)


@pytest.mark.parametrize(("kind", "format_"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_as_a_data_url(tiny: httpx.Client, kind: str, format_: str) -> None:
    body = {"prompt": "a red circle", "seed": 1, "output_format": kind, "response_format": "url"}
    url = tiny.post(IMAGES, json=body).json()["data"][0]["url"]
    head, data = url.split(",", 1)
    assert head == f"data:image/{kind};base64"
    assert Image.open(BytesIO(base64.b64decode(data))).format == format_


def test_curl_needs_no_content_type(tiny: httpx.Client) -> None:
    response = tiny.post(
        IMAGES,
        content=b'{"prompt": "a red circle", "steps": 1}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 200


def test_exactly_one_request_id_and_it_is_the_callers(tiny: httpx.Client) -> None:
    given = tiny.post(IMAGES, json={"prompt": "a red circle", "steps": 1}, headers={"x-request-id": "mine-1"})
    assert given.headers.get_list("x-request-id") == ["mine-1"]
    assert given.json()["fluxsampler"]["request_id"] == "mine-1"
    fresh = tiny.get("/v1/models")
    assert len(fresh.headers.get_list("x-request-id")) == 1
    refused = tiny.post(IMAGES, json={"prompt": ""})
    assert len(refused.headers.get_list("x-request-id")) == 1


def test_info_tells_plan_model_and_engines(tiny: httpx.Client) -> None:
    info = tiny.get("/v1/info").json()
    assert info["ready"] is True
    assert {name: engine["ready"] for name, engine in info["engines"].items()} == {
        "parallel": True,
        "fallback": True,
    }
    assert info["plan"]["layout"]["ulysses"] == 2
    assert info["defaults"]["width"] == 128
    assert info["versions"]["ray"]


def test_probes_and_page(tiny: httpx.Client) -> None:
    assert tiny.get("/healthz").json() == {"status": "ok"}
    assert tiny.get("/readyz").json() == {"status": "ready"}
    page = tiny.get("/")
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
