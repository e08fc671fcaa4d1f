"""Counters and histograms of what the machine and the engine do, as plain numbers."""

from bisect import bisect_left
from collections import defaultdict
from typing import Final

from dispatcher.core.model import (
    Accepted,
    Denied,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.core.views import HistogramView, Labels

WAIT_BOUNDS_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 21600)
SEND_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
RUN_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 3600)
COMMIT_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

#: Reasons for throttling that get a label of their own: the cloud has a dozen, whoever plays
#: the cloud could have any number.
REASONS_MAX: Final = 50
OTHER_REASON: Final = "other"

_RESULTS: Final[dict[type[Outcome], str]] = {
    Accepted: "ok",
    Replied: "ok",
    Throttled: "throttled",
    Refused: "refused",
    Denied: "refused",
    NotSent: "error",
    Lost: "error",
}


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


class Times:
    """How long things take in one account."""

    __slots__ = ("queue_wait_s", "reclaim_s", "run_s", "send_s", "start_delay_s")

    def __init__(self) -> None:
        self.queue_wait_s = Histogram(WAIT_BOUNDS_S)
        self.send_s = Histogram(SEND_BOUNDS_S)
        self.run_s = Histogram(RUN_BOUNDS_S)
        #: How long the cloud kept runs queued after it had accepted them.
        self.start_delay_s = Histogram(WAIT_BOUNDS_S)
        #: How long those below their floor waited for it, with work that was due.
        self.reclaim_s = Histogram(WAIT_BOUNDS_S)


class Counters:
    """
    Everything that only grows, by the label values of its metric.

    The labels come from `FunctionGate.label` and `TenantQueue.label`, which are bounded, as
    are the reasons of throttles here.
    """

    def __init__(self) -> None:
        self.ended: defaultdict[Labels, int] = defaultdict(int)
        self.send_attempts: defaultdict[Labels, int] = defaultdict(int)
        self.throttles: defaultdict[Labels, int] = defaultdict(int)
        self.forced_releases: defaultdict[Labels, int] = defaultdict(int)
        self.late_completions: defaultdict[Labels, int] = defaultdict(int)
        self.blocked_seconds: defaultdict[Labels, float] = defaultdict(float)
        self._reasons: set[str] = set()

    def add_account(self, name: str) -> None:
        """Begin to count for an account."""
        self.late_completions.setdefault((name,), 0)

    def sent(self, account: str, function: str, outcome: Outcome) -> None:
        """Count what came of a send, by the labels of its account and function."""
        result = _RESULTS[type(outcome)]
        if isinstance(outcome, Lost) and outcome.timed_out:
            result = "timeout"
        self.send_attempts[account, function, result] += 1
        if isinstance(outcome, Throttled):
            self.throttles[account, function, self._reason(outcome.reason)] += 1

    def _reason(self, reason: str) -> str:
        if reason not in self._reasons:
            if len(self._reasons) >= REASONS_MAX:
                return OTHER_REASON
            self._reasons.add(reason)
        return reason
