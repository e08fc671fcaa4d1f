"""When slots are given up: at the estimated end of their runs, or when no news came for too long."""

import itertools
import math
from collections.abc import Iterator

from dispatcher.core.gates import FunctionGate, Slot
from dispatcher.core.job import Job
from dispatcher.core.lazy_heap import LazyHeap
from dispatcher.core.model import CallType, Source

_Deadline = tuple[float, int, Job, Slot]


class Deadlines:
    """The slots that are held, by the time at which each is given up."""

    def __init__(self) -> None:
        self._heap: LazyHeap[_Deadline] = LazyHeap(_still_held)
        self._serials = itertools.count()

    def __len__(self) -> int:
        """Return how many slots will be given up some time."""
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<Deadlines {self._heap!r}>"

    def hold(self, job: Job, slot: Slot, until: float) -> None:
        """Have the slot given up at *until*; at infinity, never."""
        listed = slot.hold is not None
        slot.deadline, slot.hold = until, None
        if until < math.inf:
            slot.hold = hold = (until, next(self._serials), job, slot)
            self._heap.push(hold)
        if listed:
            self._heap.lapse()

    def hold_run(self, job: Job, slot: Slot, since: float) -> None:
        """
        Have the slot of what runs since *since* given up at the latest after `hold_max_s`.

        Where the end is an estimate, it is given up at that, if there is any to go by.
        """
        function = job.lane.function
        hold_s = function.rules.hold_max_s
        cautious_s = None if source_of(job) is not Source.DURATION else function.cautious_s
        slot.exact = cautious_s is None
        if cautious_s is not None:
            hold_s = min(hold_s, cautious_s)
        self.hold(job, slot, since + hold_s)

    def first(self, now: float) -> tuple[Job, Slot] | None:
        """Return what is to be given up by now; None: nothing."""
        entry = self._heap.first()
        return None if entry is None or entry[0] > now else entry[2:]

    def next_time(self) -> float | None:
        """Return when `first` has something to give."""
        entry = self._heap.first()
        return None if entry is None else entry[0]

    def of(self, function: FunctionGate, qualifier: str | None) -> Iterator[tuple[Job, Slot]]:
        """Give what is held for one function, as it is now."""
        for _, _, job, slot in list(self._heap):
            if job.lane.function is function and job.lane.qualifier == qualifier:
                yield job, slot


def source_of(job: Job) -> Source:
    """Return how the end of a run becomes known, as things stand."""
    if job.type is CallType.SYNC:
        return Source.RESPONSE
    return job.lane.function.source(job.lane.qualifier)


def _still_held(entry: _Deadline) -> bool:
    return entry[3].hold is entry
