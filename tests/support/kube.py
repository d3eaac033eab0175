"""kubectl and helm as one user of one cluster: what a person types, and what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "charts" / "fluxsampler"


@dataclass(frozen=True)
class Ran:
    """One command that has ended."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        """Everything it said."""
        return self.out + self.err


@dataclass(frozen=True)
class Kube:
    """A user of the cluster that ``kubeconfig`` names; ``options`` go before every kubectl command."""

    kubeconfig: Path
    options: tuple[str, ...] = ()
    folders: tuple[Path, ...] = field(default=())

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 120) -> Ran:
        """Run kubectl, whatever it answers."""
        return self._run(("kubectl", *self.options, *arguments), stdin, seconds)

    def helm(self, *arguments: str, seconds: float = 300) -> Ran:
        """Run helm, whatever it answers."""
        return self._run(("helm", *arguments), None, seconds)

    def must(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; fails the test where kubectl fails."""
        ran = self.kubectl(*arguments, stdin=stdin)
        assert ran.ok, f"kubectl {' '.join(arguments)}: {ran.text}"
        return ran.out

    def apply(self, *documents: dict[str, Any], dry_run: bool = False) -> Ran:
        """`kubectl apply` of objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        body = json.dumps(documents[0] if len(documents) == 1 else items)
        return self.kubectl("apply", *(["--dry-run=server"] if dry_run else []), "-f", "-", stdin=body)

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`; None where it does not exist."""
        ran = self.kubectl("get", *arguments, "-o", "json")
        if "NotFound" in ran.err:
            return None
        assert ran.ok, ran.text
        return json.loads(ran.out)

    def _run(self, command: tuple[str, ...], stdin: str | None, seconds: float) -> Ran:
        path = os.pathsep.join([*map(str, self.folders), os.environ["PATH"]])
        program = shutil.which(command[0], path=path)
        assert program, f"{command[0]} is neither in {self.folders} nor on PATH"
        ended = subprocess.run(
            (program, *command[1:]),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            # Nothing of the caller's helm or kubectl settings.
            env={
                "PATH": path,
                "HOME": str(self.kubeconfig.parent),
                "KUBECONFIG": str(self.kubeconfig),
            },
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)
