"""
What waits of one account, and in which order it goes.

Between tenants: stride scheduling by weight, charged in instance-seconds; tenants that hold
less than their reservation come first. Inside a tenant: by the time an invocation was due
less its head start, so nothing starves.

A lane that its function blocks is parked in a line behind it, so nothing is scanned and
skipped. A line whose first lane fits stands in the order beside the tenants; that is how
parked lanes come back, one for each room that there is.

At every gate whoever is first and does not fit stops those behind: an invocation that needs
a new instance at a full account or function waits for it, although others could be packed
into instances that run already, and so does one at its tenant's ceiling. Else those that pack
would keep it waiting for ever. Who had his turn at his function and found no room under his
tenant's ceiling keeps that turn, and the tenant's next room is kept for him: else one of them
would be taken by others whenever the other is free.
"""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Final

from dispatcher.core.gates import FunctionGate
from dispatcher.core.job import Job
from dispatcher.core.lanes import Lane, Line, TenantQueue
from dispatcher.core.lazy_heap import CLEARED_AT_ONCE, LazyHeap, Ranking
from dispatcher.core.model import GateKind
from dispatcher.core.resends import Resends

__all__ = ["Backlog", "Job", "Lane", "Line", "TenantQueue"]

#: What a tenant that comes into the order stands behind the one that went last, in
#: instance-seconds at weight 1: or an endless row of newcomers would keep others waiting.
JOIN_S: Final = 1.0

#: How far its floor may bring a tenant ahead of the others, in the same measure: what a floor
#: gives is charged, but must not be a debt for hours once the floor is gone.
FLOOR_DEBT_S: Final = 60.0


