"""What Serve gave up is tried again, unless something answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fluxsampler_operator.observed import Observed
from fluxsampler_operator.retry import given_up
from tests.unit.operator.observations import pod, rayservice, recorded, sampler, seen

PATIENCE = timedelta(seconds=40)
FAILED_AT = datetime(2026, 11, 22, 15, tzinfo=UTC)
LATER = FAILED_AT + PATIENCE
BROKEN: dict[str, Any] = {
    "ParallelSampler": "DEPLOY_FAILED",
    "FallbackSampler": "DEPLOY_FAILED",
    "Gateway": "UPDATING",
}


def failed(said: str = "DEPLOY_FAILED", side: str = "activeServiceStatus", **words: Any) -> dict[str, Any]:
    made = rayservice(said, side=side, **(BROKEN | words))
    made["status"]["lastUpdateTime"] = FAILED_AT.strftime("%Y-%m-%dT%H:%M:%SZ")
    return made


def retried(
    service: dict[str, Any],
    now: datetime = LATER,
    made: datetime = FAILED_AT - timedelta(minutes=2),
    **changes: Any,
) -> str | None:
    observed: Observed = seen(rayservice=service, picture=None, **changes)
    names = given_up(sampler(), observed, [cluster("tiny-x", made), cluster("tiny-y", made)], now, PATIENCE)
    return names[0] if names else None


def cluster(name: str, made: datetime) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ")}}


def test_what_serve_gave_up_is_made_anew_after_a_while() -> None:
    assert retried(failed()) == "tiny-x"
    assert retried(failed(), LATER - timedelta(seconds=1)) is None


def test_a_new_cluster_of_the_same_name_is_not_the_one_that_failed() -> None:
    assert retried(failed(), LATER + timedelta(minutes=1), made=LATER) is None


def test_a_start_that_serve_still_tries_or_that_worked_is_left_alone() -> None:
    assert retried(failed("DEPLOYING")) is None
    assert retried(failed("UNHEALTHY")) is None
    assert retried(rayservice()) is None
    assert retried(rayservice(None)) is None


def test_nothing_is_taken_away_while_an_engine_answers() -> None:
    assert retried(failed(Gateway="HEALTHY", ParallelSampler="HEALTHY")) is None
    assert retried(failed(Gateway="HEALTHY", FallbackSampler="HEALTHY")) is None


def test_a_first_cluster_that_never_got_traffic_is_tried_again_too() -> None:
    made = failed(side="pendingServiceStatus")
    made["status"]["activeServiceStatus"] = {}
    made["status"]["pendingServiceStatus"]["rayClusterName"] = "tiny-y"
    head = pod("head")
    head["metadata"]["labels"]["ray.io/cluster"] = "tiny-y"
    assert retried(made, pods=(head,)) == "tiny-y"


def test_a_head_that_is_not_ready_is_left_to_the_kubelet() -> None:
    assert retried(failed(), pods=(pod("head", phase="Pending", conditions=[]),)) is None


def test_a_change_that_kuberay_has_not_taken_up_comes_first() -> None:
    made = failed()
    made["metadata"]["generation"] = 2
    assert retried(made) is None


def test_without_a_plan_or_with_a_refused_manifest_nothing_is_made_anew() -> None:
    assert retried(failed(), plan=None) is None
    assert retried(failed(), apply_errors=("no",)) is None


def test_a_kuberay_that_tells_no_time_is_not_guessed_at() -> None:
    made = failed()
    del made["status"]["lastUpdateTime"]
    assert retried(made) is None


@pytest.mark.parametrize("name", ["model-not-found", "model-auth-failed"])
def test_what_a_real_cluster_gave_up_is_tried_again(name: str) -> None:
    found = recorded(name)
    said = found["rayservice"]["status"]
    failed_at = datetime.fromisoformat(said["lastUpdateTime"])
    broken = said["pendingServiceStatus"]["rayClusterName"]
    observed = seen(rayservice=found["rayservice"], pods=tuple(found["pods"]), picture=None)
    clusters = [cluster(broken, failed_at - timedelta(minutes=2))]
    assert given_up(sampler(), observed, clusters, failed_at + PATIENCE, PATIENCE) == (broken,)
    assert given_up(sampler(), observed, clusters, failed_at + PATIENCE / 2, PATIENCE) == ()
