"""What a model says about itself: architecture, defaults, accepted sizes.

A folder may carry a ``fluxsampler.json`` beside its ``model_index.json``: see :mod:`fluxsampler_api.model_settings`.
Without one, the published settings of FLUX.1 apply: the distilled-guidance model (dev) or the
four-step one (schnell), told apart by ``guidance_embeds`` of the transformer's configuration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import ValidationError

from fluxsampler_api.app_args import RequestDefaults, SizeLimits
from fluxsampler_api.model_settings import FILE_NAME, ModelSettings, Sizes
from fluxsampler_serve.errors import ModelCorrupt, ModelMismatch

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

# Block counts of FLUX.1 (both variants), from the transformer/config.json that they are published with.
_FLUX1_BLOCKS = (19, 38)
# FLUX patchifies the latents 2 × 2.
_LATENT_PATCH = 2
# Settings that the model cards of FLUX.1-dev and FLUX.1-schnell recommend; 28 steps is diffusers' default.
_DEV = RequestDefaults(width=1024, height=1024, steps=28, guidance_scale=3.5, max_text_tokens=512)
_SCHNELL = RequestDefaults(width=1024, height=1024, steps=4, guidance_scale=0.0, max_text_tokens=256)
_FLUX1_MIN_SIDE, _FLUX1_MAX_SIDE, _FLUX1_MAX_PIXELS = 256, 4096, 4096 * 4096


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Architecture and request limits of one model.

    ``family`` is ``FLUX.1-dev``, ``FLUX.1-schnell`` or ``Flux`` (the same architecture in another
    size). ``max_text_tokens`` is the longest T5 sequence the model was made for.
    """

    family: str
    double_blocks: int
    single_blocks: int
    heads: int
    head_dim: int
    text_dim: int
    pooled_dim: int
    guidance_embeds: bool
    vae_scale: int
    max_text_tokens: int
    defaults: RequestDefaults
    sizes: SizeLimits


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; :class:`ModelCorrupt` names the file when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelCorrupt(
            f"{path} cannot be read as JSON ({error}): restore it from the model's source"
        ) from error
    if not isinstance(found, dict):
        raise ModelCorrupt(f"{path} holds no JSON object: restore it from the model's source")
    return found


def read_facts(folder: Path) -> ModelFacts:
    """Facts of the model in ``folder`` (diffusers layout). Raises ModelCorrupt or ModelMismatch."""
    transformer = read_json(folder / "transformer" / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    try:
        blocks = (int(transformer["num_layers"]), int(transformer["num_single_layers"]))
        heads, head_dim = int(transformer["num_attention_heads"]), int(transformer["attention_head_dim"])
        text_dim, pooled = int(transformer["joint_attention_dim"]), int(transformer["pooled_projection_dim"])
        vae_scale = 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelMismatch(
            f"the configuration in {folder} is not that of a Flux transformer and its VAE (field {error}): "
            "give the folder of a diffusers FluxPipeline"
        ) from error
    guidance = bool(transformer.get("guidance_embeds", False))
    own = _read_own(folder / FILE_NAME)
    published = _DEV if guidance else _SCHNELL
    family = "Flux" if blocks != _FLUX1_BLOCKS else "FLUX.1-dev" if guidance else "FLUX.1-schnell"
    return ModelFacts(
        family=family,
        double_blocks=blocks[0],
        single_blocks=blocks[1],
        heads=heads,
        head_dim=head_dim,
        text_dim=text_dim,
        pooled_dim=pooled,
        guidance_embeds=guidance,
        vae_scale=vae_scale,
        max_text_tokens=own.max_text_tokens or published.max_text_tokens,
        defaults=own.defaults or published,
        sizes=_limits(own.sizes, vae_scale * _LATENT_PATCH),
    )


def _read_own(path: Path) -> ModelSettings:
    if not path.exists():
        return ModelSettings()
    found = read_json(path)
    if unknown := sorted(set(found) - set(ModelSettings.model_fields)):
        log.warning("unknown fields", file=str(path), fields=unknown)
    try:
        return ModelSettings.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelCorrupt(f"{path}: {where}: {first['msg']}: correct or remove the file") from error


def _limits(own: Sizes | None, multiple_of: int) -> SizeLimits:
    if own is None:
        return SizeLimits(
            multiple_of=multiple_of,
            min_side=_FLUX1_MIN_SIDE,
            max_side=_FLUX1_MAX_SIDE,
            max_pixels=_FLUX1_MAX_PIXELS,
        )
    return SizeLimits(
        multiple_of=own.multiple_of,
        min_side=own.min,
        max_side=own.max,
        max_pixels=own.area,
    )
