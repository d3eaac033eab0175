"""How requests get in (a Service), and that nothing else does (a NetworkPolicy)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxsampler_api.serve_config import HTTP_PORT
from fluxsampler_operator.builders.pods import DASHBOARD_PORT, METRICS_PORT
from fluxsampler_operator.manifest import NAME_LABEL, metadata, selector

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec
    from fluxsampler_operator.manifest import Manifest, Owner


def service(spec: FluxSamplerSpec, owner: Owner, ray_cluster: str | None) -> Manifest:
    """The stable Service: the head, whose proxy takes the requests, of ``ray_cluster`` where it is named.

    Not by KubeRay's label `ray.io/serve`: it becomes false when the proxy of a busy node does not answer within 2 s,
    once, and with it every picture would fail until KubeRay's next look, as there is no other head to go to. While
    KubeRay brings up a second cluster (upgrade strategy NewCluster), its head has a proxy before it has an
    application; naming the active cluster keeps requests away until KubeRay moves them.
    """
    chosen = selector(owner) | {"ray.io/node-type": "head"}
    if ray_cluster is not None:
        chosen["ray.io/cluster"] = ray_cluster
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, "service"),
        "spec": {
            "type": spec.serving.service_type,
            "selector": chosen,
            "ports": [
                {
                    "name": "http",
                    "port": HTTP_PORT,
                    "targetPort": "serve",
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }


def network_policy(owner: Owner) -> Manifest:
    """Who may reach the pods: anyone the API, KubeRay the dashboard, Prometheus the metrics, themselves everything.

    So Ray's own ports (6379 GCS, 8265 dashboard, 10001 client), HAProxy's statistics (8404, 8500, 9101),
    the replicas' own (30000 and up) and gRPC are closed. The kubelet's probes come from the node, which a
    policy does not bind. KubeRay and Prometheus are known by the labels that their charts and manifests
    give them, in whichever namespace they run; the dashboard asks for Ray's token all the same.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, "network"),
        "spec": {
            "podSelector": {"matchLabels": selector(owner)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [_tcp(HTTP_PORT)]},
                {"from": [{"podSelector": {"matchLabels": selector(owner)}}]},
                # Not by the name label: in KubeRay's kustomize manifests it is the one of every Ray pod.
                {
                    "from": [_pods_with("app.kubernetes.io/component", "kuberay-operator")],
                    "ports": [_tcp(DASHBOARD_PORT)],
                },
                {"from": [_pods_with(NAME_LABEL, "prometheus")], "ports": [_tcp(METRICS_PORT)]},
            ],
        },
    }


def _tcp(port: int) -> Manifest:
    return {"port": port, "protocol": "TCP"}


def _pods_with(label: str, value: str) -> Manifest:
    """Pods of any namespace with this label."""
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {label: value}}}
