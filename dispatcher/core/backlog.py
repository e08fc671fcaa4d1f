"""
What waits, and in which order it goes.

An account's backlog has a queue for each tenant, and that a lane for each function (and
qualifier) of which invocations wait. All invocations of a lane meet the same gates, so it is
the lane that is parked behind a gate that blocks it: nothing is scanned and skipped.

Between tenants: stride scheduling by weight, charged in instance-seconds; tenants that hold
less than their reservation come first. Inside a tenant: by the time an invocation was due
less its head start, so nothing starves.

Entries of the heaps are dropped late: an entry is good if it says what its owner says now.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from dispatcher.core.gates import FunctionGate, Slot, TenantGate
from dispatcher.core.model import CallType, GateKind, State

#: What a run is thought to take before anything is known, for the charge at its launch.
UNKNOWN_RUN_S: Final = 1.0

#: Lanes of a tenant that are kept although nothing waits in them.
LANES_KEPT: Final = 1024

#: Heaps are swept when more than half of their entries, and more than this, are of no use.
_SWEEP_MIN: Final = 256


class Job(Struct, eq=False, kw_only=True, gc=False):
    """
    An invocation that has been accepted and has not ended.

    One lives for each waiting invocation, a million perhaps, hence the bare fields; `gc` is
    off since its only cycles (slot, lane) are undone when it ends.
    """

    id: str
    seq: int  #: order of acceptance
    lane: "Lane"
    payload: bytes | None  #: None: still in the journal
    payload_bytes: int
    type: CallType
    accepted_at: float
    due_at: float
    accepted_ms: int
    priority: float = 0.0
    expires_at: float = math.inf
    state: State = State.WAITING
    attempt: int = 1
    failures: int = 0  #: failed sends in a row
    wakes_at: float = -math.inf  #: while `waits_for` is set: not before this
    waits_for: GateKind | None = None  #: DELAY or RETRY
    slot: Slot | None = None
    first_sent_at: float | None = None  #: of this attempt
    sent_at: float | None = None
    request_id: str | None = None
    chosen_task_id: str | None = None
    options: dict[str, str] | None = None
    callback_url: str | None = None
    stopping: bool = False  #: to be stopped in the cloud as soon as that can be
    owner: object = None  #: the engine's own note

    @property
    def rank(self) -> float:
        """Return its place in its tenant's queue: less goes first."""
        return self.due_at - self.priority

    @property
    def task_id(self) -> str:
        """Return the id under which the cloud knows this attempt."""
        if self.attempt == 1:
            return self.chosen_task_id or self.id
        return f"{self.id}_{self.attempt}"


class Lane:
    """Due invocations of one tenant for one function and qualifier."""

    __slots__ = ("count", "function", "heap", "offered", "parked", "qualifier", "tenant", "woken")

    def __init__(
        self, tenant: "TenantQueue", function: FunctionGate, qualifier: str | None
    ) -> None:
        self.tenant = tenant
        self.function = function
        self.qualifier = qualifier
        self.heap: list[tuple[float, int, Job]] = []
        self.count = 0
        self.offered: tuple[float, int] | None = None  #: its good entry among the ready lanes
        self.parked = False
        self.woken = False  #: it was let out for room at its function that it has yet to use

    @property
    def key(self) -> tuple[str, str | None]:
        """Return what tells it from the tenant's other lanes."""
        return self.function.name, self.qualifier

    def head(self) -> tuple[float, int, Job] | None:
        """Return the entry of the invocation that goes next."""
        heap = self.heap
        while heap:
            job = heap[0][2]
            if job.state is State.WAITING and job.waits_for is None:
                return heap[0]
            heapq.heappop(heap)
        return None

    def push(self, job: Job) -> None:
        """Put *job* in its place."""
        if len(self.heap) > _SWEEP_MIN and len(self.heap) > 2 * self.count:
            self.heap = [e for e in self.heap if e[2].state is State.WAITING and not e[2].waits_for]
            heapq.heapify(self.heap)
        heapq.heappush(self.heap, (job.rank, job.seq, job))
        self.count += 1


