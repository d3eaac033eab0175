"""What the kubelet, containerd and the CNI library leave outside every folder that they can be told.

Other programs use the same places (Docker, podman, another containerd), so a file goes only if it is
recognised as the cluster's, and a folder only if it was not there before and is empty.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tools.cluster.network import CNI_NAME

# Whole trees that only a kubelet writes; there is no second one on the machine.
_KUBELET = "/var/lib/kubelet"
FOLDERS = (_KUBELET, "/var/lib/cni", "/run/containerd", "/var/log/containers", "/var/log/pods", "/run/netns", "/etc/cni",
           "/opt/containerd", "/usr/libexec/kubernetes")  # fmt: skip


def absent() -> tuple[str, ...]:
    """Those of :data:`FOLDERS` that are not there: what :func:`remove` may take away later."""
    return tuple(name for name in FOLDERS if not Path(name).exists())


def remove(state: Path, made: Iterable[str]) -> None:
    """Remove what a cluster with state folder ``state`` left; ``made`` is what :func:`absent` said before it."""
    made = set(made)
    identities = _containers(state)
    for identity in identities:
        shutil.rmtree(Path("/run/containerd/runc/k8s.io", identity), ignore_errors=True)
    _unlink(
        path
        for path in Path("/var/lib/cni/results").glob("*")
        if path.name.startswith(f"{CNI_NAME}-")
        or any(path.name.startswith(f"cni-loopback-{identity}-") for identity in identities)
    )
    _unlink(path for path in Path("/var/log/containers").glob("*.log") if _leads_into(path, state))
    listening = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    _unlink(path for path in Path("/run/containerd/s").glob("*") if str(path) not in listening)
    if "/etc/cni" in made:
        _unlink([Path("/etc/cni/net.d/cni.lock")])
    if _KUBELET in made:
        shutil.rmtree(_KUBELET, ignore_errors=True)
    for name in made:
        _prune(Path(name))


def _containers(state: Path) -> list[str]:
    tasks = "containerd/state/io.containerd.runtime.v2.task/k8s.io/*"
    return [path.name for pattern in (tasks, f"node-*/{tasks}") for path in state.glob(pattern)]


def _leads_into(link: Path, folder: Path) -> bool:
    return link.is_symlink() and Path(os.readlink(link)).is_relative_to(folder)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Remove ``folder`` if it holds nothing but empty folders."""
    for name, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(name):
            os.rmdir(name)
