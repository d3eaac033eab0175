"""Encoded pictures: the same bytes for the same request, with what it takes to draw it again inside."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fluxsampler_serve import picture
from fluxsampler_serve.drawing import PictureFormat
from fluxsampler_serve.engines import fake
from fluxsampler_serve.engines.protocol import SampleRequest
from tests.support.service import app_args

FORMATS: list[PictureFormat] = ["png", "jpeg", "webp"]
PIXELS = fake.picture(1, 96, 64)
REQUEST = SampleRequest(
    prompt="a naïve circle, 赤い円\nsecond line 🙂",
    width=96,
    height=64,
    steps=4,
    seed=2**63 - 1,
    guidance_scale=3.5,
    max_text_tokens=32,
    request_id="never-written",
)


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_survives(kind: PictureFormat) -> None:
    fields = picture.metadata(REQUEST, picture.facts_of(app_args(), "parallel") | {"engine": "parallel"})
    data = picture.encode(PIXELS, kind, 100, fields)
    assert picture.read_metadata(data) == fields
    assert fields["prompt"] == REQUEST.prompt
    assert fields["seed"] == "9223372036854775807"
    assert fields["plan"] == "u2, float32, cpu"
    assert fields["software"].startswith("FluxSampler ")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_bytes_do_not_depend_on_the_request_id(kind: PictureFormat) -> None:
    first = picture.encode(PIXELS, kind, 90, picture.metadata(REQUEST, {}))
    assert picture.encode(PIXELS, kind, 90, picture.metadata(REQUEST, {})) == first
    assert b"never-written" not in first


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_png_and_full_quality_webp_are_lossless(kind: PictureFormat) -> None:
    image = Image.open(BytesIO(picture.encode(PIXELS, kind, 100, {})))
    assert np.array_equal(np.asarray(image.convert("RGB")), PIXELS)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_quality_makes_smaller_files(kind: PictureFormat) -> None:
    """A WebP of 100 is lossless, and so may be smaller than one of 90."""
    sizes = [len(picture.encode(PIXELS, kind, quality, {})) for quality in (0, 50, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_a_negative_prompt_is_written_with_its_scale() -> None:
    plain = picture.metadata(REQUEST, {})
    assert "true_cfg_scale" not in plain
    guided = picture.metadata(replace(REQUEST, negative_prompt="", true_cfg_scale=2.0), {})
    assert (guided["negative_prompt"], guided["true_cfg_scale"]) == ("", "2.0")


def test_a_foreign_picture_has_no_metadata() -> None:
    out = BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG")
    assert picture.read_metadata(out.getvalue()) == {}