class TenantQueue:
    """All that waits of one tenant, and what it holds."""

    __slots__ = (
        "account",
        "at_ceiling",
        "delayed",
        "due",
        "gate",
        "key",
        "label",
        "lanes",
        "name",
        "passed",
        "ready",
        "woken",
    )

    def __init__(self, account: str, name: str, label: str, gate: TenantGate) -> None:
        self.account = account
        self.name = name
        self.label = label
        self.gate = gate
        self.lanes: dict[tuple[str, str | None], Lane] = {}
        self.ready: list[tuple[float, int, Lane]] = []
        self.passed = 0.0  #: instance-seconds charged, by weight
        self.key: tuple[bool, float, int] | None = None  #: of its good entry among the tenants
        self.due = 0
        self.delayed = 0
        self.at_ceiling = False
        self.woken: set[Lane] = set()

    def head(self) -> Lane | None:
        """Return the lane whose first invocation goes next, of those that are not parked."""
        ready = self.ready
        while ready:
            rank, seq, lane = ready[0]
            head = None
            if lane.offered == (rank, seq):
                head = None if lane.parked else lane.head()
                if head is not None and head[0] == rank and head[1] == seq:
                    return lane
                lane.offered = None if head is None else head[:2]
            if head is None:
                heapq.heappop(ready)
            else:
                heapq.heapreplace(ready, (head[0], head[1], lane))
        return None

    def offer(self, lane: Lane) -> None:
        """Let the lane be found by `head`, under its first invocation."""
        head = lane.head()
        if head is None or (lane.offered is not None and lane.offered <= head[:2]):
            return
        if len(self.ready) > _SWEEP_MIN and len(self.ready) > 2 * len(self.lanes):
            self.ready = [entry for entry in self.ready if entry[2].offered == entry[:2]]
            heapq.heapify(self.ready)
        lane.offered = head[:2]
        heapq.heappush(self.ready, (head[0], head[1], lane))

    def charge(self, seconds: float, share: int) -> None:
        """Charge what one invocation holds, or settle it (a negative charge)."""
        self.passed += seconds / share / self.gate.rules.weight

    def lane(self, function: FunctionGate, qualifier: str | None) -> Lane:
        """Return the lane of a function and qualifier."""
        key = (function.name, qualifier)
        lane = self.lanes.get(key)
        if lane is None or lane.function is not function:
            if len(self.lanes) >= LANES_KEPT:
                self.lanes = {k: old for k, old in self.lanes.items() if old.count or old.parked}
            lane = self.lanes[key] = Lane(self, function, qualifier)
        return lane

    @property
    def idle(self) -> bool:
        """Tell whether nothing of it waits or runs."""
        return not self.due and not self.delayed and not self.gate.invocations


