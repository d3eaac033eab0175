"""kube-proxy and the DNS server: their files and command lines. (One proxy serves all nodes of a machine.)"""

from __future__ import annotations

import json
from typing import Any

import yaml

from tools.cluster.api_server import Endpoint
from tools.cluster.binaries import Binaries
from tools.cluster.files import publish
from tools.cluster.network import API_ADDRESS, POD_NETWORK

DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
PROXY_HEALTH = "http://127.0.0.1:10256/healthz"


def proxy(at: Endpoint, binaries: Binaries, node: str) -> list[str]:
    """Command line of kube-proxy; its configuration is written."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(at.kubeconfig("proxy"))},
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node,
        # Node ports on the node's own address only, not on whatever network the machine is in.
        "nodePortAddresses": ["primary"],
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    config = publish(at.folder / "proxy.yaml", yaml.safe_dump(document, sort_keys=False))
    return [str(binaries.path("kube-proxy")), f"--config={config}"]


def dns(at: Endpoint, binaries: Binaries) -> list[str]:
    """Command line of CoreDNS: names of the cluster, and all others as this machine resolves them."""
    text = f"""\
.:53 {{
  bind {API_ADDRESS}
  errors
  cache 5
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {at.kubeconfig("coredns")} fluxsampler
  }}
  forward . /etc/resolv.conf
}}
"""
    return [str(binaries.path("coredns")), "-conf", str(publish(at.folder / "Corefile", text))]


def dns_objects() -> str:
    """The Service that leads to it from pods, and its right to read what it answers from; for kubectl apply."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
    }
    endpoints: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-machine",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [API_ADDRESS], "conditions": {"ready": True}}],
    }
    read = ["list", "watch"]
    role: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ],
    }
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints, role, binding]})
