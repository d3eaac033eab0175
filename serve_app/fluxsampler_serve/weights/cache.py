"""The folder of prepared models: each component converted once, published by rename.

::

    <cache>/components/<key>/weights.safetensors   converted file, or a link to a source that already fits
    <cache>/components/<key>/component.json        its fingerprint and size
    <cache>/models/<key>/                          a diffusers folder: small files copied, weights linked
    <cache>/models/<key>/prepared.json             what PreparedModel holds
    <cache>/hub/                                   what hf:// sources downloaded
    <cache>/locks/                                 lock files of those at work

A key is a digest of what goes in (source files by path, size and time; configuration; dtype;
quantization), so a changed source makes a new folder and nothing is ever rewritten: a process that
has mapped an older file keeps it. Two dtypes of one model share the components that do not differ.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from fluxsampler_api.model_settings import FILE_NAME
from fluxsampler_serve.errors import ModelError
from fluxsampler_serve.weights.components import (
    COMPONENTS,
    PLAIN_FOLDERS,
    TRANSFORMER,
    SourceComponent,
    find_components,
)
from fluxsampler_serve.weights.facts import read_facts, read_json
from fluxsampler_serve.weights.locks import exclusive
from fluxsampler_serve.weights.prepared import PreparedModel, Progress, WeightsProgress, silent
from fluxsampler_serve.weights.sources import ResolvedSource, resolve
from fluxsampler_serve.weights.tensors import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from fluxsampler_api.app_args import ModelArgs
    from fluxsampler_serve.weights.prepared import Dtype, Quantization

log = structlog.get_logger(__name__)

# Part of every key: raise it when what is written changes.
_FORMAT = 1
_WEIGHTS = "weights.safetensors"
_CACHE_ENV = "FLUXSAMPLER_CACHE"


def cache_root(model: ModelArgs) -> Path:
    """``model.cache_dir``, else ``$FLUXSAMPLER_CACHE``, else fluxsampler in the user's XDG cache."""
    if model.cache_dir is not None:
        return Path(model.cache_dir).expanduser().absolute()
    if own := os.environ.get(_CACHE_ENV):
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "fluxsampler"


def prepare(model: ModelArgs, progress: Progress | None = None) -> PreparedModel:
    """Fetch, check and convert ``model`` so that any number of processes can map it.

    Safe to call from many processes at once (one works, the others wait and find its result) and to
    interrupt at any time (the next call starts from the last finished component). A second call
    takes milliseconds. ``progress`` hears of bytes downloaded, converted and hashed.

    Raises :class:`~fluxsampler_serve.errors.ModelNotFound`, ``ModelAuthFailed``, ``ModelCorrupt``,
    ``ModelMismatch``, or ``ModelError`` when the cache folder cannot be written.
    """
    hear = progress or silent
    cache = cache_root(model)
    try:
        source = resolve(model, cache, hear)
        return _Job(source, cache, model.dtype, model.quantization, hear).run()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"no space left for the model in {cache}: enlarge it or set spec.model.cache"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise ModelError(
                f"the model cache {cache} cannot be written ({error.strerror}): set spec.model.cache or "
                f"{_CACHE_ENV} to a folder that can"
            ) from error
        raise