class Backlog:
    """All that waits of one account."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantQueue] = {}
        self.due = 0
        self.delayed = 0
        self.resends: deque[Job] = deque()  #: due again, and their slot is still held
        self._order: list[tuple[bool, float, int, TenantQueue]] = []
        self._serial = 0
        self._passed = 0.0  #: where the tenant stood that was served last
        self._parked: dict[str, list[tuple[float, float, int, Lane]]] = {}
        self._wakes: list[tuple[float, int, Job]] = []
        self._expiries: list[tuple[float, int, Job]] = []
        self._ages: deque[Job] = deque()

    # -- In and out

    def add(self, job: Job, now: float) -> None:
        """Let *job* wait: until `wakes_at` where `waits_for` is set, else for its turn."""
        tenant = job.lane.tenant
        if job.waits_for is not None and job.wakes_at > now:
            self.delayed += 1
            tenant.delayed += 1
            self._sweep(self._wakes, self.delayed)
            heapq.heappush(self._wakes, (job.wakes_at, job.seq, job))
        elif job.slot is not None:
            job.waits_for = None
            self.due += 1
            tenant.due += 1
            self.resends.append(job)
        else:
            job.waits_for = None
            self._enqueue(job)
        if job.expires_at < math.inf and job.first_sent_at is None:
            self._sweep(self._expiries, self.due + self.delayed)
            heapq.heappush(self._expiries, (job.expires_at, job.seq, job))

    def _enqueue(self, job: Job) -> None:
        tenant = job.lane.tenant
        # The lane may have been dropped and made anew while the job was away.
        lane = job.lane = tenant.lanes.setdefault(job.lane.key, job.lane)
        if not tenant.due:
            # Whoever comes back has saved no credit; whoever is new has no debt.
            tenant.passed = max(tenant.passed, self._passed)
        self.due += 1
        tenant.due += 1
        lane.push(job)
        if not lane.parked:
            tenant.offer(lane)
            self._rank(tenant)
        self._note_age(job)

    def drop(self, job: Job) -> None:
        """Forget a job that was waiting: call it before its state changes."""
        tenant, lane = job.lane.tenant, job.lane
        if job.waits_for is not None:
            self.delayed -= 1
            tenant.delayed -= 1
            return
        self.due -= 1
        tenant.due -= 1
        if job.slot is not None:
            self.resends.remove(job)
            return
        lane.count -= 1
        if not lane.count and lane.woken:
            self._pass_on(lane)

    def take(self, lane: Lane) -> Job:
        """Take the first invocation out of *lane*, which `next_lane` gave."""
        head = lane.head()
        assert head is not None
        heapq.heappop(lane.heap)
        lane.count -= 1
        lane.woken = False
        tenant = lane.tenant
        tenant.woken.discard(lane)
        tenant.due -= 1
        self.due -= 1
        self._passed = max(self._passed, tenant.passed)
        return head[2]

    def resend(self) -> Job:
        """Take the first of those that go again with the slot they hold."""
        job = self.resends.popleft()
        self.due -= 1
        job.lane.tenant.due -= 1
        return job

    # -- Order

    def next_lane(self, now: float) -> Lane | None:
        """
        Return the lane whose turn it is, by every gate but the account's.

        What is found blocked on the way is parked, so each is looked at once.
        """
        while self._order:
            entry = self._order[0]
            tenant = entry[3]
            if tenant.key != entry[:3]:
                heapq.heappop(self._order)
                continue
            lane = None if tenant.at_ceiling else tenant.head()
            if lane is None:
                heapq.heappop(self._order)
                tenant.key = None
            elif lane.function.blocked(lane.qualifier, now) is not None:
                self._park(lane)
            elif not tenant.gate.fits(lane.function.rules.instance_concurrency):
                tenant.at_ceiling = True
                for waiting in list(tenant.woken):
                    self._pass_on(waiting)
            else:
                return lane
        return None

    def rerank(self, tenant: TenantQueue) -> None:
        """Put a tenant in its place again after it was charged, or took or gave back a slot."""
        tenant.at_ceiling = False  # looked at anew when its turn comes
        self._rank(tenant)

    def _rank(self, tenant: TenantQueue) -> None:
        if tenant.at_ceiling or not tenant.due:
            return
        if len(self._order) > _SWEEP_MIN and len(self._order) > 2 * len(self.tenants):
            self._order = [e for e in self._order if e[3].key == e[:3]]
            heapq.heapify(self._order)
        old = tenant.key
        place = (not tenant.gate.below_floor, tenant.passed)
        if old is not None and old[:2] == place:
            return
        self._serial += 1
        tenant.key = (*place, self._serial)
        heapq.heappush(self._order, (*tenant.key, tenant))

    # -- Parking

    @property
    def any_parked(self) -> bool:
        """Tell whether a function holds anything up."""
        return bool(self._parked)

    def _park(self, lane: Lane) -> None:
        lane.parked = True
        lane.woken = False
        lane.tenant.woken.discard(lane)
        head = lane.head()
        assert head is not None
        parked = self._parked.setdefault(lane.function.name, [])
        heapq.heappush(parked, (lane.tenant.passed, head[0], head[1], lane))

    def wake_one(self, function: FunctionGate) -> None:
        """Let out the first parked lane that can use the room of one more invocation."""
        parked = self._parked.get(function.name)
        while parked:
            lane = heapq.heappop(parked)[3]
            if self._let_out(lane) and not lane.tenant.at_ceiling:
                lane.woken = True
                lane.tenant.woken.add(lane)
                break
        if parked is not None and not parked:
            del self._parked[function.name]

    def wake_all(self, function: FunctionGate) -> None:
        """Let out every lane that is parked behind *function*: its rules or times changed."""
        for *_, lane in self._parked.pop(function.name, ()):
            self._let_out(lane)

    def _let_out(self, lane: Lane) -> bool:
        """Return whether anything waits in the lane."""
        lane.parked = False
        if lane.head() is None:
            return False
        lane.tenant.offer(lane)
        self._rank(lane.tenant)
        return True

    def _pass_on(self, lane: Lane) -> None:
        """Give the room that *lane* was let out for, and cannot use, to another one."""
        lane.woken = False
        lane.tenant.woken.discard(lane)
        self.wake_one(lane.function)

    # -- Time

    def wake(self, now: float) -> None:
        """Let those take their turn whose time has come."""
        while self._wakes and self._wakes[0][0] <= now:
            at, _, job = heapq.heappop(self._wakes)
            if self._waits_until(job, at):
                self.delayed -= 1
                job.lane.tenant.delayed -= 1
                job.waits_for = None
                if job.slot is not None:
                    self.due += 1
                    job.lane.tenant.due += 1
                    self.resends.append(job)
                else:
                    self._enqueue(job)

    def expired(self, now: float) -> Iterator[Job]:
        """Give what was not sent in time; the caller ends each before it asks for the next."""
        while self._expiries and self._expiries[0][0] <= now:
            job = heapq.heappop(self._expiries)[2]
            # One that may have been sent already is no longer ours to let expire.
            if job.state is State.WAITING and job.slot is None:
                yield job

    def next_time(self) -> float | None:
        """Return when `wake` or `expired` have something to do."""
        while self._wakes and not self._waits_until(self._wakes[0][2], self._wakes[0][0]):
            heapq.heappop(self._wakes)
        while self._expiries and self._expiries[0][2].state is not State.WAITING:
            heapq.heappop(self._expiries)
        times = [heap[0][0] for heap in (self._wakes, self._expiries) if heap]
        return min(times, default=None)

    @staticmethod
    def _waits_until(job: Job, at: float) -> bool:
        return job.state is State.WAITING and job.waits_for is not None and job.wakes_at == at

    @staticmethod
    def _sweep(heap: list[tuple[float, int, Job]], live: int) -> None:
        if len(heap) > _SWEEP_MIN and len(heap) > 2 * live:
            heap[:] = [entry for entry in heap if entry[2].state is State.WAITING]
            heapq.heapify(heap)

    # -- What others want to know

    def _note_age(self, job: Job) -> None:
        if len(self._ages) > _SWEEP_MIN and len(self._ages) > 2 * self.due:
            self._ages = deque(dict.fromkeys(j for j in self._ages if _is_due(j)))
        if job.failures or job.attempt > 1:
            self._ages.appendleft(job)
        else:
            self._ages.append(job)

    def oldest_due_at(self) -> float | None:
        """Return since when the longest waiting due invocation has been due."""
        ages = self._ages
        while ages and not _is_due(ages[0]):
            ages.popleft()
        return ages[0].due_at if ages else None

    def forget_idle(self, tenant: TenantQueue) -> None:
        """Drop a tenant of which nothing waits or runs, unless it has a debt to remember."""
        if tenant.idle and tenant.passed <= self._passed:
            tenant.key = None
            self.tenants.pop(tenant.name, None)

    def ahead_of(self, job: Job) -> Iterator[bool]:
        """Give, for each due invocation of the same tenant, whether it comes before *job*."""
        place = (job.rank, job.seq)
        for lane in list(job.lane.tenant.lanes.values()):
            for rank, seq, other in list(lane.heap):
                yield (rank, seq) < place and _is_due(other)


def _is_due(job: Job) -> bool:
    return job.state is State.WAITING and job.waits_for is None
