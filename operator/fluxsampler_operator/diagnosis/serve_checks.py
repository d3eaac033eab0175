"""Checks of what Ray Serve says about the application while it does not run. Pure.

Serve hands on a replica's exception with its traceback; ours carry their type and one sentence with the fix
(`fluxsampler_serve/errors.py`), so both are read from the text.
"""

from __future__ import annotations

import re

from fluxsampler_operator.diagnosis.causes import Cause, engine
from fluxsampler_operator.diagnosis.cluster_checks import GIB, SHM, worker_limits
from fluxsampler_operator.diagnosis.pod_checks import MEMORY_FIX
from fluxsampler_operator.observed import Observed, serve_state
from fluxsampler_operator.reasons import Reason

MODEL_ERRORS = {
    "ModelNotFound": Reason.MODEL_NOT_FOUND,
    "ModelAuthFailed": Reason.MODEL_AUTH_FAILED,
    "ModelCorrupt": Reason.MODEL_CORRUPT,
    "ModelMismatch": Reason.MODEL_CORRUPT,
}
_TYPED = re.compile(r"fluxsampler_serve\.errors\.(\w+): ([^\n]+)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What torch, NCCL, glibc, Ray and our gang say; seen texts in tests/data/observed/.
_GPU_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError: CUDA|CUBLAS_STATUS_ALLOC_FAILED"
)
_SHARED_MEMORY = re.compile(
    r"creating shared memory segment|/dev/shm.*No space left|No space left.*/dev/shm|killed by SIGBUS|unable to (?:open|allocate) shared memory"
)  # fmt: skip
_HOST_MEMORY = re.compile(
    r"node running low on memory|exceeds the memory usage threshold|killed due to memory pressure|ray\.exceptions\.OutOfMemoryError"
    r"|was killed by SIGKILL: out of memory"
)  # fmt: skip
_RAY_MONITOR = re.compile(r"node running low on memory\..*?GB used / ([\d.]+)GB limit", re.DOTALL)
_DIED = re.compile(
    r"ActorDiedError|ActorUnavailableError|The actor died unexpectedly|worker process has died|Worker unexpectedly exits"
)
SLACK = 0.95
"""Share of the planned memory below which a limit counts as too small; the plan is printed with two decimals."""
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failed|Refused|Mismatch|NotFound|Corrupt)\)?: .+"
)
_START_FAILED = "failed to start"
_NOISE = re.compile(r"Retrying(?: \d+ more time\(s\))?\. |(?<=failed to start )\d+ (?=times)")


def model_error(observed: Observed) -> Cause | None:
    """The model is not there, not readable or not what was planned."""
    for _, text in _texts(observed):
        found = _TYPED.findall(text)
        if found and found[-1][0] in MODEL_ERRORS:
            name, said = found[-1]
            return engine(MODEL_ERRORS[name], _with_restart(observed, said.strip()))
    return None


def gpu_memory(observed: Observed) -> Cause | None:
    """A card ran out of memory."""
    return _matched(
        observed, _GPU_MEMORY, Reason.INSUFFICIENT_GPU_MEMORY,
        "something else uses these cards, or the plan is too tight: free the cards, set spec.model.quantization: fp8, use more cards "
        "(spec.hardware.gpusPerNode), or lower spec.parallelism.target",
    )  # fmt: skip


def shared_memory(observed: Observed) -> Cause | None:
    """The ranks' transport found /dev/shm full."""
    return _matched(
        observed, _SHARED_MEMORY, Reason.SHARED_MEMORY_TOO_SMALL,
        f"{SHM} is full: raise the sizeLimit of its volume in spec.podTemplate, or lower spec.objectStore.memory",
    )  # fmt: skip


def out_of_memory(observed: Observed) -> Cause | None:
    """The kernel or Ray's memory monitor killed a process of the sampler, while its container lived on."""
    for who, text in _texts(observed):
        watched = _RAY_MONITOR.search(text)
        if watched is not None:
            said = f"Ray killed a process of it, since its pod came close to its memory limit of {watched[1]} GiB"
            return engine(Reason.WORKER_OOM_KILLED, _with_restart(observed, f"{who}: {said}; {MEMORY_FIX}"))
    return _matched(observed, _HOST_MEMORY, Reason.WORKER_OOM_KILLED, MEMORY_FIX)


def process_died(observed: Observed) -> Cause | None:
    """A sampler's process went without a word, in a pod that has less memory than was planned.

    Ray tells a process that the kernel killed only from one that it killed itself, so where podTemplate took memory
    away, that is the cause; where it did not, the engine failed.
    """
    plan = observed.plan
    if plan is None:
        return None
    limits = [
        limit
        for limit in worker_limits(observed.rayservice)
        if limit < SLACK * plan.memory.host.limit_gib * GIB
    ]
    if not limits:
        return None
    for who, text in _texts(observed):
        if _DIED.search(text):
            return engine(
                Reason.WORKER_OOM_KILLED,
                _with_restart(
                    observed,
                    f"{who}: its process died while it started, in a pod of {min(limits) / GIB:.2f} GiB where the plan needs "
                    f"{plan.memory.host.limit_gib:.2f} GiB; {MEMORY_FIX}",
                ),
            )
    return None


def engine_failed(observed: Observed) -> Cause | None:
    """Serve gave up, what ran broke, or a replica did not start and is tried again."""
    application = serve_state.application(observed.rayservice)
    for who, text in _texts(observed):
        if application.failed or _START_FAILED in text:
            return engine(Reason.ENGINE_FAILED, _with_restart(observed, f"{who}: {sentence(text)}"))
    if application.failed:
        said = f"Serve says {application.status} and nothing more; see the log of the head pod"
        return engine(Reason.ENGINE_FAILED, said)
    return None


def sentence(text: str) -> str:
    """What counts in one of Serve's messages: our error's line, else the last exception's, else all but counters."""
    lines = [line.strip() for line in _ANSI.sub("", text).splitlines() if line.strip()]
    raised = [line for line in lines if _TYPED.match(line)] or [
        line for line in lines if _EXCEPTION.match(line)
    ]
    if raised:
        return raised[-1].removeprefix("fluxsampler_serve.errors.")
    return _NOISE.sub("", " ".join(lines))


def _matched(observed: Observed, pattern: re.Pattern[str], reason: Reason, fix: str) -> Cause | None:
    for who, text in _texts(observed):
        lines = [line.strip() for line in text.splitlines() if pattern.search(line)]
        if lines:
            said = lines[-1].removeprefix("fluxsampler_serve.errors.").rstrip(".")
            return engine(reason, _with_restart(observed, f"{who}: {said}; {fix}"))
    return None


def _with_restart(observed: Observed, message: str) -> str:
    """Serve tries a replica three times, and then not again before the application or its cluster is another one."""
    if serve_state.application(observed.rayservice).status != "DEPLOY_FAILED":
        return message
    again = (
        f"kubectl delete rayclusters -l {observed.selector}"
        if observed.selector
        else "deleting its RayCluster"
    )
    return f"{message} (Serve has given up; it is tried again after a while, at once by a change of spec or {again})"


def _texts(observed: Observed) -> list[tuple[str, str]]:
    application = serve_state.application(observed.rayservice)
    if application.running:
        return []
    return [(who, _ANSI.sub("", text)) for who, text in application.texts()]
