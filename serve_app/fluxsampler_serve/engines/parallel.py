"""A gang of ranks as one engine."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from fluxsampler_serve import devices, xfuser_adapter
from fluxsampler_serve.engines.limits import check_model, refuses_layout, refuses_request, refuses_split
from fluxsampler_serve.engines.protocol import Cancel, EngineName, Health, Progress, Sample, SampleRequest
from fluxsampler_serve.engines.single import warm_up_request
from fluxsampler_serve.errors import (
    Cancelled,
    EngineFailed,
    EngineStartFailed,
    PromptTooLong,
    RequestRefused,
)
from fluxsampler_serve.gang.forkserver import Forkserver
from fluxsampler_serve.gang.gang import Gang, GangError, Timeouts
from fluxsampler_serve.gang.messages import Draw, Drawn, Encode, Encoded, Forward, Forwarded, Refused, Stopped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    import torch

    from fluxsampler_api.app_args import Layout, ModelArgs
    from fluxsampler_serve.devices import Kind
    from fluxsampler_serve.engines.protocol import ProgressCallback
    from fluxsampler_serve.gang.messages import Reply, Stepped
    from fluxsampler_serve.weights import PreparedModel

log = structlog.get_logger(__name__)


class ParallelEngine:
    """Satisfies :class:`~.protocol.Engine` with one process per rank.

    After :class:`~fluxsampler_serve.errors.EngineFailed` the gang is gone and :meth:`health` says why;
    :meth:`load` starts a new one from the warm forkserver. ``seconds`` holds the phases of the last
    start, ``card_memory`` each rank's peak GiB after the last picture (on CUDA).
    """

    name: EngineName = "parallel"

    def __init__(
        self,
        model: ModelArgs,
        layout: Layout,
        device: Kind,
        *,
        warmup_steps: int = 1,
        encoders: Literal["device", "cpu"] = "device",
        timeouts: Timeouts | None = None,
        forkserver: Forkserver | None = None,
        prepared: PreparedModel | None = None,
    ) -> None:
        """``forkserver`` may be shared by several engines, and is then its owner's to close."""
        self.model = model
        self.layout = layout
        self.device = device
        self.seconds: dict[str, float] = {}
        self.card_memory: list[dict[str, float]] = []
        self._warmup_steps = warmup_steps
        self._encoders_on_cpu = encoders == "cpu"
        self._timeouts = timeouts or Timeouts()
        self._owns_forkserver = forkserver is None
        self._forkserver = forkserver or Forkserver(device)
        self._prepared = prepared
        self._gang: Gang | None = None
        self._serials = itertools.count(1)
        self._failure = Health(ready=False, reason="NotLoaded", message="the engine has not been loaded")
        self._watch = threading.Lock()  # of self._gang: health() may look while another thread ends it

    @property
    def gang(self) -> Gang:
        """The running gang. Raises :class:`~fluxsampler_serve.errors.EngineFailed` when there is none."""
        if self._gang is None:
            raise EngineFailed(f"the gang is not running: {self._failure.message}")
        return self._gang

    @property
    def fingerprint(self) -> str | None:
        """Of the prepared weights."""
        return None if self._prepared is None else self._prepared.fingerprint

    def load(self) -> None:
        """Start the gang; again after a failure. Raises ModelError, AdapterMismatch or EngineStartFailed."""
        self._end_gang()
        xfuser_adapter.check_versions()
        began = time.perf_counter()
        self._forkserver.start()  # it imports while the weights are prepared
        if self._prepared is None:
            from fluxsampler_serve.weights import prepare, warm_page_cache  # imports torch

            self._prepared = prepare(self.model)
            # One reader from front to back, before every rank faults the file in at a place of its own.
            warm_page_cache(self._prepared)
        check_model(self._prepared.facts)
        reason = refuses_layout(
            self.layout, self._prepared.facts, self._warmup_steps, self._prepared.quantization
        )
        reason = reason or devices.refuses_ring(self.device, self.layout.ring, self._prepared.dtype)
        if reason is not None:
            raise EngineStartFailed(f"layout {self.layout}: {reason}")
        prepared = time.perf_counter()
        try:
            self._forkserver.wait_ready()
            ready = time.perf_counter()
            gang = Gang(
                self._forkserver,
                self.layout,
                self.device,
                prepared=self._prepared,
                warmup_steps=self._warmup_steps,
                encoders_on_cpu=self._encoders_on_cpu,
                timeouts=self._timeouts,
            )
        except (GangError, EngineStartFailed) as error:
            self._failure = Health(ready=False, reason="GangStartFailed", message=str(error))
            raise EngineStartFailed(f"the gang did not start: {error}") from error
        self.seconds = {"prepare": prepared - began, "forkserver": ready - prepared, **gang.seconds}
        with self._watch:
            self._gang = gang

    def warm_up(self, sizes: tuple[tuple[int, int], ...], steps: int) -> None:
        """Draw at each size that the layout can split."""
        for width, height in sizes:
            tokens = self.model.max_text_tokens // self.layout.sequence * self.layout.sequence
            request = warm_up_request(width, height, steps, tokens)
            if self.refuses(request) is None:
                self.sample(request, lambda _: None, Cancel())

    def refuses(self, request: SampleRequest) -> str | None:
        """What no engine can draw, and what this layout cannot split."""
        return refuses_request(request, self.model.max_text_tokens) or refuses_split(request, self.layout)

    def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        """Encode on rank 0, then draw on all ranks."""
        reason = self.refuses(request)
        if reason is not None:
            raise RequestRefused(reason)
        gang, serial = self.gang, next(self._serials)
        try:
            gang.tell([0], Encode(serial, request))
            encoded = gang.collect([0])[0]
            if isinstance(encoded, Refused):
                raise PromptTooLong(encoded.message)
            if not isinstance(encoded, Encoded):
                raise GangError(f"rank 0 answered {type(encoded).__name__} to Encode")
            if cancel.is_set():
                raise Cancelled("stopped before the first step")

            def on_step(stepped: Stepped) -> None:
                progress(Progress(stepped.step, request.steps, stepped.preview))

            gang.tell(range(self.layout.ranks), Draw(serial, request))
            cancel.on_set(lambda: self._cancel(gang, serial))
            replies = gang.collect(range(self.layout.ranks), on_step)
        except GangError as error:
            self._fail(error)
            raise EngineFailed(str(error)) from error
        except (Cancelled, PromptTooLong):
            raise
        except BaseException:
            # The caller's own callback, or Ctrl-C: the ranks are in the middle of a picture.
            self._fail(GangError("the caller left in the middle of a request"))
            raise
        return self._picture(replies, encoded)

    def denoise(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One forward on all ranks; a pipeline refuses, since its patches are in flight across steps."""
        if self.layout.pipefusion > 1 or self.layout.tensor > 1:
            raise RequestRefused(
                f"layout {self.layout} cannot be called step by step: only ulysses and ring can"
            )
        tokens, text = inputs["hidden_states"].shape[1], inputs["encoder_hidden_states"].shape[1]
        if tokens % self.layout.sequence or text % self.layout.sequence:
            raise RequestRefused(
                f"{tokens} image and {text} text tokens cannot be split over {self.layout.sequence}"
            )
        gang, serial = self.gang, next(self._serials)
        try:
            places, end = gang.arena.place(dict(inputs))
            gang.tell(range(self.layout.ranks), Forward(serial, places, end))
            answer = gang.collect(range(self.layout.ranks))[0]
            if not isinstance(answer, Forwarded) or answer.output is None:
                raise GangError(f"rank 0 answered {type(answer).__name__} to Forward")
        except GangError as error:
            self._fail(error)
            raise EngineFailed(str(error)) from error
        return gang.arena.take([answer.output])["prediction"]

    def health(self) -> Health:
        """Ready while every rank lives."""
        with self._watch:
            if self._gang is None:
                return self._failure
            failure = self._gang.failure()
        return (
            Health(ready=True) if failure is None else Health(ready=False, reason="RankDied", message=failure)
        )

    def close(self) -> None:
        """End the gang, and the forkserver unless it is shared."""
        self._end_gang()
        self._failure = Health(ready=False, reason="Closed", message="the engine was closed")
        if self._owns_forkserver:
            self._forkserver.close()

    def _picture(self, replies: dict[int, Reply], encoded: Encoded) -> Sample:
        stopped = {rank: reply.step for rank, reply in replies.items() if isinstance(reply, Stopped)}
        if stopped:
            steps = set(stopped.values())
            if len(stopped) < len(replies) or len(steps) > 1:
                self._fail(GangError(f"ranks stopped at different steps: {stopped}"))
                raise EngineFailed(f"ranks stopped at different steps: {stopped}")
            raise Cancelled(f"stopped after step {steps.pop()}")
        self.card_memory = [reply.memory for _, reply in sorted(replies.items()) if isinstance(reply, Drawn)]
        last = replies[self.layout.ranks - 1]
        if not isinstance(last, Drawn) or last.sample is None:
            self._fail(GangError("the last rank gave no picture"))
            raise EngineFailed("the last rank gave no picture")
        seconds = {"encode": encoded.seconds, **last.sample.seconds}
        return replace(last.sample, truncated_tokens=encoded.truncated_tokens, seconds=seconds)

    def _cancel(self, gang: Gang, serial: int) -> None:
        with self._watch:
            if gang is self._gang:
                gang.board.request_cancel(serial)

    def _fail(self, error: GangError) -> None:
        log.error("gang failed", layout=str(self.layout), error=str(error))
        self._failure = Health(ready=False, reason="GangFailed", message=str(error))
        self._end_gang()

    def _end_gang(self) -> None:
        with self._watch:
            gang, self._gang = self._gang, None
        if gang is not None:
            gang.kill()
