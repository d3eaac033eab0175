"""An operator that is newer than the CRD: the API server drops a field of status that it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tools.cluster.errors import ApiFailure
from tools.cluster.waiting import wait_for

from fluxsampler_api.crd import build
from fluxsampler_operator.cluster import SAMPLERS
from tests.support.cluster import ControlPlane, fresh_namespace
from tests.support.operator_process import operator_process
from tests.support.operator_world import SECONDS, USER, World, install_definitions

FIELD = "performance"
TOLD = "the CRD is older than the operator"


def older() -> dict[str, Any]:
    """Our CRD as it was before it had the field."""
    made = json.loads(json.dumps(build()))
    for version in made["spec"]["versions"]:
        del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"][FIELD]
    return dict(made)


def served(plane: ControlPlane) -> bool:
    try:
        plane.api.call("GET", f"{SAMPLERS.root}/{SAMPLERS.plural}")
    except ApiFailure:
        return False
    return True


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The definitions come before the operator, so that it never sees our own CRD."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with ControlPlane() as plane:
        install_definitions(plane, ours=False)
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(older()))
        wait_for(lambda: served(plane), SECONDS, "FluxSamplers to be served")
        with (
            fresh_namespace(plane.kubectl) as namespace,
            operator_process(plane.client(USER, ["system:masters"]), log, [namespace]) as operator,
        ):
            made = World(plane, namespace, operator)
            yield made
            assert made.said("reconcile failed") == []


def test_what_the_crd_does_not_know_is_written_once_and_the_rest_is_right(world: World) -> None:
    world.ready("older")
    status = world.status("older")
    assert FIELD not in status
    assert (status["phase"], status["engine"], status["replicas"]) == ("Ready", "parallel", 1)
    assert {each["status"] for each in status["conditions"] if each["type"] != "Degraded"} == {"True"}
    mark = world.plane.audit.mark()
    for _ in range(5):
        world.quiet("older")
    assert world.writes(mark) == []
    assert world.status("older") == status


def test_a_change_is_followed_with_a_few_writes_and_then_silence(world: World) -> None:
    world.ready("changed")
    since = {each["type"]: each["lastTransitionTime"] for each in world.status("changed")["conditions"]}
    world.sampler("changed", serving={"maxQueuedRequests": 3})
    world.wait(lambda: "maxQueuedRequests" in str(world.live("FluxSampler", "changed")["spec"]), "the change")
    world.quiet("changed")
    world.serve("changed")
    world.wait(
        lambda: {each["observedGeneration"] for each in world.status("changed")["conditions"]} == {2},
        "all conditions to be about the change",
    )
    world.quiet("changed")
    status = world.status("changed")
    assert {each["type"]: each["lastTransitionTime"] for each in status["conditions"]} == since
    mark = world.plane.audit.mark()
    for _ in range(3):
        world.quiet("changed")
    assert world.writes(mark) == []


def test_it_is_told_once_for_all_objects_with_the_fix(world: World) -> None:
    world.ready("third")
    (line,) = world.said(TOLD)
    assert line["dropped"] == [FIELD]
    assert "crds.install=true" in line["fix"]


def test_once_the_crd_is_upgraded_the_next_status_is_whole(world: World) -> None:
    world.ready("upgraded")
    install_definitions(world.plane, kuberay=False)

    def whole() -> bool:
        # Whatever makes a status differ; the API server takes up a new schema some time after it was stored.
        world.patch("FluxSampler", "upgraded", {"status": {"phase": "Failed"}}, "status")
        world.quiet("upgraded")
        return FIELD in world.status("upgraded")

    world.wait(whole, "the field to be kept")
    assert world.status("upgraded")["phase"] == "Ready"
