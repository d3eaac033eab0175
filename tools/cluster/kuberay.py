"""KubeRay: brought, and taken away, while the cluster runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tools.cluster import registry, versions
from tools.cluster.binaries import Binaries
from tools.cluster.commands import Kubectl
from tools.cluster.files import publish

NAMESPACE = "ray-system"
_CRDS = ("rayclusters.ray.io", "rayjobs.ray.io", "rayservices.ray.io")
_SECONDS = 180

# Its manifests as published wait ten seconds before the first look, and give it a tenth of a core.
_PATCH = [
    {
        "op": "replace",
        "path": "/spec/template/spec/containers/0/readinessProbe/initialDelaySeconds",
        "value": 1,
    },
    {"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "value": 1},
    {"op": "remove", "path": "/spec/template/spec/containers/0/resources/limits/cpu"},
]


def install(kubectl: Kubectl, binaries: Binaries, folder: Path) -> None:
    """Install KubeRay, watching all namespaces, from its published manifests (``folder`` is scratch space); return when it works."""
    image = registry.push_program(
        "kuberay-operator", f"v{versions.KUBERAY}", binaries.path("kuberay-operator"), "manager"
    )
    manifests = _manifests(binaries, folder, image)
    kubectl("apply", "--server-side", "-f", "-", stdin=_namespace())
    kubectl("apply", "--server-side", "--force-conflicts", "-k", manifests)
    for crd in _CRDS:
        kubectl("wait", "--for=condition=Established", f"crd/{crd}", "--timeout=60s")
    kubectl(
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "deployment/kuberay-operator",
        f"--timeout={_SECONDS}s",
        timeout=_SECONDS + 10,
    )


def installed(kubectl: Kubectl) -> bool:
    """Whether its kinds are known to the API server."""
    return bool(kubectl("get", "crd", _CRDS[-1], "--ignore-not-found", "-o", "name").strip())


def remove(kubectl: Kubectl, *, kinds: bool = True) -> None:
    """Take KubeRay away; with ``kinds`` also its CRDs, and with them every Ray object there is."""
    if kinds:
        kubectl(
            "delete", "crd", *_CRDS, "--ignore-not-found", f"--timeout={_SECONDS}s", timeout=_SECONDS + 10
        )
    kubectl(
        "delete",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        f"--timeout={_SECONDS}s",
        timeout=_SECONDS + 10,
    )
    kubectl("delete", "clusterrole,clusterrolebinding", "kuberay-operator", "--ignore-not-found")


def _namespace() -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


def _manifests(binaries: Binaries, folder: Path, image: str) -> Path:
    # kustomize refuses absolute paths, so its base is copied beside our layer.
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(binaries.path("kuberay-config"), folder / "config")
    name, tag = image.rsplit(":", 1)
    layer = {
        "resources": ["../config/default"],
        "namespace": NAMESPACE,
        "images": [{"name": "quay.io/kuberay/operator", "newName": name, "newTag": tag}],
        "patches": [
            {"target": {"kind": "Deployment", "name": "kuberay-operator"}, "patch": yaml.safe_dump(_PATCH)}
        ],
    }
    publish(folder / "ours" / "kustomization.yaml", yaml.safe_dump(layer))
    return folder / "ours"
