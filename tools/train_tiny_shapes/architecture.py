"""The shapes of the text encoders, the transformer and the scheduler, and how they become one pipeline."""

from typing import Final

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from .vocabulary import CLIP_MAX_LENGTH

TEXT_WIDTH: Final[int] = 32
"""Width of both text encoders: all that 400 prompts need, and it keeps the model below 10 MB."""
HEADS: Final[int] = 8
HEAD_WIDTH: Final[int] = 16
ROTARY_AXES: Final[tuple[int, int, int]] = (4, 6, 6)
DOUBLE_BLOCKS: Final[int] = 2
SINGLE_BLOCKS: Final[int] = 4
PACKED_CHANNELS: Final[int] = 64
"""16 latent channels x a patch of 2 x 2."""


class Denoiser(nn.Module):
    """The three networks that are trained together: prompt tokens and noisy latents in, velocity out."""

    def __init__(self, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(_clip_config(clip_tokenizer))
        self.text_encoder_2 = T5EncoderModel(_t5_config(t5_tokenizer))
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=PACKED_CHANNELS,
            num_layers=DOUBLE_BLOCKS,
            num_single_layers=SINGLE_BLOCKS,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=ROTARY_AXES,
        )
        self._zero_gates()

    def _zero_gates(self) -> None:
        """Start every block as the identity and the output as zero, as DiT does."""
        layers = [
            module
            for name, module in self.transformer.named_modules()
            if isinstance(module, nn.Linear) and "norm" in name and name.endswith(".linear")
        ]
        for layer in (*layers, self.transformer.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        clip_ids: torch.Tensor,
        t5_ids: torch.Tensor,
        image_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the velocity `noise - latents`.

        noisy: (batch, image tokens, 64); sigma: (batch,) in 0..1; clip_ids: (batch, 77 or fewer);
        t5_ids: (batch, text tokens); image_ids: (image tokens, 3). Returns the shape of `noisy`.
        """
        pooled = self.text_encoder(clip_ids).pooler_output
        context = self.text_encoder_2(t5_ids).last_hidden_state
        velocity: torch.Tensor = self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            pooled_projections=pooled,
            encoder_hidden_states=context,
            txt_ids=torch.zeros(t5_ids.shape[1], 3),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return velocity


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=CLIP_MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(tokenizer: T5Tokenizer) -> T5Config:
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=TEXT_WIDTH // 4,
        d_ff=2 * TEXT_WIDTH,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler: Euler steps with a shift that grows with the picture."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        shift=3.0,
    )


def pipeline(
    denoiser: Denoiser, autoencoder: AutoencoderKL, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5Tokenizer
) -> FluxPipeline:
    """Compose the trained parts into the pipeline that diffusers and xfuser load."""
    return FluxPipeline(
        scheduler=scheduler(),
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=clip_tokenizer,
        text_encoder_2=denoiser.text_encoder_2,
        tokenizer_2=t5_tokenizer,
        transformer=denoiser.transformer,
    )
