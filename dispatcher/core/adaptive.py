"""
The adaptive limit: how many instances may be held, learned from what the cloud refuses.

CUBIC growth (RFC 9438) on drops, in units of the functions' own duration. A drop is a send
that the cloud refused for want of the account's capacity, or one that it took and then kept
queued. Latency says nothing here: a quota refuses at once, and durations vary by themselves.
"""

import math
from typing import Final

#: What a drop leaves of the limit.
BETA: Final = 0.9
#: The n-th cut in a row is n cuts at once, up to so many.
CUTS_MAX: Final = 3
#: Instances that the curve gains, per cube of its unit of time.
SCALE: Final = 0.4
#: The unit of time in runs: half a run of 2 s, so plain CUBIC's second, is one unit.
UNIT_RUNS: Final = 0.5
#: The weight of the latest run in what runs are thought to take, and what they are at first.
LEARNING: Final = 0.05
FIRST_RUN_S: Final = 1.0
#: Where slow start begins: what is held, and this part of the ceiling.
START_PART: Final = 0.25
#: Below this part of it the limit counts as unused, and does not grow.
USED_PART: Final = 0.9
#: A start that the cloud put off for longer was queued: it waits 0.5 s (Function Compute) or 1 s
#: (Lambda) at least before it tries a throttled invocation again. Less may be a slow start.
START_DELAY_S: Final = 0.45


class Adaptive:
    """
    A limit between *floor* and *ceiling* that follows what the cloud takes.

    It doubles with each run's duration until the first drop (slow start). Each drop cuts it,
    but those of sends that began before the last cut do not: they say nothing new. After a
    cut it comes back on a cubic curve, which is flat around where the drop was and steep far
    above. Time counts only while the limit is used, so what is not used does not grow.
    """

    __slots__ = (
        "_at",
        "_cut_at",
        "_knee",
        "_limit",
        "_row",
        "_run_s",
        "_x",
        "ceiling",
        "floor",
        "slow",
    )

    def __init__(self, floor: int, ceiling: int, in_use: int = 0) -> None:
        """Begin with slow start from *in_use*, which are held, or from `START_PART`."""
        assert 1 <= floor <= ceiling, (floor, ceiling)
        self.floor = floor
        self.ceiling = ceiling
        self.slow = True  #: in slow start
        self._run_s: float | None = None
        self._cut_at = -math.inf
        self._at = -math.inf  #: when a send or a run last ended well
        self._knee = float(ceiling)  #: where the curve is flat; in slow start, where that ends
        self._x = 0.0  #: units of time on the curve
        self._row = 0  #: cuts in a row, without the limit having come back between
        self._limit = float(floor)
        self.restart(in_use)

    def __repr__(self) -> str:
        return f"<Adaptive {self.limit} of {self.floor} to {self.ceiling}, slow={self.slow}>"

    @property
    def limit(self) -> int:
        """Return how many instances may be held."""
        return int(self._limit)

    @property
    def run_s(self) -> float:
        """Return how long runs are thought to take."""
        return FIRST_RUN_S if self._run_s is None else self._run_s

    def set_bounds(self, floor: int, ceiling: int) -> None:
        """Take new bounds; what was learned stays as far as it lies between them."""
        assert 1 <= floor <= ceiling, (floor, ceiling)
        self.floor, self.ceiling = floor, ceiling
        self._set(self._limit)

    def restart(self, in_use: int) -> None:
        """
        Begin anew in slow start, up to where the limit was, with *in_use* instances held.

        After an outage or a pause nobody knows what the quota leaves; the old limit at once
        would be a burst.
        """
        self._knee = max(self._limit, self._knee)
        self.slow = True
        self._x = 0.0
        start = max(in_use, math.ceil(self.ceiling * START_PART))
        self._set(min(float(start), self._knee))

    def succeeded(self, in_use: int, run_s: float | None, now: float) -> None:
        """Note that the cloud ran something while *in_use* instances were held, it included."""
        if run_s is not None:
            old = self._run_s
            self._run_s = run_s if old is None else old + LEARNING * (run_s - old)
        unit_s = max(1e-3, self.run_s * UNIT_RUNS)
        # After a lull the first end must not bring the time of the whole lull with it.
        spent_s = min(now - self._at, self.run_s)
        self._at = now
        if in_use < self._limit * USED_PART - 1:
            return
        if self.slow:
            self._set(self._limit + 1.0)
            if self._limit >= self._knee:
                self._leave_slow_start()
            return
        self._x += spent_s / unit_s
        self._set(max(self._limit, self._curve()))

    def dropped(self, sent_at: float, in_use: int, now: float) -> bool:
        """
        Note that a send of *sent_at* met the quota while *in_use* were held, it included.

        True: the limit was cut for it.
        """
        if sent_at <= self._cut_at:
            return False
        self._cut_at = self._at = now
        met = min(self._limit, float(in_use))
        # Others have taken more at once: nine cuts in a row to get there are nine bursts of drops.
        self._row = self._row + 1 if self._x < self._reach / 2 and not self.slow else 1
        self._knee = max(met, float(self.floor))
        self.slow = False
        self._x = 0.0
        self._set(met * BETA ** min(self._row, CUTS_MAX))
        return True

    @property
    def _reach(self) -> float:
        """Return the units of time from a cut to where the curve is flat."""
        return float((self._knee * (1.0 - BETA) / SCALE) ** (1 / 3))

    def _curve(self) -> float:
        return float(SCALE * (self._x - self._reach) ** 3 + self._knee)

    def _leave_slow_start(self) -> None:
        """Go on from the knee of the curve, as if long after a drop there."""
        self.slow = False
        self._x = self._reach

    def _set(self, limit: float) -> None:
        self._limit = min(float(self.ceiling), max(float(self.floor), limit))
