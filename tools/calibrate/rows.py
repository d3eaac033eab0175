"""Published measurements: a CSV row to a layout and a workload the cost model understands, or the reason why not.

Columns: source, gpu, n_gpus, resolution, steps, config, latency_s. ``config`` holds key=value pairs
separated by semicolons: the degrees (ulysses, ring, pipefusion, tp; `single` for one card), compile,
dtype, model, txt (text tokens), stack, and conditions of the run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fluxsampler_planner.cost import Workload
from fluxsampler_planner.split import Split

COLUMNS = ("source", "gpu", "n_gpus", "resolution", "steps", "config", "latency_s")
# The data names cards loosely (`4090-PCIe-24GB`, `A100-NVLink`); the first match counts.
CARDS = (
    ("rtx-4090", r"4090"),
    ("rtx-5090", r"5090"),
    ("l40s", r"l40s"),
    ("l40", r"l40"),
    ("l20", r"l20"),
    ("a100", r"a100|a800"),
    ("h100", r"h100|h800"),
)
DEGREES = {
    "ulysses": "ulysses",
    "ring": "ring",
    "pipefusion": "pipefusion",
    "tp": "tensor",
    "tensor": "tensor",
}
# Keys that change nothing the model sees, and those that describe the run.
NEUTRAL = {
    "single",
    "model",
    "stack",
    "dtype",
    "compile",
    "txt",
    "denoise_only",
    "vae_parallel",
    "vram_gib",
    "e2e",
    *DEGREES,
}
FLUX_HEADS = 24
# Above this many pixels the VAE does not fit on one card; the published runs split it over the ranks there.
WHOLE_DECODE = 2048 * 2048


class Refused(Exception):
    """The row cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One usable measurement; ``measured`` is in seconds."""

    line: int
    source: str
    card: str
    stack: str
    model: str
    cards: int
    split: Split
    work: Workload
    denoise_only: bool
    split_decode: bool
    measured: float

    @property
    def group(self) -> tuple[object, ...]:
        """Rows that differ in their layout only: the planner's choice among them is judged."""
        return (self.card, self.stack, self.model, self.cards, self.work, self.denoise_only)

    @property
    def label(self) -> str:
        """A short name for tables."""
        size = (
            f"{self.work.width}"
            if self.work.width == self.work.height
            else f"{self.work.width}x{self.work.height}"
        )
        mode = "compiled" if self.work.compiled else "eager"
        return f"{self.card} {self.stack} {self.model} {size} {self.work.steps} steps {self.split} {mode}"


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was not used, with the reason."""

    line: int
    source: str
    config: str
    reason: str


ROWS = Path(__file__).with_name("published_flux.csv")


def read_rows(path: Path) -> tuple[list[Row], list[RefusedRow]]:
    """Usable and refused rows of a CSV file. Raises OSError when it cannot be read, ValueError when it has other columns."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        return parse_rows(reader)


def parse_rows(records: Iterable[Mapping[str, str | None]]) -> tuple[list[Row], list[RefusedRow]]:
    """Usable and refused rows, in order; line 2 is the first below the header."""
    used, refused = [], []
    for line, record in enumerate(records, start=2):
        try:
            used.append(parse(line, record))
        except Refused as reason:
            refused.append(
                RefusedRow(
                    line, str(record.get("source") or ""), str(record.get("config") or ""), str(reason)
                )
            )
    return used, refused


def parse(line: int, record: Mapping[str, str | None]) -> Row:
    """One row; raises :class:`Refused`."""
    source, config = str(record.get("source") or ""), settings(str(record.get("config") or ""))
    _conditions(source, config, str(record.get("resolution") or ""))
    card = card_key(str(record.get("gpu") or ""))
    width, height = _size(str(record.get("resolution") or ""))
    steps = _whole(record.get("steps"), "steps")
    cards = _whole(record.get("n_gpus"), "n_gpus")
    if steps == 0:
        raise Refused("steps not stated")
    measured = _seconds(record.get("latency_s"))
    split = _split(config, cards)
    text = _whole(config.get("txt", "256" if config.get("stack") == "xdit" else "512"), "txt")
    work = Workload(width, height, text, steps, element=2, compiled=_compiled(config))
    return Row(
        line=line,
        source=source,
        card=card,
        stack=config.get("stack", "unknown"),
        model=config.get("model", "dev"),
        cards=cards,
        split=split,
        work=work,
        denoise_only=config.get("denoise_only") == "1",
        split_decode=config.get("vae_parallel") == "1" or width * height > WHOLE_DECODE,
        measured=measured,
    )


