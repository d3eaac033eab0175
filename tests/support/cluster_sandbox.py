"""A place where a whole cluster can be started, killed and stopped beside one that others use.

Namespaces of its own for network, mounts, processes and cgroups, so that the fixed addresses, ports
and folders of the tool are free there, and whatever it leaves behind is seen, and harms nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tools.cluster.binaries import cache_folder
from tools.cluster.commands import run
from tools.cluster.waiting import wait_for

_ROOT = Path(__file__).parents[2]
_CGROUPS = Path("/sys/fs/cgroup")
_TOOL_SECONDS = 900.0

# Inside the new namespaces: an empty /var/lib, /run and so on (mounts of the machine's containers go first),
# and the cgroup controllers again, now rooted in the sandbox's own groups. The last program reaps orphans.
_SETUP = r"""
set -eu
ip link set lo up
awk '$5 != "/" && ($5 ~ "^/(var/lib|run)/" || / - overlay /) {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l
for folder in /var/lib /run /var/log /etc/cni /usr/libexec; do
  if [ -d $folder ]; then mount -t tmpfs tmpfs $folder; fi
done
mkdir -p /run/lock
awk '{for (i = 1; i <= NF; i++) if ($i == "-") {kind = $(i + 1); options = $(i + 3)}
      if (kind ~ /^cgroup/) print $5, kind, options}' /proc/self/mountinfo > /run/groups
while read -r point kind options; do
  umount $point
  # A controller is named by its options; the rest of them says how it is mounted.
  names=$(echo $options | tr , '\n' | grep -vxE 'rw|ro|relatime|clone_children|xattr|release_agent=.*' | paste -sd,)
  if [ $kind = cgroup2 ]; then mount -t cgroup2 cgroup2 $point; else mount -t cgroup -o $names cgroup $point; fi
done < /run/groups
touch /run/ready
exec "$0" -c 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.sigwait([signal.SIGTERM])'
"""

# What a machine shows of a cluster: folders, links, rules, settings, mounts, cgroups, programs.
_SNAPSHOT = r"""
ls -d /var/lib/* /run/* /run/netns/* /var/log/* /etc/cni/* /usr/libexec/* 2>/dev/null
ip -br link | awk '{print "link", $1}'
for tables in iptables-save ip6tables-save; do $tables | grep -E '^(-A|:.* - )' ; done
for name in net/ipv4/ip_forward net/ipv4/conf/all/route_localnet; do echo $name $(cat /proc/sys/$name); done
awk '$5 ~ "^/(var|run|etc|usr|sys)/" {print "mount", $5}' /proc/self/mountinfo
ls -d /sys/fs/cgroup/*/*/ 2>/dev/null
ps -eo pid=,args= | awk '$1 != 1 {$1 = ""; print "process", $0}' | grep -vE '(bash|ps|awk|grep) |<defunct>'
true
"""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Commands run inside; ``pid`` is its first process as seen from outside."""

    pid: int
    groups: tuple[Path, ...]

    def command(self, *argv: str) -> list[str]:
        """``argv`` as a command line for outside that runs it inside."""
        join = (
            'for group in "${@:2:$1}"; do echo $$ > $group/cgroup.procs; done; shift $(($1 + 1)); exec "$@"'
        )
        groups = [str(len(self.groups)), *map(str, self.groups)]
        inside = ["nsenter", "--target", str(self.pid), "--all", f"--wd={_ROOT}", *argv]
        return ["bash", "-c", join, "join", *groups, *inside]

    def tool(self, *arguments: str) -> list[str]:
        """Command line of ``python -m tools.cluster ARGUMENTS`` inside."""
        return self.command(
            "env",
            f"FLUXSAMPLER_CACHE={cache_folder().parent}",
            sys.executable,
            "-m",
            "tools.cluster",
            *arguments,
        )

    def run(self, *argv: str) -> str:
        """Standard output of ``argv`` inside."""
        return run(self.command(*argv), timeout=_TOOL_SECONDS)

    def run_tool(self, *arguments: str) -> str:
        """Standard output of the tool inside."""
        return run(self.tool(*arguments), timeout=_TOOL_SECONDS)

    def snapshot(self) -> list[str]:
        """What the machine looks like from inside; equal lists mean that nothing was left."""
        return sorted(self.run("bash", "-c", _SNAPSHOT).splitlines())


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A fresh one, gone afterwards with all that runs in it."""
    if os.geteuid() != 0:
        pytest.skip("namespaces and kubelets need root: run the tests as root")
    if (_CGROUPS / "cgroup.controllers").exists():
        pytest.skip(
            "the sandbox knows cgroups of version 1 (or both versions) only; this machine has version 2 alone"
        )
    groups = tuple(
        _make_group(path) for path in sorted(_CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()
    )
    try:
        join = (
            'for group in "${@:2:$1}"; do echo $$ > $group/cgroup.procs; done; shift $(($1 + 1)); exec "$@"'
        )
        unshare = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--cgroup",
            "--mount-proc",
            "--kill-child",
        ]
        argv = [
            "bash",
            "-c",
            join,
            "join",
            str(len(groups)),
            *map(str, groups),
            *unshare,
            "bash",
            "-c",
            _SETUP,
            sys.executable,
        ]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            try:
                wait_for(lambda: process.poll() is not None or _first_child(process.pid), 30, "the sandbox")
                first = _first_child(process.pid)
                assert first is not None, "the sandbox could not be made; its error is above"
                made = Sandbox(first, groups)
                wait_for(lambda: Path(f"/proc/{first}/root/run/ready").exists(), 30, "the sandbox's mounts")
                yield made
            finally:
                process.kill()
    finally:
        for group in groups:
            _remove_group(group)


def _make_group(controller: Path) -> Path:
    group = controller / f"fxs-sandbox-{os.getpid()}"
    group.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # a cpuset without both takes no process
        if (group / name).exists():
            (group / name).write_text((controller / name).read_text())
    return group


def _remove_group(group: Path) -> None:
    def removed() -> bool:
        with suppress(OSError):  # busy until the kernel has buried its last process
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        return not group.exists()

    wait_for(removed, 60, f"{group} to empty")


def _first_child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None
