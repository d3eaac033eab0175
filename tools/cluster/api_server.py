"""etcd, the API server and the controllers: their keys and command lines, for the whole cluster and for the control plane alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import audit, kubeconfig, probes
from tools.cluster.binaries import Binaries
from tools.cluster.certificates import Authority, signing_key
from tools.cluster.files import publish

SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
_AUDIT_MIB = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the control plane's parts listen, and where their files are."""

    folder: Path
    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        """etcd, for its clients."""
        return f"http://127.0.0.1:{self.etcd_port}"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def audit_log(self) -> Path:
        """JSON lines; see :mod:`tools.cluster.audit`."""
        return self.folder / "logs" / "audit.log"

    def kubeconfig(self, name: str) -> Path:
        """Path of the kubeconfig of user ``name``."""
        return self.folder / f"{name}.kubeconfig"


def make_keys(at: Endpoint) -> Authority:
    """Authority, server certificate, service account keys and the administrator's kubeconfig, made anew."""
    authority = Authority.create()
    authority.write(at.pki)
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    ips = dict.fromkeys(["127.0.0.1", SERVICE_ADDRESS, at.address])
    server = authority.issue("kube-apiserver", dns=[*names, "localhost"], ips=list(ips))
    server.write(at.pki, "apiserver")
    private, public = signing_key()
    publish(at.pki / "sa.key", private, 0o600)
    publish(at.pki / "sa.pub", public)
    make_user(at, authority, "admin", "fluxsampler-admin", ["system:masters"])
    return authority


def make_user(at: Endpoint, authority: Authority, name: str, user: str, groups: Sequence[str] = ()) -> Path:
    """A kubeconfig ``<name>.kubeconfig`` for ``user`` in ``groups``."""
    identity = authority.issue(user, groups)
    return kubeconfig.write(at.kubeconfig(name), at.url, authority, identity)


def etcd(at: Endpoint) -> list[str]:
    """Command line of etcd. One member elects itself at once with short timeouts, and needs no fsync: nothing here outlives a power cut."""
    peer = f"http://127.0.0.1:{at.etcd_peer_port}"
    return [
        "etcd",
        f"--data-dir={at.folder / 'etcd'}",
        f"--listen-client-urls={at.etcd_url}",
        f"--advertise-client-urls={at.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
    ]


def etcd_healthy(at: Endpoint) -> bool:
    """Whether etcd has a leader."""
    answer = probes.http_json(f"{at.etcd_url}/health")
    return isinstance(answer, dict) and answer.get("health") == "true"


def api_server(
    at: Endpoint, binaries: Binaries, *, audited: bool = True, extra: Sequence[str] = ()
) -> list[str]:
    """Command line of the API server, listening on ``at.address`` only."""
    argv = [
        str(binaries.path("kube-apiserver")),
        f"--etcd-servers={at.etcd_url}",
        f"--bind-address={at.address}",
        f"--secure-port={at.api_port}",
        f"--tls-cert-file={at.pki / 'apiserver.crt'}",
        f"--tls-private-key-file={at.pki / 'apiserver.key'}",
        f"--client-ca-file={at.pki / 'ca.crt'}",
        # Nobody has a certificate of that name: unset, the controllers complain every few seconds.
        f"--requestheader-client-ca-file={at.pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={at.pki / 'sa.pub'}",
        f"--service-account-signing-key-file={at.pki / 'sa.key'}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allow-privileged=true",
        *extra,
    ]
    if audited:
        at.audit_log.parent.mkdir(parents=True, exist_ok=True)
        argv += [
            f"--audit-policy-file={publish(at.folder / 'audit-policy.yaml', audit.policy())}",
            f"--audit-log-path={at.audit_log}",
            f"--audit-log-maxsize={_AUDIT_MIB}",
            "--audit-log-maxbackup=2",
        ]
    return argv


def controller_manager(
    at: Endpoint, binaries: Binaries, port: int, controllers: Sequence[str] = ("*",)
) -> list[str]:
    """Command line of the controller manager; its kubeconfig must exist."""
    config = at.kubeconfig("controller-manager")
    return [
        str(binaries.path("kube-controller-manager")),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--controllers={','.join(controllers)}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={at.pki / 'sa.key'}",
        f"--root-ca-file={at.pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={at.pki / 'ca.crt'}",
        f"--cluster-signing-key-file={at.pki / 'ca.key'}",
        f"--flex-volume-plugin-dir={at.folder / 'volume-plugins'}",
        "--allocate-node-cidrs=false",
        "--leader-elect=false",
    ]
