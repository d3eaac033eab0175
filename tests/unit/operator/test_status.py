from __future__ import annotations

import copy
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_api.errors import Problem
from fluxsampler_api.status import FluxSamplerStatus
from fluxsampler_operator.observed import Observed, PictureResult, Refusal
from fluxsampler_operator.status import EventNote, next_status, transitions
from tests.support.plans import EIGHT_CARDS, TWO_PROCESSES
from tests.unit.operator.observations import (
    DRAWN,
    HEALTHY,
    URL,
    deployments,
    ended_pod,
    pod,
    rayservice,
    sampler,
    seen,
    waiting_pod,
)  # fmt: skip

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BY_FALLBACK = replace(DRAWN, engine="fallback")
REFUSED = Refusal(
    "InsufficientGPUMemory", (Problem("spec.hardware", "22.2 GiB do not fit on a card; use fp8"),)
)


def status(
    observed: Observed = HEALTHY, previous: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, Any]:
    return next_status(kwargs.pop("sampler", sampler()), observed, previous, kwargs.pop("now", NOON))


def condition(made: dict[str, Any], type_: str) -> tuple[str, str]:
    found = next(each for each in made["conditions"] if each["type"] == type_)
    return found["status"], found["reason"]


def message(made: dict[str, Any], type_: str) -> str:
    return str(next(each for each in made["conditions"] if each["type"] == type_)["message"])


ALL = ["Accepted", "ClusterReady", "EngineReady", "Serving", "Degraded", "Ready"]


def test_a_healthy_one_is_ready() -> None:
    made = status()
    assert made["phase"] == "Ready"
    assert [condition(made, type_) for type_ in ALL] == [
        ("True", "Planned"), ("True", "Running"), ("True", "Running"), ("True", "PictureDrawn"), ("False", "AsExpected"), ("True", "Ready"),
    ]  # fmt: skip
    assert (made["engine"], made["replicas"], made["fallbackReplicas"], made["url"]) == (
        "parallel",
        1,
        1,
        URL,
    )
    assert made["selector"] == "fluxsampler.io/sampler=tiny"
    assert made["observedGeneration"] == 1
    assert made["plan"]["layout"]["summary"] == "u2"


STAGES = {
    "nothing known": Observed(),
    "refused": Observed(refusal=REFUSED),
    "without kuberay": seen(kuberay=False, rayservice=None, pods=(), picture=None),
    "no pods": seen(rayservice=rayservice(None), pods=(), picture=None),
    "pulling": seen(
        rayservice=rayservice(None), pods=(waiting_pod("head", "ErrImagePull", "no"),), picture=None
    ),
    "deploying": seen(rayservice=rayservice("DEPLOYING", ParallelSampler="UPDATING"), picture=None),
    "failed": seen(rayservice=rayservice("DEPLOY_FAILED", "boom"), picture=None),
    "no picture": seen(picture=PictureResult(False, "none", "503 for 30 s")),
    "fallback": seen(picture=BY_FALLBACK),
    "ready": HEALTHY,
}


@pytest.mark.parametrize("observed", STAGES.values(), ids=STAGES.keys())
def test_every_stage_is_whole_valid_and_still(observed: Observed) -> None:
    made = status(observed)
    assert [each["type"] for each in made["conditions"]] == ALL
    FluxSamplerStatus.model_validate(made)
    again = status(observed, made, now=NOON + timedelta(days=1))
    assert again == made, "equal input writes nothing"
    assert transitions(made, again) == ()


@pytest.mark.parametrize("observed", STAGES.values(), ids=STAGES.keys())
def test_ready_is_the_first_condition_that_does_not_hold(observed: Observed) -> None:
    made = status(observed)
    broken = [type_ for type_ in ALL[:4] if condition(made, type_)[0] != "True"]
    if broken:
        assert condition(made, "Ready") == condition(made, broken[0])
        assert message(made, "Ready") == message(made, broken[0])
    else:
        assert condition(made, "Ready") == ("True", "Ready")


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        ("nothing known", "Pending"), ("refused", "Failed"), ("without kuberay", "Pending"), ("no pods", "Starting"), ("pulling", "Failed"),
        ("deploying", "Starting"), ("failed", "Failed"), ("no picture", "Failed"), ("fallback", "Degraded"), ("ready", "Ready"),
    ],
)  # fmt: skip
def test_phase(stage: str, phase: str) -> None:
    assert status(STAGES[stage])["phase"] == phase


