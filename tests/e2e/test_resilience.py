"""The operator is killed at any moment of a roll-out, and stopped as Kubernetes stops it: all comes to what was asked."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.installation import Installation, Sampler
from tests.support.operator_pod import OperatorPod

SEED = "FLUXSAMPLER_TEST_SEED"
ROLLED = {"name": "KILLED", "value": "yes"}
PATCHED = {"spec": {"containers": [{"name": "ray", "env": [ROLLED]}]}}


@pytest.fixture
def as_before(shared: Sampler) -> Iterator[None]:
    """The shared FluxSampler as it was, whatever becomes of a test; but for its pods' environment, which would take another roll-out."""
    shared.wait_ready()
    yield
    shared.patch({"serving": None, "fallback": None})
    shared.wait_ready()


@pytest.fixture
def operator(installed: Installation) -> OperatorPod:
    """Its pod, running."""
    pod = OperatorPod(installed)
    pod.wait_ready()
    return pod


@pytest.mark.usefixtures("as_before")
def test_killed_ten_times_while_it_rolls_out_it_always_converges(
    shared: Sampler, operator: OperatorPod
) -> None:
    """Every other kill is of the process (its container starts anew), every other of the pod (it runs beside the next for a moment)."""
    shared.cluster.ours()  # kill -9 needs the operator on this machine
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    chance = random.Random(seed)
    print(f"\n{SEED}={seed}")
    kills = 0

    def roll_out(spec: dict[str, object], times: int, longest: float, done: Callable[[], bool]) -> None:
        nonlocal kills
        started = time.monotonic()
        shared.patch(spec)
        for _ in range(times):
            # A moment by chance is what is tested here; no condition is awaited by it.
            time.sleep(chance.uniform(0, longest))
            how = operator.kill_process if kills % 2 == 0 else operator.delete_at_once
            moment = time.monotonic() - started
            killed = how()
            kills += 1
            print(f"kill {kills} ({how.__name__}) at {moment:.1f} s of a change of {', '.join(spec)}")
            operator.wait_running(other_than=killed)
        took = shared.wait(
            lambda: shared.condition("Ready").get("status") == "True" and done(), f"Ready with {spec}"
        )
        print(f"converged {took:.1f} s after the last kill")
        clusters = shared.get("rayclusters")["items"]
        assert len(clusters) == 1
        assert len(shared.pods) == 2
        assert shared.draw("a red circle").engine == "parallel"

    def rolled(before: set[str]) -> bool:
        pods = shared.pods
        return not ({pod["metadata"]["uid"] for pod in pods} & before) and all(
            ROLLED in pod["spec"]["containers"][0].get("env", ()) for pod in pods
        )

    pods = shared.pod_uids
    roll_out({"fallback": {"minReplicas": 2}}, 3, 3.0, lambda: shared.status["fallbackReplicas"] == 2)
    roll_out({"fallback": None}, 3, 3.0, lambda: shared.status["fallbackReplicas"] == 1)
    assert shared.pod_uids == pods
    # New pods take half a minute; the kubelet takes longer after each kill to start the container again.
    roll_out({"podTemplate": PATCHED}, 4, 6.0, lambda: rolled(pods))
    assert kills == 10
    operator.wait_ready()
    operator.assert_clean_log()


def test_sigterm_ends_it_soon_and_nobody_notices(shared: Sampler, operator: OperatorPod) -> None:
    for _ in range(3):
        shared.wait_ready()
        before, since = _conditions(shared), _ready_since(shared)
        code, seconds = operator.stop()
        print(f"\nSIGTERM to the end of the process: {seconds:.0f} s, exit code {code}")
        assert code == 0
        assert seconds <= 5
        operator.wait_ready()
        shared.wait_ready()
        if _ready_since(shared) == since:
            break
        # On a busy node a probe of the head may fail meanwhile: then conditions move by right.
    # The next one asks for a picture of its own; that is no reason to doubt the last one.
    assert _ready_since(shared) == since
    assert _conditions(shared) == before
    operator.assert_clean_log()


def _conditions(sampler: Sampler) -> dict[str, str]:
    return {one["type"]: one["lastTransitionTime"] for one in sampler.status["conditions"]}


def _ready_since(sampler: Sampler) -> dict[str, str]:
    """When each of its pods became ready, by UID."""
    return {
        pod["metadata"]["uid"]: one["lastTransitionTime"]
        for pod in sampler.pods
        for one in pod["status"]["conditions"]
        if one["type"] == "Ready"
    }
