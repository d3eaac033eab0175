"""The catalogue of models: shapes and sizes from their published configurations.

A Flux transformer is described by a handful of numbers; parameters and FLOPs follow from them
(diffusers ``models/transformers/transformer_flux.py``): a double block holds 36·h² parameters (per
stream: 4 attention projections and an MLP of 4·h, and 6·h² of modulation), a single block 15·h²,
and a token passes 12·h² of either. Biases and norms are left out, they are below 0.1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fluxsampler_planner.errors import UnknownModel, problem

PIXELS_PER_TOKEN = 256  # 8×8 pixels a latent (VAE), 2×2 latents a token


@dataclass(frozen=True)
class ModelFacts:
    """What planning needs to know about one Flux model.

    Encoders and VAE are parameter counts; widths and sides are pixels; ``text_width`` and
    ``pooled_width`` are the features of T5 and CLIP. ``default_*`` is what a request that names only
    a prompt gets.
    """

    name: str
    double_blocks: int
    single_blocks: int
    heads: int
    head_dim: int
    text_width: int
    pooled_width: int
    guidance: bool
    t5_parameters: int
    clip_parameters: int
    vae_parameters: int
    max_text_tokens: int
    default_width: int
    default_height: int
    default_steps: int
    default_guidance: float
    default_text_tokens: int
    min_side: int
    max_side: int
    max_pixels: int
    multiple_of: int
    source: str
    channels: int = 64

    @property
    def blocks(self) -> int:
        """Transformer blocks, double and single."""
        return self.double_blocks + self.single_blocks

    @property
    def hidden(self) -> int:
        """Width of a token inside the transformer."""
        return self.heads * self.head_dim

    @property
    def double_parameters(self) -> int:
        """Parameters of one double block."""
        return 36 * self.hidden**2

    @property
    def single_parameters(self) -> int:
        """Parameters of one single block."""
        return 15 * self.hidden**2

    @cached_property
    def embedder_parameters(self) -> int:
        """Everything outside the blocks: input, text, pooled, time and guidance embedders, output norm and projection."""
        h = self.hidden
        times = 2 if self.guidance else 1
        return h * (2 * self.channels + self.text_width + self.pooled_width + 256 * times) + h * h * (
            1 + times + 2
        )

    @cached_property
    def transformer_parameters(self) -> int:
        """Parameters of the whole transformer."""
        return (
            self.double_blocks * self.double_parameters
            + self.single_blocks * self.single_parameters
            + self.embedder_parameters
        )

    @cached_property
    def parameters_per_token(self) -> int:
        """Parameters that one token is multiplied with in a forward pass (6.455e9 for FLUX.1)."""
        return 12 * self.hidden**2 * self.blocks

    @staticmethod
    def image_tokens(width: int, height: int) -> int:
        """Tokens of a picture of ``width`` × ``height`` pixels."""
        return width * height // PIXELS_PER_TOKEN

    @classmethod
    def from_config(
        cls,
        transformer: Mapping[str, object],
        *,
        name: str,
        t5_parameters: int = 4_762_310_656,
        clip_parameters: int = 123_060_480,
        vae_parameters: int = 83_819_683,
        max_text_tokens: int = 512,
        source: str = "transformer/config.json",
    ) -> ModelFacts:
        """Facts from a diffusers ``transformer/config.json``; encoders and VAE default to FLUX.1's.

        Raises :class:`UnknownModel` when the configuration is not one of a FluxTransformer2DModel.
        """

        def number(key: str, default: int | None = None) -> int:
            value = transformer.get(key, default)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UnknownModel(
                    problem(
                        "spec.model.source",
                        f"{source}: {key} is {value!r}, a FluxTransformer2DModel needs a positive number",
                    )
                )
            return value

        if (kind := transformer.get("_class_name", "FluxTransformer2DModel")) != "FluxTransformer2DModel":
            raise UnknownModel(
                problem(
                    "spec.model.source", f"{source}: {kind} is not supported; use a FluxTransformer2DModel"
                )
            )
        distilled = transformer.get("guidance_embeds", False) is True
        return cls(
            name=name,
            double_blocks=number("num_layers"),
            single_blocks=number("num_single_layers"),
            heads=number("num_attention_heads"),
            head_dim=number("attention_head_dim"),
            text_width=number("joint_attention_dim"),
            pooled_width=number("pooled_projection_dim"),
            guidance=distilled,
            t5_parameters=t5_parameters,
            clip_parameters=clip_parameters,
            vae_parameters=vae_parameters,
            max_text_tokens=max_text_tokens,
            # A guidance-distilled model is sampled as FLUX.1-dev is, another one as -schnell.
            default_width=1024,
            default_height=1024,
            default_steps=28 if distilled else 4,
            default_guidance=3.5 if distilled else 0.0,
            default_text_tokens=max_text_tokens,
            min_side=256,
            max_side=4096,
            max_pixels=4096 * 4096,
            multiple_of=16,
            source=source,
            channels=number("in_channels", 64),
        )


_FLUX = {
    "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "in_channels": 64,
}  # fmt: skip

FLUX_DEV = ModelFacts.from_config(
    {**_FLUX, "guidance_embeds": True},
    name="FLUX.1-dev",
    max_text_tokens=512,
    source="black-forest-labs/FLUX.1-dev",
)
FLUX_SCHNELL = ModelFacts.from_config(
    {**_FLUX, "guidance_embeds": False},
    name="FLUX.1-schnell",
    max_text_tokens=256,
    source="black-forest-labs/FLUX.1-schnell",
)
# tests/unit/planner/test_models.py compares this with the shipped model's own files.
TINY_SHAPES = ModelFacts(
    name="tiny-shapes", double_blocks=2, single_blocks=4, heads=8, head_dim=16, text_width=32, pooled_width=32, guidance=False,
    t5_parameters=18_176, clip_parameters=20_096, vae_parameters=136_243, max_text_tokens=64, default_width=128, default_height=128,
    default_steps=8, default_guidance=0.0, default_text_tokens=32, min_side=64, max_side=128, max_pixels=128 * 128, multiple_of=16,
    source="builtin://tiny-shapes",
)  # fmt: skip

MODELS: dict[str, ModelFacts] = {
    "hf://black-forest-labs/FLUX.1-dev": FLUX_DEV,
    "hf://black-forest-labs/FLUX.1-schnell": FLUX_SCHNELL,
    "builtin://tiny-shapes": TINY_SHAPES,
}


def find_model(source: str) -> ModelFacts:
    """The model behind ``source``.

    A folder or claim whose name ends like a known model (``FLUX.1-dev``, any case) is that model; anything else
    raises :class:`UnknownModel`, and the caller passes :meth:`ModelFacts.from_config` instead.
    """
    if source in MODELS:
        return MODELS[source]
    tail = source.rstrip("/").rpartition("/")[2].lower()
    for facts in MODELS.values():
        if tail == facts.name.lower():
            return facts
    raise UnknownModel(
        problem(
            "spec.model.source",
            f"{source} is not in the catalogue ({', '.join(MODELS)}) and its transformer/config.json was not given; "
            "name the folder after the model it holds, such as FLUX.1-dev, or use a source of the catalogue",
        )
    )