def test_running_without_a_picture_is_not_ready() -> None:
    made = status(seen(picture=None))
    assert condition(made, "EngineReady") == ("True", "Running")
    assert condition(made, "Serving") == ("False", "Deploying")
    assert condition(made, "Ready")[0] == "False"
    assert made["engine"] == "none"


def test_a_picture_without_running_is_not_ready() -> None:
    made = status(seen(rayservice=rayservice("UNHEALTHY", ParallelSampler="UNHEALTHY"), picture=BY_FALLBACK))
    assert condition(made, "Ready") == ("False", "EngineFailed")


def test_a_failed_picture_says_what_came_instead() -> None:
    made = status(STAGES["no picture"])
    assert condition(made, "Serving") == ("False", "PictureFailed")
    assert "503 for 30 s" in message(made, "Ready")
    assert made["engine"] == "none"


def test_ready_does_not_flap_while_the_picture_is_asked_for_again() -> None:
    before = status()
    made = status(seen(picture=None), before, now=NOON + timedelta(hours=1))
    assert made == before


def test_words_of_another_version_are_no_trouble() -> None:
    before = status()
    for each in before["conditions"]:
        each["reason"] = "FromTheFuture"
    assert condition(status(seen(picture=None), before), "Serving") == ("True", "Running")
    for each in before["conditions"]:
        each["status"] = "False"
    assert condition(status(seen(picture=None), before), "Serving") == ("False", "Deploying")


def test_what_was_ready_is_lost_with_the_engines_even_if_no_picture_is_asked_for() -> None:
    before = status()
    made = status(seen(rayservice=rayservice("DEPLOYING", ParallelSampler="UPDATING"), picture=None), before)
    assert condition(made, "Ready") == ("False", "Deploying")


def test_a_held_picture_stays_that_of_its_generation() -> None:
    before = status()
    made = status(seen(picture=None), before, sampler=sampler(generation=2))
    generations = {each["type"]: each["observedGeneration"] for each in made["conditions"]}
    assert generations["Serving"] == generations["Ready"] == 1, (
        "kubectl wait --for=condition=Ready goes on waiting"
    )
    assert generations["Accepted"] == made["observedGeneration"] == 2


def test_without_canary_running_is_enough_and_said() -> None:
    made = status(seen(picture=None), sampler=sampler(canary={"enabled": False}))
    assert condition(made, "Ready") == ("True", "Ready")
    assert "no picture was asked for" in message(made, "Serving")
    assert made["engine"] == "parallel"


def test_only_the_fallback_answers() -> None:
    made = status(seen(picture=BY_FALLBACK))
    assert condition(made, "Degraded") == ("True", "ParallelUnavailable")
    assert made["engine"] == "fallback"


def test_degraded_names_the_cause() -> None:
    broken = rayservice("UNHEALTHY", ParallelSampler=("UNHEALTHY", "A replica's health check failed."))
    made = status(seen(rayservice=broken, picture=None), status())
    assert condition(made, "Degraded") == ("True", "ParallelUnavailable")
    assert "health check failed" in message(made, "Degraded")
    assert (made["engine"], made["phase"], made["replicas"]) == ("fallback", "Degraded", 0)


def test_a_first_start_is_not_degraded_while_the_gang_comes_up_last() -> None:
    made = status(STAGES["deploying"])
    assert (made["engine"], made["phase"]) == ("none", "Starting")


def test_a_gang_that_never_starts_leaves_the_fallback_answering() -> None:
    broken = rayservice(
        "DEPLOY_FAILED",
        ParallelSampler=("DEPLOY_FAILED", "The deployment failed to start 3 times in a row. Error:\nboom"),
    )
    made = status(seen(rayservice=broken, picture=None))
    assert (made["engine"], made["phase"]) == ("fallback", "Degraded")


