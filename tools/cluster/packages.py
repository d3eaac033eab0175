"""Debian packages: installed where that is possible, named where it is not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.cluster import versions
from tools.cluster.commands import find, run
from tools.cluster.errors import CannotRun, CommandFailed
from tools.cluster.files import publish
from tools.cluster.say import step

_PROGRAMS = {**versions.DEBIAN_PACKAGES, **versions.IMAGE_PACKAGES}
_POLICY = Path("/usr/sbin/policy-rc.d")
_REFUSE = "#!/bin/sh\n# Written by tools/cluster of FluxSampler while it installs packages; it may be deleted.\nexit 101\n"
_SECONDS = 900.0


def missing(wanted: Iterable[str] = versions.DEBIAN_PACKAGES) -> list[str]:
    """Those of ``wanted`` whose program is not there (however it might have come)."""
    return [name for name in wanted if not _there(_PROGRAMS[name])]


def _there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else find(program) is not None


def require(wanted: Iterable[str] = versions.DEBIAN_PACKAGES) -> None:
    """Install what is missing of ``wanted``.

    Raises:
        CannotRun: something is missing and this is not root on a machine with apt.
    """
    absent = missing(wanted)
    if not absent:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(absent)}"
    if os.geteuid() != 0 or not find("apt-get"):
        programs = ", ".join(_PROGRAMS[name] for name in absent)
        raise CannotRun(f"{programs} not found; on Debian, as root: {command}")
    with step(f"Installing {', '.join(absent)}"), _no_services():
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        try:
            # Another apt may be at work: wait for it.
            patience = ["-o", "DPkg::Lock::Timeout=600"]
            run(["apt-get", *patience, "update", "-qq"], timeout=_SECONDS)
            run(["apt-get", *patience, *command.split()[1:]], timeout=_SECONDS)
        except CommandFailed as error:
            raise CannotRun(f"{error}\nInstall by hand: {command}") from error


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep Debian from starting etcd and a registry as services: they would have our ports."""
    # One of ours lies there still if an earlier call was killed.
    if _POLICY.exists() and _POLICY.read_text(encoding="utf-8", errors="replace") != _REFUSE:
        yield
        return
    publish(_POLICY, _REFUSE, 0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
