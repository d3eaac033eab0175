"""The operator as a process, against a real API server with KubeRay's own definitions and no KubeRay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_operator.comparison import differences
from fluxsampler_operator.manifest import FORM_ANNOTATION, child_name
from tests.support.cluster import ControlPlane, fresh_namespace
from tests.support.operator_process import operator_process
from tests.support.operator_world import KINDS, USER, World, install_definitions, text

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server of this module's own: others' operators and objects would be counted otherwise."""
    with ControlPlane() as made:
        install_definitions(made)
        made.run_controllers()
        yield made


@contextmanager
def working(plane: ControlPlane, log: Path, user: str) -> Iterator[World]:
    """A namespace with an operator that has no reason to complain."""
    with (
        fresh_namespace(plane.kubectl) as namespace,
        operator_process(plane.client(user, ["system:masters"]), log, [namespace]) as operator,
    ):
        made = World(plane, namespace, operator)
        yield made
        assert made.said("reconcile failed") == []
        assert made.said("watch ended") == []


@pytest.fixture(scope="module")
def world(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with working(plane, tmp_path_factory.mktemp("operator") / "log", USER) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def held(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Where a FluxSampler was deleted while its RayService is held: the other tests fill the time that KubeRay is given."""
    with working(plane, tmp_path_factory.mktemp("held") / "log", f"{USER}-of-held") as made:
        made.ready("held")
        made.patch("RayService", "held", {"metadata": {"finalizers": ["ray.io/rayservice-finalizer"]}})
        made.delete("FluxSampler", "held")
        yield made


def test_every_kind_is_applied_and_further_rounds_write_nothing(world: World) -> None:
    world.ready("twice")
    for kind in KINDS:
        assert world.children(kind, "twice"), kind
    mark = world.plane.audit.mark()
    for _ in range(3):
        world.quiet("twice")
    assert world.writes(mark) == []


def test_the_server_keeps_every_field_that_is_applied(world: World) -> None:
    world.ready("whole")
    assert world.said("the API server keeps other values") == []


def test_ready_is_told_with_plan_and_events(world: World) -> None:
    world.ready("told")
    status = world.status("told")
    assert status["plan"]["layout"]["summary"]
    assert status["engine"] == "parallel"
    assert status["url"] == f"http://told.{world.namespace}.svc:8000"
    events = world.events_about("told")
    assert {"Accepted", "Ready"} <= {event["reason"] for event in events}
    assert {event["source"]["component"] for event in events} == {"fluxsampler-operator"}
    world.quiet("told")
    assert len(world.events_about("told")) == len(events)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deleted_child_comes_back(world: World, kind: str) -> None:
    name = f"deleted-{kind.lower()}"
    world.ready(name)
    for child in world.children(kind, name):
        uid = world.live(kind, child)["metadata"]["uid"]
        world.delete(kind, child)

        def back(child: str = child, uid: str = uid) -> bool:
            found = world.find(kind, child)
            return found is not None and found["metadata"]["uid"] != uid

        world.wait(back, f"{kind} {child} to come back")


EDITS: dict[str, tuple[str, dict[str, Any]]] = {
    "serve config": ("RayService", {"spec": {"serveConfigV2": "applications: []"}}),
    "ray version": ("RayService", {"spec": {"rayClusterConfig": {"rayVersion": "1.0.0"}}}),
    "a sidecar": ("RayService", {"spec": {"rayClusterConfig": {"headGroupSpec": {"template": {"spec": {"containers": []}}}}}}),
    "a label": ("RayService", {"metadata": {"labels": {"app.kubernetes.io/component": None}}}),
    "the owner": ("RayService", {"metadata": {"ownerReferences": None}}),
    "a selector": ("Service", {"spec": {"selector": {"fluxsampler.io/sampler": "another"}}}),
    "our label": ("Service", {"metadata": {"labels": {"fluxsampler.io/sampler": None}}}),
    "the token": ("ServiceAccount", {"automountServiceAccountToken": True}),
    "an open door": ("NetworkPolicy", {"spec": {"ingress": [{}]}}),
    "our mark": ("NetworkPolicy", {"metadata": {"annotations": {"fluxsampler.io/applied": None}}}),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_child_is_put_right(world: World, edit: str) -> None:
    kind, patch = EDITS[edit]
    name = "edited-" + edit.replace(" ", "-")
    world.ready(name)
    before = _ours(world.live(kind, name))
    world.patch(kind, name, patch)
    world.wait(
        lambda: not differences(before, _ours(world.live(kind, name))),
        f"{edit} of the {kind} to be put right",
    )


def _ours(live: dict[str, Any]) -> dict[str, Any]:
    meta = {key: live["metadata"].get(key) for key in ("labels", "annotations", "ownerReferences")}
    return {
        "metadata": meta,
        **{key: live[key] for key in ("spec", "automountServiceAccountToken") if key in live},
    }


def test_a_field_that_leaves_the_spec_leaves_the_child(world: World) -> None:
    world.sampler("fields", podTemplate={"spec": {"priorityClassName": "high"}})
    world.wait(lambda: "high" in text(world.find("RayService", "fields")), "the field to come")
    world.sampler("fields", podTemplate={"spec": {"schedulerName": "other"}})

    def moved() -> bool:
        spec = text(world.live("RayService", "fields")["spec"])
        return "other" in spec and "high" not in spec

    world.wait(moved, "the field to go")


def _moved(world: World, name: str, generation: int) -> bool:
    return bool(world.live("RayService", name)["metadata"]["generation"] > generation)


def test_a_change_in_place_leaves_the_form_of_the_pods(world: World) -> None:
    world.ready("inplace")
    before = world.live("RayService", "inplace")
    for change in ({"serving": {"maxOngoingRequests": 9}}, {"replicas": 0}, {"fallback": {"enabled": False}}):
        last = world.live("RayService", "inplace")["metadata"]["generation"]
        world.sampler("inplace", **change)
        world.wait(partial(_moved, world, "inplace", last), f"{change} to arrive")
        after = world.live("RayService", "inplace")
        assert (
            after["metadata"]["annotations"][FORM_ANNOTATION]
            == before["metadata"]["annotations"][FORM_ANNOTATION]
        )


def test_somebody_elses_object_is_never_taken_over(world: World) -> None:
    world.apply("Service", "theirs", {"spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}})
    world.sampler("theirs")
    world.wait(lambda: "was not made by FluxSampler" in text(world.status("theirs")), "the clash to be told")
    assert world.live("Service", "theirs")["spec"]["selector"] == {"app": "theirs"}
    world.delete("Service", "theirs")
    world.wait(
        lambda: (found := world.find("Service", "theirs")) and "ownerReferences" in found["metadata"], "ours to be made"
    )  # fmt: skip
    world.wait(lambda: "was not made by" not in text(world.status("theirs")), "the clash to be over")


@pytest.mark.parametrize(
    "name", ["a" * 47, "a" * 48, "b" * 120 + ".team", "team.eu-1", "1st"], ids=lambda name: name[:12]
)
def test_any_name_that_kubernetes_takes_works(world: World, name: str) -> None:
    world.applied(name)
    world.wait(lambda: world.condition("Accepted", name) == ("True", "Planned"), "its status")
    # Children whose names are shortened lead back to their FluxSampler, too.
    world.delete("Service", child_name(name))
    world.wait(lambda: world.find("Service", child_name(name)), "its Service to come back")


def test_a_deletion_leaves_nothing(world: World) -> None:
    world.ready("gone")
    world.delete("FluxSampler", "gone")
    world.childless("gone")
    assert not [line for line in world.operator.lines() if "/gone" in text(line) and line["level"] == "error"]


def test_a_foreground_deletion_ends(world: World) -> None:
    world.ready("foreground")
    world.delete("FluxSampler", "foreground", "Foreground")
    world.wait(lambda: world.find("FluxSampler", "foreground") is None, "the FluxSampler to be gone")
    world.childless("foreground")


def test_a_deletion_ends_without_kuberay(held: World) -> None:
    held.wait(lambda: held.find("RayService", "held") is None, "the RayService to be let go")
    (line,) = held.said("KubeRay does not let go of a deleted RayService; its finalizer is taken away")
    assert line["name"] == "held"


def test_one_made_again_under_its_name_gets_children_of_its_own(world: World) -> None:
    world.ready("again")
    world.delete("FluxSampler", "again")
    world.wait(lambda: world.find("FluxSampler", "again") is None, "the first to be gone")
    world.sampler("again")
    uid = world.live("FluxSampler", "again")["metadata"]["uid"]

    def owned() -> bool:
        found = [world.find(kind, "again") for kind in ("RayService", "Service", "NetworkPolicy")]
        return all(one is not None and one["metadata"]["ownerReferences"][0]["uid"] == uid for one in found)

    world.wait(owned, "children of the new one")


def test_nothing_of_kopf_is_left_on_the_objects(world: World) -> None:
    world.ready("clean")
    live = world.live("FluxSampler", "clean")
    assert "finalizers" not in live["metadata"]
    for kind in ("FluxSampler", *KINDS):
        assert "kopf" not in text(world.all(kind)), kind


def test_the_api_servers_refusal_is_told_in_its_own_words(world: World) -> None:
    world.sampler("refused", podTemplate={"spec": {"terminationGracePeriodSeconds": "soon"}})
    world.wait(
        lambda: "terminationGracePeriodSeconds" in text(world.status("refused")), "the refusal to be told"
    )
    world.wait(lambda: world.find("Service", "refused"), "the others to be applied")
