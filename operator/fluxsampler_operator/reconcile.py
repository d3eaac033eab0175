"""One level-based reconcile: read the FluxSampler and the world, make them agree, write down what is true.

It never steers by status, and what it remembers only keeps it from saying too much, too little or the same again
(:mod:`.picture`, :mod:`.uptake`, :mod:`.continuity`, :mod:`.written`). So it may be called at any time, any number
of times, and be killed in between.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from fluxsampler_operator.builders import desired
from fluxsampler_operator.builders.rollout import outdated
from fluxsampler_operator.cluster import EVENTS, NODES, PODS, RAY_CLUSTERS, RAY_SERVICES, SAMPLERS, Cluster
from fluxsampler_operator.comparison import digest
from fluxsampler_operator.continuity import Continuity
from fluxsampler_operator.errors import (
    Conflict,
    Forbidden,
    KindMissing,
    NotFound,
    OperatorError,
    Permanent,
    WebhookFailed,
)
from fluxsampler_operator.hardware import trimmed
from fluxsampler_operator.manifest import Manifest, Owner, selector
from fluxsampler_operator.metrics import forget_conditions, show_conditions
from fluxsampler_operator.observed import Json, Observed, PictureResult, Refusal
from fluxsampler_operator.observed.pod_state import head_ready
from fluxsampler_operator.observed.serve_state import Application, application
from fluxsampler_operator.picture import PictureRequest, Pictures
from fluxsampler_operator.planning import Planned, planned, read
from fluxsampler_operator.probe import probe_token
from fluxsampler_operator.queue import Key
from fluxsampler_operator.reasons import Reason
from fluxsampler_operator.removal import finish_removal
from fluxsampler_operator.retry import given_up, last_word
from fluxsampler_operator.settings import Settings
from fluxsampler_operator.status import EventNote, next_status, transitions
from fluxsampler_operator.uptake import Uptake
from fluxsampler_operator.written import Written
from fluxsampler_planner.args import app_args

_log = structlog.get_logger(__name__)

PORT = 8000
FRESH_NODES_SECONDS = 10.0
FORBIDDEN_NODES_SECONDS = 30.0
FRESH_KINDS_SECONDS = 3.0
# While something is not as it should be it is looked at again, less and less often: events of pods and RayService
# come at once anyway, only what nobody watches (Events, nodes) waits for this.
FIRST_LOOK, LAST_LOOK, LOOK_GROWTH = 2.0, 20.0, 1.4
REMOVED_LOOK = 2.0
SOON = 1.0


class Reconciler:
    """Reconciles FluxSamplers of one cluster; ``now`` and ``clock`` are for tests."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        pictures: Pictures,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._pictures = pictures
        self._now = now
        self._clock = clock
        self._nodes: tuple[float, list[Manifest] | None] = (float("-inf"), None)
        self._kuberay: tuple[float, bool] = (float("-inf"), False)
        self._looks: dict[Key, int] = {}
        self._uptake = Uptake(clock)
        self._continuity = Continuity()
        self._written = Written()

    async def reconcile(self, key: Key) -> float | None:
        """One round for one FluxSampler: seconds until the next one, None when it is gone."""
        live = await self._cluster.get(SAMPLERS, key.namespace, key.name)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return await self._gone(key)
        try:
            return await self._present(key, live)
        except NotFound:
            return SOON  # it went while it was looked at
        except KindMissing as error:
            # KubeRay went between the question and the answer: the next round says so.
            _log.warning("kind is missing", sampler=str(key), error=str(error))
            self._kuberay = (float("-inf"), False)
            return SOON

    async def _present(self, key: Key, live: Manifest) -> float:
        owner = Owner(key.name, key.namespace, live["metadata"]["uid"])
        outcome = await self._plan(live)
        kuberay = await self.kuberay()
        rayservice, errors, pending = await self._apply(outcome, owner, kuberay)
        pods = await self._cluster.find(PODS, owner.namespace, labels=selector(owner))
        if rayservice is not None and not errors:
            await self._roll_out(live, owner, rayservice, pods)
        observed, wait = await self._observe(key, owner, outcome, kuberay, rayservice, pods, errors)
        changed = await self._write(key, live, observed)
        await self._try_again(live, owner, observed)
        asks = outcome.sampler is not None and outcome.sampler.spec.canary.enabled
        settled = _settled(observed, asks=asks)
        return self._next(key, settled=settled, changed=changed, wait=REMOVED_LOOK if pending else wait)

    async def kuberay(self) -> bool:
        """Whether the cluster serves RayServices; asked again after a few seconds."""
        asked, known = self._kuberay
        if self._clock() - asked >= FRESH_KINDS_SECONDS:
            known = await self._cluster.serves(RAY_SERVICES)
            self._kuberay = (self._clock(), known)
        return known

    async def _gone(self, key: Key) -> float | None:
        for memory in (self._pictures, self._uptake, self._continuity, self._written):
            memory.forget(key)
        self._looks.pop(key, None)
        forget_conditions(key.namespace, key.name)
        child = Owner(key.name, key.namespace).child
        self._cluster.forget(key.namespace, child)
        if await self.kuberay() and await finish_removal(self._cluster, key.namespace, child, self._now()):
            return REMOVED_LOOK
        return None

    async def _plan(self, live: Manifest) -> Planned:
        sampler = read(live)
        if isinstance(sampler, Refusal):
            return Planned(None, refusal=sampler)
        return planned(sampler, await self._read_nodes())

    async def _read_nodes(self) -> list[Manifest] | None:
        """All nodes, at most a few seconds old; None where RBAC never let the operator read them."""
        until, nodes = self._nodes
        if self._settings.read_nodes and self._clock() >= until:
            fresh = FRESH_NODES_SECONDS
            try:
                nodes = await self._cluster.find(NODES, None, keep=trimmed)
            except Forbidden as error:
                # What was read once stands: an API server that starts refuses until it has read its roles.
                _log.warning("cannot read nodes", error=str(error), known=nodes is not None)
                fresh = FORBIDDEN_NODES_SECONDS
            self._nodes = (self._clock() + fresh, nodes)
        return nodes

    async def _apply(
        self, outcome: Planned, owner: Owner, kuberay: bool
    ) -> tuple[Json | None, tuple[str, ...], bool]:
        """Apply what is desired: the live RayService, what was refused, and whether something old is in the way.

        Without a plan nothing is applied and nothing taken away: what serves goes on serving.
        """
        rayservice = await self._cluster.get(RAY_SERVICES, owner.namespace, owner.child) if kuberay else None
        if rayservice is not None and rayservice["metadata"].get("deletionTimestamp"):
            # Somebody deleted it, or KubeRay's definitions; without KubeRay it would stay so and hold both.
            await finish_removal(self._cluster, owner.namespace, owner.child, self._now())
        key = Key(owner.namespace, owner.name)
        if rayservice is not None and self._continuity.interrupted(key, rayservice):
            self._pictures.forget(key)
        if outcome.sampler is None or outcome.plan is None:
            return rayservice, (), False
        try:
            manifests = desired(
                outcome.sampler, outcome.plan, self._settings, owner, ray_cluster=_active_cluster(rayservice)
            )
        except Permanent as error:
            return rayservice, (str(error),), False
        errors: list[str] = []
        pending = False
        for manifest in manifests:
            if manifest["kind"] == RAY_SERVICES.kind and not kuberay:
                continue
            try:
                applied = await self._cluster.apply(manifest)
            except (KindMissing, NotFound):
                raise  # KubeRay, or the namespace, went: nothing to tell about this manifest
            except Conflict as error:
                _log.info("waits", error=str(error))
                pending = True
            except (Permanent, WebhookFailed) as error:
                errors.append(str(error))
            else:
                if manifest["kind"] == RAY_SERVICES.kind:
                    rayservice = applied
                    self._continuity.wrote(key, applied)
        return rayservice, tuple(errors), pending

    async def _observe(
        self, key: Key, owner: Owner, outcome: Planned, kuberay: bool, rayservice: Json | None, pods: Sequence[Manifest],
        errors: tuple[str, ...],
    ) -> tuple[Observed, float | None]:  # fmt: skip
        url = f"http://{owner.child}.{owner.namespace}.svc:{PORT}"
        app = application(rayservice)
        missing = self._uptake.missing(key, rayservice)
        goes_on = self._continuity.goes_on(
            key, rayservice, app, _engines(outcome, app), head=head_ready(pods, app.cluster), current=missing == 0
        )  # fmt: skip
        picture, wait = (
            self._picture(key, owner, outcome, rayservice, pods, url) if missing == 0 else (None, missing)
        )
        well = picture is not None and picture.drawn and app.running
        events = () if well else await self._events(owner, rayservice, pods)
        observed = Observed(
            plan=outcome.plan.status() if outcome.plan is not None else None,
            refusal=outcome.refusal,
            notes=outcome.notes,
            kuberay=kuberay,
            rayservice=rayservice,
            taken_up=not missing,
            goes_on=goes_on,
            pods=pods,
            events=events,
            nodes=self._nodes[1] or (),
            apply_errors=errors,
            picture=picture,
            url=url,
            selector=",".join(f"{label}={value}" for label, value in selector(owner).items()),
        )
        return observed, wait

    async def _roll_out(
        self, live: Manifest, owner: Owner, rayservice: Json, pods: Sequence[Manifest]
    ) -> None:
        """Delete RayClusters of a former form: KubeRay makes them anew from the RayService (docs/dev, roll-out)."""
        clusters = await self._cluster.find(RAY_CLUSTERS, owner.namespace, labels=selector(owner))
        names = outdated(rayservice, clusters, pods)
        why = "the pods' form has changed, or their cluster's has"
        await self._replace(live, clusters, names, "RollingOut", why)

    async def _try_again(self, live: Manifest, owner: Owner, observed: Observed) -> None:
        """Delete the RayCluster whose application Serve has given up: KubeRay makes it anew."""
        if last_word(observed) is None:
            return
        clusters = await self._cluster.find(RAY_CLUSTERS, owner.namespace, labels=selector(owner))
        patience = timedelta(seconds=self._settings.retry_seconds)
        names = given_up(live, observed, clusters, self._now(), patience)
        why = "Serve has given up and nothing answers, so it is tried again"
        await self._replace(live, clusters, names, "TryingAgain", why)

    async def _replace(
        self, live: Manifest, clusters: Sequence[Manifest], names: Sequence[str], reason: str, why: str
    ) -> None:
        for cluster in clusters:
            meta = cluster["metadata"]
            if meta["name"] in names and not meta.get("deletionTimestamp"):
                await self._cluster.delete(RAY_CLUSTERS, cluster)
                await self._tell(
                    live, EventNote("Normal", reason, f"{why}: replacing RayCluster {meta['name']}")
                )

    def _picture(
        self, key: Key, owner: Owner, outcome: Planned, rayservice: Json | None, pods: Sequence[Manifest], url: str
    ) -> tuple[PictureResult | None, float | None]:  # fmt: skip
        """The canary's result for the application as it is up now; (None, None) while there is none to ask for."""
        sampler = outcome.sampler
        app = application(rayservice)
        engines = _engines(outcome, app)
        if sampler is None or rayservice is None or not app.running:
            if app.changing and head_ready(pods, app.cluster):
                return self._pictures.hold(key, engines), None
            self._pictures.forget(key)
            return None, None
        if not head_ready(pods, app.cluster):
            # KubeRay's RUNNING is of the time before. A head that starts anew has nothing of what drew the picture.
            self._pictures.forget(key)
            return None, None
        if not sampler.spec.canary.enabled:
            return None, None
        key_, serving = self._settings.probe_key, sampler.spec.serving
        request = PictureRequest(
            url=url,
            prompt=sampler.spec.canary.prompt,
            seed=sampler.spec.canary.seed,
            timeout_seconds=float(serving.request_timeout_seconds),
            token=probe_token(key_, owner) if serving.auth_secret_ref is not None and key_ else None,
        )
        form = digest({"spec": rayservice["spec"], "cluster": app.cluster, "request": repr(request)})
        return self._pictures.look(key, form, request, engines=engines, parallel=_has_parallel(outcome))

    async def _events(
        self, owner: Owner, rayservice: Json | None, pods: Sequence[Manifest]
    ) -> list[Manifest]:
        """Warning events about the sampler's pods, RayService and RayClusters; newest last."""
        names = {pod["metadata"]["name"] for pod in pods} | {owner.child}
        status: Any = (rayservice or {}).get("status") or {}
        for side in ("activeServiceStatus", "pendingServiceStatus"):
            names.add((status.get(side) or {}).get("rayClusterName", ""))
        found = await self._cluster.find(EVENTS, owner.namespace, fields="type=Warning")
        about = [event for event in found if (event.get("involvedObject") or {}).get("name") in names]
        return sorted(about, key=_when)

    async def _write(self, key: Key, live: Manifest, observed: Observed) -> bool:
        """Write status and Events if anything differs; whether it did."""
        meta, previous = live["metadata"], self._written.read(key, live.get("status"))
        status = next_status(live, observed, previous, self._now())
        show_conditions(meta["namespace"], meta["name"], status.get("conditions", ()))
        if status == previous:
            return False
        kept = await self._cluster.patch_status(meta["namespace"], meta["name"], meta["uid"], status)
        self._written.note(key, status, kept)
        for note in transitions(previous, status):
            await self._tell(live, note)
        return True

    async def _tell(self, live: Manifest, note: EventNote) -> None:
        """Log it and make an Event of it; status is what counts, so an Event that is not taken ends nothing."""
        meta = live["metadata"]
        sampler = f"{meta['namespace']}/{meta['name']}"
        _log.info("transition", sampler=sampler, reason=note.reason, message=note.message)
        try:
            await self._cluster.create_event(live, note.type, note.reason, note.message)
        except OperatorError as error:
            _log.warning("no Event was written", sampler=sampler, reason=note.reason, error=str(error))

    def _next(self, key: Key, *, settled: bool, changed: bool, wait: float | None) -> float:
        if settled:
            self._looks.pop(key, None)
            # Spread, so that many objects do not come due at once.
            slow = self._settings.resync_seconds * random.uniform(0.9, 1.1)  # noqa: S311  (no secret in a delay)
            return slow if wait is None else min(wait, slow)
        looks = 0 if changed else self._looks.get(key, 0) + 1
        self._looks[key] = looks
        again = min(LAST_LOOK, FIRST_LOOK * LOOK_GROWTH**looks)
        return again if wait is None else min(wait, again)


