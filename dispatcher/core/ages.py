"""How long the longest waiting invocation has waited, to the second."""

import itertools
import math
from typing import Any

from dispatcher.core.lazy_heap import Ranking


class _Second:
    """What came due within one second and still waits."""

    __slots__ = ("count", "entry", "since")

    def __init__(self, since: float) -> None:
        self.count = 0
        self.since = since
        self.entry: tuple[Any, ...] | None = None


class Ages:
    """
    Counts what waits by the second in which it came due.

    So it needs room for the seconds only, and keeps no invocation alive that has ended.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self._order: Ranking[_Second] = Ranking()
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, due_at: float) -> None:
        """Count something that has come due at *due_at*."""
        number = math.floor(due_at)
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = _Second(due_at)
            self._order.place((number, next(self._serials), second))
        elif due_at < second.since:
            second.since = due_at
        second.count += 1

    def remove(self, due_at: float) -> None:
        """Count it no more."""
        number = math.floor(due_at)
        second = self._seconds[number]
        second.count -= 1
        if not second.count:
            del self._seconds[number]
            self._order.remove(second)

    def oldest(self) -> float | None:
        """
        Return when the longest waiting came due; None: nothing waits.

        It may be off by the time between two that came due in the same second.
        """
        second = self._order.first()
        return None if second is None else second.since
