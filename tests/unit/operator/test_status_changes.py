"""Changes that Serve makes in place: what is held meanwhile, and what never is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fluxsampler_operator.observed import Observed
from fluxsampler_operator.status import next_status, transitions
from tests.support.plans import TWO_PROCESSES
from tests.unit.operator.observations import DRAWN, HEALTHY, pod, rayservice, sampler, seen

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BY_FALLBACK = replace(DRAWN, engine="fallback")
Json = dict[str, Any]


def told(made: Json, type_: str) -> Json:
    found: Json = next(each for each in made["conditions"] if each["type"] == type_)
    return found


def before(observed: Observed = HEALTHY, **spec: Any) -> Json:
    return next_status(sampler(**spec), observed, None, NOON)


def changing(*, goes_on: bool = True, **words: str | tuple[str, str]) -> Observed:
    """A change is under way, for which Serve says ``words`` of deployments."""
    all_words: Json = {"Gateway": "UPDATING", "ParallelSampler": "UPDATING", **words}
    said = rayservice("DEPLOYING", **all_words)
    return seen(rayservice=said, picture=None, goes_on=goes_on)


def during(observed: Observed, previous: Json, generation: int = 2, **spec: Any) -> Json:
    return next_status(sampler(generation, **spec), observed, previous, NOON + timedelta(hours=1))


def test_what_was_proven_stands_with_its_generation_and_the_change_is_told() -> None:
    first = before()
    made = during(changing(), first, replicas=2)
    for type_ in ("EngineReady", "Serving", "Ready"):
        assert (told(made, type_)["status"], told(made, type_)["observedGeneration"]) == ("True", 1), type_
        assert told(made, type_)["lastTransitionTime"] == told(first, type_)["lastTransitionTime"]
    assert told(made, "Accepted")["observedGeneration"] == 2
    assert "a change is being rolled out" in told(made, "Ready")["message"]
    assert "Gateway UPDATING" in told(made, "EngineReady")["message"]
    assert (made["phase"], made["engine"], made["replicas"], made["fallbackReplicas"]) == ("Ready", "parallel", 1, 1)  # fmt: skip
    assert made["performance"] == first["performance"]
    assert transitions(first, made) == ()
    assert during(changing(), made, replicas=2) == made, "equal input writes nothing"


def test_when_it_is_done_no_word_of_it_is_left() -> None:
    made = during(changing(), before(), replicas=2)
    drawing = during(seen(picture=None), made, replicas=2)
    assert told(drawing, "EngineReady")["observedGeneration"] == 2
    assert (told(drawing, "Ready")["status"], told(drawing, "Ready")["observedGeneration"]) == ("True", 1)
    done = during(HEALTHY, drawing, replicas=2)
    assert {each["observedGeneration"] for each in done["conditions"]} == {2}
    assert not [each for each in done["conditions"] if "change" in each["message"]]
    assert done["replicas"] == 2


def test_while_kuberay_has_not_taken_it_up_serves_former_words_are_not_repeated() -> None:
    made = during(changing(), before())
    lagging = rayservice()
    lagging["metadata"]["generation"] = 2
    waits = during(seen(rayservice=lagging, picture=None, goes_on=True), made, 3)
    assert "KubeRay has not taken up the change yet" in told(waits, "EngineReady")["message"]
    assert "DEPLOYING" not in told(waits, "EngineReady")["message"]
    assert told(waits, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    "observed",
    [
        changing(goes_on=False),
        changing(ParallelSampler="UNHEALTHY"),
        changing(Gateway="DEPLOY_FAILED"),
        changing(Gateway="UNHEALTHY"),
        changing(
            ParallelSampler=("UPDATING", "The deployment failed to start 1 times in a row. Error:\nboom")
        ),
        replace(changing(), rayservice=rayservice("DEPLOY_FAILED", Gateway="UPDATING")),
        replace(changing(), rayservice=rayservice("UNHEALTHY", Gateway="UPDATING")),
        replace(changing(), rayservice=rayservice("", Gateway="UPDATING")),
        replace(changing(), pods=(pod("head", conditions=[]), pod("worker"))),
        replace(changing(), pods=(pod("head"),)),
    ],
    ids=[
        "engines start anew", "gang unhealthy", "gateway failed", "gateway unhealthy", "a replica fails", "deploy failed", "unhealthy",
        "silent", "head lost", "worker lost",
    ],
)  # fmt: skip
def test_where_pictures_could_fail_ready_is_lost(observed: Observed) -> None:
    assert told(during(observed, before()), "Ready")["status"] == "False"


def test_without_a_gateway_nothing_goes_on() -> None:
    observed = changing()
    said = observed.rayservice["status"]["activeServiceStatus"]["applicationStatuses"]["fluxsampler"]  # type: ignore[index]  # it is there
    del said["serveDeploymentStatuses"]["Gateway"]
    assert told(during(observed, before()), "Ready")["status"] == "False"


def test_what_did_not_hold_before_does_not_hold_meanwhile() -> None:
    failed = before(seen(rayservice=rayservice("DEPLOY_FAILED", "boom"), picture=None))
    made = during(changing(), failed)
    assert told(made, "EngineReady")["status"] == told(made, "Ready")["status"] == "False"
    first = during(changing(), {})
    assert told(first, "Ready")["status"] == "False"


def test_scaled_to_none_the_warm_fallback_goes_on() -> None:
    made = during(changing(), before(), replicas=0)
    assert told(made, "Ready")["status"] == "True"
    assert told(made, "Degraded")["status"] == "False"
    assert (made["engine"], made["replicas"], made["fallbackReplicas"]) == ("fallback", 1, 1)


def test_scaled_to_none_with_a_fallback_on_demand_nothing_is_sure() -> None:
    cold = TWO_PROCESSES.model_copy(
        update={"fallback": TWO_PROCESSES.fallback.model_copy(update={"replicas": 0})}
    )
    made = during(replace(changing(), plan=cold), before(seen(plan=cold)), replicas=0)
    assert told(made, "Ready")["status"] == "False"


def test_a_fallback_that_was_not_up_cannot_go_on() -> None:
    none_up = {**before(), "fallbackReplicas": 0}
    assert told(during(changing(), none_up, replicas=0), "Ready")["status"] == "False"


def test_a_gang_that_is_added_to_fallbacks_is_no_loss_while_it_starts() -> None:
    first = before(seen(picture=BY_FALLBACK), replicas=0)
    made = during(changing(), first, replicas=1)
    assert told(made, "Ready")["status"] == "True"
    assert told(made, "Degraded")["status"] == "False"
    assert (made["engine"], made["replicas"]) == ("fallback", 0)
    assert transitions(first, made) == ()


def test_a_degraded_one_stays_degraded_through_a_change() -> None:
    made = during(changing(), before(seen(picture=BY_FALLBACK)))
    assert told(made, "Degraded")["status"] == "True"
    assert (made["phase"], made["engine"]) == ("Degraded", "fallback")


def test_a_change_without_a_canary() -> None:
    quiet = {"enabled": False}
    made = during(changing(), before(seen(picture=None), canary=quiet), canary=quiet)
    assert told(made, "Ready")["status"] == "True"
    assert "no picture was asked for" in told(made, "Serving")["message"]


def test_single_devices_that_draw_go_on_when_one_is_added() -> None:
    layout = TWO_PROCESSES.layout.model_copy(update={"ulysses": 1, "gpus_per_replica": 1, "summary": "single"})  # fmt: skip
    plan = TWO_PROCESSES.model_copy(
        update={
            "layout": layout,
            "fallback": TWO_PROCESSES.fallback.model_copy(update={"replicas": 0, "placement": "None"}),
        }
    )
    first = before(seen(plan=plan, picture=BY_FALLBACK))
    observed = replace(changing(FallbackSampler="UPDATING"), plan=plan)
    made = during(observed, first, replicas=2)
    assert told(made, "Ready")["status"] == "True"
    assert (made["engine"], made["replicas"]) == ("fallback", 1)


def test_engines_that_start_anew_are_not_claimed_once_kuberay_has_handed_that_on() -> None:
    made = during(seen(picture=None, taken_up=False), before())
    assert told(made, "EngineReady")["status"] == told(made, "Ready")["status"] == "False"
    assert made["engine"] == "none"
    kept = during(seen(picture=None, taken_up=False, goes_on=True), before())
    assert told(kept, "Ready")["status"] == "True"
    assert kept["engine"] == "parallel"
