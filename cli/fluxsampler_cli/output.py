"""What people read on the terminal: answers on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fluxsampler_api.plan import CardMemory, HostMemory, PlanStatus
    from fluxsampler_cli.errors import CliError

# A pipe has no width; tables cut to 80 columns would lose words there.
_PIPE_WIDTH = 120


def console(*, error: bool = False, markup: bool = False) -> Console:
    """Console on the present standard output or error (tests replace them).

    What is shown are other people's words, in which `[/dev/shm]` is no style; ``markup`` is for our own.
    """
    stream = sys.stderr if error else sys.stdout
    return Console(
        file=stream, highlight=False, markup=markup, width=None if stream.isatty() else _PIPE_WIDTH
    )


def say(text: str, *, style: str | None = None) -> None:
    """A line for people, on standard error: standard output is for answers."""
    console(error=True).print(Text(text, style=style or ""), soft_wrap=True)


def answer(text: str) -> None:
    """A line of the command's answer, on standard output, as it is."""
    sys.stdout.write(text + "\n")


def answer_json(value: Any) -> None:
    """The answer as indented JSON."""
    answer(json.dumps(value, indent=2, ensure_ascii=False))


def show_error(error: CliError) -> None:
    """One line with the fix, then the details."""
    line = Text.assemble(("error: ", "bold red"), str(error))
    to = console(error=True)
    to.print(line, soft_wrap=True)
    for detail in error.details:
        to.print(Text(f"  {detail}"), soft_wrap=True)


def print_plan(name: str, plan: PlanStatus, *, explain: bool = False, error: bool = False) -> None:
    """A plan as tables: the layout, the cards, the host; with ``explain`` the proof and the refusals."""
    to = console(error=error)
    to.print(Panel(_summary(plan), title=f"plan of {name}", title_align="left", expand=False))
    to.print(_cards(plan.memory.cards, explain=explain))
    if explain:
        to.print(_host(plan.memory.host))
        to.print(_rejected(plan))


def _summary(plan: PlanStatus) -> Table:
    layout, fallback, host, estimate = plan.layout, plan.fallback, plan.memory.host, plan.estimate
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    replicas = f", {layout.replicas} replicas" if layout.replicas != 1 else ""
    table.add_row("layout", f"{layout.summary}: {layout.gpus_per_replica} ranks a replica{replicas}")
    table.add_row("encoders", layout.encoders)
    kept = f"{fallback.placement}, {fallback.replicas} warm of at most {fallback.max_replicas}"
    table.add_row("fallback", fallback.message or kept if fallback.placement != "None" else "none")
    table.add_row(
        "host memory",
        f"{_gib(host.limit_gib)} of {_gib(host.node_gib)}: object store {_gib(host.object_store_gib)}, "
        f"shared memory {_gib(host.shm_gib)}, heap {_gib(host.heap_gib)}, weights {_gib(host.weights_gib)}",
    )
    error = f"±{estimate.error_percent:.0f} %" if estimate.calibrated else "not calibrated"
    table.add_row(
        "estimate",
        f"{estimate.seconds_per_image:.3g} s a picture of {estimate.width}×{estimate.height} in {estimate.steps} steps, "
        f"{estimate.images_per_minute:.3g} a minute ({error})",
    )
    return table


def _cards(cards: Iterable[CardMemory], *, explain: bool) -> Table:
    table = Table(title="memory by card", title_justify="left", box=None, pad_edge=False)
    for column in ("card", "role", "holds", "total", "of"):
        table.add_column(
            column, justify="right" if column in ("card", "total", "of") else "left", overflow="fold"
        )
    for card in cards:
        parts = [(one.name, one.gib) for one in card.components if one.gib > 0]
        parts = parts if explain else _summed(parts, card.total_gib)
        holds = ", ".join(f"{name} {_gib(gib)}" for name, gib in parts)
        table.add_row(str(card.index), card.role, holds, _gib(card.total_gib), _gib(card.usable_gib))
    return table


def _summed(parts: list[tuple[str, float]], total: float) -> list[tuple[str, float]]:
    """The large parts by name; a fallback as one, and what is below a twentieth of them all as one."""
    found: dict[str, float] = {}
    for name, gib in parts:
        kept = "fallback" if name.startswith("fallback: ") else name if gib >= total / 20 else "other"
        found[kept] = found.get(kept, 0.0) + gib
    other = found.pop("other", None)
    return [*found.items(), *([] if other is None else [("other", other)])]


def _host(host: HostMemory) -> Table:
    table = Table(
        title="host memory, proved", title_justify="left", box=None, show_header=False, pad_edge=False
    )
    for line in host.proof:
        table.add_row(line)
    return table


def _rejected(plan: PlanStatus) -> Table:
    table = Table(title="not taken", title_justify="left", box=None, pad_edge=False)
    for column in ("family", "candidates", "reason", "why"):
        table.add_column(column, justify="right" if column == "candidates" else "left", overflow="fold")
    for one in plan.rejected:
        table.add_row(one.family, str(one.candidates), one.reason, one.message)
    return table


def _gib(value: float) -> str:
    return f"{value * 1024:.3g} MiB" if value < 1 else f"{value:.3g} GiB"
