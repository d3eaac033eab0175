"""From arguments to a Serve application, read without starting Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.build_app import build_app
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from fluxsampler_api.app_args import Layout, ParallelArgs, Placement
from fluxsampler_api.loading import load_file
from fluxsampler_api.serve_config import serve_config
from fluxsampler_planner import app_args, plan
from fluxsampler_serve import cards
from fluxsampler_serve.app import build
from fluxsampler_serve.deployments import named
from fluxsampler_serve.errors import EngineStartFailed, ModelNotFound
from tests.support.app_args import tiny_app_args
from tests.unit.planner.samplers import tiny

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def declared(changes: dict[str, Any] | None = None) -> ServeApplicationSchema:
    """As Serve's REST call reads our document."""
    sampler = tiny({"parallelism.gpusPerReplica": 2} | (changes or {}), ranks=4)
    args = app_args(sampler, plan(sampler), on_cluster=True)
    return ServeDeploySchema.model_validate(serve_config(args)).applications[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_serve_reads_every_examples_document_and_keeps_every_key(path: Path) -> None:
    for sampler in load_file(path):
        document = serve_config(app_args(sampler, plan(sampler), on_cluster=True))
        read = ServeDeploySchema.model_validate(document).model_dump(mode="json", exclude_unset=True)
        for given, taken in zip(
            document["applications"][0]["deployments"], read["applications"][0]["deployments"], strict=True
        ):
            assert given.keys() == taken.keys()
        assert read["applications"][0]["args"] == document["applications"][0]["args"]
        assert document.keys() == read.keys()


@pytest.mark.parametrize(
    "changes",
    [{"replicas": 0}, {"replicas": 2}, {"fallback.enabled": False}, {"serving.maxQueuedRequests": 1}],
    ids=str,
)
def test_serves_own_version_stays(changes: dict[str, Any]) -> None:
    assert get_app_code_version(declared(changes)) == get_app_code_version(declared())


def test_serves_own_version_changes_with_the_model() -> None:
    assert get_app_code_version(declared({"model.dtype": "bfloat16"})) != get_app_code_version(declared())


def options(application: Any) -> dict[str, Any]:
    """Each deployment's configuration and what its actor asks Ray for."""
    built = build_app(application, name="fluxsampler")
    return {
        each.name: (each._deployment_config, each._replica_config.ray_actor_options)
        for each in built.deployments
    }


def test_every_override_names_a_deployment_that_is_built() -> None:
    config = declared({"replicas": 0})
    assert {each.name for each in config.deployments} == set(options(build(dict(config.args))))


def test_on_one_machine_the_same_builder_takes_everything() -> None:
    args = tiny_app_args()
    made = options(build(args.model_dump(mode="json")))
    gateway, _ = made["Gateway"]
    assert (gateway.num_replicas, gateway.user_config) == (2, args.live())
    sampler, actor = made["ParallelSampler"]
    assert (sampler.num_replicas, sampler.autoscaling_config) == (1, None)
    assert sampler.graceful_shutdown_timeout_s == args.serving.request_timeout_seconds
    assert "resources" not in actor


def test_on_a_cluster_without_gpus_samplers_go_where_the_resources_are() -> None:
    made = options(build(tiny_app_args().start().model_copy(update={"placement": Placement()})))
    assert made["ParallelSampler"][1]["resources"] == {"fluxsampler_rank": 2}
    assert made["FallbackSampler"][1]["resources"] == {"fluxsampler_fallback": 1}
    assert "resources" not in made["Gateway"][1]
    assert all(actor["num_cpus"] == 0 for _, actor in made.values())


def test_gpus_decide_where_there_are_some() -> None:
    gang = ParallelArgs(layout=Layout(ulysses=2), gpu_shares=(1.0, 0.6))
    made = cards.gang_options(gang, Placement())
    assert made["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 1.0}
    assert made["placement_group_bundles"] == [{"GPU": 1.0}, {"GPU": 0.6}]


def test_a_failed_start_is_one_of_ours_and_short() -> None:
    """Serve writes whole tracebacks into its status, each exception before included."""
    try:
        try:
            raise ConnectionError("the cause")
        except ConnectionError as error:
            raise ModelNotFound("no such model") from error
    except ModelNotFound as error:
        kept = named(error)
    assert type(kept) is ModelNotFound
    assert kept.__traceback__ is None
    other = named(PermissionError(13, "Permission denied"))
    assert type(other) is EngineStartFailed
    assert str(other) == "PermissionError: [Errno 13] Permission denied"