def settings(config: str) -> dict[str, str]:
    """`a=1;b` to {"a": "1", "b": "1"}."""
    pairs = (part.strip().partition("=") for part in config.split(";") if part.strip())
    return {key.strip().lower(): value.strip() or "1" for key, _, value in pairs}


def card_key(name: str) -> str:
    """The catalogue's key of a card as the data writes it."""
    for key, pattern in CARDS:
        if re.search(pattern, name.lower()):
            if key in ("a100", "h100") and "pcie" in name.lower():
                raise Refused(f"card {name!r}: the PCIe version of a card that was calibrated with NVLink")
            return key
    raise Refused(f"card {name!r} is not in the catalogue")


def _conditions(source: str, config: Mapping[str, str], resolution: str) -> None:
    """Runs of another kind than FluxSampler's."""
    if "earlier" in source:
        raise Refused("superseded by a later measurement of the same source")
    if (
        "Flux-A100" in source
        and "#label" in source
        and resolution.strip() == "2048"
        and config.get("model", "dev") == "dev"
    ):
        raise Refused("the printed labels contradict the chart's own axis")
    if config.get("model", "dev") not in ("dev", "schnell"):
        raise Refused(f"model {config['model']} is not FLUX.1-dev or -schnell")
    dtype = config.get("dtype", "bf16")
    if dtype not in ("bf16", "bfloat16", "fp16"):
        raise Refused(
            f"dtype {dtype}: computes in another precision than FluxSampler does (its fp8 is storage)"
        )
    if "cache" in config and config["cache"] not in ("none", "0"):
        raise Refused(f"cache={config['cache']} skips steps")
    if int(config["nodes"]) > 1 if config.get("nodes", "").isdigit() else "nodes" in config:
        raise Refused("several nodes: a gang never crosses nodes")
    if config.get("offload", "none") != "none":
        raise Refused(f"offload={config['offload']}: FluxSampler refuses what does not fit")
    if config.get("rotate", "p2p") != "p2p":
        raise Refused(f"rotate={config['rotate']}: xfuser's ring sends to its neighbour")
    for key in ("comm", "async", "hybrid", "sp", "cp"):
        if key in config and config[key] not in ("0", "none", "bf16"):
            raise Refused(
                f"{key}={config[key]}: "
                + ("another way to communicate" if key in ("comm", "async") else "does not say which layout")
            )
    if config.get("batch", "1") != "1":
        raise Refused(f"batch={config['batch']}: FluxSampler draws one picture at a time")
    known = {*NEUTRAL, "batch", "cache", "nodes", "offload", "rotate", "comm", "async", "hybrid", "sp", "cp"}
    if unknown := sorted(set(config) - known):
        raise Refused(f"unknown condition {', '.join(unknown)}")


def _split(config: Mapping[str, str], cards: int) -> Split:
    degrees: dict[str, int] = {}
    for key, name in DEGREES.items():
        if key in config:
            degrees[name] = _whole(config[key], key)
    if min(degrees.values(), default=1) < 1:
        raise Refused("a degree below 1")
    split = Split(**degrees)
    if split.ranks != cards:
        raise Refused(f"the layout {split} has {split.ranks} ranks, n_gpus is {cards}")
    if FLUX_HEADS % split.ulysses:
        raise Refused(f"ulysses {split.ulysses} does not divide {FLUX_HEADS} heads")
    return split


def _compiled(config: Mapping[str, str]) -> bool:
    value = config.get("compile", "0")
    if value in ("0", "1", "onediff", "inductor"):
        return value != "0"
    raise Refused(f"compile={value} is unknown")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*(?:[xX×]\s*(\d+))?\s*", text)
    if match is None:
        raise Refused(f"resolution {text!r} is not a number of pixels")
    width, height = int(match[1]), int(match[2] or match[1])
    if min(width, height) == 0:
        raise Refused("resolution not stated")
    if width % 16 or height % 16 or max(width, height) > 16384:
        raise Refused(f"resolution {width}×{height} is not a multiple of 16 up to 16384")
    return width, height


def _whole(value: str | None, name: str) -> int:
    try:
        number = float(value or "")
        whole = int(number)
    except (ValueError, OverflowError):
        raise Refused(f"{name} {value!r} is not a whole number") from None
    if number != whole or not 0 <= whole <= 4096:
        raise Refused(f"{name} {value!r} is not a whole number up to 4096")
    return whole


def _seconds(value: str | None) -> float:
    try:
        number = float(value or "")
    except ValueError:
        raise Refused(f"latency {value!r} is not a number") from None
    if not 0 < number < 1e6:
        raise Refused(f"latency {value!r} is not a positive number of seconds")
    return number