@dataclass(frozen=True, slots=True)
class _Job:
    """One preparation: what to make of which source, and where."""

    source: ResolvedSource
    cache: Path
    dtype: Dtype
    quantization: Quantization
    progress: Progress

    def run(self) -> PreparedModel:
        """The published model, made first if need be."""
        parts = find_components(self.source.folder)
        keys = {name: self._component_key(part) for name, part in parts.items()}
        small = _small_files(self.source.folder)
        stamps = [_stamp(path) for path in small]
        key = _digest(
            [_FORMAT, self.source.uri, self.source.revision, self.dtype, self.quantization, keys, stamps]
        )
        root = self.cache / "models" / key
        if not self._is_whole(root, keys):
            with exclusive(self.cache / "locks" / f"model-{key}.lock"):
                if not self._is_whole(root, keys):
                    records = {name: self._component(keys[name], part) for name, part in parts.items()}
                    self._publish_model(root, small, keys, records)
                    log.info(
                        "model prepared",
                        source=self.source.uri,
                        revision=self.source.revision,
                        dtype=self.dtype,
                        quantization=self.quantization,
                        folder=str(root),
                    )
        return _read(root)

    def _is_whole(self, root: Path, keys: dict[str, str]) -> bool:
        return (root / "prepared.json").is_file() and all(self._record(key) for key in keys.values())

    def _record(self, key: str) -> dict[str, Any] | None:
        """The record of a published component whose file is still as it was published."""
        folder = self.cache / "components" / key
        if not (folder / "component.json").is_file():
            return None
        record = read_json(folder / "component.json")
        try:
            size = (folder / _WEIGHTS).stat().st_size
        except FileNotFoundError:
            return None
        return record if size == record["bytes"] else None

    def _component_key(self, part: SourceComponent) -> str:
        stamps = [_stamp(path) for path in part.files]
        kind = part.component.class_name
        return _digest([_FORMAT, kind, self.dtype, self._quantization_of(part), stamps, part.config])

    def _quantization_of(self, part: SourceComponent) -> Quantization:
        return self.quantization if part.component is TRANSFORMER else "none"

    def _component(self, key: str, part: SourceComponent) -> dict[str, Any]:
        with exclusive(self.cache / "locks" / f"component-{key}.lock"):
            found = self._record(key)
            if found is not None:
                return found
            partial = _fresh(self.cache / "components" / f".{key}.partial")
            record = self._fill(partial, part)
            _write_json(partial / "component.json", record)
            _publish(partial, self.cache / "components" / key)
            return record

    def _fill(self, folder: Path, part: SourceComponent) -> dict[str, Any]:
        # A warm cache must not pay for torch, diffusers and transformers.
        from fluxsampler_serve.weights import convert

        quantization = self._quantization_of(part)
        tensors = part.tensors()
        target = folder / _WEIGHTS
        in_place = convert.fits_in_place(tensors, self.dtype, quantization)
        if in_place:
            origin = part.files[0].resolve()
            target.symlink_to(origin)
            names = {tensor.info.name: name for name, tensor in tensors.items()}
            size = sum(tensor.info.end - tensor.info.start for tensor in tensors.values())
            fingerprint = hash_file(origin, names, self._counter("hash", part, size))
        else:
            size = convert.converted_bytes(tensors, self.dtype, quantization)
            _check_room(folder, size, part.component.name)
            count = self._counter("convert", part, size)
            fingerprint = convert.convert(tensors, self.dtype, quantization, target, count)
        return {
            "component": part.component.name,
            "dtype": self.dtype,
            "quantization": quantization,
            "fingerprint": fingerprint,
            "bytes": target.stat().st_size,
            "in_place": in_place,
            "from": [str(path.resolve()) for path in part.files],
        }

    def _counter(
        self, phase: Literal["convert", "hash"], part: SourceComponent, total: int
    ) -> Callable[[int], None]:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self.progress(WeightsProgress(phase, part.component.name, done, total))

        return count

    def _publish_model(
        self, root: Path, small: list[Path], keys: dict[str, str], records: dict[str, dict[str, Any]]
    ) -> None:
        partial = _fresh(root.parent / f".{root.name}.partial")
        for path in small:
            target = partial / path.relative_to(self.source.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o644)
        for component in COMPONENTS:
            # Relative, so that the cache may be mounted elsewhere.
            link = Path("..", "..", "..", "components", keys[component.name], _WEIGHTS)
            (partial / component.name / component.file_name).symlink_to(link)
        fingerprints = {name: str(record["fingerprint"]) for name, record in records.items()}
        record = {
            "source": self.source.uri,
            "revision": self.source.revision,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "fingerprint": _digest(sorted(fingerprints.items()), digits=64),
            "fingerprints": fingerprints,
        }
        _write_json(partial / "prepared.json", record)
        _publish(partial, root)


def _read(root: Path) -> PreparedModel:
    record = read_json(root / "prepared.json")
    return PreparedModel(
        root=root,
        source=record["source"],
        revision=record["revision"],
        dtype=record["dtype"],
        quantization=record["quantization"],
        fingerprint=record["fingerprint"],
        fingerprints=dict(record["fingerprints"]),
        components={part.name: root / part.name / part.file_name for part in COMPONENTS},
        facts=read_facts(root),
    )


def _check_room(folder: Path, need: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ModelError(
            f"the model cache {folder.parent.parent} has {free >> 20} MiB free and the {what} needs "
            f"{need >> 20} MiB: enlarge it or set spec.model.cache"
        )


def _fresh(partial: Path) -> Path:
    """An empty work folder; what an interrupted predecessor left there is removed. Call under its lock."""
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def _publish(partial: Path, target: Path) -> None:
    """Rename into place. A damaged predecessor is moved away first, never written to: a process may
    still have it mapped, and truncating a mapped file kills its readers (SIGBUS)."""
    if target.exists():
        away = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
        target.rename(away)
        shutil.rmtree(away)
    partial.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _small_files(folder: Path) -> list[Path]:
    """Everything but weights that a prepared folder needs."""
    files = [folder / "model_index.json"]
    if (folder / FILE_NAME).is_file():
        files.append(folder / FILE_NAME)
    for name in PLAIN_FOLDERS:
        files += sorted(path for path in (folder / name).iterdir() if path.is_file())
    files += [folder / component.name / "config.json" for component in COMPONENTS]
    return files


def _stamp(path: Path) -> list[Any]:
    """What changes when the file does, without reading it."""
    real = path.resolve()
    stat = real.stat()
    return [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _digest(value: list[Any], digits: int = 32) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)
