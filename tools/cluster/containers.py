"""containerd, and the end of everything that runs in it."""

from __future__ import annotations

import ctypes
import os
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
_SECONDS = 30.0
_MNT_DETACH = 2


def write_config(folder: Path, socket: Path, cni: Path, pause: str) -> Path:
    """containerd's configuration: everything under ``folder``, sandboxes from image ``pause``."""
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
                if any(line.split(":", 2)[2].startswith(f"/{_PODS}") for line in groups.splitlines()):
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


def remove_cgroups() -> None:
    """Remove the pods' cgroups, deepest first."""
    roots = [_CGROUPS / _PODS, *(path / _PODS for path in _CGROUPS.iterdir() if path.is_dir())]
    for root in roots:
        if root.is_dir():
            folders = [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]
            for folder in folders:
                wait_for(partial(_rmdir, folder), _SECONDS, f"{folder} to empty")


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
