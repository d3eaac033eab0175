"""`upgrade.strategy: NewCluster`: new pods beside the old ones; somebody draws all the time, and Ready stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import httpx
import pytest

from tests.support.installation import Sampler

ROLLED = {"name": "ROLLED", "value": "yes"}
PATCHED = {"spec": {"containers": [{"name": "ray", "env": [ROLLED]}]}}
# Between two pictures, so that drawing leaves a processor to what is rolled out.
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody saw who drew one picture after the other and looked at the status before each."""

    engines: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    told: list[tuple[str, str, int, str]] = field(default_factory=list)

    def look(self, sampler: Sampler, url: str) -> None:
        """Status, then a picture."""
        status = sampler.status
        ready = next(one for one in status["conditions"] if one["type"] == "Ready")
        now = (ready["status"], status["engine"], status["replicas"], ready["message"])
        if self.told[-1:] != [now]:
            self.told.append(now)
        try:
            self.engines[sampler.draw("a red circle", url=url).engine] += 1
        except (AssertionError, httpx.HTTPError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")


@contextmanager
def drawing(sampler: Sampler) -> Iterator[Seen]:
    """Somebody draws meanwhile, each picture by a connection of its own."""
    seen, over, url = Seen(), Event(), sampler.url

    def draw() -> None:
        while not over.wait(PAUSE_SECONDS):
            seen.look(sampler, url)

    painter = Thread(target=draw)
    painter.start()
    try:
        yield seen
    finally:
        over.set()
        painter.join()


@pytest.fixture
def as_before(shared: Sampler) -> Iterator[None]:
    """The shared FluxSampler as it was; but for its pods' environment, which would take another roll-out."""
    shared.wait_ready()
    yield
    shared.patch({"upgrade": None, "serving": None})
    shared.wait_ready()


@pytest.mark.usefixtures("as_before")
def test_a_new_cluster_takes_over_while_somebody_draws(shared: Sampler) -> None:
    pods, before = shared.pod_uids, clusters(shared)
    # The old cluster stays for as long as a request may last, and a minute at least.
    shared.patch({"upgrade": {"strategy": "NewCluster"}, "serving": {"requestTimeoutSeconds": 10}})
    shared.wait_ready()
    assert shared.pod_uids == pods

    with drawing(shared) as seen:
        shared.patch({"podTemplate": PATCHED})
        took = shared.wait(lambda: len(clusters(shared)) == 2, "a second RayCluster", interval=0.5)
        assert before < clusters(shared)
        shared.wait_ready()
        print(f"\na second RayCluster after {took:.1f} s")
        took = shared.wait(
            lambda: len(clusters(shared)) == 1 and not shared.pod_uids & pods,
            "the old one gone",
            interval=0.5,
        )
        print(f"the old one gone {took:.1f} s after the new one had drawn")
    print(f"drawn meanwhile: {dict(seen.engines)}; what the status said:", *seen.told, sep="\n    ")
    assert seen.failures == []
    assert set(seen.engines) == {"parallel"}
    assert {(ready, engine, replicas) for ready, engine, replicas, _ in seen.told} == {
        ("True", "parallel", 1)
    }
    assert any("a change is being rolled out" in message for *_, message in seen.told)
    assert not clusters(shared) & before
    assert shared.status["engine"] == "parallel"
    for pod in shared.pods:
        assert ROLLED in pod["spec"]["containers"][0]["env"]


def clusters(sampler: Sampler) -> set[str]:
    """UIDs of its RayClusters."""
    return {item["metadata"]["uid"] for item in sampler.get("rayclusters")["items"]}
