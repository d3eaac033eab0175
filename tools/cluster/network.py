"""Links, kernel settings and packet filter rules of the cluster: made, and taken away without a trace."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.cluster.commands import run
from tools.cluster.errors import CommandFailed
from tools.cluster.files import publish

# The API server, the kubelet and the DNS server listen here. A bridge without ports, since some kernels lack `dummy` links.
API_LINK, API_ADDRESS = "fxs-api", "10.97.0.1"
POD_LINK, POD_NETWORK, POD_GATEWAY = "fxs0", "10.98.0.0/16", "10.98.0.1"
CNI_NAME = "fluxsampler"

# Set by this tool, the CNI plugins, kube-proxy and the kubelet.
_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
_TABLES = ("nat", "filter", "mangle")


def sysctls() -> dict[str, str]:
    """Kernel settings that the cluster may change, as they are now."""
    paths = {name: Path("/proc/sys", *name.split(".")) for name in _SYSCTLS}
    return {name: path.read_text(encoding="ascii").strip() for name, path in paths.items() if path.exists()}


def restore_sysctls(before: Mapping[str, str]) -> None:
    """Put back what differs from ``before``."""
    now = sysctls()
    for name, value in before.items():
        if name in now and now[name] != value:
            Path("/proc/sys", *name.split(".")).write_text(value, encoding="ascii")


def node_address(number: int) -> str:
    """Internal IP of node ``number``; the first shares the API server's."""
    return f"10.97.0.{number}"


def make_links(address: str = API_ADDRESS) -> None:
    """``address`` on the link of the API server, and forwarding between pods, services and the world."""
    if not _has_link(API_LINK):
        run(["ip", "link", "add", API_LINK, "type", "bridge"])
    run(["ip", "address", "replace", f"{address}/32", "dev", API_LINK])
    run(["ip", "link", "set", API_LINK, "up"])
    # A pod that asks a service which leads back to a pod on its bridge gets its answer only through the packet filter.
    for name in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"):
        path = Path("/proc/sys", *name.split("."))
        if path.exists():
            path.write_text("1", encoding="ascii")


def remove_links() -> None:
    """Take the links away. Those of pods would go with their namespaces, but the kernel takes its time for that."""
    if _has_link(POD_LINK):
        for line in run(["ip", "-oneline", "link", "show", "master", POD_LINK]).splitlines():
            _remove_link(line.split(": ")[1].split("@")[0])
    for link in (POD_LINK, API_LINK):
        _remove_link(link)


def _remove_link(name: str) -> None:
    try:
        run(["ip", "link", "delete", name])
    except CommandFailed:
        if _has_link(name):
            raise


def _has_link(name: str) -> bool:
    return name in (link for _, link in socket.if_nameindex())


def write_cni(folder: Path, number: int) -> Path:
    """The pod network's configuration for node ``number`` in ``folder``/net.d, its leases beside it; the former's path.

    All nodes share one link and one network, so nothing is routed; each gives out addresses of its own.
    """
    addresses = {
        "subnet": POD_NETWORK,
        "gateway": POD_GATEWAY,
        "rangeStart": f"10.98.{number}.1",
        "rangeEnd": f"10.98.{number}.254",
    }
    bridge = {
        "type": "bridge",
        "bridge": POD_LINK,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "leases"),
            "ranges": [[addresses]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    document = {"cniVersion": "0.4.0", "name": CNI_NAME, "plugins": [bridge]}
    publish(folder / "net.d" / "10-fluxsampler.conflist", json.dumps(document, indent=2))
    return folder / "net.d"


def remove_rules() -> None:
    """Delete the rules and chains of kube-proxy and of our pod network, IPv4 and IPv6, and nothing else.

    One transaction a table: nobody sees half of it, and rules that others add meanwhile stay.
    """
    for program in ("iptables", "ip6tables"):
        for table in _TABLES:
            try:
                saved = run([f"{program}-save", "-t", table])
            except CommandFailed:  # a kernel without that table has no rules in it
                continue
            script = removal(table, saved.splitlines())
            if script:
                run([f"{program}-restore", "--noflush"], stdin=script)


def removal(table: str, saved: Iterable[str]) -> str:
    """Input of ``iptables-restore --noflush`` that deletes our rules and chains of ``table``; empty if there are none."""
    lines = list(saved)
    chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
    masquerade = {
        match[1]
        for line in lines
        if f'name: \\"{CNI_NAME}\\"' in line and (match := re.search(r"-j (CNI-\S+)", line))
    }
    ours = {chain for chain in chains if chain.startswith("KUBE-") or chain in masquerade}
    if not ours:
        return ""
    jumps = [
        f"-D{line[2:]}"
        for line in lines
        if line.startswith("-A ")
        and line.split()[1] not in ours
        and (target := re.search(r" -j (\S+)", line))
        and target[1] in ours
    ]
    # A chain can go when nothing jumps to it any more: empty all (a declaration does), then delete all.
    empty = [f":{chain} - [0:0]" for chain in sorted(ours)]
    delete = [f"-X {chain}" for chain in sorted(ours)]
    return "\n".join([f"*{table}", *empty, *jumps, *delete, "COMMIT", ""])
