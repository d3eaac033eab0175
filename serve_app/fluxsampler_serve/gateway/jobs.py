"""From a body to what shall be drawn: defaults filled in, limits checked, seeds dealt."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from fluxsampler_serve.drawing import DrawRequest
from fluxsampler_serve.engines.protocol import SampleRequest
from fluxsampler_serve.gateway.errors import ApiError, from_validation
from fluxsampler_serve.gateway.schemas import MAX_SEED, ImageRequest
from fluxsampler_serve.sizes import nearest, refusal

if TYPE_CHECKING:
    from fluxsampler_api.app_args import AppArgs
    from fluxsampler_serve.drawing import PictureFormat

Number = TypeVar("Number", int, float)

RANDOM_SEEDS = 2**32
"""Seeds that we pick stay exact in JavaScript's numbers."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request, resolved: ``draws`` holds one entry for each picture."""

    draws: tuple[DrawRequest, ...]
    timeout_seconds: float
    stream: bool
    as_url: bool

    @property
    def format(self) -> PictureFormat:
        """Of the pictures."""
        return self.draws[0].format

    @property
    def size(self) -> str:
        """As OpenAI writes it."""
        sample = self.draws[0].sample
        return f"{sample.width}x{sample.height}"


def parse(body: bytes) -> ImageRequest:
    """Raises ApiError 400 for what is not JSON, 422 for a field that is wrong."""
    try:
        return ImageRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error, ImageRequest.model_fields) from None


def resolve(args: AppArgs, request: ImageRequest, request_id: str) -> Job:
    """Raises ApiError 404 for another model, 422 for what this service does not draw."""
    if request.model is not None and request.model != args.model.name:
        raise ApiError(
            404,
            "model_not_found",
            f"there is no model `{_cut(request.model)}`; use `{args.model.name}`",
            "model",
        )
    defaults, serving = args.defaults, args.serving
    steps = _bounded("steps", request.steps, defaults.steps, serving.max_steps)
    _bounded("n", request.n, 1, serving.max_pictures)
    tokens = _bounded(
        "max_text_tokens", request.max_text_tokens, defaults.max_text_tokens, args.model.max_text_tokens
    )
    timeout = _bounded(
        "timeout_seconds",
        request.timeout_seconds,
        serving.request_timeout_seconds,
        serving.request_timeout_seconds,
    )
    width, height = request.pixels() or (defaults.width, defaults.height)
    seed = secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
    previews = request.partial_images or 0
    sample = SampleRequest(
        prompt=request.prompt,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        guidance_scale=defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        max_text_tokens=tokens,
        true_cfg_scale=request.true_cfg_scale or 1.0,
        negative_prompt=request.negative_prompt,
        truncate_prompt=request.truncate_prompt or False,
        preview_every=max(1, steps // (previews + 1)) if previews else 0,
        request_id=request_id,
    )
    _check_drawable(args, request, sample)
    kind = request.output_format or "png"
    quality = 100 if request.output_compression is None else request.output_compression
    draws = tuple(
        DrawRequest(
            replace(sample, seed=(seed + index) % (MAX_SEED + 1)) if index else sample,
            kind,
            quality,
            previews,
        )
        for index in range(request.n or 1)
    )
    return Job(draws, timeout, stream=request.stream or False, as_url=request.response_format == "url")


def _bounded(name: str, value: Number | None, default: Number, most: Number) -> Number:
    if value is not None and value > most:
        raise ApiError(422, "invalid_value", f"{name}: must be at most {most} here", name)
    return default if value is None else value


def _check_drawable(args: AppArgs, request: ImageRequest, sample: SampleRequest) -> None:
    """Raises ApiError 422, with the nearest sizes, for what no engine of the plan can draw."""
    problem = refusal(args, sample)
    if problem is None:
        return
    sizes = nearest(
        args.sizes,
        sample.width,
        sample.height,
        lambda width, height: refusal(args, replace(sample, width=width, height=height)) is None,
    )
    named = ", ".join(f"{width}x{height}" for width, height in sizes)
    hint = f"the nearest sizes are {named}" if named else "no size can be drawn with these parameters"
    param = "width" if request.width is not None else "size" if request.size is not None else None
    raise ApiError(
        422, "size_not_drawable", f"{sample.width}x{sample.height} cannot be drawn: {problem}; {hint}", param
    )


def details(args: AppArgs, job: Job, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """The `fluxsampler` object of an answer."""
    sample = job.draws[0].sample
    return {
        "request_id": sample.request_id,
        "model": args.model.name,
        "width": sample.width,
        "height": sample.height,
        "steps": sample.steps,
        "seed": sample.seed,
        "guidance_scale": sample.guidance_scale,
        "true_cfg_scale": sample.true_cfg_scale,
        "max_text_tokens": sample.max_text_tokens,
        "pictures": pictures,
    }


def usage(job: Job, pictures: int) -> dict[str, Any]:
    """Tokens that the transformer worked on for ``pictures`` of the job."""
    sample = job.draws[0].sample
    text = sample.max_text_tokens * pictures
    image = sample.width * sample.height // 256 * pictures
    return {
        "input_tokens": text,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": text},
        "output_tokens": image,
        "total_tokens": text + image,
    }


def _cut(text: str) -> str:
    return text if len(text) <= 64 else f"{text[:61]}..."
