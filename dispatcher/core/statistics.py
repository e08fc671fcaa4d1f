"""Counters and histograms of what the machine and the engine do, as plain numbers."""

from bisect import bisect_left
from collections import defaultdict
from typing import Final

from dispatcher.core.views import HistogramView, Labels

WAIT_BOUNDS_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 21600)
SEND_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
RUN_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 3600)
COMMIT_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Histogram:
    """A histogram with fixed upper bounds."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*; a bound belongs to its own bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def view(self) -> HistogramView:
        """Return the numbers as they are now."""
        return HistogramView(self._bounds, tuple(self._counts), self._total)


class Counters:
    """
    Everything that only grows, by the label values of its metric.

    The labels come from `FunctionGate.label` and `TenantQueue.label`, which are bounded; so
    are these.
    """

    def __init__(self) -> None:
        self.ended: defaultdict[Labels, int] = defaultdict(int)
        self.send_attempts: defaultdict[Labels, int] = defaultdict(int)
        self.throttles: defaultdict[Labels, int] = defaultdict(int)
        self.forced_releases: defaultdict[Labels, int] = defaultdict(int)
        self.late_completions: defaultdict[Labels, int] = defaultdict(int)
        self.blocked_seconds: defaultdict[Labels, float] = defaultdict(float)
        self.queue_wait_s: dict[Labels, Histogram] = {}
        self.send_s: dict[Labels, Histogram] = {}
        self.run_s: dict[Labels, Histogram] = {}

    def add_account(self, name: str) -> None:
        """Begin to measure an account."""
        key = (name,)
        self.queue_wait_s.setdefault(key, Histogram(WAIT_BOUNDS_S))
        self.send_s.setdefault(key, Histogram(SEND_BOUNDS_S))
        self.run_s.setdefault(key, Histogram(RUN_BOUNDS_S))
        self.late_completions.setdefault(key, 0)