class Backlog:
    """All that waits of one account."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantQueue] = {}
        self.due = 0
        self.delayed = 0
        self._serials = itertools.count()
        self._order: Ranking[TenantQueue | Line] = Ranking()
        self._passed = 0.0  #: where the tenant stood that went last
        self._lines: dict[str, Line] = {}
        self._owed: dict[str, dict[TenantQueue, None]] = {}  #: rooms that are kept, by function
        self.resends = Resends()
        #: Lanes whose first is not known yet: so much that stood before it has gone. Until `wake` has
        #: found it, what comes next is not known either.
        self.unclear: dict[Lane, None] = {}
        self.wakes_at = math.inf  #: nothing that time brings about is due before this
        self._delayed: Ranking[Job] = Ranking()
        self._ramps: list[tuple[float, int, FunctionGate]] = []  #: when they let one more begin
        self._expiries: LazyHeap[tuple[float, int, Job]] = LazyHeap(_will_expire)

    def __repr__(self) -> str:
        return f"<Backlog {self.due}+{self.delayed} of {len(self.tenants)} tenants>"

    def next_serial(self) -> int:
        """Return a number that decides between equals in the order."""
        return next(self._serials)

    # -- In and out

    def add(self, job: Job, now: float) -> None:
        """Let *job* wait: until `wakes_at` where `waits_for` is set, else for its turn."""
        if job.expires_at < math.inf and not job.maybe_sent:
            job.expiry = expiry = (job.expires_at, job.seq, job)
            self._expiries.push(expiry)
            self.wakes_at = min(self.wakes_at, job.expires_at)
        if job.waits_for is not None and job.wakes_at > now:
            self.delayed += 1
            job.lane.tenant.delayed += 1
            self._delayed.place((job.wakes_at, job.seq, job))
            self.wakes_at = min(self.wakes_at, job.wakes_at)
        else:
            self._come_due(job, now)

    def _come_due(self, job: Job, now: float) -> None:
        lane = job.lane
        tenant = lane.tenant
        job.waits_for = None
        self.due += 1
        tenant.due += 1
        if tenant.gate.rules.reserved:
            tenant.note_short(now)
        tenant.ages.add(job.due_at)
        if job.slot is not None:
            self.resends.add(job)
            return
        if lane.forgotten:  # while the job was away
            lane = job.lane = tenant.lane(lane.function, lane.qualifier)
        jobs = lane.jobs
        jobs.place((job.rank, job.seq, job))
        if lane.line is None and jobs.head() is job:  # else nothing changes outside
            self._offer(lane)

    def _no_longer_due(self, job: Job) -> None:
        self.due -= 1
        job.lane.tenant.due -= 1
        job.lane.tenant.ages.remove(job.due_at)
        if job.expiry is not None:
            self._forget_expiry(job)

    def drop(self, job: Job) -> None:
        """Take a waiting job out, wherever it waits."""
        lane = job.lane
        if job.waits_for is not None:
            self.delayed -= 1
            lane.tenant.delayed -= 1
            self._delayed.remove(job)
            if job.expiry is not None:
                self._forget_expiry(job)
            return
        self._no_longer_due(job)
        if not lane.tenant.due:
            lane.tenant.short_since = None
        if job.slot is not None:
            self.resends.remove(job)
            return
        lane.jobs.remove(job)
        if lane.tenant.owed is lane and not lane.jobs:
            self._settle(lane)
            self.rerank(lane.tenant)
        line = lane.line
        if line is None:
            lane.tenant.at_ceiling = False  # it may have been the one that did not fit
            self._offer(lane)
        else:
            if not lane.jobs:
                line.leave(lane)
                self._open(lane.function, line)
            self._first_of(lane)

    def take(self, lane: Lane) -> Job:
        """Take the first invocation out of *lane*, which `next_lane` gave; then `rerank`."""
        tenant, line = lane.tenant, lane.line
        if tenant.owed is lane:
            self._settle(lane)
        job = lane.jobs.pop()
        self._no_longer_due(job)
        if tenant.gate.floor_part is not None:
            tenant.passed = min(tenant.passed, self._passed + FLOOR_DEBT_S)
        else:
            self._passed = max(self._passed, tenant.passed)
        if line is None:
            self._set_out(lane)
        else:
            line.went(lane)
            self._open(lane.function, line)
            self._first_of(lane)
        return job

    def resend(self, job: Job) -> None:
        """Take *job* out, which `resends` gave."""
        self.resends.remove(job)
        self._no_longer_due(job)

    # -- Order

    @property
    def any_ready(self) -> bool:
        """Tell whether a tenant has its turn that no gate but the account's is known to block."""
        return isinstance(self._order.first(), TenantQueue)

    def next_lane(self, now: float) -> Lane | None:
        """
        Return the lane whose turn it is, by every gate but the account's.

        None when everything that is due is blocked by its function or its tenant's ceiling,
        or stands behind something that is. What is found blocked on the way is put aside, so
        each is looked at once.
        """
        order = self._order
        while (first := order.first()) is not None:
            if isinstance(first, Line):
                lane = self._of_line(first, now)
                if lane is not None:
                    return lane
                continue
            owed = first.owed
            lane = first.ready.first() if owed is None or owed.line is not None else owed
            assert lane is not None, first
            if lane.function.blocked(lane.qualifier, now) is not None or (
                self._lines and self._behind(lane, now)
            ):
                self._park(lane)
            elif first.gate.rules.limit is not None and not lane.fits_tenant:
                first.at_ceiling = True
                order.remove(first)
            else:
                return lane
        return None

    def _behind(self, lane: Lane, now: float) -> bool:
        """Tell whether *lane* must not pass the line behind its function, where it would fit."""
        line = self._lines.get(lane.function.name)
        first = None if line is None else line.lanes.first()
        if first is None:
            return False
        does_not_fit = lane.function.blocked(first.qualifier, now) is not None
        return does_not_fit or first.tenant is lane.tenant

    def _of_line(self, line: Line, now: float) -> Lane | None:
        lane = line.lanes.first()
        assert lane is not None, line
        tenant = lane.tenant
        assert line.entry is not None, line
        if line.entry[:2] != tenant.place:
            self._order.place((*tenant.place, line.serial, line))
            return None
        if (blocked := lane.function.blocked(lane.qualifier, now)) is not None:
            self._order.remove(line)
            if blocked.gate is GateKind.RAMP and blocked.until != line.opens_at:
                assert blocked.until is not None, blocked
                line.opens_at = blocked.until
                heapq.heappush(self._ramps, (blocked.until, self.next_serial(), lane.function))
                self.wakes_at = min(self.wakes_at, blocked.until)
            return None
        owed = tenant.owed
        if (tenant.at_ceiling and owed is not lane) or not lane.fits_tenant:
            tenant.at_ceiling = True
            if owed is None:
                tenant.owed = lane
                self._owed.setdefault(lane.function.name, {})[tenant] = None
            line.leave(lane)
            self._open(lane.function, line)
            self._offer(lane)
            return None
        return lane

    def _offer(self, lane: Lane) -> None:
        """Put a lane that is not parked in its place, and with it its tenant."""
        self._set_out(lane)
        self._rank(lane.tenant)

    def _set_out(self, lane: Lane) -> None:
        head = self._first_of(lane)
        if head is not None:
            lane.tenant.ready.place((head.rank, head.seq, lane.serial, lane))
        elif not lane.jobs:
            lane.tenant.ready.remove(lane)

    def _first_of(self, lane: Lane) -> Job | None:
        """Return the first of a lane; None: it is empty, or `wake` has to find it out."""
        head = lane.jobs.head()
        if head is None and lane.jobs.unclear:
            self.unclear[lane] = None
            self.wakes_at = -math.inf
        return head

    def _rank(self, tenant: TenantQueue) -> None:
        if tenant.at_ceiling or not tenant.ready:
            self._order.remove(tenant)
            return
        if tenant.entry is None:
            # Whoever comes back has saved no credit; whoever is new has no debt.
            join_s = JOIN_S / tenant.gate.rules.weight
            tenant.passed = max(tenant.passed, self._passed + join_s)
        self._order.place((*tenant.place, tenant.serial, tenant))

    def rerank(self, tenant: TenantQueue) -> None:
        """Put a tenant in its place again after it was charged, or took or gave back a slot."""
        tenant.at_ceiling = False  # looked at anew when its turn comes
        if tenant.entry is not None and tenant.ready:
            self._order.place((*tenant.place, tenant.serial, tenant))
        else:
            self._rank(tenant)

    # -- Parking

    def parked_by(self, now: float) -> GateKind | None:
        """Return why a function holds something up, the first of those that do; None: none does."""
        for line in self._lines.values():
            lane = line.lanes.first()
            blocked = None if lane is None else lane.function.blocked(lane.qualifier, now)
            return GateKind.FUNCTION if blocked is None else blocked.gate
        if (first := self.resends.first_shut()) is not None:
            shut = first.lane.function.shut(now)
            return GateKind.FUNCTION if shut is None else shut.gate
        return None

    def _park(self, lane: Lane) -> None:
        name = lane.function.name
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(self.next_serial())
        lane.tenant.ready.remove(lane)
        line.park(lane)
        self._rank(lane.tenant)
        if line.lanes.first() is lane:
            self._open(lane.function, line)

    def _open(self, function: FunctionGate, line: Line) -> None:
        """Have the line looked at: its first lane is another one, or may fit now."""
        first = line.lanes.first()
        if first is None:
            self._order.remove(line)
            del self._lines[function.name]
        else:
            self._order.place((*first.tenant.place, line.serial, line))

    def _settle(self, lane: Lane) -> None:
        """Keep no room for *lane* any more."""
        lane.tenant.owed = None
        owed = self._owed[lane.function.name]
        del owed[lane.tenant]
        if not owed:
            del self._owed[lane.function.name]

    def shut(self, function: FunctionGate) -> None:
        """Keep no room for those who wait for *function*: it may stay shut for long."""
        for tenant in self._owed.pop(function.name, ()):
            tenant.owed = None
            self.rerank(tenant)

    def room_at(self, function: FunctionGate) -> None:
        """Let who waits behind *function* try: a slot of it was given back."""
        line = self._lines.get(function.name)
        if line is not None:
            self._open(function, line)

    def opened(self, function: FunctionGate) -> None:
        """Let all who wait behind *function* try: its rules changed, or it is shut no more."""
        self.resends.opened(function)
        self.room_at(function)

    # -- Time

    def wake(self, now: float, at_most: float = math.inf) -> bool:
        """
        Let *at_most* so many take their turn whose time has come.

        Returns whether that was all, and nothing has expired either.
        """
        if not self._clear_lanes():
            return False
        while self._ramps and self._ramps[0][0] <= now:
            self.room_at(heapq.heappop(self._ramps)[2])
        woken = 0
        while (job := self._first_delayed()) is not None and job.wakes_at <= now:
            if woken >= at_most:
                return False
            woken += 1
            self._delayed.pop()
            self.delayed -= 1
            job.lane.tenant.delayed -= 1
            self._come_due(job, now)
        self.wakes_at = self._next_time()
        return self.wakes_at > now

    def _clear_lanes(self) -> bool:
        """Find the first of lanes in which much has gone; True: of all of them."""
        room = CLEARED_AT_ONCE  # for all, since thousands may have little to clear each
        while self.unclear and room > 0:
            lane = next(iter(self.unclear))
            before = lane.jobs.size
            if not lane.jobs.clear_top(room):
                return False
            room -= before - lane.jobs.size + 1
            del self.unclear[lane]
            if lane.line is None:
                self._offer(lane)
        return not self.unclear

    def _first_delayed(self) -> Job | None:
        return self._delayed.first() if self._delayed.clear_top(CLEARED_AT_ONCE) else None

    def expired(self, now: float) -> Job | None:
        """
        Return one that was not sent in time; the caller drops it before it asks for the next.

        What may have been sent already is no longer ours to let expire. Where None is because too
        much was to be looked at, `wake` says that it was not all.
        """
        entry = self._expiries.first() if self._expiries.clear_top(CLEARED_AT_ONCE) else None
        return None if entry is None or entry[0] > now else entry[2]

    def _forget_expiry(self, job: Job) -> None:
        job.expiry = None
        self._expiries.lapse()

    def _next_time(self) -> float:
        """Return when `wake` or `expired` have something to do; infinity: never."""
        if self.unclear or not (
            self._delayed.clear_top(CLEARED_AT_ONCE) and self._expiries.clear_top(CLEARED_AT_ONCE)
        ):
            return -math.inf
        at = self._ramps[0][0] if self._ramps else math.inf
        if (delayed := self._delayed.first()) is not None:
            at = min(at, delayed.wakes_at)
        if (expiry := self._expiries.first()) is not None:
            at = min(at, expiry[0])
        return at

    # -- What others want to know

    def oldest_due_at(self) -> float | None:
        """Return since when the longest waiting due invocation has been due."""
        dues = (tenant.ages.oldest() for tenant in self.tenants.values())
        return min((due for due in dues if due is not None), default=None)

    def forget_idle(self, names: Iterable[str], debtors_max: int) -> None:
        """Drop those of *names* of which nothing waits or runs, but not the largest debtors."""
        idle = [tenant for name in names if (tenant := self.tenants[name]).idle]
        debtors = [
            tenant
            for tenant in idle
            if tenant.passed > self._passed + JOIN_S / tenant.gate.rules.weight
        ]
        kept = heapq.nlargest(debtors_max, debtors, key=lambda tenant: tenant.passed)
        for name in {tenant.name for tenant in idle} - {tenant.name for tenant in kept}:
            self.tenants.pop(name).forgotten = True

    def ahead_of(self, job: Job) -> Iterator[bool]:
        """Give, for each due invocation of the same tenant, whether it comes before *job*."""
        tenant = job.lane.tenant
        for other in list(self.resends):
            yield other is not job and other.lane.tenant is tenant
        place = (job.rank, job.seq)
        for lane in list(tenant.lanes.values()):
            for entry in lane.jobs.entries():
                yield entry[:2] < place and entry[-1].entry is entry


def _will_expire(entry: tuple[float, int, Job]) -> bool:
    return entry[2].expiry is entry
