"""`fluxsampler status`: what is up on this machine, and what only looks so."""

from __future__ import annotations

import time
from typing import Any

import yaml
from rich.table import Table

from fluxsampler_cli import output, processes
from fluxsampler_cli.cluster_status import cluster_status
from fluxsampler_cli.errors import InputError, LocalError, NotRunning
from fluxsampler_cli.kubectl import Kubectl
from fluxsampler_cli.state import InstanceState, StateFolder

_PROBE_SECONDS = 5.0


def status(name: str | None, form: str, kubectl: Kubectl) -> None:
    """Print the state of ``name`` or of all on this machine; what is not up here is looked for on the cluster.

    Raises :class:`NotRunning` when ``name`` is known to neither.
    """
    folder = StateFolder()
    states = folder.all()
    if name is None and kubectl.chosen:
        raise InputError(
            "--namespace, --context and --kubeconfig need a NAME; `kubectl get fluxsamplers` lists them"
        )
    if name is not None:
        states = [state for state in states if state.name == name and not kubectl.chosen]
        if not states:
            _on_cluster(kubectl, name, form)
            return
    answers = [describe(state) for state in states]
    match form:
        case "json":
            output.answer_json(answers[0] if name is not None else answers)
        case "yaml":
            output.answer(
                yaml.safe_dump(answers[0] if name is not None else answers, sort_keys=False).rstrip()
            )
        case _ if not states:
            output.say("nothing is up; start something with `fluxsampler up FILE`")
        case _:
            output.console().print(_table(answers))
            for state, answer in zip(states, answers, strict=True):
                if hint := _hint(state, answer):
                    output.say(hint)


def _on_cluster(kubectl: Kubectl, name: str, form: str) -> None:
    try:
        cluster_status(kubectl, name, form)
    except (NotRunning, LocalError) as error:
        if kubectl.chosen:
            raise
        raise NotRunning(
            f"{name} is not up on this machine (start it with `fluxsampler up FILE --name {name}`), nor on a cluster: {error}"
        ) from error


def describe(state: InstanceState) -> dict[str, Any]:
    """The truth about one instance, as plain data."""
    phase = state.shown_phase
    if phase == "running" and not answers(state):
        phase = "unready"
    return {
        "name": state.name,
        "phase": phase,
        "step": state.step,
        "detail": state.detail,
        "error": state.error,
        "url": state.url,
        "layout": state.plan.layout.summary,
        "file": state.file,
        "pid": state.keeper if state.alive else None,
        "processes": len(processes.of_instance(state.instance)),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(state.since)),
        "readySeconds": state.ready_seconds,
        "log": state.log,
        "plan": state.plan.model_dump(mode="json", by_alias=True),
    }


def answers(state: InstanceState) -> bool:
    """Whether its service says that it is ready."""
    import httpx  # only when something runs

    try:
        return httpx.get(f"{state.url}/readyz", timeout=_PROBE_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _hint(state: InstanceState, answer: dict[str, Any]) -> str:
    match answer["phase"]:
        case "failed":
            return f"{state.name}: {state.error}; log: {state.log}; clear it with `fluxsampler down {state.name}`"
        case "dead":
            return (
                f"{state.name}: its process was killed, {answer['processes']} of its processes are left; "
                f"clear them with `fluxsampler down {state.name}`"
            )
        case "unready":
            return f"{state.name}: runs, but does not answer or is not ready; log: {state.log}"
        case _:
            return ""


def _table(answers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "phase", "url", "layout", "processes", "since"):
        table.add_column(column, overflow="fold", justify="right" if column == "processes" else "left")
    styles = {"running": "green", "starting": "yellow", "unready": "yellow"}
    for one in answers:
        phase = one["phase"]
        shown = f"{phase} ({one['step']})" if phase == "starting" and one["step"] else phase
        style = styles.get(phase, "red")
        row = (
            one["name"],
            f"[{style}]{shown}[/{style}]",
            one["url"],
            one["layout"],
            str(one["processes"]),
            one["since"],
        )
        table.add_row(*row)
    return table
