"""One rank: joins the gang, loads its share, and does what its pipe says until the pipe ends.

All ranks get the same commands in the same order (SPMD) and draw the same noise from the same seed; only
rank 0 encodes prompts, and only the last rank turns latents into a picture.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fluxsampler_serve import devices, xfuser_adapter
from fluxsampler_serve.engines.decoding import Decoder, Previewer
from fluxsampler_serve.engines.denoising import Denoiser, first_noise
from fluxsampler_serve.engines.pipefusion import StagedDenoiser
from fluxsampler_serve.engines.protocol import Sample
from fluxsampler_serve.engines.text import Conditioning, TextEncoder
from fluxsampler_serve.errors import Cancelled, PromptTooLong
from fluxsampler_serve.gang.arena import Arena
from fluxsampler_serve.gang.board import Phase, StepBoard
from fluxsampler_serve.gang.messages import (
    Draw,
    Drawn,
    Encode,
    Encoded,
    Failed,
    Forward,
    Forwarded,
    Ready,
    Refused,
    Reply,
    Start,
    Stepped,
    Stopped,
)
from fluxsampler_serve.weights import load_scheduler, load_transformer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from fluxsampler_serve.engines.protocol import SampleRequest
    from fluxsampler_serve.gang.messages import Command


def main(commands: Connection, fds: list[int]) -> int:
    """Serve ``commands``; ``fds`` are the step board, the rendezvous and the arena. The process' exit code."""
    try:
        start: Start = commands.recv()
        board = StepBoard(start.layout.ranks, fds[0])
        rank = Rank(start, board, rendezvous_fd=fds[1], arena=Arena(fds[2]), pipe=commands)
        commands.send(Ready(rank.seconds))
        while True:
            last = board.state(start.rank)  # kept, so that the board tells where the last request ended
            board.report(start.rank, last.serial, last.step, Phase.IDLE)
            commands.send(rank.obey(commands.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # the replica closed the gang
    except Exception as error:  # noqa: BLE001 (whatever broke the rank, the replica must be told)
        commands.send(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))
        return 1


class Rank:
    """What one rank holds."""

    def __init__(
        self, start: Start, board: StepBoard, rendezvous_fd: int, arena: Arena, pipe: Connection
    ) -> None:
        self.rank = start.rank
        self.decodes = start.rank == start.layout.ranks - 1
        self._board = board
        self._arena = arena
        self._pipe = pipe
        self._layout = start.layout
        self._staged = start.layout.pipefusion > 1 or start.layout.tensor > 1
        self._facts = start.prepared.facts
        self._dtype: torch.dtype = getattr(torch, start.prepared.dtype)
        self._encoded: tuple[Conditioning, Conditioning | None] | None = None
        self.seconds: dict[str, float] = {}

        self._board.report(self.rank, 0, 0, Phase.STARTING)
        began = time.perf_counter()
        self._device = devices.activate(start.place)
        scheduler = load_scheduler(start.prepared)
        config = FluxConfig(start)
        xfuser_adapter.join(
            start.layout,
            start.rank,
            rendezvous_fd=rendezvous_fd,
            where=start.place,
            dtype=self._dtype,
            facts=xfuser_adapter.TransformerFacts(config, start.prepared.facts.vae_scale),
            timeout_seconds=start.collective_timeout,
        )
        self._lap("group", began)
        self._board.report(self.rank, 0, 0, Phase.STARTING)
        began = time.perf_counter()
        self._denoiser = self._load_denoiser(start, scheduler)
        encoders_at = torch.device("cpu") if start.encoders_on_cpu else self._device
        self._text = TextEncoder(start.prepared, encoders_at) if self.rank == 0 else None
        self._decoder = Decoder(start.prepared, self._device) if self.decodes else None
        devices.synchronize(self._device)
        self._lap("load", began)

    def obey(self, command: Command) -> Reply:
        """Do what one command says; an exception is the end of this rank."""
        match command:
            case Encode():
                return self._encode(command)
            case Draw():
                return self._draw(command)
            case Forward():
                return self._forward(command)

    def _load_denoiser(self, start: Start, scheduler: Any) -> Denoiser | StagedDenoiser:
        if not self._staged:
            transformer = load_transformer(
                start.prepared, xfuser_adapter.sequence_transformer_class(), self._device
            )
            return Denoiser(devices.compile_transformer(transformer), scheduler, self._device)
        # Cut before it is moved, so that a card never holds more than its own stage.
        transformer = xfuser_adapter.stage_transformer(load_transformer(start.prepared)).to(self._device)
        return StagedDenoiser(
            xfuser_adapter.Stage(),
            transformer,
            scheduler,
            device=self._device,
            facts=start.prepared.facts,
            warmup_steps=start.warmup_steps,
        )

    def _encode(self, command: Encode) -> Reply:
        if self._text is None:
            raise RuntimeError(f"rank {self.rank} has no text encoders")
        self._board.report(self.rank, command.serial, 0, Phase.ENCODING)
        began = time.perf_counter()
        try:
            positive, negative = self._text.encode(command.request)
        except PromptTooLong as error:
            return Refused(command.serial, str(error))
        self._encoded = (positive.to(self._device), None if negative is None else negative.to(self._device))
        devices.synchronize(self._device)
        return Encoded(command.serial, time.perf_counter() - began, positive.truncated_tokens)

    def _draw(self, command: Draw) -> Reply:
        request, serial = command.request, command.serial
        began = time.perf_counter()
        try:
            self._boundary(serial, 0, request.steps)
            positive, negative = self._conditioning(request)
            if self._staged:
                xfuser_adapter.prepare_request(
                    request.width,
                    request.height,
                    steps=request.steps,
                    text_tokens=request.max_text_tokens,
                    pipelined=self._layout.pipefusion > 1,
                )
            noise = first_noise(request, self._dtype, self._device)
            previewer = None if self._decoder is None else Previewer(self._decoder, request, noise)

            def on_step(step: int, latents: torch.Tensor | None, sigma: float) -> None:
                if previewer is not None and latents is not None:
                    self._pipe.send(Stepped(serial, step, previewer.after(step, latents, sigma)))
                self._boundary(serial, step, request.steps)

            if isinstance(self._denoiser, StagedDenoiser):
                latents = self._denoiser.sample(
                    request, positive, noise, on_step, lambda: self._board.stop_after(serial)
                )
            else:
                latents = self._denoiser.sample(request, positive, negative, noise, on_step)
        except Cancelled:
            return Stopped(serial, self._board.state(self.rank).step)
        if self._decoder is None or latents is None:
            return Drawn(serial, None, devices.memory_facts(self._device))
        devices.synchronize(self._device)
        denoised = time.perf_counter()
        self._board.report(self.rank, serial, request.steps, Phase.DECODING)
        pixels = self._decoder.picture(latents, request)
        packed = latents[0].float().cpu().numpy()
        seconds = {"denoise": denoised - began, "decode": time.perf_counter() - denoised}
        finite = bool(np.isfinite(packed).all())
        sample = Sample(pixels, packed, finite, request.steps, seconds=seconds)
        return Drawn(serial, sample, devices.memory_facts(self._device))

    def _boundary(self, serial: int, step: int, steps: int) -> None:
        """Between two steps: report, and stop if this is where the gang stops (see :mod:`.board`)."""
        board = self._board
        board.report(self.rank, serial, step, Phase.DENOISING)
        stop = board.stop_after(serial)
        if self.rank == 0 and stop is None and step < steps and board.cancel_wanted(serial):
            board.publish_stop(serial, step + 1)
        if stop == step:
            raise Cancelled(f"stopped after step {step} of {steps}")

    def _conditioning(self, request: SampleRequest) -> tuple[Conditioning, Conditioning | None]:
        """Rank 0's encoded prompts, on every rank."""
        guided = request.true_cfg_scale > 1 and request.negative_prompt is not None
        with torch.inference_mode():
            if self._encoded is None:
                sets = [self._empty_conditioning(request) for _ in range(2 if guided else 1)]
            else:
                sets = [one for one in self._encoded if one is not None]
            for one in sets:
                xfuser_adapter.world_broadcast(one.embeds)
                xfuser_adapter.world_broadcast(one.pooled)
        return sets[0], sets[1] if guided else None

    def _empty_conditioning(self, request: SampleRequest) -> Conditioning:
        facts = self._facts

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=self._dtype, device=self._device)

        return Conditioning(empty(1, request.max_text_tokens, facts.text_dim), empty(1, facts.pooled_dim))

    def _forward(self, command: Forward) -> Reply:
        if isinstance(self._denoiser, StagedDenoiser):
            raise TypeError("a pipeline cannot be called step by step")
        self._board.report(self.rank, command.serial, 0, Phase.DENOISING)
        prediction = self._denoiser.forward(self._arena.take(command.inputs))
        if self.rank != 0:
            return Forwarded(command.serial, None)
        places, _ = self._arena.place({"prediction": prediction.cpu()}, start=command.output)
        return Forwarded(command.serial, places[0])

    def _lap(self, phase: str, began: float) -> None:
        self.seconds[phase] = time.perf_counter() - began


class FluxConfig:
    """The fields of a transformer's config that xfuser reads, before there is a transformer."""

    def __init__(self, start: Start) -> None:
        facts = start.prepared.facts
        self.patch_size = 1
        self.in_channels = 64
        self.num_attention_heads = facts.heads
        self.attention_head_dim = facts.head_dim
