"""When slots are given up: at the estimated end of their runs, or when no news came for too long."""

import itertools
import math

from dispatcher.core.gates import FunctionGate, Slot
from dispatcher.core.job import Job
from dispatcher.core.lazy_heap import Ranking
from dispatcher.core.model import CallType, Source


class Deadlines:
    """The slots that are held, by the time at which each is given up."""

    def __init__(self) -> None:
        self._wakes_at = math.inf  #: no slot is given up before this
        self._slots: Ranking[Slot] = Ranking()
        self._serials = itertools.count()

    def __len__(self) -> int:
        """Return how many slots will be given up some time."""
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<Deadlines {self._slots!r}>"

    def hold(self, slot: Slot, until: float) -> None:
        """Have the slot given up at *until*."""
        slot.deadline = until
        self._slots.place((until, next(self._serials), slot))
        self._wakes_at = min(self._wakes_at, until)

    def keep(self, slot: Slot) -> None:
        """Have the slot not given up by time any more."""
        slot.deadline = math.inf
        self._slots.remove(slot)

    def hold_run(self, slot: Slot, since: float, source: Source) -> None:
        """
        Have the slot of what runs since *since* given up at the latest after `hold_max_s`.

        Where the end is an estimate, it is given up at that, if there is any to go by.
        """
        function = slot.job.lane.function
        hold_s = function.rules.hold_max_s
        cautious_s = function.cautious_s if source is Source.DURATION else None
        slot.exact = cautious_s is None
        if cautious_s is not None:
            hold_s = min(hold_s, cautious_s)
        self.hold(slot, since + hold_s)

    def first(self, now: float) -> Slot | None:
        """Return what is to be given up by now; None: nothing."""
        if self._wakes_at > now:
            return None
        slot = self._slots.first()
        self._wakes_at = math.inf if slot is None else slot.deadline
        return slot if self._wakes_at <= now else None

    def next_time(self) -> float:
        """Return when `first` has something to give; infinity: never."""
        slot = self._slots.first()
        return math.inf if slot is None else slot.deadline

    def of(self, function: FunctionGate, qualifier: str | None) -> list[Slot]:
        """Return what is held for one function."""
        return [
            slot
            for slot in self._slots
            if slot.job.lane.function is function and slot.job.lane.qualifier == qualifier
        ]


def source_of(job: Job) -> Source:
    """Return how the end of a run becomes known, as things stand."""
    if job.type is CallType.SYNC:
        return Source.RESPONSE
    lane = job.lane
    return lane.function.source(lane.qualifier)
