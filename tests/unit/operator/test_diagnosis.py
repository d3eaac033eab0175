"""Each cause as a real cluster showed it (`tests/data/observed/`), and each check on what is close to it."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from fluxsampler_operator.diagnosis import CHECKS, causes, diagnose
from fluxsampler_operator.diagnosis.cluster_checks import store_exceeds_shared_memory
from fluxsampler_operator.observed import Observed, PictureResult
from fluxsampler_operator.reasons import PROGRESS, Reason
from tests.unit.operator.observations import (
    DATA,
    HEALTHY,
    ended_pod,
    pod,
    rayservice,
    recorded,
    seen,
    waiting_pod,
)

STARTING = seen(rayservice=rayservice(None), picture=None)


def observed(name: str) -> Observed:
    """The healthy one with the pods, events and RayService that were recorded, before Serve says anything."""
    found = recorded(name)
    return replace(
        STARTING,
        pods=tuple(found["pods"]),
        events=tuple(found["events"]),
        rayservice=found.get("rayservice", STARTING.rayservice),
    )


RECORDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "claim-absent": ("VolumeMissing", ('persistentvolumeclaim "models" not found', "spec.model.cache.claim")),
    "claim-unbound": ("VolumeMissing", ("unbound immediate PersistentVolumeClaims", "bind the claim")),
    "folder-absent": ("VolumeMissing", ("/no/such/folder is not a directory", "spec.model.cache")),
    "gpu-many": ("UnschedulableGPU", ("1 Insufficient nvidia.com/gpu", "gpusPerNode")),
    "memory-much": ("Unschedulable", ("1 Insufficient memory", "ask for less")),
    "selector-none": ("Unschedulable", ("didn't match Pod's node affinity/selector", "spec.hardware.nodeSelector")),
    "pull-missing": ("ImagePullFailed", ("127.0.0.1:5000/no-such-image:v1: not found", "image.serve")),
    "pull-refused": ("ImagePullFailed", ("connection refused", "imagePullSecrets")),
    "pull-name": ("ImagePullFailed", ("repository name (UPPER) must be lowercase",)),
    "pull-never": ("ImagePullFailed", ("is not present with pull policy of Never",)),
    "secret-env": ("SecretMissing", ('secret "absent" not found', "spec.serving.authSecretRef")),
    "secret-key": ("SecretMissing", ("couldn't find key token in Secret", "with that key")),
    "secret-volume": ("SecretMissing", ('secret "absent" not found', "create that Secret")),
    "no-command": ("PodFailed", ("/no/such/program", "spec.podTemplate")),
    "pods-refused-quota": ("QuotaOrAdmission", ("exceeded quota: none, requested: pods=1", "raise the quota")),
    "pods-refused-psa": ("QuotaOrAdmission", ('violates PodSecurity "restricted:latest"', "spec.podTemplate")),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_real_cluster_showed(name: str) -> None:
    reason, parts = RECORDED[name]
    cause = diagnose(observed(name))
    assert cause is not None
    assert (cause.condition, cause.reason) == ("ClusterReady", reason)
    for part in parts:
        assert part in cause.message
    assert "preemption" not in cause.message
    assert "Back-off" not in cause.message


def test_every_recording_is_read() -> None:
    assert {path.stem for path in DATA.glob("*.json")} == RECORDED.keys() | SERVE.keys()


def test_nothing_is_wrong_with_a_healthy_one() -> None:
    assert diagnose(HEALTHY) is None
    assert causes(HEALTHY) == {}


def test_nothing_is_wrong_before_anything_is_there() -> None:
    assert diagnose(Observed()) is None
    assert diagnose(seen(rayservice=rayservice(None), pods=(), picture=None)) is None


def test_checks_have_names_of_their_own_and_words() -> None:
    names = [check.__module__ + check.__name__ for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.__doc__ for check in CHECKS)


def test_kuberay_comes_first() -> None:
    cause = diagnose(replace(observed("pull-missing"), kuberay=False))
    assert cause is not None
    assert cause.reason == "KubeRayMissing"
    assert "helm install" in cause.message


def test_refused_manifests_are_quoted() -> None:
    cause = diagnose(seen(apply_errors=("Service tiny: spec.ports: Required value",)))
    assert cause is not None
    assert cause.reason == "ApplyRefused"
    assert "spec.ports: Required value" in cause.message


def test_kuberays_own_refusal_is_quoted() -> None:
    refused = rayservice(None)
    refused["status"]["conditions"] = [
        {
            "type": "Ready",
            "status": "False",
            "reason": "ValidationFailed",
            "message": "headGroupSpec should have at least one container",
        }
    ]
    cause = diagnose(seen(rayservice=refused, pods=(), picture=None))
    assert cause is not None
    assert cause.reason == "ApplyRefused"
    assert "at least one container" in cause.message


# -- messages do not move by themselves


def test_a_pull_says_the_same_while_it_backs_off() -> None:
    backing_off = recorded("pull-missing")
    pulling = copy.deepcopy(backing_off)
    waiting = pulling["pods"][0]["status"]["containerStatuses"][0]["state"]["waiting"]
    waiting.update(reason="ErrImagePull", message=waiting["message"].split("ErrImagePull: ")[1])
    said = [
        diagnose(seen(rayservice=rayservice(None), pods=tuple(each["pods"]), picture=None))
        for each in (backing_off, pulling)
    ]
    assert said[0] == said[1]


def test_a_crash_says_the_same_while_it_backs_off() -> None:
    end = {"exitCode": 1, "reason": "Error", "message": "first\nlast words"}
    running = ended_pod("head", **end)
    now = ended_pod("head")
    now["status"]["containerStatuses"][0].update(state={"terminated": end}, lastState={})
    backing_off = ended_pod("head", **end)
    backing_off["status"]["containerStatuses"][0]["state"] = {
        "waiting": {
            "reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container=ray-head",
        }
    }
    said = [diagnose(seen(pods=(each, pod("worker")), picture=None)) for each in (running, now, backing_off)]
    assert said[0] is not None
    assert said[0].reason == "PodFailed"
    assert "exit code 1" in said[0].message
    assert "last words" in said[0].message
    assert said[0] == said[1] == said[2]


def test_what_cannot_be_created_says_the_same_between_two_tries() -> None:
    first = recorded("no-command")
    second = copy.deepcopy(first)
    second["pods"][0]["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting"}
    }
    said = [
        diagnose(seen(rayservice=rayservice(None), pods=tuple(each["pods"]), picture=None))
        for each in (first, second)
    ]
    assert said[0] == said[1]


def test_the_name_of_a_refused_pod_is_left_out() -> None:
    cause = diagnose(observed("pods-refused-quota"))
    assert cause is not None
    assert "-head-" not in cause.message


# -- what is over is over


def test_a_container_that_was_restarted_and_is_ready_is_fine() -> None:
    well = ended_pod("worker", reason="OOMKilled", exitCode=137)
    well["status"]["containerStatuses"][0]["ready"] = True
    assert diagnose(seen(pods=(pod("head"), well))) is None


def test_a_readiness_that_is_lost_later_is_no_crash() -> None:
    """Seen on a busy machine: restarted at 15:37, ready, and not ready for a moment at 15:40."""
    busy = ended_pod("head", reason="Error", exitCode=1)
    busy["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": "2026-11-22T15:37:27Z"}}
    busy["status"]["conditions"].append(
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-22T15:40:33Z"}
    )
    assert diagnose(seen(pods=(busy, pod("worker")))) is None
    busy["status"]["conditions"][-1]["lastTransitionTime"] = "2026-11-22T15:35:31Z"
    cause = diagnose(seen(pods=(busy, pod("worker"))))
    assert cause is not None
    assert cause.reason == "PodFailed"


def test_events_of_pods_that_are_gone_count_no_more() -> None:
    found = observed("folder-absent")
    assert diagnose(replace(found, pods=(pod("head"), waiting_pod("worker", "ContainerCreating")))) is None


def test_refused_pods_that_came_later_count_no_more() -> None:
    found = observed("pods-refused-quota")
    assert diagnose(replace(found, pods=(pod("head"), pod("worker")))) is None


def test_a_pod_that_is_deleted_says_nothing() -> None:
    found = recorded("pull-missing")["pods"][0]
    found["metadata"]["deletionTimestamp"] = "2026-11-22T15:00:00Z"
    assert diagnose(seen(pods=(found, pod("head"), pod("worker")))) is None


# -- memory


def test_a_container_killed_at_its_limit() -> None:
    cause = diagnose(
        seen(pods=(pod("head"), ended_pod("worker", reason="OOMKilled", exitCode=137)), picture=None)
    )
    assert cause is not None
    assert cause.reason == "WorkerOOMKilled"
    assert "4.00 GiB" in cause.message
    assert "resources.limits.memory" in cause.message


def test_an_eviction_for_memory() -> None:
    gone = pod(
        "worker",
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        containerStatuses=[],
    )
    cause = diagnose(seen(pods=(pod("head"), gone), picture=None))
    assert cause is not None
    assert cause.reason == "WorkerOOMKilled"


def test_a_pod_that_failed_otherwise() -> None:
    gone = pod(
        "worker", phase="Failed", reason="NodeShutdown", message="Pod was terminated.", containerStatuses=[]
    )
    cause = diagnose(seen(pods=(pod("head"), gone), picture=None))
    assert cause is not None
    assert cause.reason == "PodFailed"
    assert "NodeShutdown" in cause.message


def test_cards_that_the_kubelet_does_not_have_after_all() -> None:
    gone = pod("worker", phase="Failed", reason="OutOfnvidia.com/gpu", containerStatuses=[],
               message="Pod was rejected: Node didn't have enough resource: nvidia.com/gpu, requested: 8, used: 8, capacity: 8")  # fmt: skip
    cause = diagnose(seen(pods=(pod("head"), gone), picture=None))
    assert cause is not None
    assert cause.reason == "UnschedulableGPU"


def shared(
    store: str | None = "536870912", size: str | None = "1Gi", limit: str = "4Gi", **start: str
) -> dict[str, Any]:
    made = rayservice(None)
    for group in (made["spec"]["rayClusterConfig"]["workerGroupSpecs"][0],):
        group["rayStartParams"] = {**start, **({"object-store-memory": store} if store else {})}
        spec = group["template"]["spec"]
        spec["containers"][0]["resources"]["limits"]["memory"] = limit
        spec["volumes"][0]["emptyDir"] = {"medium": "Memory", **({"sizeLimit": size} if size else {})}
    return made


@pytest.mark.parametrize(
    ("changed", "small"),
    [
        (shared(), False),
        (shared(size="512Mi"), False),
        (shared(size="511Mi"), True),
        (shared(size="64Mi"), True),
        (shared(size=None), False),
        (shared(size=None, limit="256Mi"), True),
        (shared(size="1Gi", limit="256Mi"), True),
        (shared(store=None, size="1Mi"), False),
        (shared(size="1Mi", **{"plasma-directory": "/mnt/fast"}), False),
    ],
    ids=[
        "fits",
        "exactly",
        "a little less",
        "docker's",
        "unlimited",
        "by the limit",
        "both",
        "Ray's own",
        "elsewhere",
    ],
)
def test_store_and_shared_memory_are_compared_as_ray_does(changed: dict[str, Any], small: bool) -> None:
    cause = store_exceeds_shared_memory(seen(rayservice=changed))
    assert (cause is not None) is small
    if cause is not None:
        assert cause.reason == "SharedMemoryTooSmall"
        assert "worker group cards" in cause.message
        assert "0.50 GiB" in cause.message


def test_shared_memory_that_is_the_containers() -> None:
    """KubeRay mounts one of the container's memory where none is named, and a claim has a size of its own."""
    made = shared(limit="256Mi")
    spec = made["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    spec["containers"][0]["volumeMounts"] = []
    assert store_exceeds_shared_memory(seen(rayservice=made)) is not None
    made = shared(size="1Mi")
    spec = made["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    spec["volumes"][0] = {"name": "dshm", "persistentVolumeClaim": {"claimName": "x"}}
    assert store_exceeds_shared_memory(seen(rayservice=made)) is None


def test_ray_that_does_not_start_for_shared_memory() -> None:
    said = (
        "ValueError: The configured object store size (64.0 GB) exceeds /dev/shm size (0.067 GB). This will harm performance. Consider deleting "
        "files in /dev/shm or increasing its size with --shm-size in Docker."
    )
    ended = ended_pod("worker", reason="Error", exitCode=1, message=f"Traceback:\n{said}")
    cause = diagnose(seen(pods=(pod("head"), ended), picture=None))
    assert cause is not None
    assert cause.reason == "SharedMemoryTooSmall"
    assert "exceeds /dev/shm size" in cause.message


# -- Serve

TRACE = (
    "A replica failed to start with exception. Retrying {left} more time(s). Error:\n"
    "\x1b[36mray::ServeReplica:fluxsampler:ParallelSampler.initialize_and_get_metadata()\x1b[39m (pid=6062, ip=127.0.0.1)\n"
    '  File "/app/fluxsampler_serve/weights/sources.py", line 80, in _file\n'
    "    raise ModelNotFound(\n{error}"
)
OURS = "fluxsampler_serve.errors."
GANG = f"{OURS}EngineStartFailed: the gang did not start: "
SLOW = (
    "Deployment 'ParallelSampler' in application 'fluxsampler' has 1 replicas that have taken more than 30s to initialize.\n"
    "This may be caused by a slow __init__ or reconfigure method."
)
SERVE: dict[str, tuple[str, tuple[str, ...]]] = {
    "ray-memory-monitor": ("WorkerOOMKilled", ("ParallelSampler: Ray killed a process of it", "limit of 0.68 GiB", "resources.limits.memory")),
    "model-auth-failed": ("ModelAuthFailed", ("the hub refused hf://acme/tiny-shapes (401)", "spec.model.tokenSecretRef")),
    "model-not-found": ("ModelNotFound", ("the model folder /no/such/tiny-shapes does not exist: correct spec.model.source",)),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVE)
def test_what_serve_said_on_a_real_cluster(name: str) -> None:
    reason, parts = SERVE[name]
    cause = diagnose(observed(name))
    assert cause is not None
    assert (cause.condition, cause.reason) == ("EngineReady", reason)
    for part in (*parts, "kubectl delete rayclusters -l"):
        assert part in cause.message
    assert len(cause.message) < 700
    assert not re.search(r"pid=|IP: |0x", cause.message), "these are others at each try"


def said_by_serve(error: str, left: int = 2, status: str = "DEPLOYING") -> Observed:
    text = TRACE.format(left=left, error=error)
    return seen(rayservice=rayservice(status, ParallelSampler=("UPDATING", text)), picture=None)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (f"{OURS}ModelNotFound: the folder /m does not exist: correct spec.model.source", "ModelNotFound", "correct spec.model.source"),
        (f"{OURS}ModelAuthFailed: the hub refused hf://a/b (403): it is gated", "ModelAuthFailed", "it is gated"),
        (f"{OURS}ModelCorrupt: x.safetensors is cut off", "ModelCorrupt", "cut off"),
        (f"{OURS}ModelMismatch: the model is float16", "ModelCorrupt", "float16"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has 23.6 GiB", "InsufficientGPUMemory", "GPU 3"),
        (f"{OURS}EngineStartFailed: cuda device 0 cannot hold the model: CUDA out of memory", "InsufficientGPUMemory", "fp8"),
        (f"{GANG}rank 1 was killed by SIGKILL: out of memory at the container's limit while loading", "WorkerOOMKilled", "rank 1"),
        ("ray.exceptions.ActorDiedError: 1 worker(s) were killed due to the node running low on memory.", "WorkerOOMKilled", "low on memory"),
        (f"{GANG}rank 1 was killed by SIGKILL while loading", "EngineFailed", "rank 1"),
        (f"{GANG}rank 1 was killed by SIGBUS", "SharedMemoryTooSmall", "/dev/shm"),
        ("DistBackendError: Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)", "SharedMemoryTooSmall", "sizeLimit"),
        ("ray.exceptions.ActorDiedError: some common causes include: (1) the process was killed by the OOM killer due to high memory usage",
         "EngineFailed", "common causes"),
        (f"{OURS}ModelError: the model cache /cache cannot be written (Permission denied)", "EngineFailed", "cannot be written"),
        ("ModuleNotFoundError: No module named 'fluxsampler_serve'", "EngineFailed", "ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_what_serve_says(error: str, reason: str, words: str) -> None:
    cause = diagnose(said_by_serve(error))
    assert cause is not None
    assert (cause.condition, cause.reason) == ("EngineReady", reason)
    assert words in cause.message
    assert "\x1b" not in cause.message
    assert "raise ModelNotFound(" not in cause.message
    assert diagnose(said_by_serve(error, left=1)) == cause, "a counter does not move the message"


@pytest.mark.parametrize(("limit", "reason"), [("700Mi", "WorkerOOMKilled"), ("4Gi", "EngineFailed")])
def test_a_process_that_died_without_a_word(limit: str, reason: str) -> None:
    """Seen before Ray's own word for it came: the socket was closed."""
    text = "A replica failed to start with exception. Retrying 2 more time(s). Error:\nActorUnavailableError('The actor is temporarily unavailable')"
    found = rayservice("DEPLOYING", ParallelSampler=("UPDATING", text))
    found["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0][
        "resources"
    ]["limits"]["memory"] = limit
    cause = diagnose(seen(rayservice=found, picture=None))
    assert cause is not None
    assert cause.reason == reason
    assert ("where the plan needs 4.00 GiB" in cause.message) is (reason == "WorkerOOMKilled")


def test_what_is_given_up_says_how_to_start_again() -> None:
    cause = diagnose(
        said_by_serve("fluxsampler_serve.errors.ModelNotFound: no folder", status="DEPLOY_FAILED")
    )
    assert cause is not None
    assert "kubectl delete rayclusters -l fluxsampler.io/sampler=tiny" in cause.message


def test_an_application_that_cannot_be_built() -> None:
    broken = rayservice(
        "DEPLOY_FAILED",
        "Deploying app 'fluxsampler' failed with exception:\n  File x\nValueError: layout.ranks: too many",
    )
    broken["status"]["activeServiceStatus"]["applicationStatuses"]["fluxsampler"][
        "serveDeploymentStatuses"
    ] = {}
    cause = diagnose(seen(rayservice=broken, picture=None))
    assert cause is not None
    assert cause.reason == "EngineFailed"
    assert "ValueError: layout.ranks: too many" in cause.message


def test_an_application_that_runs_has_no_cause_whatever_is_left_of_its_messages() -> None:
    left = rayservice(
        "RUNNING",
        ParallelSampler=("HEALTHY", TRACE.format(left=1, error="fluxsampler_serve.errors.ModelNotFound: x")),
    )
    assert diagnose(seen(rayservice=left)) is None


def test_a_failure_without_words() -> None:
    cause = diagnose(seen(rayservice=rayservice("UNHEALTHY"), picture=None))
    assert cause is not None
    assert cause.reason == "EngineFailed"
    assert "UNHEALTHY" in cause.message


def test_slow_starts_are_no_cause() -> None:
    slow = rayservice("DEPLOYING", ParallelSampler=("UPDATING", SLOW))
    assert diagnose(seen(rayservice=slow, picture=None)) is None


def test_a_picture_that_did_not_come() -> None:
    cause = diagnose(seen(picture=PictureResult(False, "none", "the Service answered 500: no engine")))
    assert cause is not None
    assert (cause.condition, cause.reason) == ("Serving", "PictureFailed")
    assert "the Service answered 500" in cause.message


def test_each_condition_has_its_own_cause() -> None:
    found = causes(
        seen(
            pods=(pod("head"), waiting_pod("worker", "ErrImagePull", "no")),
            rayservice=rayservice(
                "UNHEALTHY", ParallelSampler=("UNHEALTHY", "A replica's health check failed.")
            ),
            picture=None,
        )
    )
    assert {condition: str(cause.reason) for condition, cause in found.items()} == {
        "ClusterReady": "ImagePullFailed",
        "EngineReady": "EngineFailed",
    }


def test_a_cause_is_never_a_word_of_progress() -> None:
    assert not {Reason.IMAGE_PULL_FAILED, Reason.ENGINE_FAILED} & PROGRESS
    for name in RECORDED:
        cause = diagnose(observed(name))
        assert cause is not None
        assert cause.reason not in PROGRESS


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('MountVolume.SetUp failed for volume "t": secret "absent" not found', "SecretMissing"),
        ("hostPath type check failed: /no/such/folder is not a directory", "VolumeMissing"),
    ],
)
def test_an_event_of_a_mount_counts_until_something_of_its_pod_runs(said: str, reason: str) -> None:
    event = {"reason": "FailedMount", "message": said, "involvedObject": {"name": "tiny-x-worker"}}
    # A worker has KubeRay's init container, so kubelet's word is this one.
    worker = waiting_pod("worker", "PodInitializing")
    worker["status"]["initContainerStatuses"] = [
        {"name": "wait-gcs-ready", "state": {"waiting": {"reason": "PodInitializing"}}}
    ]
    broken = replace(STARTING, pods=(pod("head"), worker), events=(event,))
    cause = diagnose(broken)
    assert cause is not None
    assert cause.reason == reason
    mounted = copy.deepcopy(worker)
    mounted["status"]["initContainerStatuses"][0]["state"] = {"running": {}}
    assert diagnose(replace(broken, pods=(pod("head"), mounted))) is None
    assert diagnose(replace(broken, pods=(pod("head"), pod("worker")))) is None
