"""When slots are given up: at the estimated end of their runs, or when no news came for too long."""

import itertools
import math
from typing import Any, Final

from dispatcher.core.gates import FunctionGate, Slot
from dispatcher.core.job import Job
from dispatcher.core.lazy_heap import CLEARED_AT_ONCE, Ranking
from dispatcher.core.model import CallType, Source, State

#: Slots that are looked at in one turn of the loop after news of how ends become known: 3 us for each
#: that is held anew.
HELD_ANEW_AT_ONCE: Final = 500


class Deadlines:
    """The slots that are held, by the time at which each is given up."""

    def __init__(self) -> None:
        self._wakes_at = math.inf  #: no slot is given up before this
        self._slots: Ranking[Slot] = Ranking()
        self._serials = itertools.count()
        #: Of what the ends become known in another way, by function and qualifier, until all
        #: slots have been looked at.
        self._changed: set[tuple[FunctionGate, str | None]] = set()
        self._not_looked_at: list[tuple[Any, ...]] | None = None  #: None: none has been yet

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
        """
        Return what is to be given up by now; None: nothing.

        After `source_changed` nothing is, until all have been looked at: it takes several calls.
        """
        if self._wakes_at > now:
            return None
        if (self._changed and not self._hold_anew()) or not self._slots.clear_top(CLEARED_AT_ONCE):
            return None
        slot = self._slots.first()
        self._wakes_at = math.inf if slot is None else slot.deadline
        return slot if self._wakes_at <= now else None

    def next_time(self) -> float:
        """Return when `first` has something to give or to look at; infinity: never."""
        slot = self._slots.head()
        if slot is None and self._slots.unclear:
            self._wakes_at = -math.inf  # for `first` to find out
        elif not self._changed:
            return math.inf if slot is None else slot.deadline
        return -math.inf

    def source_changed(self, function: FunctionGate, qualifier: str | None) -> None:
        """Have what runs of a function held anew, by how its end becomes known from now on."""
        self._changed.add((function, qualifier))
        self._not_looked_at = None  # so far it was looked at for the sake of others
        self._wakes_at = -math.inf

    def _hold_anew(self) -> bool:
        """Look at some slots; True: those were the last."""
        entries = self._not_looked_at
        if entries is None:
            entries = self._not_looked_at = self._slots.entries()
        for entry in entries[-HELD_ANEW_AT_ONCE:]:
            slot: Slot = entry[-1]
            job = slot.job
            # Of another place, it has been held or given back since, by the way of now.
            if (
                slot.entry is entry
                and job.state is State.RUNNING
                and job.sent_at is not None
                and (job.lane.function, job.lane.qualifier) in self._changed
            ):
                self.hold_run(slot, job.sent_at, source_of(job))
        del entries[-HELD_ANEW_AT_ONCE:]
        if entries:
            return False
        self._changed.clear()
        self._not_looked_at = None
        return True


def source_of(job: Job) -> Source:
    """Return how the end of a run becomes known, as things stand."""
    if job.type is CallType.SYNC:
        return Source.RESPONSE
    lane = job.lane
    return lane.function.source(lane.qualifier)
