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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from fluxsampler_serve.errors import ModelError
from fluxsampler_serve.weights.components import COMPONENTS, PLAIN_FOLDERS, SourceComponent, find_components
from fluxsampler_serve.weights.facts import FACTS_FILE, read_facts, read_json
from fluxsampler_serve.weights.locks import exclusive
from fluxsampler_serve.weights.prepared import PreparedModel, Progress, WeightsProgress, silent
from fluxsampler_serve.weights.sources import ResolvedSource, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        return _prepare(source, cache, model.dtype, model.quantization, hear)
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


def _prepare(
    source: ResolvedSource, cache: Path, dtype: Dtype, quantization: Quantization, progress: Progress
) -> PreparedModel:
    parts = find_components(source.folder)
    keys = {name: _component_key(part, dtype, quantization) for name, part in parts.items()}
    small = _small_files(source.folder)
    key = _digest(
        [_FORMAT, source.uri, source.revision, dtype, quantization, keys, [_stamp(path) for path in small]]
    )
    root = cache / "models" / key
    if not _is_whole(cache, root, keys):
        with exclusive(cache / "locks" / f"model-{key}.lock"):
            if not _is_whole(cache, root, keys):
                records = {
                    name: _component(cache, keys[name], part, dtype, quantization, progress)
                    for name, part in parts.items()
                }
                _publish_model(root, source, small, keys, records, dtype, quantization)
                log.info("model prepared", source=source.uri, revision=source.revision, dtype=dtype,
                         quantization=quantization, folder=str(root))  # fmt: skip
    return _read(root)


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


def _is_whole(cache: Path, root: Path, keys: dict[str, str]) -> bool:
    return (root / "prepared.json").is_file() and all(_component_record(cache, key) for key in keys.values())


def _component_record(cache: Path, key: str) -> dict[str, Any] | None:
    """The record of a published component whose file is still as it was published."""
    folder = cache / "components" / key
    if not (folder / "component.json").is_file():
        return None
    record = read_json(folder / "component.json")
    try:
        size = (folder / _WEIGHTS).stat().st_size
    except FileNotFoundError:
        return None
    return record if size == record["bytes"] else None


def _component(
    cache: Path, key: str, part: SourceComponent, dtype: Dtype, quantization: Quantization, progress: Progress
) -> dict[str, Any]:
    with exclusive(cache / "locks" / f"component-{key}.lock"):
        found = _component_record(cache, key)
        if found is not None:
            return found
        partial = _fresh(cache / "components" / f".{key}.partial")
        record = _fill_component(partial, part, dtype, _quantization(part, quantization), progress)
        _write_json(partial / "component.json", record)
        _publish(partial, cache / "components" / key)
        return record


def _fill_component(
    folder: Path, part: SourceComponent, dtype: Dtype, quantization: Quantization, progress: Progress
) -> dict[str, Any]:
    # A warm cache must not pay for torch, diffusers and transformers.
    from fluxsampler_serve.weights import convert  # noqa: PLC0415
    from fluxsampler_serve.weights.tensors import hash_file  # noqa: PLC0415

    tensors = part.tensors()
    what, target = part.component.name, folder / _WEIGHTS
    in_place = convert.fits_in_place(tensors, dtype, quantization)
    if in_place:
        origin = part.files[0].resolve()
        target.symlink_to(origin)
        total, done = origin.stat().st_size, 0

        def read(count: int) -> None:
            nonlocal done
            done += count
            progress(WeightsProgress("hash", what, done, total))

        fingerprint = hash_file(origin, {tensor.info.name: name for name, tensor in tensors.items()}, read)
    else:
        need = convert.converted_bytes(tensors, dtype, quantization)
        free = shutil.disk_usage(folder).free
        if free < need:
            raise ModelError(
                f"the model cache {folder.parent.parent} has {free >> 20} MiB free and {what} needs {need >> 20} MiB: "
                "enlarge it or set spec.model.cache"
            )
        fingerprint = convert.convert(what, tensors, dtype, quantization, target, progress)
    return {
        "component": what,
        "dtype": dtype,
        "quantization": quantization,
        "fingerprint": fingerprint,
        "bytes": target.stat().st_size,
        "in_place": in_place,
        "from": [str(path.resolve()) for path in part.files],
    }


def _publish_model(
    root: Path,
    source: ResolvedSource,
    small: list[Path],
    keys: dict[str, str],
    records: dict[str, dict[str, Any]],
    dtype: Dtype,
    quantization: Quantization,
) -> None:
    partial = _fresh(root.parent / f".{root.name}.partial")
    for path in small:
        target = partial / path.relative_to(source.folder)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o644)
    for component in COMPONENTS:
        # Relative, so that the cache may be mounted elsewhere.
        link = Path("..", "..", "..", "components", keys[component.name], _WEIGHTS)
        (partial / component.name / component.file_name).symlink_to(link)
    fingerprints = {name: str(record["fingerprint"]) for name, record in records.items()}
    _write_json(
        partial / "prepared.json",
        {
            "source": source.uri,
            "revision": source.revision,
            "dtype": dtype,
            "quantization": quantization,
            "fingerprint": _digest(sorted(fingerprints.items()), digits=64),
            "fingerprints": fingerprints,
        },
    )
    _publish(partial, root)


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
    if (folder / FACTS_FILE).is_file():
        files.append(folder / FACTS_FILE)
    for name in PLAIN_FOLDERS:
        files += sorted(path for path in (folder / name).iterdir() if path.is_file())
    files += [folder / component.name / "config.json" for component in COMPONENTS]
    return files


def _quantization(part: SourceComponent, quantization: Quantization) -> Quantization:
    return quantization if part.component.name == "transformer" else "none"


def _component_key(part: SourceComponent, dtype: Dtype, quantization: Quantization) -> str:
    stamps = [_stamp(path) for path in part.files]
    kind = part.component.class_name
    return _digest([_FORMAT, kind, dtype, _quantization(part, quantization), stamps, part.config])


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


def folder_bytes(paths: Iterable[Path]) -> int:
    """Bytes of ``paths``, links followed."""
    return sum(path.stat().st_size for path in paths)
