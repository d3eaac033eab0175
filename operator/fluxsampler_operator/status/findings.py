"""What is true now of each condition, and which engines are up. Pure.

Six conditions, each resting on the one before: Accepted (there is a plan) -> ClusterReady (the Ray pods run)
-> EngineReady (Serve says that the wanted engine runs) -> Serving (a picture came back) -> Ready (all four).
Degraded stands beside them. No message holds a clock or a counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fluxsampler_api.status import ConditionType
from fluxsampler_operator import diagnosis
from fluxsampler_operator.diagnosis.causes import Cause
from fluxsampler_operator.diagnosis.cluster_checks import wanted_workers
from fluxsampler_operator.observed import Observed, pod_state, serve_state
from fluxsampler_operator.observed.serve_state import FALLBACK, GATEWAY, PARALLEL, Application
from fluxsampler_operator.reasons import PROGRESS, Reason
from fluxsampler_operator.status import conditions, words
from fluxsampler_operator.status.conditions import Finding

Json = Mapping[str, Any]
Engine = Literal["parallel", "fallback", "none"]


class View:
    """One look: the findings rest on each other, so they are made in order and once."""

    def __init__(self, sampler: Json, observed: Observed, previous: Json | None) -> None:
        self.sampler, self.observed, self.previous = sampler, observed, previous
        self.generation = int((sampler.get("metadata") or {}).get("generation") or 0)
        self.spec: Json = sampler.get("spec") or {}
        self.application: Application = serve_state.application(observed.rayservice)
        self.causes = diagnosis.causes(observed)

    def findings(self) -> dict[ConditionType, Finding]:
        """Every condition, always."""
        accepted = self._accepted()
        running = self._cluster()
        engine = self._engine_ready(running)
        serving = self._serving(engine)
        chain = {"Accepted": accepted, "ClusterReady": running, "EngineReady": engine, "Serving": serving}
        found: dict[ConditionType, Finding] = {each.type: each for each in chain.values()}
        found["Degraded"] = self._degraded(engine, serving)
        found["Ready"] = self._ready(tuple(chain.values()))
        return found

    # -- the chain

    def _accepted(self) -> Finding:
        refusal, plan = self.observed.refusal, self.observed.plan
        if refusal is not None:
            problems = "; ".join(map(str, refusal.problems))
            return self._finding("Accepted", "False", Reason(refusal.reason), problems)
        if plan is None:
            return self._finding("Accepted", "Unknown", Reason.PLANNING, "no plan has been made yet")
        layout, estimate = plan.layout, plan.estimate
        replicas = f"{layout.replicas} × " if layout.replicas != 1 else ""
        said = (
            f"{replicas}{layout.summary}, fallback {plan.fallback.placement}; about {estimate.seconds_per_image:.3g} s for "
            f"{estimate.width}×{estimate.height} in {estimate.steps} steps"
        )
        return self._finding("Accepted", "True", Reason.PLANNED, "; ".join((said, *self.observed.notes)))

    def _cluster(self) -> Finding:
        cause = self.causes.get("ClusterReady")
        if cause is not None:
            return self._caused(cause)
        pods = pod_state.current(self.observed.pods, self.observed.rayservice)
        head = next((pod for pod in pods if pod.role == "head"), None)
        workers = [pod for pod in pods if pod.role != "head"]
        wanted = wanted_workers(self.observed.rayservice)
        up = sum(pod.runs for pod in workers)
        ready = head is not None and head.ready and up >= wanted
        if self._cluster_before_serves and not ready:
            held = self._held("ClusterReady", f"{words.CHANGING}; new pods start beside the old ones")
            if held is not None:
                return held
        if self.observed.rayservice is None:
            return self._starting("ClusterReady", Reason.STARTING, "the RayService does not exist yet")
        if head is None:
            seen = bool(self.observed.rayservice.get("status"))
            said = (
                "KubeRay has not created the head pod yet"
                if seen
                else "KubeRay's operator has not looked at the RayService yet; does it run?"
            )
            return self._starting("ClusterReady", Reason.STARTING, said)
        if not ready:
            return self._starting(
                "ClusterReady", Reason.STARTING,
                f"{words.of_pod(head)}; {up} of {wanted} worker pods run" + "".join(f", {words.of_pod(each)}" for each in workers if not each.runs),
            )  # fmt: skip
        return self._finding(
            "ClusterReady",
            "True",
            Reason.RUNNING,
            f"the head pod is ready and {up} of {wanted} worker pods run",
        )

    def _engine_ready(self, cluster: Finding) -> Finding:
        cause = self.causes.get("EngineReady")
        if cause is not None:
            return self._caused(cause)
        if self._cluster_before_serves:
            held = self._held("EngineReady", f"{words.CHANGING}; the new engines start")
            if held is not None:
                return held
        if not self.application.status:
            waits = (
                "Serve has not been asked for the application yet"
                if cluster.holds
                else "waits for the Ray cluster"
            )
            return self._starting("EngineReady", Reason.DEPLOYING, waits)
        if not self.application.running:
            said = words.deploying(self.application)
            held = self._held("EngineReady", f"{words.CHANGING}; {said}") if self._goes_on != "none" else None
            return held or self._starting("EngineReady", Reason.DEPLOYING, said)
        if self._restarts:
            return self._starting("EngineReady", Reason.DEPLOYING, "Serve starts the engines anew")
        if self._lags:
            # Serve's words are those of the form before; they stand until KubeRay has handed the new one on.
            said = "KubeRay has not taken up the change yet"
            held = self._held("EngineReady", f"Serve said RUNNING before the change; {said}")
            return held or self._starting("EngineReady", Reason.DEPLOYING, said)
        return self._finding("EngineReady", "True", Reason.RUNNING, f"Serve says RUNNING: {self._engines()}")

    def _serving(self, engine: Finding) -> Finding:
        if self._cluster_before_serves:
            # Serve's words are those of the cluster to come; the one before has the traffic until that runs.
            return self._held("Serving") or self._starting(
                "Serving", Reason.DEPLOYING, "waits for the new cluster"
            )
        if not engine.holds or (not self.application.running and self._goes_on == "none"):
            return self._starting("Serving", Reason.DEPLOYING, "waits for the engines")
        if self._headless:
            return self._starting(
                "Serving", Reason.DEPLOYING, "waits for the head pod, which takes the requests"
            )
        cause = self.causes.get("Serving")
        if cause is not None:
            return self._caused(cause)
        if self._goes_on != "none":
            return self._held("Serving") or self._starting(
                "Serving", Reason.DEPLOYING, "waits for the engines"
            )
        if not self._canary:
            return self._finding(
                "Serving", "True", Reason.RUNNING,
                "Serve says RUNNING; no picture was asked for, since spec.canary.enabled is false",
            )  # fmt: skip
        picture = self.observed.picture
        if picture is None:
            # Asked again, e.g. after a restart of the operator: what was found last stands until the answer.
            held = self._held("Serving")
            if held is not None:
                return held
            return self._starting(
                "Serving", Reason.DEPLOYING, "Serve says RUNNING; the first picture is being drawn"
            )
        return self._finding(
            "Serving", "True", Reason.PICTURE_DRAWN,
            f"the {picture.engine} engine drew the canary picture through {self.observed.url}",
        )  # fmt: skip

    def _held(self, type_: ConditionType, message: str = "") -> Finding | None:
        """What was found last and did hold, with the generation that it was found for; ``message`` replaces its own."""
        held = conditions.find(conditions.of(self.previous), type_)
        if held is None or held.get("status") != "True":
            return None
        return self._finding(
            type_,
            "True",
            words.known(held.get("reason")),
            message or str(held.get("message")),
            held.get("observedGeneration"),
        )

    @property
    def _goes_on(self) -> Engine:
        """The engine that goes on answering through a change that Serve makes in place; none where that is not sure.

        Other arguments of the engines, a replica that fails, a lost head, an engine that is asked for no more and
        none beside it that was up: all these are no such change, and pictures could fail.
        """
        application, previous = self.application, self.previous or {}
        if not (self.observed.goes_on and application.changing and GATEWAY in application.deployments):
            return "none"
        if self._headless or self._held("EngineReady") is None or self._engine_before == "none":
            return "none"
        if self._wants_parallel and self._engine_before == "parallel":
            return "parallel" if PARALLEL in application.deployments else "none"
        singles = ("fallbackReplicas",) if self._gangs else ("fallbackReplicas", "replicas")
        up = any(previous.get(each) for each in singles)
        return "fallback" if up and self._warm_singles > 0 and FALLBACK in application.deployments else "none"

    @property
    def _restarts(self) -> bool:
        """KubeRay has handed on a change that starts the engines anew, though what it says of Serve is older."""
        return not self.observed.taken_up and not self.observed.goes_on

    @property
    def _lags(self) -> bool:
        """KubeRay has not seen the RayService's present spec, or not looked at Serve since it handed it on."""
        if not self.observed.taken_up:
            return True
        rayservice = self.observed.rayservice or {}
        seen = (rayservice.get("status") or {}).get("observedGeneration")
        return seen is not None and int(seen) < int((rayservice.get("metadata") or {}).get("generation") or 0)

    @property
    def _initialises(self) -> bool:
        return any("s to initialize" in text for _, text in self.application.texts())

    @property
    def _cluster_before_serves(self) -> bool:
        before = self.application.before or self._former_cluster
        return bool(before) and pod_state.head_ready(self.observed.pods, before)

    @property
    def _former_cluster(self) -> str:
        """The cluster that Serve's words are about, where KubeRay is going to bring up one of another form beside it."""
        strategy = ((self.observed.rayservice or {}).get("spec") or {}).get("upgradeStrategy") or {}
        cluster = self.application.cluster
        if strategy.get("type") != "NewCluster" or not cluster:
            return ""
        wanted = pod_state.current(self.observed.pods, self.observed.rayservice)
        old = {each.name for each in pod_state.of_cluster(self.observed.pods, cluster)}
        return "" if old & {each.name for each in wanted} else cluster

    @property
    def _headless(self) -> bool:
        """Nothing comes through, whatever KubeRay said of Serve last: it does not say more before it reaches a head."""
        cluster = self.application.cluster
        return bool(cluster) and not pod_state.head_ready(self.observed.pods, cluster)

    def _degraded(self, ready: Finding, serving: Finding) -> Finding:
        engine = self.engine()
        before = conditions.find(conditions.of(self.previous), "Degraded")
        if self._goes_on != "none" and before is not None:
            # What is being started is no loss, and what the change takes away is none either.
            return Finding(
                "Degraded", before["status"], words.known(before["reason"]), before["message"], before["observedGeneration"]
            )  # fmt: skip
        if engine == "none":
            return self._finding(
                "Degraded", "False", Reason.NOT_SERVING, "nothing answers yet; Ready says why"
            )
        if engine == "fallback" and self._wants_parallel:
            why = "the parallel engine did not draw the picture" if ready.holds else ready.message
            said = f"only the fallback answers: {why}"
            return self._finding("Degraded", "True", Reason.PARALLEL_UNAVAILABLE, said)
        return self._finding(
            "Degraded",
            "False",
            Reason.AS_EXPECTED,
            f"the {engine} engine answers, as the plan wants",
            serving.generation,
        )

    def _ready(self, chain: tuple[Finding, ...]) -> Finding:
        generation = min(each.generation for each in chain)
        for each in chain:
            if not each.holds:
                return Finding("Ready", each.status, each.reason, each.message, generation)
        said = f"pictures are served at {self.observed.url}"
        if generation < self.generation or self._goes_on != "none":
            said += f"; {words.CHANGING}"
        return Finding("Ready", "True", Reason.READY, said, generation)

    # -- what is up

    def engine(self) -> Engine:
        """Which engine answers now."""
        picture, application = self.observed.picture, self.application
        before = self._engine_before
        if self._headless and not self._cluster_before_serves:
            return "none"
        if self._cluster_before_serves:
            return before
        if self._restarts:
            return "none"
        if self._goes_on != "none":
            return self._goes_on
        if picture is not None:
            return picture.engine if picture.drawn else "none"
        likely = self._likely_engine()
        if application.running:
            return likely if not self._canary or likely == "none" else before
        # At a first start a healthy engine only means: not all are up yet.
        first = (self.previous or {}).get("engine") in (None, "none")
        return "none" if first and "EngineReady" not in self.causes else likely

    def _likely_engine(self) -> Engine:
        """Which engine answers by Serve's words alone. A deployment without replicas is healthy, too."""
        healthy = self.application.healthy
        if not healthy(GATEWAY):
            return "none"
        if self._wants_parallel and healthy(PARALLEL):
            return "parallel"
        return "fallback" if self._warm_singles > 0 and healthy(FALLBACK) else "none"

    @property
    def _engine_before(self) -> Engine:
        before = (self.previous or {}).get("engine")
        if self._held("Serving") is None or before not in ("parallel", "fallback"):
            return "none"
        return "parallel" if before == "parallel" else "fallback"

    def replicas(self) -> int | None:
        """Replicas of the planned layout that are up; under autoscaling, those that are up at least."""
        return self._up(PARALLEL if self._gangs else FALLBACK, self._wanted_replicas, "replicas")

    def fallbacks(self) -> int | None:
        """Warm fallback replicas that are up, at least."""
        plan = self.observed.plan
        return self._up(FALLBACK, plan.fallback.replicas if plan else 0, "fallbackReplicas")

    def _up(self, deployment: str, wanted: int, field: str) -> int | None:
        found = self.application.deployments.get(deployment)
        before = (self.previous or {}).get(field)
        known = before if isinstance(before, int) else 0
        if self._cluster_before_serves:
            return known
        if found is None:
            return 0
        if found.healthy and not self._lags:
            return wanted
        if found.healthy or found.status in ("UPSCALING", "DOWNSCALING") or self._goes_on != "none":
            # Serve tells no counts here; those that were up before stay up meanwhile.
            return known
        return 0 if wanted <= 1 or found.status != "UNHEALTHY" else None

    @property
    def _wanted_replicas(self) -> int:
        scaling = self.spec.get("autoscaling")
        if isinstance(scaling, Mapping):
            return int(scaling.get("minReplicas", 1))
        return int(self.spec.get("replicas", 1))

    @property
    def _gangs(self) -> bool:
        """Whether the layout is one of several ranks; a single rank is drawn by the single-device engine."""
        plan = self.observed.plan
        return plan is not None and plan.layout.gpus_per_replica > 1

    @property
    def _warm_singles(self) -> int:
        """Single-device replicas that are kept up: fallbacks, and the layout's own if it has one rank."""
        plan = self.observed.plan
        warm = plan.fallback.replicas if plan is not None else 0
        return warm if self._gangs else warm + self._wanted_replicas

    @property
    def _wants_parallel(self) -> bool:
        return self._gangs and self._wanted_replicas > 0

    @property
    def _canary(self) -> bool:
        return bool((self.spec.get("canary") or {}).get("enabled", True))

    def _engines(self) -> str:
        parts = []
        if self._gangs:
            parts.append(words.count(self.replicas() or 0, "parallel replica"))
        elif self.observed.plan is not None:
            parts.append(words.count(self.replicas() or 0, "single-device replica"))
        if self.observed.plan is not None and self.observed.plan.fallback.placement != "None":
            parts.append(words.count(self.fallbacks() or 0, "warm fallback"))
        return " and ".join(parts) or "all deployments are healthy"

    # -- findings

    def _finding(
        self, type_: ConditionType, status: conditions.Status, reason: Reason, message: str, generation: int | None = None
    ) -> Finding:  # fmt: skip
        return Finding(
            type_, status, reason, message, self.generation if generation is None else int(generation)
        )

    def _caused(self, cause: Cause) -> Finding:
        return self._finding(cause.condition, "False", cause.reason, cause.message)

    def _starting(self, type_: ConditionType, reason: Reason, message: str) -> Finding:
        """Not yet. Two causes stay named until what they broke is up, since nothing shows them meanwhile.

        A worker that was killed for memory is replaced by a pod without a past, and Serve's remark that a
        replica takes long to initialise takes the place of the error of the try before.
        """
        held = conditions.find(conditions.of(self.previous), type_) or {}
        if held.get("status") == "False" and held.get("observedGeneration") == self.generation:
            known = words.known(held.get("reason"))
            if known == Reason.WORKER_OOM_KILLED or (known not in PROGRESS and self._initialises):
                return self._finding(type_, "False", known, str(held.get("message")))
        return self._finding(type_, "False", reason, message)
