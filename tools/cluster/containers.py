"""containerd, and the end of everything that runs in it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from tools.cluster.errors import ClusterError
from tools.cluster.files import publish
from tools.cluster.processes import started
from tools.cluster.waiting import wait_for

_CGROUPS = Path("/sys/fs/cgroup")
_PODS = "kubepods"
# Cgroups of the nodes after the first; its number follows.
NODE_GROUPS = "fluxsampler-node-"
_OURS = re.compile(rf"/({NODE_GROUPS}\d+/)?{_PODS}(/|$)")
_SECONDS = 30.0
_MNT_DETACH = 2


def write_config(socket: Path, cni: Path, pause: str) -> Path:
    """containerd's configuration: everything beside its ``socket``, sandboxes from image ``pause``."""
    folder = socket.parent
    # Without AppArmor and without raising the OOM score: containers inside containers may do neither.
    text = f"""\
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
    return publish(folder / "config.toml", text)


def pod_processes() -> list[int]:
    """Ids of the processes in pods' cgroups."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                groups = Path("/proc", entry, "cgroup").read_text(encoding="utf-8", errors="replace")
                if any(_OURS.match(line.split(":", 2)[2]) for line in groups.splitlines()):
                    found.append(int(entry))
    return [pid for pid in found if started(pid) is not None]


def kill_pods() -> None:
    """End the processes of all pods (containerd and its shims are gone already, so nothing restarts them)."""

    def none_left() -> bool:
        pids = pod_processes()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for(none_left, _SECONDS, "the processes of pods to end")


def make_cgroup(name: str) -> None:
    """Cgroup ``name`` below the root of every hierarchy, for a kubelet that is told to stay in it."""
    for root in _hierarchies():
        (root / name).mkdir(exist_ok=True)
        # Version 1: a cpuset without both takes no process.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (root / setting).exists() and (root / name / setting).exists():
                (root / name / setting).write_text((root / setting).read_text())


def remove_cgroups() -> None:
    """Remove the pods' cgroups, deepest first."""
    for root in _hierarchies():
        for group in (root / _PODS, *root.glob(f"{NODE_GROUPS}*")):
            if group.is_dir():
                for folder in [Path(name) for name, _, _ in os.walk(group, topdown=False)]:
                    wait_for(partial(_rmdir, folder), _SECONDS, f"{folder} to empty")


def _hierarchies() -> list[Path]:
    """Version 2 has one; version 1 has one per controller; some machines have both."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in sorted(_CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


def _rmdir(folder: Path) -> bool:
    # The kernel keeps a cgroup busy for a moment after its last process.
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def mounts_below(folder: Path) -> list[Path]:
    """Mount points below ``folder``, deepest (and latest) first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [Path(_unescape(line.split()[4])) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(folder) and point != folder]


def _unescape(text: str) -> str:
    return text.encode().decode("unicode_escape")


def unmount_below(folder: Path) -> None:
    """Unmount everything below ``folder``."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in mounts_below(folder):
        # Detached: it is out of sight at once, and gone when its last user is.
        if libc.umount2(os.fsencode(point), _MNT_DETACH) != 0 and point in mounts_below(folder):
            raise ClusterError(f"cannot unmount {point}: {os.strerror(ctypes.get_errno())}")


def remove_tree(folder: Path) -> None:
    """Delete ``folder``, which must hold no mount any more: what is mounted there is not ours to delete.

    Raises:
        ClusterError: something is still mounted below.
    """
    left = mounts_below(folder)
    if left:
        raise ClusterError(f"still mounted: {', '.join(map(str, left))}")
    if folder.exists():
        shutil.rmtree(folder)
