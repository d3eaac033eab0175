from __future__ import annotations

import pytest
from pydantic import ValidationError

from fluxsampler_api.app_args import AppArgs, Layout
from tests.support.app_args import tiny_app_args


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
