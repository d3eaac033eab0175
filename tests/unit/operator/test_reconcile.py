from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import structlog

from fluxsampler_operator.cluster import PODS, RAY_CLUSTERS, RAY_SERVICES, SAMPLERS, Cluster, Resource
from fluxsampler_operator.errors import ClusterUnavailable, Conflict, Forbidden, NotFound, Refused
from fluxsampler_operator.manifest import FORM_ANNOTATION, SAMPLER_LABEL, Owner, child_name
from fluxsampler_operator.observed import PictureResult
from fluxsampler_operator.picture import PictureRequest, Pictures
from fluxsampler_operator.probe import probe_token
from fluxsampler_operator.queue import Key
from fluxsampler_operator.reconcile import Reconciler
from fluxsampler_operator.removal import KUBERAY_FINALIZER
from fluxsampler_operator.settings import Settings
from tests.support.fake_cluster import FakeCluster, play
from tests.unit.operator.test_hardware import node as gpu_node

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = Key("default", "tiny")
SETTINGS = Settings(serve_image="serve:test", probe_key=b"key")
SPEC: dict[str, Any] = {
    "model": {"source": "builtin://tiny-shapes", "dtype": "float32"},
    "hardware": {"device": "cpu", "gpusPerNode": 2, "memory": "6Gi"},
}
DRAWN = PictureResult(True, "parallel", "drawn in 1.0 s", 1.0)
REFUSED = PictureResult(False, "none", "HTTP 503: not yet", 1.0)


class Painter:
    """Draws what a test says; ``held`` keeps pictures under way."""

    def __init__(self) -> None:
        self.requests: list[PictureRequest] = []
        self.result = DRAWN
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: PictureRequest) -> PictureResult:
        self.requests.append(request)
        await self.open.wait()
        return self.result


