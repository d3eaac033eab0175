"""A gang starts, stops, fails and ends as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.parallel import ParallelEngine
from fluxsampler_serve.engines.protocol import Cancel, Progress
from fluxsampler_serve.engines.single import SingleEngine
from fluxsampler_serve.errors import (
    Cancelled,
    EngineFailed,
    EngineStartFailed,
    PromptTooLong,
    RequestRefused,
)
from fluxsampler_serve.gang.forkserver import Forked, Forkserver
from fluxsampler_serve.gang.gang import Timeouts
from fluxsampler_serve.gang.linux import process_state
from tests.serve.conftest import StartGang
from tests.support.requests import RED_CIRCLE, draw, draw_watched, request

ULYSSES = Layout(ulysses=2)
BOTH = Layout(ulysses=2, ring=2)
TENSOR = Layout(tensor=2)
STAGES = Layout(pipefusion=2, stage_blocks=(3, 3))
THREE_STAGES = Layout(pipefusion=3, stage_blocks=(1, 2, 3))
STAGES_ULYSSES = Layout(pipefusion=2, ulysses=2, stage_blocks=(3, 3))
PATIENCE = 60.0  # seconds until a condition that a test awaits counts as never

Singles = Callable[[ModelArgs], SingleEngine]


def await_that(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return process_state(pid) in {"gone", "Z"}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [ULYSSES, BOTH, TENSOR, STAGES, THREE_STAGES, STAGES_ULYSSES], ids=str)
def test_cancelled_request_stops_at_one_step_and_the_next_is_right(
    layout: Layout, tiny: ModelArgs, start_gang: StartGang
) -> None:
    gang = start_gang(tiny, layout)
    expected = draw(gang, RED_CIRCLE)
    # PipeFusion passes through its synchronous step, its first patches and steps in full flight.
    for stop_at in (1, 2, 3, 7):
        cancel = Cancel()

        def watch(progress: Progress, cancel: Cancel = cancel, stop_at: int = stop_at) -> None:
            if progress.step == stop_at:
                cancel.set()

        with pytest.raises(Cancelled):
            gang.sample(request(steps=200, seed=9), watch, cancel)
        steps = {state.step for state in gang.gang.board.states()}
        assert len(steps) == 1, f"ranks stopped at different steps: {steps}"
        # The wish is seen within a step or two of being made, however far the ranks were by then.
        assert stop_at < steps.pop() < 200
        assert gang.health().ready
        assert np.array_equal(draw(gang, RED_CIRCLE).latents, expected.latents)


def test_cancel_before_the_first_step(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES)
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        gang.sample(RED_CIRCLE, lambda _: None, cancel)
    assert draw(gang, RED_CIRCLE).latents_finite


def test_cancel_from_another_thread(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, STAGES)
    cancel, started = Cancel(), threading.Event()

    def stop() -> None:
        started.wait(PATIENCE)
        cancel.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Cancelled):
        gang.sample(request(steps=200), lambda _: started.set(), cancel)
    stopper.join()
    assert gang.health().ready


def test_cancel_of_a_finished_request_does_not_touch_the_next(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES)
    cancel = Cancel()
    gang.sample(RED_CIRCLE, lambda _: None, cancel)
    cancel.set()
    sample, heard = draw_watched(gang, RED_CIRCLE)
    assert sample.steps == len(heard) == RED_CIRCLE.steps


def test_single_device_stops_too(tiny: ModelArgs, single: Singles) -> None:
    cancel = Cancel()
    heard: list[int] = []

    def watch(progress: Progress) -> None:
        heard.append(progress.step)
        cancel.set()

    with pytest.raises(Cancelled):
        single(tiny).sample(RED_CIRCLE, watch, cancel)
    assert heard == [1]
    assert draw(single(tiny), RED_CIRCLE).latents_finite


# --- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [ULYSSES, STAGES], ids=str)
def test_killed_rank_fails_the_request_and_a_new_gang_draws(
    layout: Layout, tiny: ModelArgs, start_gang: StartGang
) -> None:
    gang = start_gang(tiny, layout)
    expected = draw(gang, RED_CIRCLE)
    pids = gang.gang.pids

    def kill_one(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(pids[1], signal.SIGKILL)

    # The cause is named, so it was the rank's end that was seen, and not a step's or collective's timeout.
    with pytest.raises(EngineFailed, match=r"rank 1 was killed by SIGKILL.* in step"):
        gang.sample(request(steps=200), kill_one, Cancel())
    assert not gang.health().ready
    assert "rank 1" in gang.health().message
    assert all(gone(pid) for pid in pids)
    gang.load()
    assert np.array_equal(draw(gang, RED_CIRCLE).latents, expected.latents)


def test_rank_killed_while_idle_shows_in_health(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES)
    os.kill(gang.gang.pids[0], signal.SIGKILL)
    await_that(lambda: not gang.health().ready, "health tells")
    assert gang.health().message == "rank 0 has ended"
    with pytest.raises(EngineFailed, match="rank 0"):
        draw(gang, RED_CIRCLE)


def test_stopped_rank_runs_into_the_step_deadline(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES, timeouts=Timeouts(step=2))
    pids = gang.gang.pids

    def freeze_one(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(pids[1], signal.SIGSTOP)

    with pytest.raises(EngineFailed, match="rank 1 is stopped by a signal"):
        gang.sample(request(steps=200), freeze_one, Cancel())
    assert all(gone(pid) for pid in pids)


def test_broken_forkserver_takes_its_ranks_along(tiny: ModelArgs) -> None:
    engine = ParallelEngine(tiny, ULYSSES, "cpu")
    try:
        engine.load()
        pids, server = engine.gang.pids, engine._forkserver.pid
        assert server is not None
        os.kill(server, signal.SIGKILL)
        await_that(lambda: all(gone(pid) for pid in pids), "ranks die with the forkserver")
        # A pidfd tells once the last thread is gone, shortly after the process has become a zombie.
        await_that(lambda: not engine.health().ready, "health tells")
        with pytest.raises(EngineFailed):
            draw(engine, RED_CIRCLE)
        with pytest.raises(EngineStartFailed, match="forkserver"):
            engine.load()
        health = engine.health()
        assert (health.ready, health.reason) == (False, "GangStartFailed")
        assert "forkserver" in health.message
    finally:
        engine.close()


def test_rank_that_dies_before_its_first_command_fails_the_start(
    tiny: ModelArgs, forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked: list[Forked] = []
    fork = forkserver.fork

    def stillborn(fds: list[int]) -> Forked:
        forked.append(fork(fds))
        if len(forked) == 2:
            os.kill(forked[1].pid, signal.SIGKILL)
            await_that(lambda: gone(forked[1].pid), "the rank is dead")
        return forked[-1]

    engine = ParallelEngine(tiny, ULYSSES, "cpu", forkserver=forkserver)
    monkeypatch.setattr(forkserver, "fork", stillborn)
    with pytest.raises(EngineStartFailed, match="the gang did not start: rank 1 was killed by SIGKILL"):
        engine.load()
    health = engine.health()
    assert (health.ready, health.reason) == (False, "GangStartFailed")
    assert "rank 1 was killed by SIGKILL" in health.message
    assert all(gone(one.pid) for one in forked)
    monkeypatch.undo()
    engine.load()
    try:
        assert draw(engine, RED_CIRCLE).latents_finite
    finally:
        engine.close()


def test_callback_that_raises_ends_the_gang(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES)

    def complain(_: Progress) -> None:
        raise KeyError("the caller's own mistake")

    with pytest.raises(KeyError):
        gang.sample(request(steps=50), complain, Cancel())
    assert not gang.health().ready
    gang.load()
    assert draw(gang, RED_CIRCLE).latents_finite


# --- ending ---------------------------------------------------------------------------------------

REPLICA = """
import sys, time, threading
from fluxsampler_api.app_args import Layout, ModelArgs
from fluxsampler_serve.engines.parallel import ParallelEngine

