"""Which Ray clusters make room for the desired form."""

from __future__ import annotations

from typing import Any

from fluxsampler_operator.builders.rollout import outdated
from fluxsampler_operator.manifest import FORM_ANNOTATION


def service(
    form: str = "new", *, strategy: str = "None", generation: int = 2, seen: int = 2
) -> dict[str, Any]:
    return {
        "metadata": {"generation": generation, "annotations": {FORM_ANNOTATION: form}},
        "spec": {"upgradeStrategy": {"type": strategy}},
        "status": {"observedGeneration": seen},
    }


def cluster(name: str, form: str | None, **metadata: Any) -> dict[str, Any]:
    annotations = {} if form is None else {FORM_ANNOTATION: form}
    return {"metadata": {"name": name, "annotations": annotations, **metadata}}


def pod(of: str, form: str | None, **metadata: Any) -> dict[str, Any]:
    return cluster("pod", form, labels={"ray.io/cluster": of}, **metadata)


def test_a_cluster_of_the_old_form_goes() -> None:
    assert outdated(service(), [cluster("a", "old"), cluster("b", "new")], []) == ("a",)


def test_a_cluster_made_before_there_were_forms_goes() -> None:
    assert outdated(service(), [cluster("a", None)], []) == ("a",)


def test_a_cluster_whose_pods_are_old_goes_though_its_own_annotation_was_renewed() -> None:
    # KubeRay renews a cluster's annotations when its own version changes, and leaves the pods.
    assert outdated(service(), [cluster("a", "new")], [pod("a", "new"), pod("a", "old")]) == ("a",)


def test_what_is_leaving_already_is_left_alone() -> None:
    leaving = {"deletionTimestamp": "2026-11-22T15:00:00Z"}
    assert outdated(service(), [cluster("a", "old", **leaving)], []) == ()
    assert outdated(service(), [cluster("a", "new")], [pod("a", "old", **leaving)]) == ()


def test_nothing_goes_before_kuberay_has_seen_the_new_form() -> None:
    old = [cluster("a", "old")]
    assert outdated(service(seen=1), old, []) == ()
    unseen = service()
    del unseen["status"]
    assert outdated(unseen, old, []) == ()


def test_beside_a_new_cluster_kuberay_itself_takes_the_old_one() -> None:
    assert outdated(service(strategy="NewCluster"), [cluster("a", "old")], [pod("a", "old")]) == ()


def test_nothing_goes_when_everything_is_as_desired() -> None:
    assert outdated(service(), [cluster("a", "new")], [pod("a", "new")]) == ()
