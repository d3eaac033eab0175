"""The bodies of /v1: OpenAI's image fields, and FluxSampler's own beside them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_PROMPT = 32_000
"""Characters; OpenAI's own limit."""

MAX_SEED = 2**63 - 1
MAX_SIDE = 1 << 16
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]


class ImageRequest(BaseModel):
    """`POST /v1/images/generations`. What is left out, or null, gets the model's default (`GET /v1/info`)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # OpenAI's fields.
    prompt: Prompt = Field(description="What to draw.", min_length=1, examples=["a red circle"])
    model: str | None = Field(None, description="One of GET /v1/models; any other is 404.", max_length=256)
    n: int | None = Field(
        None, ge=1, description="Pictures to draw, with the seeds seed, seed+1, …; default 1."
    )
    size: str | None = Field(
        None,
        description="`WIDTHxHEIGHT` in pixels, or `auto` for the model's default.",
        pattern=r"^(auto|\d{1,5}x\d{1,5})$",
        examples=["1024x1024"],
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="`url` answers with a data: URL; default `b64_json`."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="Default `png`.")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp, 0 to 100 (default 100; webp: lossless)."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events; default false.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Previews to send while streaming; default 0."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures are always opaque.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description="Accepted for OpenAI's clients, without effect: `steps` decides."
    )
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted, without effect.")
    style: Literal["vivid", "natural"] | None = Field(None, description="Accepted, without effect.")
    user: str | None = Field(None, max_length=1024, description="Accepted, and not stored.")
    safety_identifier: str | None = Field(None, max_length=1024, description="Accepted, and not stored.")
    # FluxSampler's fields.
    width: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="Pixels; with `height`, instead of `size`."
    )
    height: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="Pixels; with `width`, instead of `size`."
    )
    steps: int | None = Field(None, ge=1, description="Denoising steps.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Seed of the first picture; left out: random, and reported."
    )
    guidance_scale: float | None = Field(None, ge=0, le=100, description="FLUX's distilled guidance.")
    true_cfg_scale: float | None = Field(
        None, ge=1, le=100, description="Above 1: classifier-free guidance against `negative_prompt`."
    )
    negative_prompt: Prompt | None = Field(
        None, description="What not to draw; needs a true_cfg_scale above 1."
    )
    max_text_tokens: int | None = Field(None, ge=1, description="Length of the T5 prompt in tokens.")
    truncate_prompt: bool | None = Field(
        None, description="Cut a longer prompt instead of refusing it; default false."
    )
    timeout_seconds: float | None = Field(None, gt=0, description="Time the whole request may take.")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        if text is not None and (found := _CONTROL.search(text)):
            raise ValueError(f"has the control character U+{ord(found[0]):04X}; remove it")
        return text

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("is empty; say what to draw")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height belong together; give both, or size")
        if self.width is not None and self.size is not None and self.size != f"{self.width}x{self.height}":
            raise ValueError(
                f"size is {self.size}, width and height say {self.width}x{self.height}; give one"
            )
        if self.output_compression not in (None, 100) and self.output_format not in ("jpeg", "webp"):
            raise ValueError("output_compression is for output_format jpeg or webp; png is always lossless")
        if self.partial_images and not self.stream:
            raise ValueError("partial_images needs stream: true")
        if (self.true_cfg_scale or 1.0) > 1.0 and self.negative_prompt is None:
            raise ValueError("true_cfg_scale above 1 needs a negative_prompt; an empty string will do")
        if self.negative_prompt is not None and (self.true_cfg_scale or 1.0) <= 1.0:
            raise ValueError("negative_prompt has no effect while true_cfg_scale is 1; raise it, say to 2")
        return self

    def pixels(self) -> tuple[int, int] | None:
        """The size asked for, or None for the default."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        found = _SIZE.fullmatch(self.size or "")
        return (int(found[1]), int(found[2])) if found else None


class _Answer(BaseModel):
    """Base of what is sent; only the OpenAPI document is made from these."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(_Answer):
    """Every error of this API."""

    error: ErrorDetail


class ImageData(_Answer):
    """One picture; ``b64_json`` or ``url``."""

    b64_json: str | None = None
    url: str | None = None


class TokenDetails(_Answer):
    """Tokens by kind."""

    image_tokens: int
    text_tokens: int


class Usage(_Answer):
    """Tokens the transformer worked on: the padded prompt goes in, the pictures' tokens come out."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    total_tokens: int


class DrawnPicture(_Answer):
    """How one picture came about."""

    seed: int
    engine: Literal["parallel", "fallback"]
    engine_reason: str
    truncated_tokens: int
    seconds: dict[str, float]


class Details(_Answer):
    """FluxSampler's own part of an answer: all it takes to draw the pictures again."""

    request_id: str
    model: str
    width: int
    height: int
    steps: int
    seed: int
    guidance_scale: float
    true_cfg_scale: float
    max_text_tokens: int
    pictures: list[DrawnPicture]


class ImageResponse(_Answer):
    """The pictures."""

    created: int
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["auto"]
    size: str
    usage: Usage
    fluxsampler: Details
    data: list[ImageData]


class Model(_Answer):
    """The model that this service draws with."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    """OpenAI's list shape."""

    object: Literal["list"]
    data: list[Model]


class EngineStatus(_Answer):
    """What was last heard of an engine."""

    ready: bool
    reason: str
    message: str
    load_seconds: float | None


class Info(_Answer):
    """What runs here, how it was planned, and what a request may ask for."""

    name: str
    version: str
    versions: dict[str, str]
    device: Literal["cuda", "cpu"]
    ready: bool
    engines: dict[str, EngineStatus]
    model: dict[str, object]
    defaults: dict[str, object]
    sizes: dict[str, object]
    limits: dict[str, object]
    plan: dict[str, object]


class State(_Answer):
    """Of /healthz and /readyz."""

    status: Literal["ok", "ready"]
