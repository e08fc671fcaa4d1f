"""
How long a function takes, by its last runs.

Quantiles are exact over so many of them; older runs are forgotten, so that a deployment that
changes a function's speed is believed after a few dozen runs.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final

RUNS_MAX: Final = 128
"""Runs of one function that are remembered."""

RUNS_MIN: Final = 5
"""Runs before a function's own past is worth more than what was declared."""

TYPICAL: Final = 0.5
CAUTIOUS: Final = 0.95


class Durations:
    """The last runs of one function, in order of their length."""

    __slots__ = ("_latest", "_sorted")

    def __init__(self, runs_max: int = RUNS_MAX) -> None:
        assert runs_max >= 1, runs_max
        self._latest: deque[float] = deque(maxlen=runs_max)
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def __repr__(self) -> str:
        return f"<Durations of {len(self)} runs, typically {self.quantile(TYPICAL)} s>"

    def add(self, run_s: float) -> None:
        """Learn of a run that took *run_s* seconds."""
        assert run_s >= 0.0, run_s
        latest, in_order = self._latest, self._sorted
        if len(latest) == latest.maxlen:
            del in_order[bisect_left(in_order, latest[0])]
        latest.append(run_s)
        insort(in_order, run_s)

    def quantile(self, share: float) -> float | None:
        """
        Return the shortest time within which *share* of the remembered runs ended.

        None before the first run. It is always one of the runs, never a mean of two.
        """
        assert 0.0 <= share <= 1.0, share
        count = len(self._sorted)
        if count == 0:
            return None
        return self._sorted[max(1, math.ceil(share * count)) - 1]

    def expected_s(self, declared_s: float | None) -> float | None:
        """
        Return how long a run typically takes: the median of the past, or what was declared.

        None where nothing is known. This is for deciding when to look, and what to charge.
        """
        in_order = self._sorted
        count = len(in_order)
        if not count or (declared_s is not None and count < RUNS_MIN):
            return declared_s
        return in_order[(count - 1) // 2]  # `TYPICAL`, and asked for at every launch

    def cautious_s(self, declared_s: float | None) -> float | None:
        """
        Return within which time 19 of 20 runs end, or what was declared if that is longer.

        None where nothing is known. This is for giving a slot back unasked: an estimate that
        is too short breaks the quota, one that is too long only wastes some of it.
        """
        if len(self._sorted) < RUNS_MIN:
            return declared_s
        learned_s = self.quantile(CAUTIOUS)
        assert learned_s is not None, self
        return learned_s if declared_s is None else max(learned_s, declared_s)