if __name__ == "__main__":
    engine = ParallelEngine(ModelArgs.model_validate_json(sys.argv[1]), Layout(ulysses=2), "cpu")
    engine._forkserver.start()
    print("forkserver", engine._forkserver.pid, flush=True)
    if sys.argv[2] == "ready":
        engine.load()
        print("ranks", *engine.gang.pids, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("phase", ["importing", "ready"])
def test_no_process_outlives_a_killed_replica(phase: str, tiny: ModelArgs) -> None:
    before = set(os.listdir("/dev/shm"))
    replica = subprocess.Popen(
        [sys.executable, "-c", REPLICA, tiny.model_dump_json(), phase], stdout=subprocess.PIPE, text=True
    )
    try:
        assert replica.stdout is not None
        pids = [int(word) for word in replica.stdout.readline().split()[1:]]
        if phase == "ready":
            pids += [
                int(word)
                for word in next(line for line in replica.stdout if line.startswith("ranks")).split()[1:]
            ]
            assert len(pids) == 3
        assert not any(gone(pid) for pid in pids)
    finally:
        replica.kill()
        replica.wait()
    await_that(lambda: all(gone(pid) for pid in pids), "forkserver and ranks end with the replica")
    assert set(os.listdir("/dev/shm")) <= before


def test_ranks_outlive_the_thread_that_started_them(tiny: ModelArgs, start_gang: StartGang) -> None:
    # PR_SET_PDEATHSIG follows the parent's thread, and replicas load in executor threads.
    started: list[ParallelEngine] = []
    thread = threading.Thread(target=lambda: started.append(start_gang(tiny, ULYSSES)))
    thread.start()
    thread.join()
    assert draw(started[0], RED_CIRCLE).latents_finite


def test_close_ends_everything_and_leaks_no_descriptor(tiny: ModelArgs, forkserver: Forkserver) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    engine = ParallelEngine(tiny, ULYSSES, "cpu", forkserver=forkserver)
    before = descriptors()
    for _ in range(2):
        engine.load()
        pids = engine.gang.pids
        draw(engine, RED_CIRCLE)
        engine.close()
        engine.close()
        assert all(gone(pid) for pid in pids)
        assert not engine.health().ready
    assert descriptors() == before
    assert forkserver.pid is not None
    assert not gone(forkserver.pid)


def test_close_does_not_wait_for_imports() -> None:
    server = Forkserver("cpu")
    failures: list[str] = []

    def wait() -> None:
        try:
            server.wait_ready()
        except EngineStartFailed as error:
            failures.append(str(error))

    server.start()
    waiter = threading.Thread(target=wait)
    waiter.start()
    pid = server.pid
    assert pid is not None
    server.close()
    waiter.join(PATIENCE)
    assert gone(pid)
    assert failures


# --- starting -------------------------------------------------------------------------------------


def test_forkserver_has_one_thread_and_imports_once_for_all_gangs(
    tiny: ModelArgs, forkserver: Forkserver, start_gang: StartGang
) -> None:
    assert len(os.listdir(f"/proc/{forkserver.pid}/task")) == 1
    pid, imports = forkserver.pid, forkserver.import_seconds
    assert imports is not None
    gang = start_gang(tiny, ULYSSES)
    gang.load()
    # What a gang starts from is warm: nothing was imported again. How fast that is, benchmarks/cold_start says.
    assert (forkserver.pid, forkserver.import_seconds) == (pid, imports)
    assert {parent_of(rank) for rank in gang.gang.pids} == {pid}
    assert set(gang.seconds) == {"prepare", "forkserver", "fork", "group", "load", "total"}


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(ulysses=3), "ulysses 3 does not divide 8 attention heads"),
        (Layout(tensor=2, ulysses=2), "wrong pictures"),
        (Layout(pipefusion=2), "stage_blocks"),
        (Layout(pipefusion=2, stage_blocks=(6, 0)), "stage_blocks"),
        (Layout(pipefusion=2, stage_blocks=(6, 1)), "6 blocks"),
        (Layout(), "at least 2 ranks"),
    ],
    ids=str,
)
def test_layouts_that_are_refused_at_the_start(
    layout: Layout, reason: str, tiny: ModelArgs, forkserver: Forkserver
) -> None:
    with pytest.raises(EngineStartFailed, match=reason):
        ParallelEngine(tiny, layout, "cpu", forkserver=forkserver).load()


