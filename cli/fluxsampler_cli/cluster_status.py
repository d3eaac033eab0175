"""`fluxsampler status NAME` on a cluster: plan, conditions, pods and last events in one view."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fluxsampler_cli import output

if TYPE_CHECKING:
    from fluxsampler_cli.kubectl import Kubectl

_EVENTS = 10
_STYLE = {"True": "green", "False": "red", "Unknown": "yellow"}
_PHASE = {"Ready": "green", "Degraded": "yellow", "Failed": "red"}
# Degraded is the one condition that is good when it is False.
_GOOD_WHEN_FALSE = frozenset({"Degraded"})


def cluster_status(kubectl: Kubectl, name: str, form: str) -> None:
    """Print what the cluster knows of the FluxSampler ``name``. Raises NotRunning when it is not there."""
    sampler = kubectl.sampler(name)
    status = sampler.get("status") or {}
    pods = []
    if selector := status.get("selector"):
        pods = kubectl.get("pods", "--selector", selector)["items"]
    events = _events(kubectl, sampler, pods)
    match form:
        case "json":
            output.answer_json(_answer(sampler, pods, events))
        case "yaml":
            output.answer(yaml.safe_dump(_answer(sampler, pods, events), sort_keys=False).rstrip())
        case _:
            _show(sampler, pods, events)


def _answer(
    sampler: dict[str, Any], pods: list[dict[str, Any]], events: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "name": sampler["metadata"]["name"],
        "namespace": sampler["metadata"]["namespace"],
        "generation": sampler["metadata"].get("generation"),
        "status": sampler.get("status") or {},
        "pods": [dict(zip(("name", "ready", "status", "restarts", "node"), _pod(pod), strict=True)) for pod in pods],
        "events": [
            {
                "time": _when(event),
                "type": event.get("type"),
                "reason": event.get("reason"),
                "object": _about(event),
                "message": event.get("message"),
            }
            for event in events
        ],
    }  # fmt: skip


def _events(kubectl: Kubectl, sampler: dict[str, Any], pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest events about the FluxSampler, its pods and what lies between, oldest first."""
    ours = {sampler["metadata"]["uid"], *(pod["metadata"]["uid"] for pod in pods)}
    owners = {owner["uid"] for pod in pods for owner in pod["metadata"].get("ownerReferences", ())}
    found = [
        event
        for event in kubectl.get("events")["items"]
        if (event.get("involvedObject") or {}).get("uid") in ours | owners
    ]
    return sorted(found, key=_when)[-_EVENTS:]


def _when(event: dict[str, Any]) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def _about(event: dict[str, Any]) -> str:
    about = event.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _show(sampler: dict[str, Any], pods: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    to = output.console()
    meta, status = sampler["metadata"], sampler.get("status") or {}
    to.print(
        Panel(_summary(status), title=f"{meta['namespace']}/{meta['name']}", title_align="left", expand=False)
    )
    if not status:
        output.say("no status yet: is the operator running, and does it watch this namespace?")
    elif status.get("observedGeneration") != meta.get("generation"):
        output.say(
            f"the operator has seen generation {status.get('observedGeneration')} of {meta.get('generation')}: "
            "what follows is about the older one"
        )
    to.print(_conditions(status.get("conditions") or []))
    to.print(_pods(pods))
    if events:
        to.print(_event_table(events))


def _summary(status: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    phase = str(status.get("phase") or "Pending")
    table.add_row("phase", Text(phase, style=_PHASE.get(phase, "yellow")))
    plan = status.get("plan") or {}
    if plan:
        layout, estimate = plan["layout"], plan["estimate"]
        table.add_row(
            "plan",
            f"{layout['summary']}, {layout['replicas']} × {layout['gpusPerReplica']} ranks; fallback {plan['fallback']['placement']}",
        )
        host = plan["memory"]["host"]
        table.add_row(
            "memory",
            f"pod {host['limitGib']:.1f} GiB: object store {host['objectStoreGib']:.1f}, /dev/shm {host['shmGib']:.1f}",
        )
        table.add_row(
            "estimate",
            f"{estimate['secondsPerImage']:.3g} s a picture of {estimate['width']}×{estimate['height']}, "
            f"{estimate['imagesPerMinute']:.3g} a minute",
        )
    table.add_row("engine", str(status.get("engine") or "none"))
    table.add_row(
        "replicas", f"{status.get('replicas') or 0} parallel, {status.get('fallbackReplicas') or 0} fallback"
    )
    table.add_row("url", str(status.get("url") or "none yet"))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column == "age" else "left")
    return table


def _conditions(conditions: list[dict[str, Any]]) -> Table:
    table = _table("conditions", "type", "status", "reason", "age", "message")
    for one in conditions:
        shown = one["status"]
        if one["type"] in _GOOD_WHEN_FALSE:
            shown = {"True": "False", "False": "True"}.get(shown, shown)
        table.add_row(
            one["type"],
            Text(one["status"], style=_STYLE.get(shown, "")),
            one["reason"],
            _age(one.get("lastTransitionTime")),
            one["message"],
        )
    return table


def _pods(pods: list[dict[str, Any]]) -> Table:
    table = _table("pods" if pods else "no pods", "name", "ready", "status", "restarts", "node", "age")
    for pod in pods:
        table.add_row(*_pod(pod), _age(pod["metadata"].get("creationTimestamp")))
    return table


def _pod(pod: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Name, ready containers, state in a word (the waiting reason if there is one), restarts, node."""
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    state = str(status.get("reason") or status.get("phase") or "Unknown")
    for one in (*(status.get("initContainerStatuses") or ()), *containers):
        found = one.get("state") or {}
        why = (found.get("waiting") or {}).get("reason") or (
            (found.get("terminated") or {}).get("reason") if (found.get("terminated") or {}).get("exitCode") else None
        )  # fmt: skip
        state = why or state
    if pod["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    return (
        pod["metadata"]["name"],
        f"{sum(bool(one.get('ready')) for one in containers)}/{len(pod['spec']['containers'])}",
        state,
        str(sum(one.get("restartCount", 0) for one in containers)),
        str(pod["spec"].get("nodeName") or "none"),
    )


def _event_table(events: list[dict[str, Any]]) -> Table:
    table = _table("last events", "age", "type", "reason", "object", "message")
    for event in events:
        style = "yellow" if event.get("type") == "Warning" else ""
        table.add_row(
            _age(_when(event)),
            Text(str(event.get("type") or ""), style=style),
            str(event.get("reason") or ""),
            _about(event),
            str(event.get("message") or "").strip(),
        )
    return table


def _age(stamp: str | None) -> str:
    """As kubectl writes it: the largest one or two units."""
    if not stamp:
        return ""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()))
    for unit, size, below in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172800)):
        if seconds < below:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"
