"""Entry point of the operator: ``python -m fluxsampler_operator``. Composition and shutdown, nothing else."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
from typing import NoReturn

import kopf
import structlog
from prometheus_client import start_http_server

from fluxsampler_operator import logs
from fluxsampler_operator.cluster import RAY_SERVICES, SAMPLERS, Cluster
from fluxsampler_operator.errors import LeadershipLost, OperatorError, Retryable
from fluxsampler_operator.handlers.events import (
    BUILT_IN_KINDS,
    KUBERAY_KINDS,
    watch_children,
    watch_samplers,
)
from fluxsampler_operator.handlers.keys import Samplers
from fluxsampler_operator.handlers.login import log_in
from fluxsampler_operator.handlers.probe import answer_probe
from fluxsampler_operator.handlers.watcher import Watcher
from fluxsampler_operator.leader import RENEW_SHARE, Candidate
from fluxsampler_operator.metrics import LEADER
from fluxsampler_operator.picture import Draw, Pictures, draw
from fluxsampler_operator.queue import Key, WorkQueue
from fluxsampler_operator.reconcile import Reconciler
from fluxsampler_operator.settings import Settings
from fluxsampler_operator.standby import answering_probes

_log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 3.0
# Then, for calls under way to end, and again for the lease to be given back.
RELEASE_SECONDS = 1.0


class Operator:
    """One running operator: cluster, queue, pictures, watches."""

    def __init__(self, settings: Settings, cluster: Cluster, ask: Draw = draw) -> None:
        loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._pictures = Pictures(self.add, ask=ask)
        reconciler = Reconciler(cluster, settings, self._pictures)
        self.queue = WorkQueue(reconciler.reconcile, slow_seconds=settings.resync_seconds)
        self._loop = loop
        samplers = Samplers()
        registries = {name: kopf.OperatorRegistry() for name in ("built-in", "samplers", "kuberay")}
        for registry in registries.values():
            log_in(registry)
        answer_probe(registries["built-in"], loop)
        watch_children(registries["built-in"], BUILT_IN_KINDS, samplers, self.add_from_thread)
        watch_samplers(registries["samplers"], samplers, self.add_from_thread)
        watch_children(registries["kuberay"], KUBERAY_KINDS, samplers, self.add_from_thread)
        spaces = settings.watch_namespaces
        health = f"http://0.0.0.0:{settings.health_port}/healthz"
        self._watchers = (
            Watcher("built-in", registries["built-in"], spaces, _always, liveness=health),
            Watcher("samplers", registries["samplers"], spaces, lambda: cluster.serves(SAMPLERS)),
            Watcher("kuberay", registries["kuberay"], spaces, lambda: cluster.serves(RAY_SERVICES), self._look_at_all),
        )  # fmt: skip

    def add(self, key: Key) -> None:
        """Make a key due."""
        self.queue.add(key)

    def add_from_thread(self, key: Key) -> None:
        """As :meth:`add`, from the thread of a watch."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.add, key)

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for watcher in self._watchers:
                    group.create_task(watcher.run(), name=f"watcher {watcher.name}")
        finally:
            await asyncio.gather(self.queue.close(), self._pictures.close())
            self._cluster.close()

    def _look_at_all(self) -> None:
        for key in self.queue.keys:
            self.queue.add(key)


async def _always() -> bool:
    return True


async def _kuberay(cluster: Cluster) -> str:
    """For the first line of the log; a FluxSampler's condition says the same at any later time."""
    try:
        return "found" if await cluster.serves(RAY_SERVICES) else "missing"
    except Retryable as error:
        return f"unknown: {error}"


def _candidate(settings: Settings) -> Candidate | None:
    """None where there is but one operator. Its calls wait behind none of the work's, and end within a deadline."""
    if settings.lease is None:
        return None
    leases = Cluster(read_seconds=settings.lease_seconds * RENEW_SHARE / 2)
    return Candidate(leases, *settings.lease, settings.lease_seconds)


async def _work(settings: Settings, ask: Draw, cluster: Cluster, candidate: Candidate | None) -> None:
    """Wait for the Lease where there is one, and work while it is held. Raises LeadershipLost."""
    if candidate is None:
        LEADER.set(1)
        await Operator(settings, cluster, ask).run()
        return
    async with answering_probes(settings.health_port):
        await candidate.acquire()
    LEADER.set(1)
    working = asyncio.create_task(Operator(settings, cluster, ask).run(), name="operator")
    holding = asyncio.create_task(candidate.hold(), name="lease")
    try:
        done, _ = await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
        await done.pop()
    except LeadershipLost as error:
        # Nothing may hold up the end: whoever has the lease now is at work, and the kubelet starts this one anew.
        _log.error("leadership lost, this operator ends", error=str(error))
        _leave(1)
    finally:
        working.cancel()
        await asyncio.wait({working})
        holding.cancel()


async def _release(candidate: Candidate, cluster: Cluster) -> None:
    """Let a follower begin at once, unless a write of ours may still arrive."""
    if not await cluster.at_rest(RELEASE_SECONDS):
        _log.warning("lease kept until it runs out: a call has not ended")
        return
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await candidate.release()
    except (OperatorError, TimeoutError) as error:
        _log.warning("lease kept until it runs out", error=str(error) or "no answer")


async def _until_signal(settings: Settings, ask: Draw) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    candidate = _candidate(settings)
    cluster = Cluster(may_write=candidate.leads if candidate else lambda: True)
    _log.info(
        "operator starts", version=settings.version, serve_image=settings.serve_image,
        namespaces=list(settings.watch_namespaces) or "all", kuberay=await _kuberay(cluster),
        lease="/".join(settings.lease) if settings.lease else "none",
    )  # fmt: skip
    running = asyncio.create_task(_work(settings, ask, cluster, candidate), name="work")
    stopping = asyncio.create_task(stopped.wait(), name="signal")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # raises what ended it
            return
        _log.info("operator stops")
        running.cancel()
        await asyncio.wait({running}, timeout=SHUTDOWN_SECONDS)
    finally:
        # One that failed before it had the Lease has nothing to give back; at a signal it may just have asked for it.
        if candidate is not None and running.done() and (stopped.is_set() or candidate.leads()):
            await _release(candidate, cluster)


def _leave(code: int) -> NoReturn:
    # os._exit would skip these, and the Kubernetes client's removes the files that it wrote a kubeconfig's private key into.
    atexit._run_exitfuncs()
    sys.stderr.flush()
    # Threads of calls that the API server does not answer would hold the process for as long as their timeouts;
    # nothing of ours is left to be saved.
    os._exit(code)


def main(ask: Draw = draw) -> None:
    """Run until SIGTERM; exit code 1 with one line of explanation when it cannot. ``ask`` draws the canaries."""
    code = 1
    logs.set_up()
    try:
        settings = Settings.from_environment(os.environ)
        logs.set_up(settings.log_level)
        if settings.metrics_port:
            start_http_server(settings.metrics_port)
        asyncio.run(_until_signal(settings, ask))
        code = 0
    except OperatorError as error:
        _log.error("the operator cannot run", error=str(error))
    except (Exception, BaseExceptionGroup):  # noqa: BLE001  (the process ends here)
        # Of ours or of a library's: without this the process would wait for its threads before it ends.
        _log.exception("the operator ends by an error")
    _leave(code)
