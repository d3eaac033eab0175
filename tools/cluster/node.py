"""The kubelet, kube-proxy and the DNS server: their files and command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tools.cluster.api_server import Endpoint
from tools.cluster.binaries import Binaries
from tools.cluster.files import publish
from tools.cluster.network import API_ADDRESS, POD_NETWORK

DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
KUBELET_HEALTH = "http://127.0.0.1:10248/healthz"
PROXY_HEALTH = "http://127.0.0.1:10256/healthz"


def kubelet(at: Endpoint, binaries: Binaries, node: str, socket: Path) -> list[str]:
    """Command line of the kubelet of ``node``; its configuration is written."""
    folder = at.folder / "kubelet"
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": API_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(at.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(at.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(at.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "clusterDomain": DOMAIN,
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": "/etc/resolv.conf",
        # The machine as it is: swap, either cgroup version, no system services to reserve for, no right to raise a score.
        "failSwapOn": False,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": ["pods"],
        "oomScoreAdj": 0,
        "serializeImagePulls": False,
        # A developer's disk is often full, and the demo's images must survive that.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # Everything it writes stays in its folder, and it leaves the packet filter to kube-proxy.
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "makeIPTablesUtilChains": False,
    }
    config = publish(folder / "config.yaml", yaml.safe_dump(document, sort_keys=False))
    return [
        str(binaries.path("kubelet")),
        f"--config={config}",
        f"--kubeconfig={at.kubeconfig('kubelet')}",
        f"--root-dir={folder}",
        f"--hostname-override={node}",
        f"--node-ip={API_ADDRESS}",
    ]


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
