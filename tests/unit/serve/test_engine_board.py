"""The shared memory of a gang: the step board and the tensor arena."""

from __future__ import annotations

import os

import pytest
import torch

from fluxsampler_serve.gang.arena import Arena
from fluxsampler_serve.gang.board import Phase, StepBoard


@pytest.fixture
def board() -> StepBoard:
    return StepBoard(3)


def test_two_mappings_see_one_board(board: StepBoard) -> None:
    rank = StepBoard(3, os.dup(board.fd))
    assert board.state(1).phase is Phase.STARTING
    before = board.beats()
    rank.report(1, 7, 4, Phase.DENOISING)
    seen = board.state(1)
    assert (seen.serial, seen.step, seen.phase, seen.beat) == (7, 4, Phase.DENOISING, 1)
    assert 0 <= seen.age < 60
    assert board.beats() != before
    assert board.state(0).beat == board.state(2).beat == 0
    assert [state.rank for state in board.states()] == [0, 1, 2]
    rank.close()
    board.close()
    board.close()


def test_cancel_and_stop_belong_to_one_request(board: StepBoard) -> None:
    board.request_cancel(5)
    assert board.cancel_wanted(5)
    assert not board.cancel_wanted(6)
    assert board.stop_after(5) is None
    board.publish_stop(5, 3)
    assert board.stop_after(5) == 3
    assert board.stop_after(6) is None
    board.publish_stop(6, 1)
    assert board.stop_after(5) is None
    board.close()


def test_board_has_no_name_to_leave_behind(board: StepBoard) -> None:
    assert "memfd:" in os.readlink(f"/proc/self/fd/{board.fd}")
    board.close()


def test_arena_carries_tensors_of_every_kind_and_grows() -> None:
    ours = Arena()
    theirs = Arena(os.dup(ours.fd))
    small = {"a": torch.arange(5), "b": torch.randn(2, 3).bfloat16(), "empty": torch.empty(0, 4)}
    places, end = ours.place(small)
    assert all(place.offset % 64 == 0 for place in places)
    taken = theirs.take(places)
    assert all(torch.equal(taken[name], tensor) for name, tensor in small.items())
    large = {"c": torch.randn(1 << 18)}
    more, _ = theirs.place(large, start=end)
    assert torch.equal(ours.take(more)["c"], large["c"])
    assert torch.equal(ours.take(places)["a"], small["a"])
    ours.close()
    theirs.close()


def test_what_is_taken_is_a_copy() -> None:
    arena = Arena()
    places, _ = arena.place({"a": torch.zeros(4)})
    taken = arena.take(places)["a"]
    arena.place({"a": torch.ones(4)})
    assert torch.equal(taken, torch.zeros(4))
    arena.close()
