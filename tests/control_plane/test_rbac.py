"""The operator with exactly the rights that the chart grants: each one used, none missing, and no way to a Secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tools.cluster.errors import BuildFailed, CannotRun

from tests.support.cluster import ControlPlane, cannot_run, wait_for
from tests.support.kube import CHART, Kube
from tests.support.operator_process import PREFIX, operator_process
from tests.support.operator_world import install_definitions

SYSTEM, WORK, OTHER = "fx-system", "fx-work", "fx-other"
RELEASE = "fluxsampler"
USER = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
# Wide: what is asked is whether, not when.
SECONDS = 240.0
pytestmark = pytest.mark.timeout(900)

Right = tuple[str, str, str]
"""apiGroup, resource (with its subresource), verb."""


@dataclass(frozen=True)
class Installed:
    """A control plane with KubeRay's kinds, three namespaces with a Secret each, and the chart."""

    plane: ControlPlane
    kube: Kube
    namespaced: bool


@pytest.fixture(scope="module", params=[False, True], ids=["all namespaces", "namespaced"])
def installed(request: pytest.FixtureRequest) -> Iterator[Installed]:
    """One for each way to install it; the second elects, too."""
    namespaced = bool(request.param)
    try:
        with ControlPlane() as plane:
            install_definitions(plane, ours=False)
            kube = Kube(plane.kubeconfig)
            for name in (SYSTEM, WORK, OTHER):
                kube.must("create", "namespace", name)
                kube.must("create", "secret", "generic", "private", "-n", name, "--from-literal=token=hidden")
            watched = ("--set", f"watchNamespaces={{{WORK}}}", "--set", "replicas=2") if namespaced else ()
            kube.must_helm("install", RELEASE, str(CHART), "-n", SYSTEM, *watched)
            wait_for(lambda: kube.kubectl("get", "fxs").ok, 60, "FluxSamplers to be known")
            plane.run_controllers()
            yield Installed(plane, kube, namespaced)
    except (CannotRun, BuildFailed) as error:
        cannot_run(error)


@dataclass(frozen=True)
class Story:
    """A whole life of a FluxSampler, told by an administrator who plays KubeRay and the kubelet as well."""

    kube: Kube

    def get(self, *words: str) -> Any:
        return self.kube.get(*words, "-n", WORK)

    def patch(self, what: str, patch: Any, *more: str) -> None:
        self.kube.must("patch", *what.split("/"), "-n", WORK, "--type=merge", "-p", json.dumps(patch), *more)

    def children(self) -> set[str]:
        kinds = "rayservices,services,serviceaccounts,poddisruptionbudgets,networkpolicies"
        label = "fluxsampler.io/sampler=tiny"
        found = self.kube.must("get", kinds, "-n", WORK, "-l", label, "-o", "name")
        return {name.partition(".")[0].partition("/")[0] for name in found.split()}

    def create(self) -> None:
        document = {
            "apiVersion": "fluxsampler.io/v1alpha1",
            "kind": "FluxSampler",
            "metadata": {"name": "tiny", "namespace": WORK},
            "spec": {
                "model": {"source": "builtin://tiny-shapes", "dtype": "float32"},
                "hardware": {"device": "cpu", "gpusPerNode": 2, "memory": "6Gi"},
            },
        }
        assert self.kube.apply(document).ok
        expected = {"rayservice", "service", "serviceaccount", "poddisruptionbudget", "networkpolicy"}
        wait_for(lambda: self.children() == expected, SECONDS, f"{expected} to be made")
        wait_for(lambda: self.accepted() == "True", SECONDS, "the plan to stand in status")

    def accepted(self) -> str:
        conditions = (self.get("fxs", "tiny").get("status") or {}).get("conditions", [])
        return next((str(one["status"]) for one in conditions if one["type"] == "Accepted"), "")

    def change(self) -> None:
        """New pods are needed: the cluster of the old form has to go."""
        form = self.get("rayservice", "tiny")["metadata"]["annotations"]["fluxsampler.io/form"]
        cluster = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {
                "name": "tiny-abcde",
                "namespace": WORK,
                "labels": {"fluxsampler.io/sampler": "tiny"},
                "annotations": {"fluxsampler.io/form": form},
            },
            "spec": self.get("rayservice", "tiny")["spec"]["rayClusterConfig"],
        }
        made = self.kube.apply(cluster)
        assert made.ok, made.text
        self.patch(
            "fxs/tiny", {"spec": {"podTemplate": {"spec": {"priorityClassName": "system-node-critical"}}}}
        )
        wait_for(self._form_left(form), SECONDS, "the RayService to have another form")
        generation = self.get("rayservice", "tiny")["metadata"]["generation"]
        self.patch("rayservice/tiny", {"status": {"observedGeneration": generation}}, "--subresource=status")
        wait_for(lambda: self.get("raycluster", "tiny-abcde") is None, SECONDS, "the old RayCluster to go")

    def _form_left(self, form: str) -> Any:
        return lambda: (
            self.get("rayservice", "tiny")["metadata"]["annotations"]["fluxsampler.io/form"] != form
        )

    def drift(self) -> None:
        """What somebody deletes or edits comes back."""
        before = self.uid("service", "tiny")
        self.kube.must("delete", "service", "tiny", "-n", WORK)
        wait_for(
            lambda: self.uid("service", "tiny") not in (None, before), SECONDS, "the Service to be made again"
        )

    def uid(self, *words: str) -> str | None:
        found = self.get(*words)
        return str(found["metadata"]["uid"]) if found else None

    def delete(self) -> None:
        self.kube.must("delete", "fxs", "tiny", "-n", WORK, "--timeout=60s")
        wait_for(lambda: not self.children(), SECONDS, "the children to go with it")


