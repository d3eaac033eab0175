"""Pod templates of the Ray head and the Ray workers, as KubeRay takes them.

KubeRay fills in the command (`ray start …`), the address of the head, and for workers an init
container that waits for it; it injects its own probes only where none are given
(ray-operator/controllers/ray/common/pod.go). The Ray container has to be the first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.serve_config import HTTP_PORT
from fluxsampler_operator.builders import environment, overrides, volumes
from fluxsampler_operator.builders.sizes import PodSize, quantity
from fluxsampler_operator.manifest import NAME_LABEL, labels

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec, Toleration
    from fluxsampler_operator.manifest import Manifest, Owner
    from fluxsampler_operator.settings import Settings

GPU_RESOURCE = "nvidia.com/gpu"
USER = 1000
"""User and group of every process in the pods, as the serve image has it."""

GCS_PORT, DASHBOARD_PORT, METRICS_PORT, AGENT_PORT = 6379, 8265, 8080, 52365

# After Ray's drain (environment.py), for its processes to end; then the kubelet kills what is left.
_AFTER_DRAIN_SECONDS = 25


def head(spec: FluxSamplerSpec, size: PodSize, settings: Settings, owner: Owner, account: str) -> Manifest:
    """The head's template. It may run on any node: it needs no card, and tolerates what the workers do."""
    container = _container("ray-head", size, settings) | {
        "env": environment.head(spec),
        "ports": _ports(
            {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "serve": HTTP_PORT, "metrics": METRICS_PORT}
        ),
    }
    template = _template("head", container, volumes.scratch(size), spec, settings, owner, account)
    return overrides.apply(template, spec.pod_template, "ray-head")


def worker(
    spec: FluxSamplerSpec, size: PodSize, cards: int, settings: Settings, owner: Owner, account: str
) -> Manifest:
    """A worker's template: one node's cards (on CUDA), the model and its cache."""
    cache = volumes.cache(spec)
    container = _container("ray-worker", size, settings) | {
        "env": environment.worker(spec),
        "ports": _ports({"metrics": METRICS_PORT}),
    }
    if spec.hardware.device == "cuda":
        container["resources"]["limits"][GPU_RESOURCE] = str(cards)
    mounted = (*volumes.scratch(size), cache, *volumes.model(spec))
    template = _template("worker", container, mounted, spec, settings, owner, account)
    pod = template["spec"]
    if spec.model.cache.host_path is not None:
        pod["initContainers"] = [_own(cache, settings)]
    if spec.hardware.node_selector:
        pod["nodeSelector"] = dict(spec.hardware.node_selector)
    if spec.hardware.runtime_class_name is not None:
        pod["runtimeClassName"] = spec.hardware.runtime_class_name
    if spec.hardware.nodes > 1:
        pod["topologySpreadConstraints"] = [_spread(template)]
    return overrides.apply(template, spec.pod_template, "ray-worker")


def _template(
    component: str,
    container: Manifest,
    mounted: tuple[volumes.Mounted, ...],
    spec: FluxSamplerSpec,
    settings: Settings,
    owner: Owner,
    account: str,
) -> Manifest:
    container["volumeMounts"] = [one.mount for one in mounted]
    pod: Manifest = {
        "containers": [container],
        "volumes": [one.volume for one in mounted],
        "serviceAccountName": account,
        # Nothing in the pods talks to Kubernetes.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": environment.drain_seconds(spec) + _AFTER_DRAIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # A claim full of models is not walked file by file at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if spec.hardware.tolerations:
        pod["tolerations"] = [_toleration(one) for one in spec.hardware.tolerations]
    # KubeRay writes this one, and chooses heads by its own value in the RayService's `-head-svc`.
    kept = {name: value for name, value in labels(owner, component).items() if name != NAME_LABEL}
    return {"metadata": {"labels": kept}, "spec": pod}


def _container(name: str, size: PodSize, settings: Settings) -> Manifest:
    memory = quantity(size.memory)
    return {
        "name": name,
        "image": settings.serve_image,
        "imagePullPolicy": settings.image_pull_policy,
        # The last lines of a container that failed stand in the pod's status, where the operator quotes them.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": size.cpu, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    } | _probes()


def _probes() -> Manifest:
    """Whether Ray's node is up, asked of its agent, which ends with its raylet.

    Not KubeRay's own probes: those of a worker also ask for Serve's proxy on it, which is not there
    before a replica is, and never on a worker without one. So a worker would be unready while the model
    loads, and what is wrong with Serve would look like something wrong with the pod. Requests enter
    through the head, and KubeRay asks Serve there before it says that the application runs.
    """
    asked: Manifest = {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}, "timeoutSeconds": 5}
    return {
        # Ray's daemons take 5 s to start, and minutes on a node that is busy pulling and converting models.
        "startupProbe": asked | {"periodSeconds": 2, "failureThreshold": 150},
        # The agent answers late or 503 while a busy node starts a gang; a head that is unready takes no requests.
        "readinessProbe": asked | {"periodSeconds": 5, "failureThreshold": 6},
        # Restarting the container ends every replica in it, so only for a raylet that is silent for 5 minutes.
        # One that ends takes its container with it, without any probe.
        "livenessProbe": asked | {"periodSeconds": 10, "failureThreshold": 30},
    }


def _ports(numbers: dict[str, int]) -> list[Manifest]:
    return [{"name": name, "containerPort": number, "protocol": "TCP"} for name, number in numbers.items()]


def _toleration(wanted: Toleration) -> Manifest:
    return wanted.model_dump(mode="json", by_alias=True, exclude_none=True)


def _spread(template: Manifest) -> Manifest:
    """Workers on different nodes where that can be: a plan for two nodes counts on two."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(template["metadata"]["labels"])},
    }


def _own(cache: volumes.Mounted, settings: Settings) -> Manifest:
    """Give the node's cache folder to the pods' user: the kubelet makes it root's, and fsGroup does not reach it."""
    return {
        "name": "own-cache",
        "image": settings.serve_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["chown", f"{USER}:{USER}", cache.path],
        "volumeMounts": [cache.mount],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
            "readOnlyRootFilesystem": True,
        },
    }