def test_a_fallback_that_was_asked_for_is_not_degraded() -> None:
    scaled = seen(rayservice=rayservice(ParallelSampler="HEALTHY"), picture=BY_FALLBACK)
    made = status(scaled, sampler=sampler(replicas=0))
    assert condition(made, "Degraded") == ("False", "AsExpected")
    assert condition(made, "Ready") == ("True", "Ready")
    assert (made["replicas"], made["engine"]) == (0, "fallback")


def test_a_layout_of_one_rank_is_drawn_by_the_single_engine() -> None:
    layout = TWO_PROCESSES.layout.model_copy(
        update={"ulysses": 1, "gpus_per_replica": 1, "replicas": 2, "summary": "single"}
    )
    observed = seen(plan=TWO_PROCESSES.model_copy(update={"layout": layout}), picture=BY_FALLBACK)
    alone = rayservice()
    del alone["status"]["activeServiceStatus"]["applicationStatuses"]["fluxsampler"][
        "serveDeploymentStatuses"
    ]["ParallelSampler"]
    made = status(replace(observed, rayservice=alone), sampler=sampler(replicas=2))
    assert condition(made, "Degraded") == ("False", "AsExpected")
    assert (made["replicas"], made["fallbackReplicas"]) == (2, 1)


@pytest.mark.parametrize("before", [1, 2])
def test_replicas_while_scaling_are_those_before(before: int) -> None:
    made = status(
        seen(rayservice=rayservice("DEPLOYING", ParallelSampler="UPSCALING"), picture=None),
        {"replicas": before},
        sampler=sampler(replicas=3),
    )
    assert made["replicas"] == before


def test_replicas_under_autoscaling_are_the_least() -> None:
    assert (
        status(sampler=sampler(replicas=1, autoscaling={"minReplicas": 2, "maxReplicas": 4}))["replicas"] == 2
    )


def test_how_many_of_several_broke_is_not_guessed() -> None:
    broken = rayservice("UNHEALTHY", ParallelSampler="UNHEALTHY")
    made = status(seen(rayservice=broken, picture=None), {"replicas": 2}, sampler=sampler(replicas=2))
    assert "replicas" not in made


def test_a_spec_that_is_refused_leaves_what_runs_alone() -> None:
    before = status()
    made = status(replace(HEALTHY, plan=None, refusal=REFUSED), before, sampler=sampler(generation=2))
    assert condition(made, "Accepted") == ("False", "InsufficientGPUMemory")
    assert condition(made, "Serving") == ("True", "PictureDrawn")
    assert made["plan"] == before["plan"]
    assert made["phase"] == "Degraded"
    assert message(made, "Ready") == "spec.hardware: 22.2 GiB do not fit on a card; use fp8"


def test_the_plan_of_a_refused_new_object_is_none() -> None:
    assert "plan" not in status(Observed(refusal=REFUSED))


def test_notes_stand_in_the_accepted_message() -> None:
    assert "nodes may not be read" in message(status(seen(notes=("nodes may not be read",))), "Accepted")


@pytest.mark.parametrize("plan", [TWO_PROCESSES, EIGHT_CARDS], ids=["small", "large"])
def test_accepted_says_the_plan(plan: Any) -> None:
    said = message(status(seen(plan=plan)), "Accepted")
    assert plan.layout.summary in said
    assert plan.fallback.placement in said


