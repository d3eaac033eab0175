"""Small shared parts of both training loops: a wall-clock budget, a learning rate, a moving average."""

import time
from collections.abc import Iterator

import torch
from torch import nn


class Budget:
    """Counts a training run's progress from 0 to 1 in wall-clock seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is spent; above 1 when the run is over."""
        return self.elapsed / self.seconds

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yield (step, progress) until the budget is spent."""
        step = 0
        while (progress := self.progress) < 1.0:
            yield step, progress
            step += 1


def learning_rate(peak: float, step: int, progress: float, warm_up_steps: int, flat_share: float) -> float:
    """Linear warm-up, then flat at `peak` until `flat_share` of the run, then linear down to 1 % of it."""
    decay = 1.0 if progress < flat_share else max(0.01, (1.0 - progress) / (1.0 - flat_share))
    return peak * min(1.0, (step + 1) / warm_up_steps) * decay


def length_weight(tokens: int, progress: float) -> float:
    """How often a sequence length is trained on: short ones are cheap and come first, long ones last."""
    return float(tokens ** (2.5 * progress - 1.5))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class MovingAverage:
    """An exponential moving average of a module's parameters, kept in a second module of the same shape."""

    def __init__(self, average: nn.Module, decay: float) -> None:
        self.module = average.requires_grad_(False).eval()
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move the average towards `source`; early steps move faster, so that it is usable from the start."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        torch._foreach_lerp_(list(self.module.parameters()), list(source.parameters()), 1.0 - decay)
