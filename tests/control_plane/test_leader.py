"""Two operators, one Lease, a real API server: one works, and the other when it has to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tools.cluster.audit import AuditEvent

from fluxsampler_operator.cluster import LEASES
from fluxsampler_operator.leader import RENEW_SHARE
from tests.support.cluster import ControlPlane, fresh_namespace, wait_for
from tests.support.kube import CHART, Kube
from tests.support.operator_process import PREFIX, OperatorProcess, operator_process
from tests.support.operator_world import World, install_definitions

NAME = "fluxsampler"
# The default: shorter, and a holder that gets no processor for some seconds would end.
LEASE_SECONDS = 15
LEADS = "fluxsampler_operator_leader"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """Of this module's own: its API server is stopped, and who wrote what is read off its whole log."""
    with ControlPlane() as made:
        # Without KubeRay there is a plan and a status to write, which is all that is asked here.
        install_definitions(made, kuberay=False)
        made.run_controllers(("deployment-controller", "replicaset-controller"))
        yield made


@dataclass
class Operators:
    """Operators that want one Lease, each under a name of its own in the audit log."""

    plane: ControlPlane
    namespace: str
    folder: Path
    stack: ExitStack
    all: dict[str, OperatorProcess] = field(default_factory=dict)

    def start(self, user: str) -> OperatorProcess:
        """Start one and wait until its probe is answered well."""
        environment = {"LEASE": f"{self.namespace}/{NAME}", "LEASE_SECONDS": str(LEASE_SECONDS)}
        kubeconfig = self.plane.client(user, ["system:masters"])
        started = operator_process(kubeconfig, self.folder / user, [self.namespace], environment=environment)
        self.all[user] = self.stack.enter_context(started)
        return self.all[user]

    def leaders(self) -> list[str]:
        """Those that say so, of the ones that answer."""
        return [user for user, one in self.all.items() if _alive(one) and one.metric(LEADS) == 1]

    def new_leader(self, world: World, *users: str) -> str:
        """Wait until one of ``users`` leads, alone, and tell which."""
        world.wait(lambda: len(self.leaders()) == 1 and self.leaders()[0] in users, f"one of {users} to lead")
        (leader,) = self.leaders()
        world.operator = self.all[leader]
        return leader

    def lease(self) -> dict[str, Any]:
        """Its spec."""
        return dict(self.plane.api.call("GET", LEASES.path(self.namespace, NAME))["spec"])

    def asked(self, user: str, since: int = 0) -> list[AuditEvent]:
        """What an operator asked for, and got or not."""
        return [event for event in self.plane.audit.events(since) if event.user == user]


