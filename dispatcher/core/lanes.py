"""
Where what is due stands: a lane for each tenant, function and qualifier.

All invocations of a lane meet the same gates, so it is the lane that waits behind a gate. A
lane with something in it is in one place: among the ready lanes of its tenant, or in the
line behind its function.
"""

import itertools
from typing import Any, Final

from dispatcher.core.ages import Ages
from dispatcher.core.gates import FunctionGate, TenantGate
from dispatcher.core.job import Job
from dispatcher.core.lazy_heap import Ranking

#: Lanes of a tenant that are kept although nothing waits in them.
LANES_KEPT: Final = 1024


class Lane:
    """Due invocations of one tenant for one function and qualifier, by rank."""

    __slots__ = (
        "entry",
        "forgotten",
        "function",
        "jobs",
        "line",
        "qualifier",
        "serial",
        "tenant",
        "turn",
    )

    def __init__(
        self, tenant: "TenantQueue", function: FunctionGate, qualifier: str | None
    ) -> None:
        self.tenant = tenant
        self.function = function
        self.qualifier = qualifier
        self.serial = tenant.next_serial()
        self.jobs: Ranking[Job] = Ranking()
        self.line: Line | None = None  #: where it is parked
        self.turn = 0.0  #: its turn in that line
        self.forgotten = False  #: its tenant may have another one for the same by now
        self.entry: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        return f"<Lane {self.tenant.name} {self.function.name}:{self.qualifier} {len(self.jobs)}>"

    @property
    def key(self) -> tuple[str, str | None]:
        """Return what tells it from the tenant's other lanes."""
        return self.function.name, self.qualifier

    @property
    def fits_tenant(self) -> bool:
        """Tell whether its tenant's ceiling allows one more invocation of it."""
        owed, kept = self.tenant.owed, 0.0
        if owed is not None and owed is not self:
            kept = 1 / owed.function.concurrency
        return self.tenant.gate.fits(self.function.concurrency, kept)


class TenantQueue:
    """All that waits of one tenant, and what it holds."""

    __slots__ = (
        "_forget_lanes_at",
        "_serials",
        "account",
        "ages",
        "at_ceiling",
        "delayed",
        "due",
        "entry",
        "forgotten",
        "gate",
        "label",
        "lanes",
        "name",
        "owed",
        "passed",
        "ready",
        "serial",
        "short_since",
    )

    def __init__(self, account: str, name: str, label: str, gate: TenantGate, serial: int) -> None:
        self.account = account
        self.name = name
        self.label = label
        self.gate = gate
        self.serial = serial
        self.lanes: dict[tuple[str, str | None], Lane] = {}
        self.ready: Ranking[Lane] = Ranking()  #: its lanes that are not parked
        self.passed = 0.0  #: instance-seconds charged, by weight: less goes first
        self.due = 0
        self.delayed = 0
        self.ages = Ages()  #: of what is due
        #: Since when it has had due work and held less than its floor; None: that is not so.
        self.short_since: float | None = None
        self.at_ceiling = False  #: what would go next does not fit under its limit
        self.forgotten = False  #: another queue may have its name by now
        #: Had its turn at its function and found no room here: the next room is kept for it.
        self.owed: Lane | None = None
        self.entry: tuple[Any, ...] | None = None
        self._forget_lanes_at = LANES_KEPT
        self._serials = itertools.count()

    def __repr__(self) -> str:
        return f"<TenantQueue {self.name} {self.due}+{self.delayed} passed={self.passed:g}>"

    def next_serial(self) -> int:
        """Return a number that decides between equal lanes."""
        return next(self._serials)

    @property
    def place(self) -> tuple[bool, float]:
        """
        Return its place among the tenants: less goes first.

        First are those below their floor, by the part of it that they hold; then the others,
        by what they have used.
        """
        part = self.gate.floor_part if self.gate.rules.reserved else None
        return (True, self.passed) if part is None else (False, part)

    def lane(self, function: FunctionGate, qualifier: str | None) -> Lane:
        """Return the lane of a function and qualifier."""
        lane = self.lanes.get((function.name, qualifier))
        if lane is None or lane.function is not function:
            if len(self.lanes) >= self._forget_lanes_at:
                self._forget_lanes()
                self._forget_lanes_at = LANES_KEPT + 2 * len(self.lanes)
            if lane is not None:
                lane.forgotten = True
            lane = Lane(self, function, qualifier)
            self.lanes[lane.key] = lane
        return lane

    def _forget_lanes(self) -> None:
        for lane in self.lanes.values():
            lane.forgotten = not lane.jobs
        self.lanes = {key: lane for key, lane in self.lanes.items() if not lane.forgotten}

    def note_short(self, now: float) -> None:
        """Note since when it waits for what is reserved for it."""
        if self.short_since is None and self.due and self.gate.floor_part is not None:
            self.short_since = now

    @property
    def idle(self) -> bool:
        """Tell whether nothing of it waits or runs."""
        return not self.due and not self.delayed and not self.gate.invocations


class Line:
    """The lanes that are parked behind one function, in turns by the weights of their tenants."""

    __slots__ = ("_serials", "entry", "lanes", "opens_at", "serial", "turn")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.lanes: Ranking[Lane] = Ranking()
        self.turn = 0.0  #: the turn of the lane that went last
        self.opens_at: float | None = None  #: when its function's ramp was last found to open
        self._serials = itertools.count()
        self.entry: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        return f"<Line of {len(self.lanes)} lanes>"

    def park(self, lane: Lane) -> None:
        """Put *lane* in, one turn behind the one that went last; who had his turn keeps it."""
        lane.line = self
        if lane.tenant.owed is not lane:
            lane.turn = max(lane.turn, self.turn + 1 / lane.tenant.gate.rules.weight)
        self._place(lane)

    def went(self, lane: Lane) -> None:
        """Note that *lane* had its turn; it stays if anything waits in it still."""
        self.turn = max(self.turn, lane.turn)
        if lane.jobs:
            lane.turn += 1 / lane.tenant.gate.rules.weight
            self._place(lane)
        else:
            self.leave(lane)

    def leave(self, lane: Lane) -> None:
        """Let *lane* out."""
        self.lanes.remove(lane)
        lane.line = None

    def _place(self, lane: Lane) -> None:
        self.lanes.place((lane.turn, next(self._serials), lane))
