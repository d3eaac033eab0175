"""KubeRay comes and goes under a running operator that may not watch definitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import ControlPlane, fresh_namespace
from tests.support.operator_process import operator_process
from tests.support.operator_world import RAY_KINDS, USER, World, install_definitions

pytestmark = pytest.mark.timeout(900)

CRDS = [f"{kind}.ray.io" for kind in RAY_KINDS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    log = tmp_path_factory.mktemp("operator") / "log"
    with ControlPlane() as plane:
        plane.run_controllers()
        install_definitions(plane, kuberay=False)
        with (
            fresh_namespace(plane.kubectl) as namespace,
            operator_process(plane.client(USER, ["system:masters"]), log, [namespace]) as operator,
        ):
            made = World(plane, namespace, operator)
            yield made
            assert made.said("reconcile failed") == []


def test_without_kuberay_it_says_so_and_makes_the_rest(world: World) -> None:
    world.sampler("tiny")
    world.wait(lambda: world.condition("ClusterReady") == ("False", "KubeRayMissing"), "KubeRay to be missed")
    assert world.find("Service") is not None
    world.quiet()
    mark = world.plane.audit.mark()
    world.quiet()
    assert world.writes(mark) == []


def test_kuberay_that_comes_is_noticed_and_its_kinds_are_watched(world: World) -> None:
    install_definitions(world.plane)
    world.wait(lambda: world.find("RayService"), "the RayService")
    world.served()
    uid = world.live("RayService")["metadata"]["uid"]
    world.delete("RayService", "tiny")
    world.wait(
        lambda: (found := world.find("RayService")) and found["metadata"]["uid"] != uid, "it to come back"
    )


def test_kuberay_that_goes_is_missed_and_welcome_again(world: World) -> None:
    # With KubeRay's operator gone first, nobody but ours takes the finalizer off what its definition holds.
    world.patch("RayService", "tiny", {"metadata": {"finalizers": ["ray.io/rayservice-finalizer"]}})
    world.plane.kubectl("delete", "crd", *CRDS, "--timeout=400s", timeout=420)
    world.wait(lambda: world.condition("ClusterReady")[1] == "KubeRayMissing", "KubeRay to be missed")
    install_definitions(world.plane)
    world.wait(lambda: world.find("RayService"), "the RayService to be made anew")
    world.served()
