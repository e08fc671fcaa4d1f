"""
What the runs of a function tell a tracker: when to look for ends, and what came late.

Free of I/O.
"""

from collections import deque

from dispatcher.core.durations import CAUTIOUS, RUNS_MIN, Durations

FUNCTIONS_MAX = 1000
"""Functions that are remembered; the one that was quiet for longest is forgotten first."""

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
