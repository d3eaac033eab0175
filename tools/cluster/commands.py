"""Running other programs to their end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.errors import CommandFailed

_SECONDS = 120.0
# Where Debian keeps iptables, ip and runc, which the shell of a user who became root may not name.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The cluster's own addresses and names; programs of a machine behind a proxy must not ask that for them.
_DIRECT = "localhost,127.0.0.1,10.96.0.0/16,10.97.0.0/16,10.98.0.0/16,.svc,.cluster.local"


def environment() -> dict[str, str]:
    """This process's variables, good for programs that find system programs and talk to the cluster."""
    variables = {**os.environ, "PATH": ":".join(filter(None, (os.environ.get("PATH"), _PATH)))}
    for name in ("NO_PROXY", "no_proxy"):
        variables[name] = ",".join(filter(None, (os.environ.get(name), _DIRECT)))
    return variables


def find(program: str) -> str | None:
    """Path of ``program``; None if there is none."""
    return shutil.which(program, path=environment()["PATH"])


def run(argv: Sequence[str | Path], stdin: str | bytes | None = None, timeout: float = _SECONDS) -> str:
    """Standard output of ``argv``.

    Raises:
        CommandFailed: it ended with an error, or not within ``timeout`` seconds.
    """
    words = [str(word) for word in argv]
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    try:
        answer = subprocess.run(
            [find(words[0]) or words[0], *words[1:]],
            input=data,
            env=environment(),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(words)}: no end within {timeout:.0f} s") from error
    except FileNotFoundError as error:
        raise CommandFailed(f"{words[0]} is not installed") from error
    output = answer.stdout.decode(errors="replace")
    if answer.returncode:
        said = answer.stderr.decode(errors="replace").strip() or output.strip()
        raise CommandFailed(f"{' '.join(words)}: {said or f'exit status {answer.returncode}'}")
    return output


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl, as the user of one kubeconfig."""

    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str | Path, stdin: str | None = None, timeout: float = _SECONDS) -> str:
        """Standard output of ``kubectl ARGUMENTS``.

        Raises:
            CommandFailed: kubectl ended with an error; its text is in it.
        """
        return run([self.program, "--kubeconfig", self.kubeconfig, *arguments], stdin, timeout)
