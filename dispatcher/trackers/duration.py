"""
How long functions take: learned from the runs that ended, estimated where nobody says.

Free of I/O. Quantiles are exact over the last runs of each function; older runs are forgotten,
so that a deployment that changes a function's speed is believed after a few dozen runs.
"""

import math
from bisect import bisect_left, insort
from collections import OrderedDict, deque

RUNS_MAX = 128
"""Runs of one function that are remembered."""

RUNS_MIN = 5
"""Runs before a function's own past is worth more than what was declared."""

FUNCTIONS_MAX = 1000
"""Functions that are remembered; the one that was quiet for longest is forgotten first."""

TYPICAL = 0.5
CAUTIOUS = 0.95


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
        if len(self._latest) == self._latest.maxlen:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(run_s)
        insort(self._sorted, run_s)

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


class LearnedDurations:
    """What is known of the functions of one account. Bounded."""

    __slots__ = ("_by_function", "_functions_max")

    def __init__(self, functions_max: int = FUNCTIONS_MAX) -> None:
        self._functions_max = functions_max
        self._by_function: OrderedDict[str, Durations] = OrderedDict()

    def learn(self, function: str, run_s: float) -> None:
        """Take note that a run of *function* took *run_s* seconds."""
        known = self._by_function.get(function)
        if known is None:
            known = self._by_function[function] = Durations()
            if len(self._by_function) > self._functions_max:
                self._by_function.popitem(last=False)
        else:
            self._by_function.move_to_end(function)
        known.add(run_s)

    def expected_s(self, function: str, declared_s: float | None) -> float | None:
        """
        Return how long a run typically takes: the median of the past, or what was declared.

        None where nothing is known. This is for deciding when to look.
        """
        return self._estimate(function, declared_s, TYPICAL)

    def cautious_s(self, function: str, declared_s: float | None) -> float | None:
        """
        Return within which time 19 of 20 runs end, or what was declared if that is longer.

        None where nothing is known. This is for giving a slot back unasked: an estimate that
        is too short breaks the quota, one that is too long only wastes some of it.
        """
        learned = self._estimate(function, None, CAUTIOUS)
        if learned is None or declared_s is None:
            return learned if declared_s is None else declared_s
        return max(learned, declared_s)

    def _estimate(self, function: str, declared_s: float | None, share: float) -> float | None:
        known = self._by_function.get(function)
        if known is None or len(known) < RUNS_MIN:
            return declared_s
        return known.quantile(share)


EARLY = 0.1
"""The share of runs that has ended when it is time to look for the first end."""


class EarlyEnds:
    """
    From when on ends of a function's runs are to be expected.

    When thousands of runs begin together, the last hundred ends are all of long runs, and say
    nothing about the next ones. So the early end is found in each block of runs, and then the
    early one among the blocks of a long past. A single block of runs that failed at once does
    not count for much. Too early an answer costs a few looks, too late a one costs instances.
    """

    __slots__ = ("_block", "_early_s", "_ends")

    BLOCK = 128
    BLOCKS_MAX = 64

    def __init__(self) -> None:
        self._block = Durations(self.BLOCK)
        self._ends = Durations(self.BLOCKS_MAX)
        self._early_s: float | None = None

    def __repr__(self) -> str:
        return f"<EarlyEnds after {self.early_s()} s>"

    def add(self, run_s: float) -> None:
        """Learn of a run that took *run_s* seconds."""
        self._block.add(run_s)
        if len(self._block) == self.BLOCK:
            early_s = self._block.quantile(EARLY)
            assert early_s is not None, self
            self._ends.add(early_s)
            self._early_s = self._ends.quantile(EARLY)
            self._block = Durations(self.BLOCK)

    def early_s(self) -> float | None:
        """Return how long after its start a run may well have ended; None: nobody knows yet."""
        block_s = self._block.quantile(EARLY) if len(self._block) >= RUNS_MIN else None
        known = [each for each in (block_s, self._early_s) if each is not None]
        return min(known, default=None)


class Excess:
    """
    By how much an end came later than ends of that function do in calm times.

    An end that is known only as "so long after the 202" (a Lambda destination record has no
    start) hides how long the cloud kept the invocation queued. What exceeds nearly all runs of
    the calmest block of the recent past is taken for such a delay. The answer errs on the low
    side; it is a sign of congestion, not a measurement.
    """

    __slots__ = ("_block", "_calm")

    BLOCK = 32
    BLOCKS_MAX = 16

    def __init__(self) -> None:
        self._block = Durations(self.BLOCK)
        self._calm: deque[float] = deque(maxlen=self.BLOCKS_MAX)

    def start_delay_s(self, elapsed_s: float) -> float | None:
        """Return the estimated delay of an end *elapsed_s* after the 202; None: too early to say."""
        self._block.add(elapsed_s)
        if len(self._block) == self.BLOCK:
            slow_s = self._block.quantile(CAUTIOUS)
            assert slow_s is not None, self
            self._calm.append(slow_s)
            self._block = Durations(self.BLOCK)
        return max(0.0, elapsed_s - min(self._calm)) if self._calm else None
