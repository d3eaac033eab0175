from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import kopf
import pytest

from fluxsampler_operator.errors import ClusterUnavailable, Forbidden
from fluxsampler_operator.handlers import watcher as module
from fluxsampler_operator.handlers.events import BUILT_IN_KINDS, KUBERAY_KINDS
from fluxsampler_operator.handlers.keys import Samplers
from fluxsampler_operator.handlers.settings import watching_settings
from fluxsampler_operator.handlers.watcher import Watcher
from fluxsampler_operator.manifest import SAMPLER_LABEL, child_name
from fluxsampler_operator.queue import Key

LONG = "x" * 60 + ".team"
OWNED = {"apiVersion": "fluxsampler.io/v1alpha1", "kind": "FluxSampler", "name": "one", "controller": True}
RAY = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "one-abcde", "controller": True}


def child(label: str | None = None, *owners: dict[str, Any]) -> dict[str, Any]:
    labels = {} if label is None else {SAMPLER_LABEL: label}
    return {
        "metadata": {"namespace": "a", "name": "child", "labels": labels, "ownerReferences": list(owners)}
    }


def test_a_child_leads_to_its_owner() -> None:
    assert Samplers().of_child(child(None, RAY, OWNED)) == Key("a", "one")


def test_a_pod_leads_to_its_sampler_by_label_even_if_names_are_shortened() -> None:
    samplers = Samplers()
    samplers.saw(Key("a", LONG))
    samplers.saw(Key("b", "one"))
    assert samplers.of_child(child(child_name(LONG), RAY)) == Key("a", LONG)
    assert samplers.of_child(child("one", RAY)) is None  # of another namespace
    assert samplers.of_child(child(None, RAY)) is None
    samplers.lost(Key("a", LONG))
    assert samplers.of_child(child(child_name(LONG), RAY)) is None


def test_an_object_without_labels_and_owners_is_nobodys() -> None:
    assert Samplers().of_child({"metadata": {"namespace": "a", "name": "x"}}) is None


def test_kopf_writes_nothing_and_sees_only_ours() -> None:
    settings = watching_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    # Kopf takes its finalizer off every object it sees: another operator's would go.
    assert settings.persistence.finalizer != kopf.OperatorSettings().persistence.finalizer
    selectors = settings.watching.label_selectors
    for kind in (*BUILT_IN_KINDS, *KUBERAY_KINDS):
        assert selectors[kind] == SAMPLER_LABEL


class Kopf:
    """Runs of kopf that a test ends."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.end: Callable[[], None] = lambda: None
        self.started = threading.Semaphore(0)
        self.stopped = threading.Event()

    def run(self, *, stop_flag: threading.Event, **arguments: Any) -> None:
        self.runs.append(arguments)
        self.started.release()
        if len(self.runs) == 1:
            self.end()
            return
        stop_flag.wait(60)
        self.stopped.set()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Kopf:
    made = Kopf()
    monkeypatch.setattr(kopf, "run", made.run)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    return made


async def started(fake: Kopf, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(fake.started.acquire, timeout=60)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_watch_waits_for_its_kinds_starts_anew_and_stops(fake: Kopf) -> None:
    answers: list[bool | Exception] = [
        ClusterUnavailable("not yet"),
        Forbidden("roles are being read"),
        False,
        True,
    ]
    appeared: list[int] = []

    async def served() -> bool:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def fail() -> None:
        raise RuntimeError("the kind is gone")

    fake.end = fail
    watcher = Watcher("x", kopf.OperatorRegistry(), ["a", "b"], served, lambda: appeared.append(1))
    task = asyncio.create_task(watcher.run())
    await started(fake, 2)
    assert appeared == [1, 1]
    assert fake.runs[0]["namespaces"] == ["a", "b"]
    assert not fake.runs[0]["clusterwide"]
    await ended(task)
    assert await asyncio.to_thread(fake.stopped.wait, 60)


async def test_no_namespaces_are_all_namespaces(fake: Kopf) -> None:
    async def served() -> bool:
        return True

    task = asyncio.create_task(Watcher("x", kopf.OperatorRegistry(), (), served).run())
    await started(fake, 1)
    assert fake.runs[0]["clusterwide"]
    await ended(task)
