"""Environment of the Ray containers. Secrets travel by reference: the operator never reads one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.app_args import ModelArgs
from fluxsampler_api.serve_config import RAY_ENVIRONMENT
from fluxsampler_planner.args import AUTH_TOKEN_ENV

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec, SecretRef
    from fluxsampler_operator.manifest import Manifest

HUB_TOKEN_ENV: str = ModelArgs.model_fields["token_env"].default


def head(spec: FluxSamplerSpec) -> list[Manifest]:
    """Of the head: what Ray reads, and the API's token, since gateways may run there."""
    # A CUDA base image asks the NVIDIA runtime for all cards of the node; the head wants none.
    return [*_ray(spec), *_api_token(spec), {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]


def worker(spec: FluxSamplerSpec) -> list[Manifest]:
    """Of a worker: the same, the hub's token, and the ranks' threads."""
    made = [*_ray(spec), *_api_token(spec)]
    if spec.model.token_secret_ref is not None:
        made.append(_from_secret(HUB_TOKEN_ENV, spec.model.token_secret_ref))
    if spec.hardware.device == "cpu":
        # Ray would set 1 for actors that book no CPU. Without a limit Kubernetes tells the node's cores here,
        # and ranks share them; with one (podTemplate) they stay inside it.
        cores = {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}
        made.append({"name": "OMP_NUM_THREADS", "valueFrom": cores})
    return made


def drain_seconds(spec: FluxSamplerSpec) -> int:
    """How long a Ray node that is told to end goes on with what it draws.

    `ray start`, process 1 of the pod, drains its node at SIGTERM (ray/_private/node.py). Where there is no
    other node for the replicas it waits this long in any case: a picture on one card takes about 16 s, one
    of a CPU's small model less than one.
    """
    return 30 if spec.hardware.device == "cuda" else 5


def _ray(spec: FluxSamplerSpec) -> list[Manifest]:
    told = RAY_ENVIRONMENT | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_seconds(spec))}
    return [{"name": name, "value": value} for name, value in told.items()]


def _api_token(spec: FluxSamplerSpec) -> list[Manifest]:
    reference = spec.serving.auth_secret_ref
    return [] if reference is None else [_from_secret(AUTH_TOKEN_ENV, reference)]


def _from_secret(name: str, reference: SecretRef) -> Manifest:
    return {
        "name": name,
        "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}},
    }
