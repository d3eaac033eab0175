"""KubeRay: brought, and taken away, while the cluster runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from tools.cluster import registry, versions
from tools.cluster.binaries import Binaries
from tools.cluster.commands import Kubectl
from tools.cluster.errors import CommandFailed
from tools.cluster.files import publish
from tools.cluster.waiting import wait_for

NAMESPACE = "ray-system"
_KIND = "rayservices"
_SECONDS = 180

# Its manifests as published wait ten seconds before the first look, and give it a tenth of a core. One that is started
# again waits for the Lease of the one before to run out, 15 s, though there is never a second one; a namespace that is
# deleted waits for half of its pods' time to end, whether they need it or not.
_PATCH = [
    {
        "op": "replace",
        "path": "/spec/template/spec/containers/0/readinessProbe/initialDelaySeconds",
        "value": 1,
    },
    {"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "value": 1},
    {"op": "remove", "path": "/spec/template/spec/containers/0/resources/limits/cpu"},
    {
        "op": "add",
        "path": "/spec/template/spec/containers/0/args/-",
        "value": "--enable-leader-election=false",
    },
    {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 1},
]


def install(kubectl: Kubectl, binaries: Binaries, folder: Path) -> None:
    """Install KubeRay, watching all namespaces, from its published manifests (``folder`` is scratch space); return when it works."""
    image = registry.push_program(
        "kuberay-operator", f"v{versions.KUBERAY}", binaries.path("kuberay-operator"), "manager"
    )
    install_kinds(kubectl, binaries)
    kubectl("apply", "--server-side", "-f", "-", stdin=_namespace())
    kubectl("apply", "--server-side", "--force-conflicts", "-k", _manifests(binaries, folder, image))
    kubectl(
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "deployment/kuberay-operator",
        f"--timeout={_SECONDS}s",
        timeout=_SECONDS + 10,
    )


def install_kinds(kubectl: Kubectl, binaries: Binaries) -> None:
    """Install its CRDs alone: enough for an API server without nodes."""
    # Not through kustomize, which needs longer for four megabytes of schema than the API server.
    folder = _kinds(binaries)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", folder, timeout=_SECONDS)
    wanted = {path.stem.partition("_")[2] for path in folder.glob("ray.io_*.yaml")}
    # `kubectl wait` fails on a definition that has no conditions yet.
    wait_for(lambda: wanted <= _served(kubectl), _SECONDS, "KubeRay's kinds", interval=0.5)


def _served(kubectl: Kubectl) -> set[str]:
    try:
        answer = json.loads(kubectl("get", "--raw", "/apis/ray.io/v1"))
    except CommandFailed:  # the group is not known yet
        return set()
    return {resource["name"] for resource in answer["resources"]}


def installed(kubectl: Kubectl) -> bool:
    """Whether its kinds are known to the API server."""
    return _KIND in _served(kubectl)


def remove(kubectl: Kubectl, binaries: Binaries, *, kinds: bool = True) -> None:
    """Take KubeRay away; with ``kinds`` also its CRDs, and with them every Ray object there is."""
    end = ("--ignore-not-found", f"--timeout={_SECONDS}s")
    if kinds:
        # Before the operator: should one of its objects hold a finalizer, it is there to let go.
        kubectl("delete", "-f", _kinds(binaries), *end, timeout=_SECONDS + 10)
    kubectl("delete", "namespace", NAMESPACE, *end, timeout=_SECONDS + 10)
    kubectl("delete", "clusterrole,clusterrolebinding", "kuberay-operator", "--ignore-not-found")


def _kinds(binaries: Binaries) -> Path:
    return binaries.path("kuberay-config") / "crd" / "bases"


def _namespace() -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


def _manifests(binaries: Binaries, folder: Path, image: str) -> Path:
    # kustomize refuses absolute paths, so its base is copied beside our layer.
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(binaries.path("kuberay-config"), folder / "config")
    name, tag = image.rsplit(":", 1)
    layer = {
        "resources": ["../config/rbac", "../config/manager"],
        "namespace": NAMESPACE,
        "images": [{"name": "kuberay/operator", "newName": name, "newTag": tag}],
        "patches": [
            {"target": {"kind": "Deployment", "name": "kuberay-operator"}, "patch": yaml.safe_dump(_PATCH)}
        ],
    }
    publish(folder / "ours" / "kustomization.yaml", yaml.safe_dump(layer))
    return folder / "ours"
