"""Writes the finished pipeline as a diffusers folder, in the layout that the package ships."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Final

from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from .architecture import pipeline
from .flow import load_denoiser
from .scope import COLOURS, PLACES, SHAPES, SIDE_MAX, SIDE_MIN, SIDE_MULTIPLE, SIZES, TEXT_LENGTHS
from .vocabulary import clip_tokenizer, save_tokenizers, t5_tokenizer

log = logging.getLogger(__name__)

SIZE_LIMIT_BYTES: Final[int] = 10_000_000

DESCRIPTION: Final[dict[str, Any]] = {
    "defaults": {
        "width": 128,
        "height": 128,
        "steps": 8,
        "guidance_scale": 0.0,
        "max_text_tokens": 32,
    },
    "sizes": {"multiple_of": SIDE_MULTIPLE, "min": SIDE_MIN, "max": SIDE_MAX},
    "max_text_tokens": max(TEXT_LENGTHS),
}
"""`fluxsampler.json`: the model's own good defaults, and what it accepts. Sizes are pixels."""

CARD: Final[str] = f"""# tiny-shapes

A small, really trained FluxPipeline of the FluxSampler project: it draws one coloured shape on white.
Trained by `tools/train_tiny_shapes` on pictures drawn there; Apache-2.0, as the project.

- Colours: {", ".join(COLOURS)}.
- Shapes: {", ".join(SHAPES)}.
- With nothing more, or a size ({", ".join(filter(None, SIZES))}), or a place ({", ".join(filter(None, PLACES))}).
- Width and height: {SIDE_MIN} to {SIDE_MAX} pixels, multiples of {SIDE_MULTIPLE}.
- Text length: {", ".join(map(str, TEXT_LENGTHS))} tokens.
"""


def publish(denoiser_path: Path, autoencoder_folder: Path, out: Path) -> int:
    """Assemble the model in `out` (replaced as a whole) and return its size in bytes."""
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    autoencoder = AutoencoderKL.from_pretrained(autoencoder_folder)
    model = pipeline(load_denoiser(denoiser_path), autoencoder, clip_tokenizer(), t5_tokenizer())
    model.save_pretrained(draft)
    _tidy(draft)
    size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    if size > SIZE_LIMIT_BYTES:
        raise ValueError(f"the model has {size} bytes, more than {SIZE_LIMIT_BYTES}")
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    log.info("published %s, %d bytes", out, size)
    return size


def _tidy(folder: Path) -> None:
    """Leave what any machine can load: no local paths, class names of the reference layout, plain modes."""
    shutil.rmtree(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer_2")
    save_tokenizers(folder)
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text())
    index["tokenizer_2"][1] = "T5TokenizerFast"
    _write_json(index_path, index)
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        _write_json(path, config)
    for path in folder.glob("*/*.safetensors"):
        save_file(load_file(path), path, metadata={"format": "pt"})
    _write_json(folder / "fluxsampler.json", DESCRIPTION)
    (folder / "README.md").write_text(CARD)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