def granted(kube: Kube) -> set[Right]:
    """What the installed roles allow the operator."""
    rights = set()
    for kind in ("clusterroles", "roles"):
        found = kube.get(
            kind, "-A", "-l", f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
        )
        for role in found["items"]:
            if role["metadata"]["name"] in ("fluxsampler-view", "fluxsampler-edit"):  # for people
                continue
            for rule in role["rules"]:
                # The audit log tells which object was asked for, and what the operator asks for is one Lease.
                assert rule.get("resourceNames", [RELEASE]) == [RELEASE]
                assert ("resourceNames" in rule) is (
                    rule["resources"] == ["leases"] and rule["verbs"] != ["create"]
                )
                rights |= {
                    (g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
                }
    return rights


def used(plane: ControlPlane, since: int) -> set[Right]:
    """What the operator asked for and got since a mark of the audit log."""
    rights: set[Right] = set()
    for event in plane.audit.events(since):
        if event.user != USER or not event.resource or event.code >= 400:
            continue
        resource = f"{event.resource}/{event.subresource}" if event.subresource else event.resource
        rights.add((event.group, resource, event.verb))
        if event.verb == "patch" and event.code == 201:  # an apply that makes the object is asked for both
            rights.add((event.group, resource, "create"))
    return rights


def test_every_right_is_used_and_none_is_missing(installed: Installed, tmp_path: Path) -> None:
    plane, kube, namespaced = installed.plane, installed.kube, installed.namespaced
    container = kube.get("deployment", RELEASE, "-n", SYSTEM)["spec"]["template"]["spec"]["containers"][0]
    environment = {one["name"].removeprefix(PREFIX): one.get("value", "a key") for one in container["env"]}

    identity = plane.service_account(SYSTEM, RELEASE)
    story = Story(kube)
    mark = plane.audit.mark()
    log = tmp_path / "operator.log"
    with operator_process(identity, log, paints=False, environment=environment) as operator:
        story.create()
        story.change()
        story.drift()
        story.delete()
        assert operator.healthy
        assert operator.metric("fluxsampler_operator_leader") == 1
        operator.stop()
        assert operator.process.returncode == 0

    wait_for(lambda: granted(kube) <= used(plane, mark), 30, "the audit log to hold every use of a right")
    mine = [event for event in plane.audit.events(mark) if event.user == USER]
    assert [event for event in mine if event.code in (401, 403)] == []
    assert used(plane, mark) == granted(kube)
    assert not [event for event in mine if event.namespace == OTHER]
    assert not {"secrets", "configmaps"} & {event.resource for event in mine}
    if namespaced:
        elsewhere = {(e.resource, e.namespace) for e in mine if e.resource and e.namespace != WORK}
        assert elsewhere == {("leases", SYSTEM)}
        lease = kube.get("lease", RELEASE, "-n", SYSTEM)["spec"]
        assert lease["holderIdentity"] == "", "given back at the end"
        labels = ("-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
        assert kube.must("get", "clusterroles,clusterrolebindings", *labels) == ""


def test_secrets_cannot_be_read(installed: Installed) -> None:
    operator = Kube(installed.plane.service_account(SYSTEM, RELEASE))
    # The identity is the one with the chart's rights: it may read what it should.
    assert operator.kubectl("get", "services", "-n", WORK).ok
    for namespace in (SYSTEM, WORK, OTHER):
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
            assert operator.kubectl("auth", "can-i", verb, "secrets", "-n", namespace).out == "no\n"
        for ask in (("secret", "private"), ("secrets",), ("secret", "fluxsampler-probe")):
            refused = operator.kubectl("get", *ask, "-n", namespace, "-o", "yaml")
            assert "cannot " in refused.err
            assert '"secrets" in API group ""' in refused.err
            assert "hidden" not in refused.text
    asked: tuple[tuple[str, ...], ...] = (
        ("create", "token", "default"),
        ("create", "rolebinding", "more", "--clusterrole=view", f"--serviceaccount={SYSTEM}:{RELEASE}"),
        ("create", "configmap", "one"),
        ("delete", "pod", "one"),
        ("delete", "fxs", "one"),
        ("delete", "service", "one"),
    )
    for command in asked:
        refused = operator.kubectl(*command, "-n", WORK)
        assert "forbidden" in refused.err.lower(), command
    nodes = operator.kubectl("get", "nodes")
    assert nodes.ok is not installed.namespaced
    assert not operator.kubectl("get", "nodes", "-o", "name", "--watch", "--request-timeout=5s").ok
