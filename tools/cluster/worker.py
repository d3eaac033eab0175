"""A node of this machine: a kubelet with a containerd of its own.

The first one's parts lie where a single node's would. Each further one has its own address on the API
link, its own folder and its own cgroup; all share the pod link, so their pods reach each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.cluster import api_server, containers, network
from tools.cluster.api_server import Endpoint
from tools.cluster.binaries import Binaries
from tools.cluster.certificates import Authority
from tools.cluster.files import publish
from tools.cluster.node import DNS_ADDRESS, DOMAIN


@dataclass(frozen=True, slots=True)
class Worker:
    """Node ``number`` (from 1) of the cluster whose files are at ``at``."""

    at: Endpoint
    number: int

    @property
    def name(self) -> str:
        """As the API server knows it."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its internal IP."""
        return network.node_address(self.number)

    @property
    def health(self) -> str:
        """What its kubelet answers when it works."""
        return f"http://{self.address}:10248/healthz"

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self._folder / "containerd" / "containerd.sock"

    @property
    def parts(self) -> tuple[str, str]:
        """Names of its daemons: containerd and kubelet."""
        return f"containerd{self._suffix}", f"kubelet{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.number == 1 else f"-{self.number}"

    @property
    def _folder(self) -> Path:
        return self.at.folder if self.number == 1 else self.at.folder / self.name

    def prepare(self, authority: Authority) -> None:
        """Its address, its certificate, its right to speak for its node."""
        network.make_links(self.address)
        user, groups = f"system:node:{self.name}", ["system:nodes"]
        authority.issue(user, groups, [self.name], [self.address]).write(
            self.at.pki, f"kubelet{self._suffix}"
        )
        api_server.make_user(self.at, authority, f"kubelet{self._suffix}", user, groups)
        if self.number > 1:
            containers.make_cgroup(self._cgroup)

    def containerd(self, pause: str) -> list[str]:
        """Command line of its containerd, whose sandboxes are of image ``pause``; its files are written."""
        cni = network.write_cni(self._folder / "cni", self.number)
        return ["containerd", "--config", str(containers.write_config(self.socket, cni, pause))]

    def kubelet(self, binaries: Binaries) -> list[str]:
        """Command line of its kubelet; its files are written."""
        folder, pki = self._folder / "kubelet", self.at.pki
        document: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzBindAddress": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"kubelet{self._suffix}.crt"),
            "tlsPrivateKeyFile": str(pki / f"kubelet{self._suffix}.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
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
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            # Everything it writes stays in its folder, and it leaves the packet filter to kube-proxy.
            "podLogsDir": str(folder / "pod-logs"),
            "volumePluginDir": str(folder / "volume-plugins"),
            "makeIPTablesUtilChains": False,
        }
        if self.number > 1:
            document["cgroupRoot"] = f"/{self._cgroup}"
        config = publish(folder / "config.yaml", yaml.safe_dump(document, sort_keys=False))
        return [
            str(binaries.path("kubelet")),
            f"--config={config}",
            f"--kubeconfig={self.at.kubeconfig(f'kubelet{self._suffix}')}",
            f"--root-dir={folder}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        ]

    @property
    def _cgroup(self) -> str:
        return f"{containers.NODE_GROUPS}{self.number}"