class World:
    """A reconciler with everything around it."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.cluster = FakeCluster()
        self.painter = Painter()
        self.changed: list[Key] = []
        self.time = 0.0
        self.now = NOON
        self.pictures = Pictures(self.changed.append, ask=self.painter, clock=lambda: self.time)
        self.reconciler = Reconciler(
            cast(Cluster, self.cluster),
            settings,
            self.pictures,
            now=lambda: self.now,
            clock=lambda: self.time,
        )

    async def round(self, key: Key = KEY) -> float | None:
        wait = await self.reconciler.reconcile(key)
        for _ in range(5):  # a drawing that nobody holds ends here
            await asyncio.sleep(0)
        return wait

    async def rounds(self, count: int = 4) -> float | None:
        wait: float | None = None
        for _ in range(count):
            wait = await self.round()
        return wait

    async def ready(self, spec: dict[str, Any] = SPEC) -> World:
        """A FluxSampler that is Ready."""
        self.cluster.sampler(spec)
        await self.round()
        self.cluster.serve()
        await self.rounds(2)
        assert self.cluster.condition("Ready")[0] == "True"
        self.cluster.writes.clear()
        self.cluster.told.clear()
        return self


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_new_one_gets_its_children_and_a_status(world: World) -> None:
    world.cluster.sampler(SPEC)
    wait = await world.round()
    kinds = {kind for kind, _, _ in world.cluster.objects}
    assert kinds == {
        "FluxSampler",
        "RayService",
        "Service",
        "ServiceAccount",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    assert world.cluster.condition("Accepted") == ("True", "Planned")
    assert world.cluster.condition("Ready")[0] == "False"
    assert wait is not None
    assert wait < 5


async def test_a_second_round_writes_nothing(world: World) -> None:
    world.cluster.sampler(SPEC)
    await world.round()
    world.cluster.writes.clear()
    await world.rounds(3)
    assert world.cluster.writes == []


async def test_ready_comes_with_a_picture_and_not_before(world: World) -> None:
    world.cluster.sampler(SPEC)
    await world.round()
    world.cluster.serve()
    world.painter.open.clear()
    await world.round()
    assert world.cluster.condition("EngineReady")[0] == "True"
    assert world.cluster.condition("Ready")[0] == "False"
    world.painter.open.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.changed == [KEY]  # its end makes the key due
    wait = await world.round()
    assert world.cluster.condition("Serving") == ("True", "PictureDrawn")
    assert world.cluster.condition("Ready") == ("True", "Ready")
    assert wait is not None
    assert 270 <= wait <= 330


async def test_a_ready_one_is_silent(world: World) -> None:
    await world.ready()
    asked = len(world.painter.requests)
    await world.rounds(5)
    assert world.cluster.writes == []
    assert world.cluster.told == []
    assert len(world.painter.requests) == asked


async def test_a_picture_that_fails_is_asked_for_again_less_and_less_often(world: World) -> None:
    world.cluster.sampler(SPEC)
    await world.round()
    world.cluster.serve()
    world.painter.result = REFUSED
    await world.rounds(3)
    assert len(world.painter.requests) == 1
    assert world.cluster.condition("Serving") == ("False", "PictureFailed")
    asked = [0.0]
    for _ in range(60):
        world.time += 1
        await world.round()
        if len(world.painter.requests) > len(asked):
            asked.append(world.time)
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert 4 <= len(gaps) <= 10
    assert gaps == sorted(gaps)
    world.painter.result = DRAWN
    world.time += 60
    await world.rounds(2)
    assert world.cluster.condition("Ready")[0] == "True"


async def test_the_picture_is_asked_for_as_the_spec_says(world: World) -> None:
    world.cluster.sampler(
        {**SPEC, "canary": {"prompt": "a blue square", "seed": 7}, "serving": {"requestTimeoutSeconds": 50}}
    )
    await world.round()
    world.cluster.serve()
    await world.rounds(2)
    (request,) = world.painter.requests
    assert (request.prompt, request.seed, request.timeout_seconds) == ("a blue square", 7, 50)
    assert request.url == "http://tiny.default.svc:8000"
    assert request.token is None


async def test_behind_a_token_the_operator_shows_its_own(world: World) -> None:
    live = world.cluster.sampler({**SPEC, "serving": {"authSecretRef": {"name": "tokens", "key": "api"}}})
    await world.round()
    world.cluster.serve()
    await world.rounds(2)
    (request,) = world.painter.requests
    assert request.token == probe_token(b"key", Owner("tiny", "default", live["metadata"]["uid"]))
    assert request.token not in repr(request)
    written = str([made for (kind, _, _), made in world.cluster.objects.items() if kind != "FluxSampler"])
    assert request.token not in written


async def test_without_a_canary_running_is_enough(world: World) -> None:
    world.cluster.sampler({**SPEC, "canary": {"enabled": False}})
    await world.round()
    world.cluster.serve()
    wait = await world.rounds(2)
    assert world.painter.requests == []
    assert world.cluster.condition("Ready")[0] == "True"
    assert wait is not None
    assert wait > 200


def _generation(world: World, type_: str) -> int:
    """Of the FluxSampler, that a condition is about."""
    conditions = world.cluster.live(SAMPLERS)["status"]["conditions"]
    return int(next(each["observedGeneration"] for each in conditions if each["type"] == type_))


async def test_nothing_is_asked_before_kuberay_has_seen_the_change(world: World) -> None:
    await world.ready()
    asked = len(world.painter.requests)
    world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
    await world.rounds(3)
    assert "apply RayService" in world.cluster.writes
    assert len(world.painter.requests) == asked
    play(world.cluster.live(RAY_SERVICES))  # observedGeneration moves, what Serve said may be older
    wait = await world.round()
    assert len(world.painter.requests) == asked
    assert _generation(world, "Ready") == 1
    assert wait is not None
    world.time += wait + 5
    await world.rounds(2)
    assert len(world.painter.requests) == asked + 1
    assert world.cluster.condition("Ready")[0] == "True"
    assert _generation(world, "Ready") == 2


async def test_once_serve_is_seen_deploying_the_change_its_next_words_count_at_once(world: World) -> None:
    await world.ready()
    world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
    await world.round()
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert _generation(world, "EngineReady") == 1
    play(world.cluster.live(RAY_SERVICES))
    await world.rounds(2)
    assert _generation(world, "Ready") == 2


@pytest.mark.parametrize(
    ("change", "engine"),
    [({"replicas": 2}, "parallel"), ({"parallelism": {"gpusPerReplica": 4}}, "fallback")],
)
async def test_the_engine_that_drew_goes_on_drawing_while_only_counts_change(
    world: World, change: dict[str, Any], engine: str
) -> None:
    """Serve says UPDATING of an engine that gets one more replica, and of one that starts anew."""
    two_of_four = {**SPEC, "hardware": {"device": "cpu", "gpusPerNode": 4, "memory": "9Gi"}, "parallelism": {"gpusPerReplica": 2}}  # fmt: skip
    await world.ready(two_of_four)
    world.cluster.sampler({**two_of_four, **change})
    await world.round()
    live = world.cluster.live(RAY_SERVICES)
    play(live, "DEPLOYING")
    told = live["status"]["activeServiceStatus"]["applicationStatuses"]["fluxsampler"]
    for name in ("Gateway", "FallbackSampler"):
        told["serveDeploymentStatuses"][name]["status"] = "HEALTHY"
    await world.round()
    status = world.cluster.live(SAMPLERS)["status"]
    assert status["engine"] == engine
    assert world.cluster.condition("Ready")[0] == str(engine == "parallel")
    assert world.cluster.condition("Degraded")[0] == str(engine == "fallback")


def _ready(world: World) -> tuple[str, int]:
    """Status and generation of Ready."""
    return world.cluster.condition("Ready")[0], _generation(world, "Ready")


async def test_ready_stays_through_changes_in_place_and_is_about_the_form_that_was_proven(
    world: World,
) -> None:
    two_of_four = {**SPEC, "hardware": {"device": "cpu", "gpusPerNode": 4, "memory": "9Gi"}, "parallelism": {"gpusPerReplica": 2}}  # fmt: skip
    await world.ready(two_of_four)
    painted = len(world.painter.requests)
    world.cluster.sampler({**two_of_four, "replicas": 2})
    await world.round()  # KubeRay has not seen it
    assert _ready(world) == ("True", 1)
    play(world.cluster.live(RAY_SERVICES))
    await world.round()  # KubeRay has handed it on, and says what Serve said before
    assert _ready(world) == ("True", 1)
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert _ready(world) == ("True", 1)
    assert world.cluster.live(SAMPLERS)["status"]["replicas"] == 1
    world.cluster.sampler({**two_of_four, "replicas": 2, "serving": {"maxQueuedRequests": 3}})
    await world.round()  # a second one before the first is done
    assert _ready(world) == ("True", 1)
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert _ready(world) == ("True", 1)
    world.painter.open.clear()
    play(world.cluster.live(RAY_SERVICES))
    await world.round()  # the new picture is being drawn
    assert _ready(world) == ("True", 1)
    world.painter.open.set()
    await world.rounds(2)
    assert _ready(world) == ("True", 3)
    assert world.cluster.live(SAMPLERS)["status"]["replicas"] == 2
    assert len(world.painter.requests) == painted + 1
    assert world.cluster.told == [], "no condition came or went"


@pytest.mark.parametrize(
    "changes",
    [
        [{"parallelism": {"gpusPerReplica": 4}}],
        [{"parallelism": {"gpusPerReplica": 4}}, {}],  # and back before it was done
    ],
)
async def test_ready_is_lost_when_serve_is_told_to_start_the_engines_anew(
    world: World, changes: list[dict[str, Any]]
) -> None:
    two_of_four = {**SPEC, "hardware": {"device": "cpu", "gpusPerNode": 4, "memory": "9Gi"}, "parallelism": {"gpusPerReplica": 2}}  # fmt: skip
    await world.ready(two_of_four)
    for change in changes:
        world.cluster.sampler({**two_of_four, **change})
        await world.round()
    play(world.cluster.live(RAY_SERVICES))
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"
    assert world.cluster.live(SAMPLERS)["status"]["engine"] == "none"
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"
    play(world.cluster.live(RAY_SERVICES))
    await world.rounds(2)
    assert _ready(world) == ("True", 1 + len(changes))


@pytest.mark.parametrize("asks", [True, False], ids=["canary", "no canary"])
async def test_ready_is_lost_when_serve_was_told_something_else_by_somebody_else(
    world: World, asks: bool
) -> None:
    await world.ready({**SPEC, "canary": {"enabled": asks}})
    live = world.cluster.live(RAY_SERVICES)
    live["spec"]["serveConfigV2"] += "# theirs\n"
    live["metadata"]["generation"] += 1
    play(live, "DEPLOYING")  # KubeRay was quicker than the repair
    await world.round()
    assert "theirs" not in world.cluster.live(RAY_SERVICES)["spec"]["serveConfigV2"]
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"
    assert world.cluster.live(SAMPLERS)["status"]["engine"] == "none"
    play(world.cluster.live(RAY_SERVICES))
    await world.rounds(2)
    assert _ready(world) == ("True", 1)


async def test_a_change_in_place_without_a_canary_leaves_ready(world: World) -> None:
    quiet = {**SPEC, "canary": {"enabled": False}}
    await world.ready(quiet)
    world.cluster.sampler({**quiet, "serving": {"maxQueuedRequests": 3}})
    await world.round()
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert _ready(world) == ("True", 1)
    play(world.cluster.live(RAY_SERVICES))
    await world.round()
    assert _ready(world) == ("True", 2)
    assert world.painter.requests == []


async def test_a_head_that_is_lost_in_a_change_takes_ready_with_it(world: World) -> None:
    await world.ready()
    world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
    await world.round()
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    head = next(
        made for (kind, _, name), made in world.cluster.objects.items() if kind == "Pod" and "head" in name
    )
    ready = next(each for each in head["status"]["conditions"] if each["type"] == "Ready")
    ready["status"] = "False"
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"
    ready["status"] = "True"  # what it brings up is not what drew before
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"


async def test_an_operator_that_starts_in_a_change_claims_nothing(world: World) -> None:
    await world.ready()
    world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
    await world.round()
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    anew = World()
    anew.cluster = world.cluster
    anew.reconciler = Reconciler(cast(Cluster, world.cluster), SETTINGS, anew.pictures)
    await anew.round()
    assert world.cluster.condition("Ready")[0] == "False"


async def test_fields_that_the_server_drops_are_written_once(world: World) -> None:
    world.cluster.unknown = {"performance", "engine"}
    with structlog.testing.capture_logs() as logs:
        await world.ready()
        await world.rounds(5)
        assert world.cluster.writes == []
        status = world.cluster.live(SAMPLERS)["status"]
        assert world.cluster.unknown.isdisjoint(status)
        assert status["replicas"] == 1
        since = [each["lastTransitionTime"] for each in status["conditions"]]
        world.now += timedelta(hours=1)
        world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
        await world.round()
        play(world.cluster.live(RAY_SERVICES))
        world.time += 10
        await world.rounds(4)
        world.time += 10
        await world.rounds(3)
        assert _ready(world) == ("True", 2)
        assert [
            each["lastTransitionTime"] for each in world.cluster.live(SAMPLERS)["status"]["conditions"]
        ] == since
        world.cluster.writes.clear()
        await world.rounds(5)
        assert world.cluster.writes == []
    told = [line for line in logs if line["event"] == "the CRD is older than the operator"]
    assert {field for line in told for field in line["dropped"]} == {"performance", "engine"}
    assert len(told) <= 2
    assert "crds.install=true" in told[0]["fix"]


async def test_a_status_that_somebody_else_edits_is_put_right_although_fields_are_dropped(
    world: World,
) -> None:
    world.cluster.unknown = {"engine"}
    await world.ready()
    world.cluster.live(SAMPLERS)["status"]["phase"] = "Failed"
    await world.rounds(2)
    assert world.cluster.writes == ["status"]
    assert world.cluster.live(SAMPLERS)["status"]["phase"] == "Ready"
    world.cluster.unknown = set()  # a newer definition is told with the next difference
    world.cluster.live(SAMPLERS)["status"]["phase"] = "Failed"
    await world.rounds(2)
    assert world.cluster.live(SAMPLERS)["status"]["engine"] == "parallel"


async def test_a_change_in_place_does_not_flap_while_the_new_picture_is_drawn(world: World) -> None:
    await world.ready()
    world.cluster.sampler({**SPEC, "serving": {"maxQueuedRequests": 3}})
    await world.round()
    play(world.cluster.live(RAY_SERVICES))
    world.painter.open.clear()
    for _ in range(3):
        await world.round()
        assert world.cluster.condition("Ready")[0] == "True"
        world.time += 3


async def test_an_application_that_stopped_running_needs_a_new_picture(world: World) -> None:
    await world.ready()
    asked = len(world.painter.requests)
    play(world.cluster.live(RAY_SERVICES), "DEPLOYING")
    await world.round()
    assert world.cluster.condition("Ready")[0] == "False"
    play(world.cluster.live(RAY_SERVICES))
    await world.rounds(2)
    assert len(world.painter.requests) == asked + 1
    assert world.cluster.condition("Ready")[0] == "True"


async def test_an_operator_that_starts_anew_draws_once_and_ready_stays(world: World) -> None:
    await world.ready()
    anew = World()
    anew.cluster = world.cluster
    anew.reconciler = Reconciler(
        cast(Cluster, world.cluster), SETTINGS, anew.pictures, now=lambda: NOON + timedelta(hours=1)
    )
    anew.painter.open.clear()
    await anew.round()
    assert world.cluster.condition("Ready")[0] == "True"
    anew.painter.open.set()
    await anew.rounds(3)
    assert len(anew.painter.requests) == 1
    assert world.cluster.condition("Ready")[0] == "True"
    assert world.cluster.told == []


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({**SPEC, "hardware": {"device": "cpu", "gpu": "rtx-4090"}}, "InvalidSpec"),
        ({**SPEC, "model": {"source": "hf://nobody/unknown"}}, "UnknownModel"),
        ({**SPEC, "hardware": {"device": "cpu", "gpusPerNode": 2, "memory": "600Mi"}}, "InsufficientHostMemory"),
        ({"model": {"source": "hf://black-forest-labs/FLUX.1-dev"}}, "UnknownGPU"),
        (
            {"model": {"source": "hf://black-forest-labs/FLUX.1-dev"}, "hardware": {"gpu": "rtx-4090", "gpusPerNode": 1}},
            "InsufficientGPUMemory",
        ),
    ],
)  # fmt: skip
async def test_a_spec_without_a_plan_is_refused_and_makes_nothing(
    world: World, spec: dict[str, Any], reason: str
) -> None:
    world.cluster.sampler(spec)
    await world.round()
    assert world.cluster.condition("Accepted") == ("False", reason)
    assert world.cluster.writes == ["status"]


async def test_a_change_that_cannot_be_planned_leaves_what_serves(world: World) -> None:
    await world.ready()
    before = dict(world.cluster.live(RAY_SERVICES))
    world.cluster.sampler({**SPEC, "hardware": {"device": "cpu", "gpusPerNode": 2, "memory": "600Mi"}})
    await world.round()
    assert world.cluster.live(RAY_SERVICES) == before
    assert world.cluster.condition("Accepted")[0] == "False"
    assert world.cluster.condition("Serving")[0] == "True"


async def test_without_kuberay_the_rest_is_applied_and_it_converges_later(world: World) -> None:
    world.cluster.kuberay = False
    world.cluster.sampler(SPEC)
    wait = await world.round()
    assert world.cluster.condition("ClusterReady") == ("False", "KubeRayMissing")
    assert ("Service", "default", "tiny") in world.cluster.objects
    assert ("RayService", "default", "tiny") not in world.cluster.objects
    assert wait is not None
    assert wait <= 5
    world.cluster.kuberay = True
    world.time += 5
    await world.round()
    assert ("RayService", "default", "tiny") in world.cluster.objects


@pytest.mark.parametrize(
    "kind", ["RayService", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"]
)
async def test_what_was_deleted_comes_back(world: World, kind: str) -> None:
    await world.ready()
    for name in [name for name in world.cluster.objects if name[0] == kind]:
        del world.cluster.objects[name]
    await world.round()
    assert f"apply {kind}" in world.cluster.writes


async def test_what_was_edited_is_put_right(world: World) -> None:
    await world.ready()
    world.cluster.live(RAY_SERVICES)["spec"]["serveConfigV2"] = "something else"
    await world.round()
    assert world.cluster.writes[0] == "apply RayService"
    assert world.cluster.live(RAY_SERVICES)["spec"]["serveConfigV2"] != "something else"


async def test_a_refused_manifest_is_told_and_the_others_are_applied(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["apply NetworkPolicy"] = Refused("admission webhook says: no")
    await world.round()
    said = [each["message"] for each in world.cluster.live(SAMPLERS)["status"]["conditions"]]
    assert any("admission webhook says: no" in message for message in said)
    assert "apply RayService" in world.cluster.writes


async def test_what_is_on_its_way_out_is_waited_for(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["apply RayService"] = Conflict("still being removed")
    wait = await world.round()
    assert wait == 2.0
    world.cluster.fails.clear()
    await world.round()
    assert "apply RayService" in world.cluster.writes


async def test_an_api_server_that_is_away_ends_the_round(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["apply Service"] = ClusterUnavailable("503")
    with pytest.raises(ClusterUnavailable):
        await world.round()
    assert "status" not in world.cluster.writes


async def test_an_event_that_is_not_taken_ends_nothing(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["create_event"] = Forbidden("cannot create events")
    await world.round()
    assert world.cluster.condition("Accepted")[0] == "True"


async def test_an_object_that_goes_in_between_is_looked_at_again(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["patch_status"] = NotFound("gone")
    assert await world.round() == 1.0


async def test_nodes_that_may_not_be_read_are_not_needed_for_explicit_fields(world: World) -> None:
    world.cluster.sampler(SPEC)
    world.cluster.fails["find nodes"] = Forbidden("cannot list nodes")
    await world.round()
    assert world.cluster.condition("Accepted") == ("True", "Planned")
    message = world.cluster.live(SAMPLERS)["status"]["conditions"][0]["message"]
    assert "may not read nodes" in message
    world.cluster.sampler({"model": {"source": "hf://black-forest-labs/FLUX.1-dev"}}, "auto")
    await world.round(Key("default", "auto"))
    assert world.cluster.condition("Accepted", "auto") == ("False", "NodesUnreadable")


async def test_nodes_that_were_read_once_stand_while_the_api_server_refuses(world: World) -> None:
    world.cluster.nodes = [gpu_node()]
    world.cluster.sampler({"model": {"source": "hf://black-forest-labs/FLUX.1-dev"}})
    await world.round()
    assert world.cluster.condition("Accepted") == ("True", "Planned")
    world.cluster.writes.clear()
    world.cluster.fails["find nodes"] = Forbidden("roles are being read")
    world.time += 60
    await world.rounds(2)
    assert world.cluster.condition("Accepted") == ("True", "Planned")
    assert world.cluster.writes == []


async def test_a_namespaced_installation_does_not_ask_for_nodes(world: World) -> None:
    world = World(Settings(read_nodes=False))
    world.cluster.sampler(SPEC)
    world.cluster.fails["find nodes"] = AssertionError("asked")
    await world.round()
    assert world.cluster.condition("Accepted")[0] == "True"


async def test_one_that_is_being_deleted_is_left_alone(world: World) -> None:
    await world.ready()
    world.cluster.live(SAMPLERS)["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    del world.cluster.objects[("Service", "default", "tiny")]
    await world.round()
    assert world.cluster.writes == []


def terminating(world: World, since: datetime) -> None:
    live = world.cluster.live(RAY_SERVICES)
    live["metadata"] |= {
        "deletionTimestamp": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "finalizers": [KUBERAY_FINALIZER],
    }


async def test_a_rayservice_that_kuberay_never_lets_go_of_is_let_go(world: World) -> None:
    await world.ready()
    del world.cluster.objects[(SAMPLERS.kind, "default", "tiny")]
    assert await world.round() == 2.0  # the garbage collector has not come yet
    terminating(world, NOON)
    world.now = NOON + timedelta(seconds=10)
    assert await world.round() == 2.0
    assert world.cluster.writes == []
    world.now = NOON + timedelta(seconds=25)
    await world.round()
    assert world.cluster.writes == [f"finalizer {KUBERAY_FINALIZER}"]
    assert await world.round() is None


async def test_a_deleted_rayservice_that_hangs_is_let_go_and_made_anew(world: World) -> None:
    await world.ready()
    terminating(world, NOON - timedelta(minutes=1))
    world.cluster.fails["apply RayService"] = Conflict("is being deleted")
    await world.round()
    assert f"finalizer {KUBERAY_FINALIZER}" in world.cluster.writes
    world.cluster.fails.clear()
    await world.round()
    assert "deletionTimestamp" not in world.cluster.live(RAY_SERVICES)["metadata"]


async def test_kuberay_that_goes_between_question_and_answer(world: World) -> None:
    await world.ready()
    world.cluster.kuberay = False  # the operator believes for some seconds that it is there
    assert await world.round() == 1.0
    await world.round()
    assert world.cluster.condition("ClusterReady") == ("False", "KubeRayMissing")


async def test_somebody_elses_rayservice_is_not_touched(world: World) -> None:
    await world.ready()
    del world.cluster.objects[(SAMPLERS.kind, "default", "tiny")]
    terminating(world, NOON - timedelta(hours=1))
    del world.cluster.live(RAY_SERVICES)["metadata"]["labels"][SAMPLER_LABEL]
    assert await world.round() is None
    assert world.cluster.writes == []


RAY_CLUSTER = Resource("ray.io/v1", "RayCluster", "rayclusters")


def put_ray_cluster(world: World, form: str) -> None:
    world.cluster.put(
        RAY_CLUSTERS,
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {
                "name": "tiny-abcde", "namespace": "default", "labels": {SAMPLER_LABEL: "tiny"},
                "annotations": {FORM_ANNOTATION: form},
            },
        },
    )  # fmt: skip


async def test_a_cluster_of_the_present_form_stays(world: World) -> None:
    await world.ready()
    put_ray_cluster(world, world.cluster.live(RAY_SERVICES)["metadata"]["annotations"][FORM_ANNOTATION])
    await world.rounds(2)
    assert world.cluster.writes == []


async def test_a_cluster_of_a_former_form_is_replaced_once_kuberay_has_seen_the_new_one(world: World) -> None:
    await world.ready()
    put_ray_cluster(world, world.cluster.live(RAY_SERVICES)["metadata"]["annotations"][FORM_ANNOTATION])
    world.cluster.sampler({**SPEC, "podTemplate": {"spec": {"priorityClassName": "high"}}})
    await world.round()
    assert ("RayCluster", "default", "tiny-abcde") in world.cluster.objects
    play(world.cluster.live(RAY_SERVICES))
    await world.round()
    assert "delete RayCluster tiny-abcde" in world.cluster.writes
    assert ("Normal", "RollingOut") in [(kind, reason) for kind, reason, _ in world.cluster.told]


async def test_replicas_fallback_and_serving_leave_the_pods_alone(world: World) -> None:
    await world.ready()
    put_ray_cluster(world, world.cluster.live(RAY_SERVICES)["metadata"]["annotations"][FORM_ANNOTATION])
    for change in ({"fallback": {"enabled": False}}, {"serving": {"maxOngoingRequests": 9}}, {"replicas": 0}):
        world.cluster.sampler({**SPEC, **change})
        await world.round()
        play(world.cluster.live(RAY_SERVICES))
        await world.round()
    assert ("RayCluster", "default", "tiny-abcde") in world.cluster.objects


async def test_long_names_work(world: World) -> None:
    name = "a-very-long-name-of-a-sampler-that-nobody-would-like-to-type.eu"
    world.cluster.sampler(SPEC, name)
    await world.round(Key("default", name))
    assert ("RayService", "default", child_name(name)) in world.cluster.objects
    assert world.cluster.condition("Accepted", name)[0] == "True"


async def test_looks_at_one_that_does_not_move_get_rarer(world: World) -> None:
    world.cluster.sampler(SPEC)
    waits = [await world.round() for _ in range(12)]
    known = [wait for wait in waits if wait is not None]
    assert known[0] == 2.0
    assert known == sorted(known)
    assert known[-1] == 20.0


async def test_events_are_read_only_while_something_is_wrong(world: World) -> None:
    await world.ready()
    world.cluster.fails["find events"] = AssertionError("read")
    await world.rounds(2)
    assert world.cluster.live(PODS, "tiny-abcde-head")["status"]["phase"] == "Running"


async def test_what_serve_gave_up_is_tried_again_once_a_while(world: World) -> None:
    await world.ready()
    put_ray_cluster(world, world.cluster.live(RAY_SERVICES)["metadata"]["annotations"][FORM_ANNOTATION])
    cluster = world.cluster.live(RAY_CLUSTERS, "tiny-abcde")
    cluster["metadata"]["creationTimestamp"] = "2026-11-22T11:58:00Z"
    live = world.cluster.live(RAY_SERVICES)
    play(live, "DEPLOY_FAILED")
    live["status"]["lastUpdateTime"] = NOON.strftime("%Y-%m-%dT%H:%M:%SZ")
    await world.round()
    assert ("RayCluster", "default", "tiny-abcde") in world.cluster.objects
    assert world.cluster.condition("EngineReady")[0] == "False"
    world.now += timedelta(seconds=SETTINGS.retry_seconds)
    await world.rounds(2)
    assert world.cluster.writes.count("delete RayCluster tiny-abcde") == 1
    assert [reason for _, reason, _ in world.cluster.told].count("TryingAgain") == 1


async def test_a_head_that_is_lost_takes_serving_with_it_until_a_new_picture_is_drawn(world: World) -> None:
    await world.ready()
    head = next(
        made for (kind, _, name), made in world.cluster.objects.items() if kind == "Pod" and "head" in name
    )
    ready = next(each for each in head["status"]["conditions"] if each["type"] == "Ready")
    ready["status"] = "False"  # KubeRay's RUNNING stands, since it cannot ask Serve any more
    await world.round()
    assert world.cluster.condition("Serving")[0] == "False"
    assert world.cluster.live(SAMPLERS)["status"]["engine"] == "none"
    ready["status"] = "True"
    world.painter.open.clear()
    await world.round()
    assert world.cluster.condition("ClusterReady")[0] == "True"
    assert world.cluster.condition("Ready")[0] == "False"
    world.painter.open.set()
    await world.rounds(2)
    assert world.cluster.condition("Ready")[0] == "True"
    assert len(world.painter.requests) == 2