def _settled(observed: Observed, *, asks: bool) -> bool:
    """Nothing more is expected to happen by itself; ``asks``: a picture is asked for."""
    if observed.refusal is not None:
        return observed.refusal.reason in (Reason.INVALID_SPEC, Reason.UNKNOWN_MODEL)
    app = application(observed.rayservice)
    drawn = not asks or (observed.picture is not None and observed.picture.drawn)
    return app.running and drawn and not observed.apply_errors


def _has_parallel(outcome: Planned) -> bool:
    """Whether pictures are meant to come from a gang, and not from the fallback because there is none to be."""
    sampler, plan = outcome.sampler, outcome.plan
    if sampler is None or plan is None or plan.chosen.split.ranks == 1:
        return False
    scaling = sampler.spec.autoscaling
    return (sampler.spec.replicas if scaling is None else scaling.min_replicas) > 0


def _engines(outcome: Planned, app: Application) -> str:
    """Digest of what makes engines start anew: the arguments that Serve compares, and the cluster they run in."""
    if outcome.sampler is None or outcome.plan is None:
        return ""
    start = app_args(outcome.sampler, outcome.plan, on_cluster=True).start()
    return digest({"start": start.model_dump(mode="json"), "cluster": app.cluster})


def _active_cluster(rayservice: Json | None) -> str | None:
    status: Any = (rayservice or {}).get("status") or {}
    return (status.get("activeServiceStatus") or {}).get("rayClusterName") or None


def _when(event: Json) -> str:
    series: Any = event.get("series") or {}
    return str(
        series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
        or event["metadata"].get("creationTimestamp") or ""
    )  # fmt: skip
