"""Volumes of the Ray pods, each with the places it is mounted at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxsampler_api.mounts import CACHE_FOLDER, CLAIMS_FOLDER, claim_of
from fluxsampler_operator.builders.sizes import PodSize, quantity

if TYPE_CHECKING:
    from fluxsampler_api.spec import FluxSamplerSpec
    from fluxsampler_operator.manifest import Manifest

HOME = "/home/fluxsampler"
"""As the serve image has it (Dockerfile)."""

_SHM, _TMP = "/dev/shm", "/tmp"  # noqa: S108  (places in a pod, each a volume of its own)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume's source and where the Ray container finds it."""

    name: str
    source: Manifest
    path: str
    read_only: bool = False

    @property
    def volume(self) -> Manifest:
        """The pod's side."""
        return {"name": self.name, **self.source}

    @property
    def mount(self) -> Manifest:
        """The container's side."""
        made: Manifest = {"name": self.name, "mountPath": self.path}
        return made | {"readOnly": True} if self.read_only else made


def scratch(size: PodSize) -> tuple[Mounted, ...]:
    """What every Ray pod writes to: the root file system is read-only.

    /dev/shm holds Ray's object store and the ranks' transport; its limit is the size of the tmpfs,
    which counts as memory of whoever writes to it.
    """
    return (
        Mounted("shm", {"emptyDir": {"medium": "Memory", "sizeLimit": quantity(size.shm)}}, _SHM),
        Mounted("tmp", {"emptyDir": {}}, _TMP),
        Mounted("home", {"emptyDir": {}}, HOME),
    )


def cache(spec: FluxSamplerSpec) -> Mounted:
    """Where downloaded and converted weights are kept; scratch space of the pod unless the spec says more."""
    wanted = spec.model.cache
    source: Manifest
    if wanted.host_path is not None:
        source = {"hostPath": {"path": wanted.host_path, "type": "DirectoryOrCreate"}}
    elif wanted.claim is not None:
        source = {"persistentVolumeClaim": {"claimName": wanted.claim}}
    else:
        source = {"emptyDir": {} if wanted.size is None else {"sizeLimit": str(wanted.size)}}
    return Mounted("cache", source, CACHE_FOLDER)


def model(spec: FluxSamplerSpec) -> tuple[Mounted, ...]:
    """The claim of a `pvc://` source, read-only; nothing for other sources."""
    claim = claim_of(spec.model.source)
    if claim is None:
        return ()
    source = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return (Mounted("model", source, f"{CLAIMS_FOLDER}/{claim}", read_only=True),)
