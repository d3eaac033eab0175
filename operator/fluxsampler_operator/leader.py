"""Of several operators one works: the one that holds a Lease. The rules are those of client-go's leader election.

Ours and not ``kubernetes.leaderelection`` (37.0.2, read whole), which would need more around it than this module is:
a call without an answer blocks it past every deadline, an unreachable server raises through and ends its thread
while the work goes on, "now" is the wall clock, nothing releases the Lease at the end, its pauses can neither be
interrupted nor vary, and its client is the process-wide default one.

The holder's clock is never compared with ours: a follower notes, on its own clock, when it *saw* the
record change, and takes the Lease when the record has stood still for its ``leaseDurationSeconds``. The holder
counts from *before* the request that renewed it, and stops a third of that time earlier. Every write names the
resourceVersion that it saw, so of two who try one is refused.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import NoReturn, Protocol

import structlog

from fluxsampler_operator.cluster import LEASES, Resource
from fluxsampler_operator.errors import Conflict, LeadershipLost, OperatorError, Permanent
from fluxsampler_operator.manifest import Manifest

_log = structlog.get_logger(__name__)

RENEW_SHARE = 2 / 3
"""Of the lease's seconds: so long without a renewal, and the holder stops (client-go: 10 of 15)."""
RETRY_SHARE = 2 / 15
"""Of the lease's seconds: between two renewals, and between two looks of a follower (client-go: 2 of 15)."""


def boottime() -> float:
    """Seconds that only grow, those in which the machine slept included: CLOCK_MONOTONIC of Linux stands still then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Leases(Protocol):
    """Where the Lease is kept; :class:`~fluxsampler_operator.cluster.Cluster` is one."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The object, None when there is none."""

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """The object as made; Conflict when there is one."""

    async def replace(self, resource: Resource, live: Manifest) -> Manifest:
        """The object as written; Conflict when it is no more what was read."""


def own_identity() -> str:
    """The pod's name, and something that the same pod's next container does not share."""
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


class Candidate:
    """One process that wants the Lease ``namespace``/``name``. ``clock`` counts seconds."""

    def __init__(
        self, leases: Leases, namespace: str, name: str, seconds: int, *, identity: str = "",
        clock: Callable[[], float] = boottime, jitter: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.identity = identity or own_identity()
        self._leases, self._namespace, self._name, self._seconds = leases, namespace, name, seconds
        self._renew_within = seconds * RENEW_SHARE
        self._retry = seconds * RETRY_SHARE
        self._clock, self._jitter = clock, jitter
        self._until = -inf
        self._held: Manifest | None = None
        self._seen: Manifest = {}
        self._seen_at = -inf
        self._told = ""

    def leads(self) -> bool:
        """Whether this process may write now; asked from any thread, right before each write."""
        return self._clock() < self._until

    async def acquire(self) -> None:
        """Return when the Lease is held. Raises Permanent when the API server refused for a whole lease's time."""
        refused_since: float | None = None
        while True:
            refused = False
            try:
                async with asyncio.timeout(self._renew_within):
                    await self._attempt()
            except TimeoutError:
                self._tell(
                    _log.warning,
                    "cannot ask for the lease",
                    error=f"no answer within {self._renew_within:.0f} s",
                )
            except Conflict:
                self._told = ""  # somebody was first; the next look says who
            except OperatorError as error:
                # An API server that starts answers 401 and 403 until it has read its roles; later it means them.
                refused = isinstance(error, Permanent)
                refused_since = refused_since if refused_since is not None else self._clock()
                if refused and self._clock() - refused_since > self._seconds:
                    raise
                self._tell(_log.warning, "cannot ask for the lease", error=str(error))
            if self.leads():
                _log.info("leads", lease=self._lease, identity=self.identity)
                return
            refused_since = refused_since if refused else None
            await asyncio.sleep(self._retry * (0.8 + 0.4 * self._jitter()))

    async def hold(self) -> NoReturn:
        """Renew until cancelled. Raises LeadershipLost when somebody else holds the Lease, or no renewal came through."""
        while True:
            await asyncio.sleep(self._retry)
            await self._renew()

    async def release(self) -> None:
        """Give the Lease back, if it is held, so that a follower need not wait for its end. No write is sent after this.

        Call it when every write has ended. Raises OperatorError when the API server does not take it.
        """
        self._until, self._held = -inf, None
        for last in (False, True):
            live = await self._leases.get(LEASES, self._namespace, self._name)
            if live is None or _spec(live).get("holderIdentity") != self.identity:
                return
            spec = {**_spec(live), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            try:
                await self._leases.replace(LEASES, {**live, "spec": spec})
            except Conflict:  # our own last renewal was still under way
                if last:
                    raise
            else:
                _log.info("lease released", lease=self._lease)
                return

    @property
    def _lease(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def _renew(self) -> None:
        said = "no answer"
        refused = False
        while True:
            left = self._until - self._clock()
            if left <= 0:
                raise LeadershipLost(
                    f"the lease {self._lease} was not renewed within {self._renew_within:.0f} s: {said}"
                )
            before = self._until
            try:
                async with asyncio.timeout(left):
                    await self._attempt()
            except TimeoutError:
                continue
            except Conflict as error:
                said = str(error)
                if (
                    not refused
                ):  # Somebody wrote it: who, is looked up at once. Refused again, at the usual pace.
                    refused = True
                    continue
            except OperatorError as error:
                said = str(error)
            holder = self._seen.get("holderIdentity")
            if holder and holder != self.identity:
                raise LeadershipLost(f"{holder} holds the lease {self._lease}")
            if self._until > before and self.leads():
                return
            await asyncio.sleep(min(self._retry, max(0.0, self._until - self._clock())))

    async def _attempt(self) -> None:
        """Take or renew the Lease if nobody else has it; what came of it is in ``leads`` and ``_seen``."""
        # What was written last is, for its writer, what is there: one request for a renewal.
        live, self._held = self._held, None
        if live is None:
            live = await self._leases.get(LEASES, self._namespace, self._name)
            self._observe(live)
            holder = self._seen.get("holderIdentity")
            # Also while the Lease is gone: whoever deleted it did not stop its holder.
            if holder and holder != self.identity and self._clock() < self._seen_at + self._lasts():
                self._tell(_log.info, "waits for the leader", leader=holder)
                return
        started = self._clock()
        if live is None:
            meta = {"namespace": self._namespace, "name": self._name}
            wanted = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": meta,
                "spec": self._record({}),
            }
            live = await self._leases.create(LEASES, wanted)
        else:
            live = await self._leases.replace(LEASES, {**live, "spec": self._record(_spec(live))})
        self._observe(live)
        self._held, self._until = live, started + self._renew_within

    def _observe(self, live: Manifest | None) -> None:
        if live is not None and _spec(live) != self._seen:
            self._seen, self._seen_at = _spec(live), self._clock()

    def _lasts(self) -> float:
        return float(self._seen.get("leaseDurationSeconds") or self._seconds)

    def _record(self, before: Manifest) -> Manifest:
        now = _now()
        renewed = before.get("holderIdentity") == self.identity
        return {
            **before,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": before["acquireTime"] if renewed and "acquireTime" in before else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (not renewed) if before else 0,
        }

    def _tell(self, log: Callable[..., None], event: str, **words: str) -> None:
        """Log what is new: a follower looks every two seconds, for months."""
        if self._told != (told := f"{event} {words}"):
            self._told = told
            log(event, lease=self._lease, **words)


def _spec(live: Manifest) -> Manifest:
    return live.get("spec") or {}


def _now() -> str:
    """For people who read the Lease; nobody computes with it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
