"""Trains the transformer and both text encoders by flow matching, in one or more processes.

Each process trains on its own batches; every few steps the parameters are averaged over the processes.
That keeps two busy cores occupied without waiting for each other at every step.
"""

import copy
import json
import logging
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from .architecture import Denoiser
from .latents import LatentSource
from .prompts import training_prompt
from .schedule import Budget, MovingAverage, learning_rate, length_weight, set_learning_rate
from .scope import Scene
from .vocabulary import clip_tokenizer, letter_case_pairs, t5_tokenizer

log = logging.getLogger(__name__)

TEXT_LENGTH_WEIGHTS: Final[dict[int, float]] = {16: 0.3, 32: 0.5, 64: 0.2}
"""T5 context length in tokens to how often it is trained with, at the end of the run."""
AVERAGE_EVERY: Final[int] = 8
"""Steps between two averages of the parameters over the processes."""
CHECKPOINT_SECONDS: Final[float] = 60.0


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """How the transformer is trained."""

    seconds: float
    processes: int = 2
    batch: int = 24
    peak_rate: float = 3e-3
    flat_share: float = 0.5
    average_decay: float = 0.998
    sigma_mean: float = 0.3
    sigma_spread: float = 1.1
    seed: int = 11
    start_from: Path | None = None
    """Averaged parameters of an earlier run to go on from. Pictures then have the sizes of its end."""


class BlockOptimizer:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else."""

    def __init__(self, model: Denoiser, rate: float) -> None:
        named = list(model.transformer.named_parameters())
        blocks = [parameter for name, parameter in named if parameter.ndim == 2 and "blocks" in name]
        chosen = {id(parameter) for parameter in blocks}
        others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(blocks, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.97)),
        ]

    def step(self, rate: float) -> None:
        """Apply the gradients with this learning rate, then clear them."""
        for part in self.parts:
            set_learning_rate(part, rate)
            part.step()
            part.zero_grad()


def _average_over_processes(model: nn.Module, progress: float) -> float:
    """Average the parameters and the progress over all processes; return the common progress."""
    with torch.no_grad():
        flat = nn.utils.parameters_to_vector(model.parameters())
        flat = torch.cat([flat, torch.tensor([progress])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        nn.utils.vector_to_parameters(flat[:-1], model.parameters())
    return float(flat[-1])


class PromptReader:
    """Turns scenes into the token ids of both encoders, worded anew each time."""

    def __init__(self, rng: random.Random) -> None:
        self.clip = clip_tokenizer()
        self.t5 = t5_tokenizer()
        self._rng = rng

    def read(self, scenes: list[Scene], progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """CLIP ids (count, longest) and T5 ids (count, a random one of the trained lengths).

        Early in the run, `progress` near 0, short lengths are more frequent.
        """
        prompts = [training_prompt(scene, self._rng) for scene in scenes]
        lengths = list(TEXT_LENGTH_WEIGHTS)
        weights = [TEXT_LENGTH_WEIGHTS[length] * length_weight(length, 0.6 * progress) for length in lengths]
        (length,) = self._rng.choices(lengths, weights)
        clip = self.clip(prompts, padding=True, truncation=True, return_tensors="pt")
        t5 = self.t5(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return clip.input_ids, t5.input_ids


def _train_process(rank: int, settings: FlowSettings, latents: Path, out: Path, rendezvous: str) -> None:
    """One process of the training; the first one keeps the moving average and writes it to `out`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=settings.processes
    )
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed + rank)
    source, reader = LatentSource(latents, rng), PromptReader(rng)
    model = Denoiser(reader.clip, reader.t5)
    if settings.start_from is not None:
        model.load_state_dict(torch.load(settings.start_from))
    torch.manual_seed(settings.seed + 1000 + rank)
    average = MovingAverage(copy.deepcopy(model), settings.average_decay) if rank == 0 else None
    optimizer = BlockOptimizer(model, settings.peak_rate)
    budget = Budget(settings.seconds)
    step, progress, losses, saved = 0, 0.0, 0.0, 0.0
    while progress < 1.0:
        stage = progress if settings.start_from is None else 1.0
        clean, positions, scenes = source.batch(settings.batch, stage)
        clip_ids, t5_ids = reader.read(scenes, stage)
        sigma = torch.sigmoid(torch.randn(len(clean)) * settings.sigma_spread + settings.sigma_mean)
        noise = torch.randn_like(clean)
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        velocity = model(noisy, sigma, clip_ids, t5_ids, positions)
        loss = (velocity - (noise - clean)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(settings.peak_rate, step, progress, 100, settings.flat_share))
        step += 1
        losses += loss.item()
        if step % AVERAGE_EVERY == 0:
            progress = _average_over_processes(model, budget.progress)
        if average is None:
            continue
        average.update(model)
        if step % 100 == 0:
            log.info("step %d, %.0f s, loss %.4f", step, budget.elapsed, losses / 100)
            losses = 0.0
        if budget.elapsed - saved > CHECKPOINT_SECONDS or progress >= 1.0:
            saved = budget.elapsed
            _save(average.module, out, step * settings.processes, budget.elapsed)
    dist.destroy_process_group()


def _save(average: nn.Module, out: Path, steps: int, seconds: float) -> None:
    """Write the averaged parameters, whole or not at all, and the run's figures beside them."""
    draft = out.with_suffix(".draft")
    torch.save(average.state_dict(), draft)
    draft.replace(out)
    report = {"steps_over_all_processes": steps, "seconds": round(seconds, 1)}
    out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


def train(settings: FlowSettings, latents: Path, out: Path) -> None:
    """Train on the encoded pictures in `latents`; `out` always holds the newest averaged parameters."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (settings, latents, out, f"{folder}/rendezvous")
        spawn(_train_process, arguments, nprocs=settings.processes)  # type: ignore[no-untyped-call]  # of torch


def load_denoiser(path: Path) -> Denoiser:
    """The trained networks, with the T5 rows of capitalised words made equal to their lower-case ones."""
    t5 = t5_tokenizer()
    model = Denoiser(clip_tokenizer(), t5)
    model.load_state_dict(torch.load(path))
    with torch.no_grad():
        for capitalised, lower in letter_case_pairs(t5):
            model.text_encoder_2.shared.weight[capitalised] = model.text_encoder_2.shared.weight[lower]
    return model.eval()
