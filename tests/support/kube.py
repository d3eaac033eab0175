"""kubectl and helm as one user of one cluster: what a person types, and what comes back, refusals among it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster import recipes
from tools.cluster.binaries import ensure
from tools.cluster.waiting import wait_for

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


def wait_established(kubectl: Callable[..., str], definition: str) -> None:
    """Until a CustomResourceDefinition is served; `kubectl wait` fails on one so young that it has no conditions yet."""

    def served() -> bool:
        status = json.loads(kubectl("get", "crd", definition, "-o", "json")).get("status", {})
        conditions = status.get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    wait_for(served, 60, f"{definition} to be served")


@dataclass(frozen=True)
class Kube:
    """The user that ``kubeconfig`` names; None for what needs no cluster."""

    kubeconfig: Path | None

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 120) -> Ran:
        """Run kubectl, whatever it answers."""
        return self._run("kubectl", arguments, stdin, seconds)

    def helm(self, *arguments: str, seconds: float = 300) -> Ran:
        """Run helm, whatever it answers."""
        return self._run("helm", arguments, None, seconds)

    def must(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; fails the test where kubectl fails."""
        ran = self.kubectl(*arguments, stdin=stdin)
        assert ran.ok, f"kubectl {' '.join(arguments)}: {ran.text}"
        return ran.out

    def must_helm(self, *arguments: str) -> str:
        """What helm prints; fails the test where helm fails."""
        ran = self.helm(*arguments)
        assert ran.ok, f"helm {' '.join(arguments)}: {ran.text}"
        return ran.out

    def apply(self, document: dict[str, Any], *arguments: str) -> Ran:
        """`kubectl apply` of one object."""
        return self.kubectl("apply", *arguments, "-f", "-", stdin=json.dumps(document))

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`; None where it does not exist."""
        ran = self.kubectl("get", *arguments, "-o", "json")
        if "(NotFound)" in ran.err:
            return None
        assert ran.ok, ran.text
        return json.loads(ran.out)

    def _run(self, name: str, arguments: tuple[str, ...], stdin: str | None, seconds: float) -> Ran:
        folder = ensure((recipes.CLIENTS,)).clients
        home = self.kubeconfig.parent if self.kubeconfig else folder
        ended = subprocess.run(
            (folder / name, *arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            # None of the caller's own helm and kubectl settings.
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "KUBECONFIG": str(self.kubeconfig or home / "none"),
            },
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)
