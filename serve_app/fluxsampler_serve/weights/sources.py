"""Where a model comes from: ``builtin://``, ``file://`` and ``hf://`` to a folder on this machine."""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from fluxsampler_serve.errors import ModelNotFound

if TYPE_CHECKING:
    from fluxsampler_api.app_args import ModelArgs
    from fluxsampler_serve.weights.prepared import Progress

# owner/name as the hub allows it, and an optional @revision.
_HF = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?$")
_BUILTIN = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True, slots=True)
class ResolvedSource:
    """``folder`` holds the pipeline; ``revision`` is the hub's commit, None for local folders."""

    uri: str
    folder: Path
    revision: str | None = None


def resolve(model: ModelArgs, cache: Path, progress: Progress) -> ResolvedSource:
    """The folder of ``model.source``, downloaded if need be. Raises
    :class:`~fluxsampler_serve.errors.ModelNotFound` and, for hubs, ``ModelAuthFailed``."""
    scheme, separator, rest = model.source.partition("://")
    if separator and scheme == "builtin":
        return ResolvedSource(model.source, _builtin(rest))
    if separator and scheme == "file":
        return ResolvedSource(model.source, _file(model.source, rest))
    if separator and scheme == "hf":
        # Imported here: the hub's client is for those who use a hub.
        from fluxsampler_serve.weights.hub import download

        repo, revision = parse_hf(model.source, model.revision)
        folder, commit = download(repo, revision, cache / "hub", model.token_env, progress)
        return ResolvedSource(f"hf://{repo}", folder, commit)
    raise ModelNotFound(
        f"the model source {model.source!r} is none of builtin://tiny-shapes, file:///folder and hf://owner/name: "
        "correct spec.model.source"
    )


def parse_hf(source: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of ``hf://owner/name[@revision]``; an explicit ``revision`` must agree."""
    found = _HF.match(source.removeprefix("hf://"))
    if found is None:
        raise ModelNotFound(f"{source!r} is not hf://owner/name: correct spec.model.source")
    named = found["revision"]
    if named and revision and named != revision:
        raise ModelNotFound(
            f"{source} names revision {named} and spec.model.revision is {revision}: give one of them"
        )
    return found["repo"], revision or named


def _builtin(name: str) -> Path:
    packaged = importlib.resources.files("fluxsampler_serve") / "builtin"
    with importlib.resources.as_file(packaged) as folder:
        known = sorted(path.name.replace("_", "-") for path in folder.iterdir() if path.is_dir())
        found = folder / name.replace("-", "_")
        if _BUILTIN.match(name) and name in known:
            return found
    raise ModelNotFound(
        f"there is no built-in model {name!r}: use one of builtin://{', builtin://'.join(known)}"
    )


def _file(source: str, rest: str) -> Path:
    folder = Path(unquote(rest))
    if not folder.is_absolute():
        raise ModelNotFound(
            f"{source} is not file:///absolute/folder: write three slashes and the whole path"
        )
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelNotFound(
            f"the model folder {folder} {what}: correct spec.model.source or copy the model there"
        )
    return folder
