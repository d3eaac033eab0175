"""What changes without new pods, what rolls them, and that the status follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread

import httpx
import pytest

from tests.support.installation import KIND, Sampler
from tests.support.shape_checker import matches

# Between two pictures, so that drawing leaves a processor to what is rolled out.
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Seen:
    """What somebody saw who watched Ready and drew one picture after the other."""

    engines: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    writes: list[tuple[int, int, str, str]] = field(default_factory=list)
    """The object's generation, and Ready's generation, status and message, each time that they differed."""

    def uninterrupted(self) -> None:
        """Fail the test if Ready was ever lost or a picture did not come."""
        print(f"\ndrawn meanwhile: {dict(self.engines)}, Ready as it was written:")
        for each in self.writes:
            print("   ", *each)
        assert {status for _, _, status, _ in self.writes} == {"True"}
        assert self.failures == []
        assert self.engines.total() > 2


@contextmanager
def watched(sampler: Sampler) -> Iterator[Seen]:
    """Ask for Ready and draw, all the time, until the block ends and the end was seen."""
    seen, over, url = Seen(), Event(), sampler.url

    def draw() -> None:
        while not over.wait(PAUSE_SECONDS):
            try:
                seen.engines[sampler.draw("a red circle", url=url).engine] += 1
            except (AssertionError, httpx.HTTPError) as error:
                seen.failures.append(f"{type(error).__name__}: {error}")

    def look() -> None:
        while not over.wait(PAUSE_SECONDS):
            live = sampler.live
            ready = next(each for each in live["status"]["conditions"] if each["type"] == "Ready")
            row = (
                live["metadata"]["generation"],
                ready["observedGeneration"],
                ready["status"],
                ready["message"],
            )
            if seen.writes[-1:] != [row]:
                seen.writes.append(row)

    threads = [Thread(target=draw), Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        sampler.wait(lambda: seen.writes, "the first look")
        yield seen
        last = sampler.live["metadata"]["generation"]
        sampler.wait(lambda: seen.writes[-1][:2] == (last, last), "the end to be seen")
    finally:
        over.set()
        for thread in threads:
            thread.join()


def kubectl_wait(sampler: Sampler) -> None:
    """Wait as users do; what that returns for is the generation that was applied."""
    sampler.cluster.kubectl(
        "wait", f"{KIND}/{sampler.name}", "-n", sampler.namespace, "--for=condition=Ready", "--timeout=400s", timeout=420
    )  # fmt: skip
    assert sampler.condition("Ready").get("status") == "True"


@pytest.fixture(autouse=True)
def as_before(shared: Sampler) -> Iterator[None]:
    """The shared FluxSampler is Ready before and after each test."""
    shared.wait_ready()
    yield
    shared.patch({"replicas": 1, "serving": None, "fallback": None, "podTemplate": None})
    shared.wait_ready()


def test_limits_and_fallbacks_change_in_place(shared: Sampler) -> None:
    pods, gang = shared.pod_uids, shared.gang
    assert len(gang) >= 2
    with watched(shared) as seen:
        shared.patch(
            {"serving": {"requestTimeoutSeconds": 77, "maxQueuedRequests": 5}, "fallback": {"minReplicas": 2}}
        )
        kubectl_wait(shared)
    seen.uninterrupted()
    assert any("a change is being rolled out" in message for *_, message in seen.writes)
    shared.wait(lambda: shared.status["fallbackReplicas"] == 2, "two fallbacks")
    assert shared.draw("a red circle").engine == "parallel"
    assert shared.pod_uids == pods
    assert shared.gang == gang


def test_scale_to_two_to_one_to_none(shared: Sampler) -> None:
    pods, gang = shared.pod_uids, shared.gang
    for replicas in (2, 1, 0):
        with watched(shared) as seen:
            shared.cluster.kubectl(
                "scale", f"{KIND}/{shared.name}", "-n", shared.namespace, f"--replicas={replicas}"
            )
            kubectl_wait(shared)
            took = shared.wait(
                partial(_ready_with, shared, replicas),
                f"{replicas} replicas",
            )
        seen.uninterrupted()
        drawn = shared.draw("a red circle")
        print(f"\nscaled to {replicas} in {took:.1f} s, drawn by {drawn.engine}")
        assert drawn.engine == ("parallel" if replicas else "fallback")
        assert matches(drawn.image, "a red circle")
        assert shared.status["engine"] == drawn.engine
        if replicas == 2:
            assert shared.gang > gang  # the first one goes on beside the second
    assert shared.pod_uids == pods


def test_a_changed_pod_template_rolls_the_pods_and_comes_back(shared: Sampler) -> None:
    pods = shared.pod_uids
    shared.patch(
        {
            "podTemplate": {
                "spec": {"containers": [{"name": "ray", "env": [{"name": "ROLLED", "value": "yes"}]}]}
            }
        }
    )
    took = shared.wait(
        lambda: not (shared.pod_uids & pods) and shared.condition("Ready").get("status") == "True",
        "new pods, Ready",
    )
    print(f"\nrolled in {took:.1f} s")
    assert shared.draw("a red circle").engine == "parallel"
    for pod in shared.pods:
        assert {"name": "ROLLED", "value": "yes"} in pod["spec"]["containers"][0]["env"]


def _ready_with(sampler: Sampler, replicas: int) -> bool:
    return (
        sampler.condition("Ready").get("status") == "True" and sampler.status.get("replicas", 0) == replicas
    )
