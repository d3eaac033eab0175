"""Trains the AutoencoderKL (16 latent channels, 8x smaller) on pictures drawn here."""

import copy
import json
import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from .drawing import Picture, draw
from .schedule import Budget, MovingAverage, learning_rate, set_learning_rate
from .scope import SIDES, all_scenes

log = logging.getLogger(__name__)

LATENT_CHANNELS: Final[int] = 16
CROP_SIDE: Final[int] = 32
"""Side in pixels of the random crops that most steps are trained on."""
WHOLE_PICTURE_EVERY: Final[int] = 5
"""Every so many steps sees whole pictures, since attention and normalisation depend on all of the picture."""


@dataclass(frozen=True, slots=True)
class AutoencoderSettings:
    """How the autoencoder is shaped and trained."""

    seconds: float
    channels: tuple[int, ...] = (8, 16, 16, 24)
    peak_rate: float = 2e-3
    crops_per_step: int = 24
    pictures_per_step: int = 6
    pictures_per_size: int = 160
    seed: int = 5


def build(channels: tuple[int, ...]) -> AutoencoderKL:
    """A four-level AutoencoderKL without quantisation convolutions, initialised to train fast when tiny."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.endswith("conv2"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has a bias
            elif not name.endswith("conv1"):
                _pass_through(module)
    with torch.no_grad():
        model.encoder.conv_out.bias[LATENT_CHANNELS:] = -6.0
        model.encoder.conv_out.weight[LATENT_CHANNELS:] *= 0.1
        for half in (model.encoder, model.decoder):
            nn.init.zeros_(half.mid_block.attentions[0].to_out[0].weight)
    return model


def _pass_through(convolution: nn.Conv2d) -> None:
    """Orthogonal weights that mostly copy the centre pixel, so that gradients reach both ends at once."""
    weight = torch.empty(convolution.out_channels, convolution.weight[0].numel())
    nn.init.orthogonal_(weight)
    weight = weight.view_as(convolution.weight)
    if convolution.kernel_size[0] == 3:
        centre = torch.empty(convolution.out_channels, convolution.in_channels)
        nn.init.orthogonal_(centre)
        weight = weight * 0.7
        weight[:, :, 1, 1] += 0.7 * centre
    with torch.no_grad():
        convolution.weight.copy_(weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # every convolution here has a bias


def as_tensor(pictures: list[Picture]) -> torch.Tensor:
    """Pictures of one size as a float batch (count, 3, height, width) in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class PictureSource:
    """Pictures of every accepted size, drawn once and sampled as whole pictures or as crops."""

    def __init__(self, per_size: int, rng: random.Random) -> None:
        scenes = all_scenes()
        self._rng = rng
        self._by_size = [
            [draw(rng.choice(scenes), width, height, rng) for _ in range(per_size)]
            for width in SIDES
            for height in SIDES
        ]

    def whole(self, count: int) -> torch.Tensor:
        """`count` pictures of one random size."""
        return as_tensor(self._rng.choices(self._rng.choice(self._by_size), k=count))

    def crops(self, count: int) -> torch.Tensor:
        """`count` crops, each around a random place near the shape, which is what is hard to draw."""
        return as_tensor([self._crop() for _ in range(count)])

    def _crop(self) -> Picture:
        picture = self._rng.choice(self._rng.choice(self._by_size))
        height, width = picture.shape[:2]
        rows, columns = np.nonzero(picture.min(axis=2) < 200)
        index = self._rng.randrange(len(rows))
        top = int(np.clip(rows[index] - self._rng.randrange(CROP_SIDE), 0, height - CROP_SIDE))
        left = int(np.clip(columns[index] - self._rng.randrange(CROP_SIDE), 0, width - CROP_SIDE))
        return picture[top : top + CROP_SIDE, left : left + CROP_SIDE]


def _loss(model: AutoencoderKL, pictures: torch.Tensor, edges: float, divergence: float) -> torch.Tensor:
    """Absolute + squared + edge error of the reconstruction, and the latents' KL divergence."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(pictures).latent_dist
        drawn = model.decode(posterior.sample()).sample
    error = drawn.float() - pictures
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    horizontal = (error[..., 1:] - error[..., :-1]).abs().mean()
    vertical = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    loss: torch.Tensor = error.abs().mean() + error.square().mean()
    loss += edges * (horizontal + vertical) + divergence * kl
    return loss


def train(settings: AutoencoderSettings, folder: Path) -> None:
    """Train an autoencoder and save it to `folder`, with the latents' scale and shift in its config."""
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    source = PictureSource(settings.pictures_per_size, rng)
    model = build(settings.channels)
    average = MovingAverage(copy.deepcopy(model), decay=0.995)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_rate, weight_decay=0.0, betas=(0.9, 0.95)
    )
    log.info("autoencoder of %d parameters", sum(p.numel() for p in model.parameters()))
    budget = Budget(settings.seconds)
    step = 0
    for step, progress in budget:
        set_learning_rate(optimizer, learning_rate(settings.peak_rate, step, progress, 50, 0.4))
        if step % WHOLE_PICTURE_EVERY == WHOLE_PICTURE_EVERY - 1:
            pictures = source.whole(settings.pictures_per_step)
        else:
            pictures = source.crops(settings.crops_per_step)
        edges = 0.5 if progress > 0.15 else 0.0
        divergence = 3e-4 * min(1.0, max(0.0, (progress - 0.2) / 0.3))
        loss = _loss(model, pictures, edges, divergence)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        if step % 200 == 0:
            log.info("step %d, %.0f s, loss %.4f", step, budget.elapsed, loss.item())
    finished = average.module
    assert isinstance(finished, AutoencoderKL)
    report = {"steps": step + 1, "seconds": round(budget.elapsed, 1), **calibrate(finished, rng)}
    finished.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("autoencoder done: %s", report)


@torch.no_grad()
def calibrate(model: AutoencoderKL, rng: random.Random, count: int = 24) -> dict[str, float]:
    """Set the latents' scale and shift from fresh pictures; return how well those are redrawn."""
    squared_error, latents = [], []
    scenes = all_scenes()
    for width, height in ((64, 64), (96, 96), (128, 128), (128, 64)):
        pictures = as_tensor([draw(rng.choice(scenes), width, height, rng) for _ in range(count)])
        mean = model.encode(pictures).latent_dist.mean
        latents.append(mean.flatten())
        redrawn = model.decode(mean).sample.clamp(-1.0, 1.0)
        squared_error.append(functional.mse_loss(redrawn, pictures).item())
    everything = torch.cat(latents)
    shift, scale = everything.mean().item(), 1.0 / everything.std().item()
    model.register_to_config(scaling_factor=scale, shift_factor=shift)
    return {
        "psnr_db": round(float(10 * np.log10(4.0 / np.mean(squared_error))), 2),
        "scaling_factor": round(scale, 4),
        "shift_factor": round(shift, 4),
    }