# --- requests that are refused --------------------------------------------------------------------


def test_long_prompt_is_refused_or_truncated_alike(
    tiny: ModelArgs, start_gang: StartGang, single: Singles
) -> None:
    gang = start_gang(tiny, ULYSSES)
    words = "a red circle and " * 12
    for engine in (gang, single(tiny)):
        with pytest.raises(PromptTooLong, match="max_text_tokens is 16"):
            draw(engine, request(prompt=words))
        with pytest.raises(PromptTooLong):
            draw(engine, request(negative_prompt=words, true_cfg_scale=2.0))
    wanted = request(prompt=words, truncate_prompt=True)
    expected, got = draw(single(tiny), wanted), draw(gang, wanted)
    assert got.truncated_tokens == expected.truncated_tokens > 0
    assert distance(expected.latents, got.latents) <= 1e-5


def test_sizes_that_a_layout_cannot_split_are_refused_and_the_gang_goes_on(
    tiny: ModelArgs, start_gang: StartGang, single: Singles
) -> None:
    gang = start_gang(tiny, BOTH)
    for wanted in (request(width=80, height=80), request(max_text_tokens=30), request(width=65)):
        assert gang.refuses(wanted) is not None
        with pytest.raises(RequestRefused):
            draw(gang, wanted)
    assert single(tiny).refuses(request(width=80, height=80)) is None
    assert draw(gang, RED_CIRCLE).latents_finite


def test_latents_that_are_not_finite_are_said_so(
    random24: ModelArgs, start_gang: StartGang, single: Singles
) -> None:
    for engine in (start_gang(random24, ULYSSES), single(random24)):
        broken = draw(engine, request(guidance_scale=float("nan")))
        assert not broken.latents_finite
        assert broken.pixels.shape == (64, 64, 3)
        assert draw(engine, request(guidance_scale=3.5)).latents_finite


def test_prompt_is_encoded_on_one_rank_only(tiny: ModelArgs, start_gang: StartGang) -> None:
    gang = start_gang(tiny, ULYSSES)
    draw(gang, RED_CIRCLE)
    mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in gang.gang.pids]
    files = gang._prepared.components  # type: ignore[union-attr]  # it is loaded
    assert [str(files["text_encoder_2"].resolve()) in text for text in mapped] == [True, False]
    assert [str(files["vae"].resolve()) in text for text in mapped] == [False, True]
    assert all(str(files["transformer"].resolve()) in text for text in mapped)
