"""The document that Serve deploys on a cluster: what restarts replicas, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxsampler_api.app_args import AppArgs, StartArgs
from fluxsampler_api.loading import load_file
from fluxsampler_api.mounts import claim_of, mounted_source
from fluxsampler_api.serve_config import (
    LEAVE_SECONDS,
    LOOK_BACK_SECONDS,
    RAY_ENVIRONMENT,
    autoscaling,
    serve_config,
)
from fluxsampler_planner import app_args, plan
from tests.unit.planner.samplers import tiny

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
GANGS_OF_TWO = {"parallelism.gpusPerReplica": 2}


def document(changes: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    """For the built-in model on four processes a node."""
    sampler = tiny(GANGS_OF_TWO | (changes or {}), ranks=4)
    return serve_config(app_args(sampler, plan(sampler), on_cluster=True, **own))


def application(changes: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    (found,) = document(changes, **own)["applications"]
    return dict(found)


def deployments(changes: dict[str, Any] | None = None, **own: Any) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in application(changes, **own)["deployments"]}


def test_the_document_is_json() -> None:
    assert json.loads(json.dumps(document())) == document()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_args_and_user_config_are_everything(path: Path) -> None:
    for sampler in load_file(path):
        args = app_args(sampler, plan(sampler), on_cluster=True)
        (made,) = serve_config(args)["applications"]
        start = StartArgs.model_validate(made["args"])
        assert AppArgs.merged(start, made["deployments"][0]["user_config"]) == args


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 0},
        {"replicas": 2},
        {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
        {"fallback.enabled": False},
        {"fallback.minReplicas": 0},
        {"fallback.minReplicas": 2},
        {"serving.maxOngoingRequests": 9, "serving.maxQueuedRequests": 3},
        {"serving.requestTimeoutSeconds": 33},
        {"canary.prompt": "a blue square"},
    ],
    ids=str,
)
def test_what_changes_in_place_leaves_the_version_alone(changes: dict[str, Any]) -> None:
    """Serve's version is a hash of these: ray 2.60, get_app_code_version."""

    def hashed(made: dict[str, Any]) -> str:
        scaled = [each["autoscaling_config"].get("policy") for each in made["deployments"][1:]]
        return json.dumps([made["import_path"], made["args"], scaled])

    assert hashed(application(changes)) == hashed(application())
    assert application(changes).keys() == application().keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"model.dtype": "bfloat16"},
        {"parallelism.gpusPerReplica": 4},
        {"serving.authSecretRef": {"name": "token"}},
    ],
    ids=str,
)
def test_what_restarts_samplers_is_in_args(changes: dict[str, Any]) -> None:
    assert application(changes)["args"] != application()["args"]


def test_counts_and_time_to_finish_are_overrides() -> None:
    made = deployments({"replicas": 2, "fallback.minReplicas": 2, "serving.requestTimeoutSeconds": 33})
    assert made["ParallelSampler"]["autoscaling_config"]["min_replicas"] == 2
    assert made["ParallelSampler"]["autoscaling_config"]["max_replicas"] == 2
    assert made["FallbackSampler"]["autoscaling_config"]["min_replicas"] == 2
    assert {each["graceful_shutdown_timeout_s"] for each in made.values()} == {33}
    assert made["Gateway"]["num_replicas"] == 2


def test_by_load() -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 2, "targetOngoingRequests": 3}
    counts = deployments({"autoscaling": scaling})["ParallelSampler"]["autoscaling_config"]
    assert counts == {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 3.0}


def test_none_at_all_may_come_back() -> None:
    """Serve takes no upper bound of 0; the gateway does not ask, so the one that may be is never started."""
    assert autoscaling(0, 0, 1) == {
        "min_replicas": 0,
        "max_replicas": 1,
        "target_ongoing_requests": 1.0,
        "downscale_to_zero_delay_s": LEAVE_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
    }
    off = deployments({"fallback.enabled": False})
    assert off["FallbackSampler"]["autoscaling_config"] == autoscaling(0, 0, 1)
    assert (
        AppArgs.merged(
            StartArgs.model_validate(application({"fallback.enabled": False})["args"]),
            off["Gateway"]["user_config"],
        )
        .answering()
        .fallback
        is None
    )


def test_the_operators_token_counts_only_where_one_is_wanted() -> None:
    secured = {"serving.authSecretRef": {"name": "token"}}
    probe = {"probe_token_sha256": "ab" * 32}
    assert (
        deployments(secured, **probe)["Gateway"]["user_config"]["serving"]["probe_token_sha256"] == "ab" * 32
    )
    assert deployments(None, **probe)["Gateway"]["user_config"]["serving"]["probe_token_sha256"] is None
    assert "ab" * 32 not in json.dumps(application(secured, **probe)["args"])


def test_places_in_a_pod() -> None:
    args = application({"model.cache": {"hostPath": "/var/cache/flux"}})["args"]
    assert args["model"]["cache_dir"] == "/cache"
    assert args["placement"] == {"rank": "fluxsampler_rank", "fallback": "fluxsampler_fallback"}
    on_claim = application({"model.source": "pvc://weights/of/tiny-shapes/"})["args"]
    assert on_claim["model"]["source"] == "file:///models/weights/of/tiny-shapes"


def test_claims() -> None:
    assert claim_of("pvc://weights/FLUX.1-dev") == claim_of("pvc://weights") == "weights"
    assert claim_of("file:///weights") is None
    assert mounted_source("pvc://weights") == "file:///models/weights"
    assert mounted_source("hf://owner/name") == "hf://owner/name"


def test_the_environment_is_text() -> None:
    assert all(isinstance(value, str) and value for value in RAY_ENVIRONMENT.values())
    assert RAY_ENVIRONMENT["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
