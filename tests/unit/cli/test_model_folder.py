from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fluxsampler_cli import model_folder
from fluxsampler_cli.errors import InputError

BUILTIN = Path(__file__).parents[3] / "serve_app" / "fluxsampler_serve" / "builtin" / "tiny_shapes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILTIN, tmp_path / "own-model"))


def test_a_folder_that_speaks_for_itself_is_planned_by_its_own_words(folder: Path) -> None:
    own = json.loads((folder / "fluxsampler.json").read_text(encoding="utf-8"))
    facts = model_folder.facts(folder)
    assert facts.name == "own-model"
    assert (facts.heads, facts.double_blocks, facts.single_blocks) == (8, 2, 4)
    assert (facts.default_width, facts.default_steps) == (own["defaults"]["width"], own["defaults"]["steps"])
    assert (facts.min_side, facts.max_side) == (own["sizes"]["min"], own["sizes"]["max"])


def test_without_its_own_words_it_is_a_flux_of_the_published_kind(folder: Path) -> None:
    (folder / "fluxsampler.json").unlink()
    assert model_folder.facts(folder).default_width == 1024


def test_wrong_words_are_named(folder: Path) -> None:
    (folder / "fluxsampler.json").write_text('{"max_text_tokens": "many"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"fluxsampler\.json: max_text_tokens: .*correct or remove the file"):
        model_folder.facts(folder)


def test_half_a_file_of_words_keeps_the_rest(folder: Path) -> None:
    (folder / "fluxsampler.json").write_text('{"max_text_tokens": 128}', encoding="utf-8")
    facts = model_folder.facts(folder)
    assert (facts.max_text_tokens, facts.default_text_tokens, facts.default_width) == (128, 128, 1024)
