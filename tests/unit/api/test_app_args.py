from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from fluxsampler_api.app_args import AppArgs, Layout, StartArgs
from tests.support.app_args import tiny_app_args
from tests.support.plans import EIGHT_CARDS


def test_survives_json_as_serve_config_carries_it() -> None:
    args = tiny_app_args()
    assert AppArgs.model_validate_json(args.model_dump_json()) == args


def test_layout_names_itself() -> None:
    assert str(Layout(pipefusion=2, ulysses=4)) == "pp2·u4"
    assert str(Layout()) == "single"
    assert Layout(pipefusion=2, ulysses=2, ring=2).ranks == 8
    assert Layout(ulysses=2, ring=3).sequence == 6


def test_stages_must_match() -> None:
    with pytest.raises(ValidationError, match="stage_blocks names 3 stages, pipefusion is 2"):
        Layout(pipefusion=2, stage_blocks=(1, 2, 3))


def test_some_engine_must_answer() -> None:
    with pytest.raises(ValidationError, match="no engine would answer"):
        AppArgs.model_validate({**tiny_app_args().model_dump(), "parallel": None, "fallback": None})


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        AppArgs.model_validate({**tiny_app_args().model_dump(), "colour": "red"})


def with_replicas(args: AppArgs, gang: int, fallback: int) -> AppArgs:
    """``args`` with other numbers of replicas."""
    assert args.parallel is not None
    assert args.fallback is not None
    return args.model_copy(
        update={
            "parallel": args.parallel.model_copy(update={"replicas": gang}),
            "fallback": args.fallback.model_copy(update={"min_replicas": fallback, "max_replicas": fallback}),
        }
    )


def test_both_parts_make_the_whole() -> None:
    for args in (tiny_app_args(), tiny_app_args(None), tiny_app_args(fallback_replicas=0)):
        start = StartArgs.model_validate_json(args.start().model_dump_json())
        assert AppArgs.merged(start, json.loads(json.dumps(args.live()))) == args


def test_the_start_holds_nothing_that_changes_in_place() -> None:
    args = tiny_app_args()
    other = with_replicas(args, 3, 2).model_copy(
        update={
            "plan": EIGHT_CARDS,
            "sizes": args.sizes.model_copy(update={"max_pixels": 1}),
            "serving": args.serving.model_copy(
                update={
                    "max_queued_requests": 1,
                    "request_timeout_seconds": 7,
                    "probe_token_sha256": "0" * 64,
                }
            ),
        }
    )
    assert other.start() == args.start()
    assert other.live() != args.live()


@pytest.mark.parametrize("field", ["dtype", "max_text_tokens", "source"])
def test_a_change_of_the_model_changes_the_start(field: str) -> None:
    args = tiny_app_args()
    changed = {"dtype": "bfloat16", "max_text_tokens": 32, "source": "file:///other"}[field]
    other = args.model_copy(update={"model": args.model.model_copy(update={field: changed})})
    assert other.start() != args.start()
    assert other.live() == args.live()


def test_parts_that_do_not_fit_are_refused() -> None:
    args = tiny_app_args()
    with pytest.raises(ValidationError):
        AppArgs.merged(args.start(), {})
    with pytest.raises(ValidationError):
        AppArgs.merged(args.start(), args.live() | {"colour": "red"})
    with pytest.raises(ValidationError, match="layout"):
        AppArgs.merged(tiny_app_args(None).start(), args.live())


def test_an_engine_without_replicas_does_not_answer() -> None:
    args = tiny_app_args()
    assert args.answering() == args
    only_fallback = with_replicas(args, 0, 1).answering()
    assert (only_fallback.parallel, only_fallback.fallback) == (None, args.fallback)
    only_gang = with_replicas(args, 1, 0).answering()
    assert (only_gang.parallel, only_gang.fallback) == (args.parallel, None)
    with pytest.raises(ValidationError, match="no engine would answer"):
        AppArgs.model_validate(with_replicas(args, 0, 0).model_dump())


def test_replicas_that_may_come_by_load_answer() -> None:
    args = tiny_app_args()
    assert args.parallel is not None
    scaled = args.parallel.model_copy(update={"replicas": 0, "max_replicas": 2})
    assert args.model_copy(update={"parallel": scaled}).answering().parallel == scaled
