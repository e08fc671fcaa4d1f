"""A rate of sends, or of instances that begin."""

import math
from typing import Final

#: Sends may bunch up by this much time; timers and the loop are no more exact than that.
BURST_S: Final = 0.1


class Rate:
    """A rate with a burst, by one time stamp (GCRA)."""

    __slots__ = ("_arrival", "_burst", "_interval_s", "_tolerance_s")

    def __init__(self, max_per_s: float, burst: int | None = None) -> None:
        """*burst* may go at once after a lull; None: as many as belong to `BURST_S`."""
        self._arrival = -math.inf
        self._burst = burst
        self.set(max_per_s)

    def __repr__(self) -> str:
        return f"<Rate of one in {self._interval_s:g} s>"

    def set(self, max_per_s: float) -> None:
        """Change the rate; 0: none."""
        self._interval_s = 1.0 / max_per_s if max_per_s else 0.0
        burst_s = BURST_S if self._burst is None else self._burst * self._interval_s
        self._tolerance_s = max(0.0, burst_s - self._interval_s)

    def open_at(self, now: float) -> float:
        """Return when the next send may go: *now*, or later."""
        if not self._interval_s:
            return now
        # The latest that a send just now would leave: a slower rate is forgotten when it goes.
        self._arrival = min(self._arrival, now + self._tolerance_s + self._interval_s)
        return max(now, self._arrival - self._tolerance_s)

    def take(self, now: float) -> None:
        """Count a send."""
        if self._interval_s:
            self._arrival = max(now, self._arrival) + self._interval_s