def _alive(one: OperatorProcess) -> bool:
    if one.process.poll() is not None:
        return False
    state = Path(f"/proc/{one.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return state != "T"


@pytest.fixture
def operators(plane: ControlPlane, tmp_path: Path) -> Iterator[Operators]:
    with fresh_namespace(plane.kubectl) as namespace, ExitStack() as stack:
        yield Operators(plane, namespace, tmp_path, stack)


def accepted(world: World, name: str) -> None:
    """Apply a FluxSampler, or change it, and wait until the operator has looked at the present form."""
    world.sampler(name, replicas=1 if world.find("FluxSampler", name) is None else 2)
    generation = world.live("FluxSampler", name)["metadata"]["generation"]
    world.wait(lambda: world.status(name).get("observedGeneration") == generation, f"{name} to be reconciled")


def ended(world: World, one: OperatorProcess) -> int:
    world.wait(lambda: one.process.poll() is not None, "it to end")
    return int(one.process.returncode)


def last_error(one: OperatorProcess) -> str:
    lines = [line for line in one.lines() if line["level"] == "error"]
    assert [line["event"] for line in lines] == ["leadership lost, this operator ends"]
    assert "Traceback" not in one.log.read_text(encoding="utf-8")
    return str(lines[0]["error"])


def test_one_works_the_other_follows_and_takes_over_what_is_given_back(operators: Operators) -> None:
    world = World(operators.plane, operators.namespace, operators.start("op-a"))
    operators.new_leader(world, "op-a")
    follower = operators.start("op-b")
    world.wait(lambda: _said(follower, "waits for the leader"), "the follower to say whom it waits for")
    (said,) = _said(follower, "waits for the leader")
    assert said["leader"] == operators.lease()["holderIdentity"]
    accepted(world, "one")
    assert follower.healthy
    assert follower.metric(LEADS) == 0
    asked = operators.asked("op-b")
    assert {(event.verb, event.resource) for event in asked if event.resource} == {("get", "leases")}
    took = world.operator.stop()
    assert world.operator.process.returncode == 0
    # Given back: the follower need not wait for the lease's end, nor was there anybody between the two.
    assert _said(world.operator, "lease released")
    operators.new_leader(world, "op-b")
    print(
        f"SIGTERM: gone after {took:.2f} s; the follower leads as transition {operators.lease()['leaseTransitions']}"
    )
    assert operators.lease()["leaseTransitions"] == 1
    mark = operators.plane.audit.mark()
    accepted(world, "two")
    accepted(world, "one")
    assert operators.asked("op-a", mark) == []
    assert {event.user for event in operators.plane.audit.writes(mark) if event.subresource == "status"} == {
        "op-b"
    }
    # And when it cannot renew it works no more, and ends.
    with operators.plane.frozen():
        assert ended(world, follower) == 1
    assert f"was not renewed within {LEASE_SECONDS * RENEW_SHARE:.0f} s" in last_error(follower)


def test_a_leader_that_is_stopped_or_killed_is_replaced_and_writes_nothing_later(
    operators: Operators,
) -> None:
    first = operators.start("op-c")
    world = World(operators.plane, operators.namespace, first)
    operators.new_leader(world, "op-c")
    accepted(world, "one")
    operators.start("op-d")
    held = operators.lease()
    os.kill(first.process.pid, signal.SIGSTOP)
    world.sampler("while-it-stands")
    operators.start("op-e")
    second = operators.new_leader(world, "op-d", "op-e")
    assert operators.lease()["holderIdentity"] != held["holderIdentity"]
    accepted(world, "one")
    accepted(world, "while-it-stands")
    mark = operators.plane.audit.mark()
    # It has a change to reconcile when it goes on: its watches have seen nothing of what happened.
    world.sampler("one", replicas=3)
    os.kill(first.process.pid, signal.SIGCONT)
    assert ended(world, first) == 1
    assert "lease" in last_error(first)
    done = [event for event in operators.asked("op-c", mark) if event.writes]
    # A request that was on its way when it was stopped arrives, and the Lease's version refuses it.
    assert [event for event in done if event.code < 400 or event.resource != "leases"] == []

    world.operator.process.kill()
    world.operator.process.wait()
    operators.new_leader(world, *{"op-d", "op-e"} - {second})
    accepted(world, "three")
    assert operators.lease()["leaseTransitions"] == 2


def test_one_without_a_lease_is_gone_before_those_with_one_come(plane: ControlPlane) -> None:
    """The chart's way from one to two, as Kubernetes' own controllers walk it."""
    kube = Kube(plane.kubeconfig)
    with fresh_namespace(plane.kubectl) as namespace:
        only = ("--set", f"watchNamespaces={{{namespace}}}", "--set", "crds.install=false")
        release = ("painter", str(CHART), "-n", namespace, *only)
        kube.must_helm("install", *release)

        def pods() -> list[tuple[str, str]]:
            return sorted(_elects_and_goes(pod) for pod in kube.get("pods", "-n", namespace)["items"])

        wait_for(lambda: pods() == [("alone", "stays")], 60, "the one operator's pod")
        # A pod that has a node ends in its own time; no kubelet says here that it has.
        (name,) = (pod["metadata"]["name"] for pod in kube.get("pods", "-n", namespace)["items"])
        binding = {"kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        plane.api.call("POST", path, {"apiVersion": "v1", **binding})
        kube.must_helm("upgrade", *release, "--set", "replicas=2")
        wait_for(
            lambda: pods() == [("alone", "goes")], 60, "the old one to be told to go, and nobody to come"
        )
        kube.must("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0")
        wait_for(lambda: pods() == [("elects", "stays")] * 2, 60, "two that elect")
        kube.must_helm("uninstall", "painter", "-n", namespace)


def _elects_and_goes(pod: dict[str, Any]) -> tuple[str, str]:
    names = [entry["name"] for entry in pod["spec"]["containers"][0]["env"]]
    leaves = "deletionTimestamp" in pod["metadata"]
    return "elects" if f"{PREFIX}LEASE" in names else "alone", "goes" if leaves else "stays"


def _said(one: OperatorProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in one.lines() if line["event"] == event]
