"""
Sends of which nobody knows whether they began a run, and for how long those may run.

Whatever may be running holds a slot of its own. Function Compute refuses to run a task id
twice, so a task may be sent again at once; anything else would run beside itself, so it is sent
again only when what may run must have ended. What ends while it may be running, cancelled or
given up, leaves its slot behind as an orphan, which is held for as long.
"""

from collections.abc import Iterator
from typing import Final

from dispatcher.core.deadlines import Deadlines, source_of
from dispatcher.core.gates import Slot
from dispatcher.core.model import Source

#: A request that was begun reaches the cloud within this time, connecting included.
ARRIVES_S: Final = 5.0
#: So many times what 19 of 20 runs take, or was declared, an unknown run is thought to take at most:
#: lost sends are rare enough to wait for that, and one that errs breaks the limit.
PATIENCE: Final = 2.0
#: Where nothing is known of a function's runs, how soon to see whether some have ended meanwhile.
LOOK_AGAIN_S: Final = 5.0


def doubt(slot: Slot, began_by: float) -> None:
    """Take note that what was sent on *slot* may have begun to run, by then at the latest."""
    slot.lost_at = began_by
    slot.lost_until = began_by + slot.job.lane.function.rules.hold_max_s


def may_go_again_at(slot: Slot, now: float) -> float:
    """Return when what may be running on *slot* may be sent again: *now*, or later."""
    if slot.lost_until <= now or source_of(slot.job) in (Source.TASK, Source.ACCEPTED):
        return now
    ends_by = _ends_by(slot)
    return max(now, min(now + LOOK_AGAIN_S, slot.lost_until) if ends_by is None else ends_by)


def _ends_by(slot: Slot) -> float | None:
    """Return when what may be running on *slot* must have ended; None: nobody knows."""
    cautious_s = slot.job.lane.function.cautious_s
    if cautious_s is None:
        return None
    return min(slot.lost_until, slot.lost_at + PATIENCE * cautious_s)


class Orphans:
    """The slots of invocations that have ended for us, and may run in the cloud all the same."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._slots: dict[tuple[str, int], Slot] = {}  #: by invocation and attempt

    def __len__(self) -> int:
        """Return how many slots are held that no invocation owns."""
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<Orphans of {list(self._slots)}>"

    def __iter__(self) -> Iterator[Slot]:
        """Give the slots."""
        return iter(self._slots.values())

    def adopt(self, slot: Slot, now: float) -> bool:
        """Hold the slot of what has ended, if anything may run on it; False: nothing does."""
        if source_of(slot.job) is Source.ACCEPTED or slot.lost_until <= now:
            return False
        ends_by = _ends_by(slot)
        until = slot.lost_until if ends_by is None else ends_by
        if until <= now:
            return False
        self._slots[slot.job.id, slot.attempt] = slot
        self._deadlines.hold(slot, until)
        return True

    def pop(self, invocation_id: str, attempt: int) -> Slot | None:
        """Take out the slot that an attempt of an invocation left, if it did."""
        return self._slots.pop((invocation_id, attempt), None)