def test_a_deleted_one_says_so() -> None:
    going = sampler()
    going["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert status(sampler=going)["phase"] == "Deleting"


def test_a_change_that_kuberay_has_not_taken_up_is_not_claimed() -> None:
    before = status()
    lagging = rayservice()
    lagging["metadata"]["generation"] = 2
    made = status(seen(rayservice=lagging, picture=None), before, sampler=sampler(generation=2, replicas=2))
    generations = {each["type"]: each["observedGeneration"] for each in made["conditions"]}
    assert generations == {
        "Accepted": 2,
        "ClusterReady": 2,
        "EngineReady": 1,
        "Serving": 1,
        "Degraded": 1,
        "Ready": 1,
    }
    assert (made["phase"], made["replicas"]) == ("Ready", 1)
    taken = copy.deepcopy(lagging)
    taken["status"]["observedGeneration"] = 2
    made = status(seen(rayservice=taken), made, sampler=sampler(generation=2, replicas=2))
    assert {each["observedGeneration"] for each in made["conditions"]} == {2}
    assert made["replicas"] == 2


def test_an_error_stays_named_while_the_next_try_takes_long() -> None:
    failed = (
        "UPDATING",
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
        "fluxsampler_serve.errors.ModelAuthFailed: no token",
    )
    slow = (
        "UPDATING",
        "Deployment 'ParallelSampler' has 1 replicas that have taken more than 30s to initialize.\nThis may be …",
    )
    first = status(seen(rayservice=rayservice("DEPLOYING", ParallelSampler=failed), picture=None))
    second = status(seen(rayservice=rayservice("DEPLOYING", ParallelSampler=slow), picture=None), first)
    assert condition(first, "EngineReady") == ("False", "ModelAuthFailed")
    assert second == first


@pytest.mark.parametrize(
    ("changes", "engine"),
    [
        ({"replicas": 0}, "fallback"),
        ({"replicas": 1}, "parallel"),
    ],
)
def test_a_deployment_without_replicas_is_healthy_and_answers_nothing(
    changes: dict[str, Any], engine: str
) -> None:
    made = status(seen(picture=None), sampler=sampler(canary={"enabled": False}, **changes))
    assert made["engine"] == engine


# -- the cluster that is replaced


def test_a_new_cluster_beside_the_old_one_keeps_serving() -> None:
    both = rayservice(
        "DEPLOYING",
        side="pendingServiceStatus",
        Gateway="UPDATING",
        ParallelSampler="UPDATING",
        FallbackSampler="UPDATING",
    )
    unasked = copy.deepcopy(both)  # KubeRay asks neither cluster before the new one has a head
    unasked["status"]["pendingServiceStatus"] = {"rayClusterName": "tiny-y"}
    before = status()
    for said in (both, unasked):
        made = status(seen(rayservice=said, picture=None), before, sampler=sampler(generation=2))
        assert condition(made, "EngineReady") == ("True", "Running")
        assert condition(made, "Serving") == ("True", "PictureDrawn")
        assert condition(made, "Ready") == ("True", "Ready")
        assert {one["type"]: one["observedGeneration"] for one in made["conditions"]}["Ready"] == 1
        assert (made["phase"], made["engine"]) == ("Ready", "parallel")
        assert (made["replicas"], made["fallbackReplicas"]) == (
            before["replicas"],
            before["fallbackReplicas"],
        )


@pytest.mark.parametrize("up", [False, True])
def test_a_second_cluster_that_kuberay_has_not_named_yet_changes_nothing(up: bool) -> None:
    """KubeRay's words are those of the old cluster, and the pods that are wanted are not there, or only just."""
    wanted = rayservice()
    wanted["metadata"] = {
        **wanted["metadata"],
        "annotations": {"fluxsampler.io/form": "new"},
        "generation": 2,
    }
    wanted["spec"]["upgradeStrategy"] = {"type": "NewCluster"}
    pods = [pod("head"), pod("worker")]
    for each in pods:
        each["metadata"]["annotations"] = {"fluxsampler.io/form": "old"}
    if up:
        fresh = pod("head", "tiny-y-head", phase="Pending", conditions=[])
        fresh["metadata"]["labels"]["ray.io/cluster"] = "tiny-y"
        fresh["metadata"]["annotations"] = {"fluxsampler.io/form": "new"}
        pods.append(fresh)
    look = seen(rayservice=wanted, pods=tuple(pods), picture=None, taken_up=False)
    made = status(look, status(), sampler=sampler(generation=2))
    assert condition(made, "Ready") == ("True", "Ready")
    assert made["engine"] == "parallel"


def test_a_new_cluster_that_cannot_come_up_is_named_while_the_old_one_serves() -> None:
    gone = ("DEPLOY_FAILED", "The deployment failed to start 3 times in a row. Error:\nboom")
    both = rayservice("DEPLOY_FAILED", side="pendingServiceStatus", ParallelSampler=gone)
    made = status(seen(rayservice=both, picture=None), status(), sampler=sampler(generation=2))
    assert condition(made, "EngineReady")[0] == "False"
    assert condition(made, "Ready")[0] == "False"
    assert condition(made, "Serving") == ("True", "PictureDrawn")
    assert made["engine"] == "parallel"


def test_a_new_cluster_in_place_of_the_old_one_serves_nothing_yet() -> None:
    both = rayservice(
        "DEPLOYING",
        side="pendingServiceStatus",
        Gateway="UPDATING",
        ParallelSampler="UPDATING",
        FallbackSampler="UPDATING",
    )
    new = [pod("head", "tiny-y-head"), pod("worker", "tiny-y-worker")]
    for each in new:
        each["metadata"]["labels"]["ray.io/cluster"] = "tiny-y"
    made = status(seen(rayservice=both, pods=tuple(new), picture=None), status())
    assert condition(made, "Serving") == ("False", "Deploying")
    assert (made["phase"], made["engine"]) == ("Starting", "none")


def test_pods_of_the_form_before_do_not_count() -> None:
    wanted = rayservice()
    wanted["metadata"]["annotations"] = {"fluxsampler.io/form": "new"}
    old = [pod("head"), pod("worker")]
    for each in old:
        each["metadata"]["annotations"] = {"fluxsampler.io/form": "old"}
    made = status(seen(rayservice=wanted, pods=tuple(old), picture=None), status())
    assert condition(made, "ClusterReady") == ("False", "Starting")
    assert made["phase"] == "Degraded", "the form before still answers"


def test_a_pod_that_is_deleted_does_not_count() -> None:
    going = pod("worker")
    going["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    made = status(seen(pods=(pod("head"), going), picture=None))
    assert condition(made, "ClusterReady") == ("False", "Starting")
    assert "0 of 1 worker pods run" in message(made, "ClusterReady")


def test_a_worker_killed_for_memory_stays_named_while_its_successor_starts() -> None:
    killed = ended_pod("worker", reason="OOMKilled", exitCode=137)
    first = status(seen(rayservice=rayservice(None), pods=(pod("head"), killed), picture=None))
    second = status(
        seen(
            rayservice=rayservice(None),
            pods=(pod("head"), waiting_pod("worker", "ContainerCreating")),
            picture=None,
        ),
        first,
    )
    assert (
        condition(first, "ClusterReady") == condition(second, "ClusterReady") == ("False", "WorkerOOMKilled")
    )
    assert second == first
    corrected = status(
        seen(
            rayservice=rayservice(None),
            pods=(pod("head"), waiting_pod("worker", "ContainerCreating")),
            picture=None,
        ),
        second,
        sampler=sampler(generation=2),
    )
    assert condition(corrected, "ClusterReady") == ("False", "Starting")
    assert condition(status(HEALTHY, second), "ClusterReady") == ("True", "Running")


def test_starting_says_what_is_waited_for() -> None:
    made = status(
        seen(rayservice=rayservice(None), pods=(waiting_pod("head", "ContainerCreating"),), picture=None)
    )
    assert "the head pod tiny-x-head is ContainerCreating" in message(made, "Ready")
    unseen = rayservice(None)
    del unseen["status"]
    assert "does it run?" in message(status(seen(rayservice=unseen, pods=(), picture=None)), "Ready")


def test_deploying_says_what_serve_waits_for() -> None:
    waits = rayservice(
        "DEPLOYING",
        ParallelSampler=(
            "UPDATING",
            "Deployment 'ParallelSampler' has 1 replicas that have taken more than 30s to be scheduled.",
        ),
    )
    made = status(seen(rayservice=waits, picture=None))
    assert condition(made, "EngineReady") == ("False", "Deploying")
    assert "ParallelSampler UPDATING" in message(made, "EngineReady")
    assert "more than 30s to be scheduled" in message(made, "EngineReady")


# -- Events


def names(notes: tuple[EventNote, ...]) -> list[tuple[str, str]]:
    return [(note.type, note.reason) for note in notes]


def test_events_of_a_start() -> None:
    stages = [STAGES["no pods"], STAGES["deploying"], seen(picture=None), HEALTHY]
    before: dict[str, Any] | None = None
    written = []
    for observed in stages:
        made = status(observed, before)
        written.append(names(transitions(before, made)))
        before = made
    assert written == [
        [("Normal", "Accepted")], [("Normal", "ClusterReady")], [("Normal", "EngineReady")], [("Normal", "Serving"), ("Normal", "Ready")],
    ]  # fmt: skip


def test_events_of_a_cause_and_of_the_next_one() -> None:
    first = status(STAGES["pulling"], status(STAGES["no pods"]))
    assert names(transitions(status(STAGES["no pods"]), first)) == [("Warning", "ImagePullFailed")]
    head = pod("head", phase="Pending", containerStatuses=[], conditions=[
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    ])  # fmt: skip
    second = status(seen(rayservice=rayservice(None), pods=(head,), picture=None), first)
    assert names(transitions(first, second)) == [("Warning", "Unschedulable")]


def test_events_of_a_loss_and_of_the_way_back() -> None:
    ready = status()
    lost = status(seen(rayservice=rayservice("UNHEALTHY", ParallelSampler="UNHEALTHY"), picture=None), ready)
    assert names(transitions(ready, lost)) == [
        ("Warning", "EngineFailed"), ("Normal", "Deploying"), ("Warning", "ParallelUnavailable"), ("Warning", "NotReady"),
    ]  # fmt: skip
    back = status(HEALTHY, lost)
    assert names(transitions(lost, back)) == [
        ("Normal", "EngineReady"), ("Normal", "Serving"), ("Normal", "ParallelRestored"), ("Normal", "Ready"),
    ]  # fmt: skip


def test_an_event_is_not_longer_than_the_api_server_takes() -> None:
    made = status(seen(rayservice=rayservice("DEPLOY_FAILED", "x" * 5000), picture=None))
    notes = transitions(None, made)
    assert notes
    assert all(len(note.message.encode()) <= 1024 for note in notes)


def test_what_a_broken_rayservice_says_does_not_move_by_itself() -> None:
    def retrying(left: int) -> Observed:
        text = (
            f"A replica failed to start with exception. Retrying {left} more time(s). Error:\nsomething odd"
        )
        return seen(rayservice=rayservice("DEPLOYING", ParallelSampler=("UPDATING", text)), picture=None)

    assert status(retrying(2)) == status(retrying(1))


def test_deployments_helper_is_that_of_the_serve_app() -> None:
    app = Path(__file__).parents[3] / "serve_app" / "fluxsampler_serve" / "app.py"
    api = Path(__file__).parents[3] / "api" / "fluxsampler_api"
    text = app.read_text() + "".join(path.read_text() for path in api.glob("*.py"))
    for name in deployments():
        assert re.search(rf'"{name}"', text), f"no deployment is named {name}"


def test_performance_is_what_the_canary_took() -> None:
    drawn = replace(DRAWN, seconds=2.0)
    made = status(replace(HEALTHY, picture=drawn))
    assert made["performance"] == {"imagesPerMinute": 30.0, "p50Seconds": 2.0}
    # While the next picture is being drawn (an operator that has just started), the figure stands.
    again = status(replace(HEALTHY, picture=None), previous=made)
    assert again["performance"] == made["performance"]
    broken = PictureResult(drawn=False, engine="none", message="no answer", seconds=2.0)
    assert "performance" not in status(replace(HEALTHY, picture=broken), previous=made)
