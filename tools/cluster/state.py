"""Where the whole cluster keeps its files, and what it must remember to undo itself.

One machine holds one such cluster (its addresses, ports and links are fixed), so there is one folder
and one lock. Nothing of it lies inside a checkout.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tools.cluster.files import publish

_DEFAULT = "/var/lib/fluxsampler-cluster"
LOCK = Path("/run/lock/fluxsampler-cluster.lock")


def state_folder() -> Path:
    """``$FLUXSAMPLER_CLUSTER_STATE``, else a folder under /var/lib."""
    return Path(os.environ.get("FLUXSAMPLER_CLUSTER_STATE") or _DEFAULT).absolute()


@dataclass(frozen=True, slots=True)
class Memory:
    """What the machine was like before, and how far the start came.

    Attributes:
        phase: ``starting`` until the start was seen to its end.
        boot: the machine's boot in which it was started; processes, links and rules do not outlive it.
        sysctls: kernel settings as found.
        made: folders outside the state folder that were not there before.
    """

    phase: Literal["starting", "up"]
    boot: str
    sysctls: dict[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The state folder's map."""

    folder: Path

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.folder / "admin.kubeconfig"

    @property
    def logs(self) -> Path:
        """One log per part."""
        return self.folder / "logs"

    @property
    def cards(self) -> Path:
        """What the node keeper keeps: nodes and their cards."""
        return self.folder / "cards.json"

    def remember(self, memory: Memory) -> None:
        """Write ``memory``."""
        publish(self.folder / "memory.json", json.dumps(asdict(memory), indent=2))

    def recall(self) -> Memory | None:
        """What was remembered; None in a folder that never held a cluster."""
        try:
            data: dict[str, Any] = json.loads((self.folder / "memory.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Memory(**{**data, "made": tuple(data["made"])})

    def finished(self) -> None:
        """Remember that the start came to its end."""
        memory = self.recall()
        if memory is not None:
            self.remember(replace(memory, phase="up"))
