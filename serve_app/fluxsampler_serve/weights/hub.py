"""``hf://``: a snapshot of a hub repository, pinned to a commit, through ``huggingface_hub``.

The client reads its usual environment: ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` and the
``HF_HUB_*`` timeouts. Within one transfer it resumes a broken connection where it stopped
(``Range``); whole files that failed are tried again here, a bounded number of times. The client
checks sizes only, so large files are also compared with the SHA-256 that the hub states for them.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import huggingface_hub
import structlog
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils._paths import filter_repo_objects

from fluxsampler_api.model_settings import FILE_NAME
from fluxsampler_serve.errors import ModelAuthFailed, ModelCorrupt, ModelError, ModelNotFound
from fluxsampler_serve.weights.components import COMPONENTS, PLAIN_FOLDERS
from fluxsampler_serve.weights.locks import exclusive
from fluxsampler_serve.weights.prepared import WeightsProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from fluxsampler_serve.weights.prepared import Progress

log = structlog.get_logger(__name__)

# Seconds to wait before each further attempt; transfers inside an attempt resume on their own.
BACKOFF_SECONDS = (1.0, 3.0, 10.0, 30.0)
# Busy, or broken for the moment.
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The hub names blobs that it keeps in LFS by their SHA-256, all others by their git id (SHA-1).
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 8 << 20
# Share of a download between two log lines.
_LOG_EVERY = 0.1

# Needed files only: no other formats of the same weights, no single-file checkpoints (23 GB each).
PATTERNS: tuple[str, ...] = (
    "model_index.json",
    FILE_NAME,
    *(f"{folder}/{kind}" for folder in PLAIN_FOLDERS for kind in ("*.json", "*.txt", "*.model")),
    *(
        f"{part.name}/{name}"
        for part in COMPONENTS
        for name in (
            "config.json",
            part.file_name,
            f"{part.stem}-*-of-*.safetensors",
            f"{part.file_name}.index.json",
        )
    ),
)


def download(
    repo: str, revision: str | None, cache: Path, token_env: str, progress: Progress
) -> tuple[Path, str]:
    """The folder and commit of ``repo`` at ``revision`` (branch, tag or commit; None: main).

    What is there already is not fetched again; a commit that is there needs no network at all. Two
    processes download once. Raises ModelNotFound, ModelAuthFailed, ModelCorrupt (bytes that do not
    match the hub's checksum), or ModelError when the hub cannot be reached.
    """
    _resume_on_reset()
    job = _Download(repo, revision, cache, token_env, progress)
    # Without the lock, so that a cache that is there may be mounted read-only.
    if revision is not None and _COMMIT.fullmatch(revision) and (folder := job.verified(revision)):
        return folder, revision
    with exclusive(cache.parent / "locks" / f"hub-{repo.replace('/', '--')}.lock"):
        return job.run()


class _Download:
    """One repository at one revision, tried until it is there or clearly will not be."""

    def __init__(
        self, repo: str, revision: str | None, cache: Path, token_env: str, progress: Progress
    ) -> None:
        self.repo, self.revision, self.cache, self.token_env = repo, revision, cache, token_env
        self.progress = progress
        self.token = os.environ.get(token_env) or None
        # Read here and not by the client's import, so that one process may use several hubs.
        self.endpoint = os.environ.get("HF_ENDPOINT") or None

    @property
    def what(self) -> str:
        """The repository and its revision, for people."""
        return f"hf://{self.repo}" + (f" at revision {self.revision}" if self.revision else "")

    def run(self) -> tuple[Path, str]:
        """Attempts with pauses between them; the last failure is the caller's."""
        for attempt, pause in enumerate((*BACKOFF_SECONDS, None), start=1):
            try:
                return self._attempt()
            except (httpx2.TransportError, HfHubHTTPError, RevisionResolutionError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    # The disk, not the hub: full, read-only.
                    raise
                failure = self._explain(error)
                if pause is None or not _is_transient(error):
                    raise failure from error
                log.warning("download interrupted", source=self.what, attempt=attempt, error=str(error).strip(),
                            retry_in_seconds=pause)  # fmt: skip
                time.sleep(pause)
        raise AssertionError("unreachable: the last attempt raises")

    def _attempt(self) -> tuple[Path, str]:
        offline = constants.is_offline_mode()
        try:
            api = huggingface_hub.HfApi(endpoint=self.endpoint, token=self.token)
            revision = api.resolve_revision(
                self.repo, revision=self.revision, cache_dir=self.cache, local_files_only=offline
            )
            folder = self._local(revision.resolved) or self._fetch(api, revision.resolved, offline)
        except HFValidationError as error:
            raise ModelNotFound(
                f"{self.what} is no valid repository name: correct spec.model.source"
            ) from error
        self._verify(folder)
        log.info("model downloaded", source=self.what, commit=revision.resolved, folder=str(folder))
        return folder, revision.resolved

    def _local(self, commit: str) -> Path | None:
        """The snapshot of ``commit`` if all of it is there."""
        try:
            return Path(self._snapshot(commit, local_files_only=True))
        except LocalEntryNotFoundError:
            return None

    def _fetch(self, api: huggingface_hub.HfApi, commit: str, offline: bool) -> Path:
        total = 0
        if not offline:
            entries = api.list_repo_tree(self.repo, recursive=True, revision=commit)
            files = {
                entry.path: entry.size
                for entry in entries
                if isinstance(entry, huggingface_hub.hf_api.RepoFile)
            }
            total = sum(files[path] for path in filter_repo_objects(files, allow_patterns=list(PATTERNS)))
        bar = _bar(self.repo, total, self.progress)
        return Path(self._snapshot(commit, local_files_only=offline, tqdm_class=bar))

    def _snapshot(self, commit: str, local_files_only: bool, tqdm_class: type[Any] | None = None) -> str:
        return huggingface_hub.snapshot_download(
            self.repo,
            revision=commit,
            cache_dir=self.cache,
            token=self.token,
            endpoint=self.endpoint,
            local_files_only=local_files_only,
            allow_patterns=list(PATTERNS),
            tqdm_class=tqdm_class,
        )

    def verified(self, commit: str) -> Path | None:
        """The snapshot of ``commit`` if all of it is there and was compared with the checksums."""
        folder = self._local(commit)
        return folder if folder is not None and not self._unverified(folder) else None

    def _unverified(self, folder: Path) -> list[Path]:
        marks = self.cache / "verified"
        named = [
            path for path in sorted(folder.rglob("*.safetensors")) if _SHA256.fullmatch(path.resolve().name)
        ]
        return [path for path in named if not (marks / path.resolve().name).exists()]

    def _verify(self, folder: Path) -> None:
        """Compare what was downloaded with the hub's checksums, each blob once."""
        for path in self._unverified(folder):
            blob = path.resolve()
            if _sha256(blob) != blob.name:
                # Unlinked, not overwritten: whoever has it mapped keeps it.
                path.unlink()
                blob.unlink()
                raise ModelCorrupt(
                    f"{path.relative_to(folder)} of {self.what} arrived damaged (its SHA-256 is not {blob.name[:12]}…): "
                    "start again to download it once more"
                )
            mark = self.cache / "verified" / blob.name
            mark.parent.mkdir(exist_ok=True)
            mark.touch()

    def _explain(self, error: Exception) -> ModelError:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        said = f"the hub refused {self.what} ({status})"
        if isinstance(error, GatedRepoError):
            return ModelAuthFailed(
                f"{said}: it is gated, so accept its terms on the hub and put that account's token into "
                f"{self.token_env} (spec.model.tokenSecretRef)"
            )
        if status == 401 and self.token is None:
            return ModelAuthFailed(
                f"{said}: it is private or does not exist, so check the name or put a token into "
                f"{self.token_env} (spec.model.tokenSecretRef)"
            )
        if status in (401, 403):
            return ModelAuthFailed(
                f"{said}: the token in {self.token_env} is not valid for it, so replace that token "
                "(spec.model.tokenSecretRef)"
            )
        if isinstance(error, RevisionNotFoundError):
            return ModelNotFound(f"{said}: there is no such revision, so correct spec.model.revision")
        if isinstance(error, RepositoryNotFoundError):
            return ModelNotFound(f"{said}: there is no such repository, so correct spec.model.source")
        if constants.is_offline_mode():
            return ModelNotFound(
                f"{self.what} is not in {self.cache} and HF_HUB_OFFLINE forbids to download it: unset that, or "
                "download it there first"
            )
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return ModelError(
            f"{self.what} could not be downloaded ({first_line}): check the network and HF_ENDPOINT"
        )


def _is_transient(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT_STATUS
    if constants.is_offline_mode():
        return False
    # An OSError without a number is the client's own report of a file that came out too short.
    return isinstance(error, httpx2.TransportError | RevisionResolutionError | OSError)


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


class _Resumable(httpx2.SyncByteStream):
    """A body whose reset counts as cut short: the client resumes the one and gives up on the other."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except httpx2.ReadError as error:
            raise httpx2.RemoteProtocolError(f"connection reset: {error}") from error

    def close(self) -> None:
        """Close the body."""
        self._body.close()


def _client() -> httpx2.Client:
    client = default_client_factory()

    def resumable(response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Resumable(response.stream)

    client.event_hooks = {
        **client.event_hooks,
        "response": [*client.event_hooks.get("response", []), resumable],
    }
    return client


_factory_set = False


def _resume_on_reset() -> None:
    """Have the client treat a reset connection as it treats one that was closed early (once a process)."""
    global _factory_set  # noqa: PLW0603 - the client's factory is itself global to the process
    if not _factory_set:
        huggingface_hub.set_client_factory(_client)
        _factory_set = True


def _bar(repo: str, whole: int, progress: Progress) -> type[Any]:
    """A class with what ``huggingface_hub`` asks of a tqdm bar, which reports instead of drawing.

    ``whole`` is the number of bytes of the snapshot; the client's own totals grow file by file."""

    class Bar:
        logged = 0.0

        def __init__(
            self, *_: object, total: float | None = None, initial: float = 0, **options: object
        ) -> None:
            self.n, self.total = initial, total or 0
            self.format_dict: dict[str, object] = {}
            # There is one bar of bytes on disk, one of bytes from the network and one of files.
            self.counts = options.get("unit") == "B" and "Reconstructing" in str(options.get("desc"))

        def update(self, count: float | None = 1) -> None:
            self.n += count or 0
            if not self.counts or not whole:
                return
            progress(WeightsProgress("download", repo, int(self.n), whole))
            if self.n / whole >= Bar.logged + _LOG_EVERY:
                Bar.logged = self.n / whole
                log.info("downloading", repository=repo, bytes=int(self.n), of=whole)

        def refresh(self, *_: object, **__: object) -> None: ...

        set_description = set_description_str = set_postfix_str = close = refresh

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    return Bar
