"""Who may work, told by a virtual clock: minutes of leases pass in no time, and nothing depends on the machine."""

from __future__ import annotations

import asyncio
import copy
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from fluxsampler_operator.cluster import Resource
from fluxsampler_operator.errors import (
    ClusterUnavailable,
    Conflict,
    Forbidden,
    LeadershipLost,
    NotFound,
    OperatorError,
)
from fluxsampler_operator.leader import Candidate, boottime

LEASE, DEADLINE, RETRY = 15, 10.0, 2.0
# A look comes after at most 1.2 pauses.
LOOK = 1.2 * RETRY


class _NoWaiting(selectors.DefaultSelector):
    """Instead of waiting for a time it moves the clock there."""

    now = 5000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing would ever happen again"
        self.now += timeout
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def lived(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in virtual time; it has an hour."""

    async def within() -> None:
        async with asyncio.timeout(3600):
            await story()

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(within())


def now() -> float:
    return asyncio.get_running_loop().time()


class Store:
    """One Lease, as an API server keeps it: each write has a version, and an older one is refused."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.writes: list[str] = []
        self.asked = 0

    @property
    def holder(self) -> str:
        return str((self.lease or {}).get("spec", {}).get("holderIdentity", ""))

    @property
    def transitions(self) -> int:
        assert self.lease is not None
        return int(self.lease["spec"]["leaseTransitions"])

    def keep(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        kept = copy.deepcopy(lease)
        kept["metadata"]["resourceVersion"] = str(self.version)
        self.lease = kept
        self.writes.append(self.holder)
        return copy.deepcopy(kept)

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        self.asked += 1
        assert (resource.plural, namespace, name) == ("leases", "ns", "fx")
        return copy.deepcopy(self.lease)

    async def create(self, _: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise Conflict("already exists")
        return self.keep(manifest)

    async def replace(self, _: Resource, live: dict[str, Any]) -> dict[str, Any]:
        if self.lease is None:
            raise NotFound("leases fx not found")
        if live["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict("the object has been modified")
        return self.keep(live)


class Line(Store):
    """One candidate's own line to the store, which a test can cut."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.fault: OperatorError | None = None
        self.silent = False
        self.lost_answers = False

    async def _through(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self.silent or self.fault is not None:
            call.close()
        if self.silent:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        answer = await call
        if self.lost_answers:
            raise ClusterUnavailable("the connection was closed")
        return answer

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._through(self.store.get(resource, namespace, name))
        return found

    async def create(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = await self._through(self.store.create(resource, manifest))
        return made

    async def replace(self, resource: Resource, live: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = await self._through(self.store.replace(resource, live))
        return made


class World:
    """A store and candidates, made inside the virtual loop."""

    def __init__(self) -> None:
        self.store = Store()
        self.tasks: list[asyncio.Task[Any]] = []

    def candidate(self, identity: str, jitter: float = 0.5) -> tuple[Candidate, Line]:
        line = Line(self.store)
        clock = asyncio.get_running_loop().time
        return Candidate(line, "ns", "fx", LEASE, identity=identity, clock=clock, jitter=lambda: jitter), line

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    async def leader(self, identity: str = "a") -> tuple[Candidate, Line, asyncio.Task[Any]]:
        one, line = self.candidate(identity)
        await one.acquire()
        return one, line, self.start(one.hold())


def test_the_first_takes_it_at_once_and_renews_with_one_request_each() -> None:
    async def story() -> None:
        world, began = World(), now()
        one, _line, holding = await world.leader()
        assert now() == began
        assert one.leads()
        assert (world.store.holder, world.store.transitions) == ("a", 0)
        assert world.store.lease is not None
        first = world.store.lease["spec"]
        assert first["leaseDurationSeconds"] == LEASE
        await asyncio.sleep(61)
        assert one.leads()
        assert not holding.done()
        spec = world.store.lease["spec"]
        assert spec["acquireTime"] == first["acquireTime"]
        assert spec["renewTime"] > first["renewTime"]
        assert len(world.store.writes) == 1 + 60 / RETRY
        assert world.store.asked == 1, "a renewal does not read first"

    lived(story)


def test_a_follower_waits_as_long_as_there_are_renewals_and_says_for_whom_once() -> None:
    async def story() -> None:
        world = World()
        one, _line, _holding = await world.leader()
        two, _ = world.candidate("b")
        with capture_logs() as said:
            waiting = world.start(two.acquire())
            await asyncio.sleep(300)
        assert not waiting.done()
        assert one.leads()
        assert not two.leads()
        assert set(world.store.writes) == {"a"}
        assert [(line["event"], line["leader"]) for line in said] == [("waits for the leader", "a")]

    lived(story)


def test_a_dead_leader_is_replaced_after_its_lease_and_never_sooner() -> None:
    async def story() -> None:
        world = World()
        one, _line, holding = await world.leader()
        two, _ = world.candidate("b")
        world.start(two.acquire())
        await asyncio.sleep(30.5)
        holding.cancel()  # SIGKILL: nothing is said any more
        died = now()
        while not two.leads():
            assert not (one.leads() and two.leads())
            assert world.store.holder == "a"
            await asyncio.sleep(0.1)
        assert LEASE <= now() - died + RETRY <= LEASE + 2 * LOOK + RETRY
        assert not one.leads()
        assert (world.store.holder, world.store.transitions) == ("b", 1)

    lived(story)


def test_the_holders_clock_means_nothing() -> None:
    async def story() -> None:
        for stamp in ("1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"):
            world = World()
            spec = {"holderIdentity": "other", "leaseDurationSeconds": 40, "renewTime": stamp}
            world.store.keep({"metadata": {"namespace": "ns", "name": "fx"}, "spec": spec})
            two, _ = world.candidate("b")
            began = now()
            await two.acquire()
            # By the holder's own duration, from when it was first seen.
            assert 40 <= now() - began <= 40 + 2 * LOOK

    lived(story)


def test_a_leader_that_gets_no_answer_stops_in_time() -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        two, _ = world.candidate("b")
        world.start(two.acquire())
        await asyncio.sleep(31)
        line.silent, cut = True, now()
        with pytest.raises(LeadershipLost, match="not renewed within 10 s: no answer"):
            await holding
        assert now() - cut <= DEADLINE
        assert not one.leads()
        assert not two.leads(), "there is time between the two"
        while not two.leads():
            await asyncio.sleep(0.1)
        assert now() - cut > DEADLINE

    lived(story)


@pytest.mark.parametrize("fault", [ClusterUnavailable("etcd is away"), Forbidden("the role is gone")])
def test_a_leader_whose_renewals_fail_goes_on_trying_until_the_deadline(fault: OperatorError) -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        await asyncio.sleep(11)
        line.fault = fault
        await asyncio.sleep(DEADLINE - 2 * RETRY)
        assert one.leads()
        line.fault = None  # back in time
        await asyncio.sleep(60)
        assert one.leads()
        line.fault = fault
        with pytest.raises(LeadershipLost, match=str(fault)):
            await holding
        assert not one.leads()

    lived(story)


def test_a_renewal_whose_answer_was_lost_is_no_loss() -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        for _ in range(5):
            line.lost_answers = True
            await asyncio.sleep(RETRY * 1.5)
            line.lost_answers = False
            await asyncio.sleep(RETRY * 3)
            assert one.leads()
        assert not holding.done()
        assert world.store.transitions == 0

    lived(story)


def test_one_that_was_stopped_knows_so_before_it_does_anything() -> None:
    async def story() -> None:
        world = World()
        one, _line, holding = await world.leader()
        await asyncio.sleep(RETRY * 1.5)
        written = len(world.store.writes)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _VirtualLoop)
        loop._clock.now += 600  # SIGSTOP; nobody else came
        assert not one.leads()
        with pytest.raises(LeadershipLost):
            await holding
        assert len(world.store.writes) == written

    lived(story)


def test_a_stopped_one_that_had_asked_already_does_not_trust_the_late_answer() -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _VirtualLoop)
        answer, answered = line.replace, 0.0

        async def late(resource: Resource, live: dict[str, Any]) -> dict[str, Any]:
            nonlocal answered
            given = await answer(resource, live)
            loop._clock.now += DEADLINE + 1
            answered = now()
            return given

        line.replace = late  # type: ignore[method-assign]  # the answer is read after a stop
        with pytest.raises(LeadershipLost):
            await holding
        assert now() == answered, "at once"
        assert not one.leads()

    lived(story)


def test_of_two_who_try_at_the_same_moment_one_gets_it() -> None:
    async def story() -> None:
        world = World()
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
        for there in (None, {"metadata": {"namespace": "ns", "name": "fx"}, "spec": spec}):
            world.store.lease, world.store.writes = None, []
            if there is not None:
                world.store.keep(there)
            many = [world.candidate(f"c{number}")[0] for number in range(5)]
            for one in many:
                world.start(one.acquire())
            await asyncio.sleep(0)
            await asyncio.sleep(RETRY * 2)
            assert sum(one.leads() for one in many) == 1
            for task in world.tasks:
                task.cancel()

    lived(story)


def test_whoever_sees_another_holder_ends_at_once() -> None:
    async def story() -> None:
        world = World()
        one, _line, holding = await world.leader()
        await asyncio.sleep(5)
        assert world.store.lease is not None
        world.store.keep({**world.store.lease, "spec": {**world.store.lease["spec"], "holderIdentity": "x"}})
        began = now()
        with pytest.raises(LeadershipLost, match="x holds the lease ns/fx"):
            await holding
        assert now() - began <= RETRY, "with the renewal that is refused, not a pause later"
        assert world.store.holder == "x"
        assert one.identity == "a"

    lived(story)


def test_a_renewal_that_is_refused_again_and_again_is_tried_at_the_usual_pace() -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        await asyncio.sleep(RETRY / 2)
        tried = 0

        async def refused(resource: Resource, live: dict[str, Any]) -> dict[str, Any]:
            nonlocal tried
            tried += 1
            raise Conflict("the object has been modified")

        line.replace = refused  # type: ignore[method-assign]  # whatever it writes
        with pytest.raises(LeadershipLost, match="not renewed within 10 s: the object has been modified"):
            await holding
        assert tried == DEADLINE / RETRY
        assert not one.leads()

    lived(story)


def test_a_released_lease_is_taken_at_the_next_look() -> None:
    async def story() -> None:
        world = World()
        one, _line, holding = await world.leader()
        two, _ = world.candidate("b", jitter=1.0)
        world.start(two.acquire())
        await asyncio.sleep(21)
        holding.cancel()
        await one.release()
        assert not one.leads()
        assert world.store.holder == ""
        began = now()
        while not two.leads():
            await asyncio.sleep(0.1)
        assert now() - began <= LOOK + 0.2
        assert world.store.holder == "b"

    lived(story)


def test_only_the_holder_releases() -> None:
    async def story() -> None:
        world = World()
        two, _ = world.candidate("b")
        await two.release()
        assert world.store.writes == []
        await world.leader()
        await two.release()
        assert world.store.holder == "a"

    lived(story)


def test_a_renewal_that_was_under_way_does_not_undo_the_release() -> None:
    async def story() -> None:
        world = World()
        one, line, holding = await world.leader()
        holding.cancel()
        read, beaten = line.get, False

        async def get(resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
            nonlocal beaten
            found = await read(resource, namespace, name)
            if not beaten and found is not None:
                beaten = True
                world.store.keep(found)  # our own last renewal arrives between the look and the write
            return found

        line.get = get  # type: ignore[method-assign]  # see above
        await one.release()
        assert world.store.holder == ""

    lived(story)


def test_a_deleted_lease_is_made_anew_by_its_holder_and_taken_by_no_follower() -> None:
    async def story() -> None:
        world = World()
        one, _line, holding = await world.leader()
        two, _ = world.candidate("b")
        world.start(two.acquire())
        await asyncio.sleep(9)
        world.store.lease = None
        await asyncio.sleep(60)
        assert world.store.holder == "a"
        assert one.leads()
        assert not holding.done()
        assert not two.leads()
        assert set(world.store.writes) == {"a"}

    lived(story)


def test_a_refusal_is_waited_out_for_a_while_and_then_told() -> None:
    async def story() -> None:
        world = World()
        one, line = world.candidate("a")
        line.fault = Forbidden("roles are being read")
        waiting = world.start(one.acquire())
        await asyncio.sleep(LEASE - 1)
        line.fault = ClusterUnavailable("starts")
        await asyncio.sleep(300)
        assert not waiting.done(), "what is away comes back"
        line.fault, began = Forbidden("no right to leases"), now()
        with pytest.raises(Forbidden, match="no right to leases"):
            await waiting
        assert LEASE < now() - began <= LEASE + 2 * LOOK

    lived(story)


def test_a_follower_outlives_an_api_server_that_says_nothing() -> None:
    async def story() -> None:
        world = World()
        one, line = world.candidate("a")
        line.silent = True
        with capture_logs() as said:
            waiting = world.start(one.acquire())
            await asyncio.sleep(120)
        assert not waiting.done()
        assert [line["error"] for line in said] == ["no answer within 10 s"], "said once"
        line.silent = False
        await asyncio.wait_for(waiting, DEADLINE + LOOK)
        assert one.leads()

    lived(story)


def test_the_clock_counts_the_time_that_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def gettime(clock: int) -> float:
        asked.append(clock)
        return 77.0

    monkeypatch.setattr(time, "clock_gettime", gettime)
    monkeypatch.setattr(time, "monotonic", lambda: 33.0)
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    assert boottime() == 77
    assert asked == [7]
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert boottime() == 33
    assert Candidate(Store(), "ns", "fx", LEASE)._clock is boottime


def test_identities_differ_even_in_one_pod() -> None:
    one, two = (Candidate(Store(), "ns", "fx", LEASE) for _ in range(2))
    assert one.identity != two.identity
