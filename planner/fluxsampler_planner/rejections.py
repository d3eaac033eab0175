"""What was not taken and why, grouped so that a person can read it: at most a dozen lines."""

from __future__ import annotations

from fluxsampler_api.plan import Rejection
from fluxsampler_planner.search import Candidate, Found, Inputs

MOST_LINES = 12


def families(inputs: Inputs, found: Found) -> tuple[Rejection, ...]:
    """One line per family and reason: rules first, then memory, then what would have been slower."""
    merged: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for (family, reason), group in found.refused.items():
        # Numbered families (`ulysses 5`, `ulysses 7`) of one reason are one line.
        stem = family.rpartition(" ")[0] if family.rpartition(" ")[2].isdigit() else family
        merged.setdefault((stem, reason), []).append((family, group.message, group.count))
    lines = []
    for (stem, reason), entries in merged.items():
        numbers = sorted(
            {
                int(family.rpartition(" ")[2])
                for family, _, _ in entries
                if family.rpartition(" ")[2].isdigit()
            }
        )
        family = f"{stem} {', '.join(map(str, numbers))}" if numbers else stem
        lines.append(
            Rejection(
                family=family,
                reason=reason,
                message=entries[0][1],
                candidates=sum(count for _, _, count in entries),
            )
        )
    order = {"InsufficientGPUMemory": 1, "NoRoomForFallback": 2}
    lines.sort(key=lambda line: (order.get(line.reason, 0), line.family))
    if found.best is not None:
        slower = [other for family, other in found.families.items() if family != found.best.split.family]
        slower.sort(key=lambda other: other.order)
        if found.fastest is not None and found.fastest.value < found.best.value * 0.999:
            slower = [found.fastest, *(other for other in slower if other.split != found.fastest.split)]
        lines += [_slower(inputs, found.best, other) for other in slower]
    if len(lines) > MOST_LINES:
        rest = lines[MOST_LINES - 1 :]
        lines = [
            *lines[: MOST_LINES - 1],
            Rejection(
                family="others", reason="Others", candidates=sum(line.candidates for line in rest),
                message="; ".join(f"{line.family}: {line.reason}" for line in rest),
            ),
        ]  # fmt: skip
    return tuple(lines)


def _slower(inputs: Inputs, best: Candidate, other: Candidate) -> Rejection:
    def line(reason: str, message: str) -> Rejection:
        return Rejection(family=other.split.family, reason=reason, message=message)

    if inputs.throughput:
        figures = f"{other.replicas} × {other.split} draws {other.images_per_minute:.1f} pictures/min against {best.images_per_minute:.1f}"
    else:
        figures = f"{other.split} takes {other.seconds.total:.2f} s against {best.seconds.total:.2f}"
    if other.widest_first and other.split.ranks < best.split.ranks:
        return line(
            "FewerRanks",
            f"{other.split} uses {other.split.ranks} of {best.split.ranks} rank processes; on CPU those asked for are used",
        )
    if other.value < best.value:
        return line("FallbackWouldBeCold", f"{figures}, but its fallback would be {other.placement}")
    if other.placement != best.placement:
        figures += f", with its fallback {other.placement}"
    return line("Slower", figures)
