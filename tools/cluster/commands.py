"""Running other programs to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.errors import CommandFailed

_SECONDS = 120.0


def run(argv: Sequence[str | Path], stdin: str | bytes | None = None, timeout: float = _SECONDS) -> str:
    """Standard output of ``argv``.

    Raises:
        CommandFailed: it ended with an error, or not within ``timeout`` seconds.
    """
    words = [str(word) for word in argv]
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    try:
        answer = subprocess.run(words, input=data, capture_output=True, timeout=timeout, check=False)
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
