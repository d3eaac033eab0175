"""Deletion ends, whoever is missing at that moment: KubeRay's operator, ours, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.support.cluster import LiveCluster, fresh_namespace
from tests.support.installation import KIND, RESTRICTED, SAMPLER_LABEL, Installation, Sampler, tiny
from tests.support.operator_pod import OperatorPod

KUBERAY = ("deployment/kuberay-operator", "-n", "ray-system")
KINDS = ("rayservices", "rayclusters", "pods", "services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies", "secrets")  # fmt: skip
SECONDS = 120.0
# Pods that no node takes cost nothing, and are as good to be deleted.
NOWHERE = {"spec": {"nodeSelector": {"fluxsampler.io/test": "nowhere"}}}


@contextmanager
def kuberay_stopped(cluster: LiveCluster) -> Iterator[None]:
    """KubeRay's operator is gone, its kinds are there, and its finalizers on what it had seen."""
    cluster.ours()
    kubectl = cluster.kubectl
    kubectl("scale", *KUBERAY, "--replicas=0")
    try:
        kubectl("wait", "pod", "-n", "ray-system", "--all", "--for=delete", "--timeout=60s", timeout=70)
        yield
    finally:
        kubectl("scale", *KUBERAY, "--replicas=1")
        kubectl("rollout", "status", *KUBERAY, "--timeout=120s", timeout=130)


def test_deletion_with_kuberay_or_the_operator_gone(
    installed: Installation, cluster: LiveCluster, namespace: str
) -> None:
    kubectl, operator = cluster.kubectl, OperatorPod(installed)
    with fresh_namespace(kubectl, RESTRICTED) as other:
        running = Sampler(cluster, namespace, "running")
        calm = [Sampler(cluster, namespace, name) for name in ("unwatched", "unseen")]
        inside = Sampler(cluster, other, "inside")
        running.apply(tiny("running", fallback={"enabled": False}))
        for sampler in (*calm, inside):
            sampler.apply(tiny(sampler.name, fallback={"enabled": False}, podTemplate=NOWHERE))
        for sampler in (running, *calm, inside):
            sampler.wait(partial(_has_pods, sampler), "two Ray pods")
        running.wait(lambda: all(pod["status"]["phase"] == "Running" for pod in running.pods), "its pods run")

        with ExitStack() as stack:
            # Without our operator: garbage collection alone.
            with operator.away():
                took = _deleted(calm[0])
                print(f"\nwithout our operator: all gone after {took:.1f} s")
                # Without both the RayService keeps KubeRay's finalizer, until one of them is back.
                stack.enter_context(kuberay_stopped(cluster))
                kubectl("delete", KIND, calm[1].name, "-n", namespace, "--timeout=60s")
                calm[1].wait(
                    lambda: "rayservices/" in str(_terminating(calm[1])),
                    "its RayService is being deleted",
                    60,
                )

            # Without KubeRay.
            kubectl("delete", "namespace", other, "--wait=false")
            kubectl("delete", KIND, running.name, "-n", namespace, "--timeout=60s")
            took = calm[1].wait(lambda: not _left(calm[1]), "all of it gone", SECONDS, interval=1)
            print(f"our operator back, KubeRay still gone: all gone after {took:.1f} s")
            took = running.wait(lambda: not _left(running), "all of it gone", SECONDS, interval=1)
            print(f"without KubeRay: the one that ran is gone after another {took:.1f} s")
            kubectl(
                "wait",
                f"namespace/{other}",
                "--for=delete",
                f"--timeout={SECONDS:.0f}s",
                timeout=SECONDS + 10,
            )
            print("without KubeRay: the namespace is gone, too")
    operator.assert_clean_log()


def _has_pods(sampler: Sampler) -> bool:
    return len(sampler.pods) == 2


def _deleted(sampler: Sampler) -> float:
    sampler.cluster.kubectl("delete", KIND, sampler.name, "-n", sampler.namespace, "--timeout=60s")
    return sampler.wait(lambda: not _left(sampler), "all of it gone", SECONDS, interval=1)


def _left(sampler: Sampler) -> list[str]:
    """What there still is of a FluxSampler: all that bears its label, and KubeRay's own besides."""
    words = ("-n", sampler.namespace, "-o", "name")
    kubectl = sampler.cluster.kubectl
    labelled = kubectl("get", ",".join(KINDS), "-l", f"{SAMPLER_LABEL}={sampler.name}", *words).split()
    named = [
        name
        for name in kubectl("get", ",".join(KINDS), *words).split()
        if name.partition("/")[2].startswith(f"{sampler.name}-")
    ]
    return sorted({*labelled, *named})


def _terminating(sampler: Sampler) -> list[str]:
    return [
        f"rayservices/{item['metadata']['name']}"
        for item in sampler.get("rayservices")["items"]
        if item["metadata"]["name"] == sampler.name and "deletionTimestamp" in item["metadata"]
    ]
