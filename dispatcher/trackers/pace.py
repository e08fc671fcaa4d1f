"""
How fast an API may be asked: a rate that gives way to throttles, and pauses after errors.

Free of I/O and clocks. Additive increase, multiplicative decrease: the one rule by which many
clients of a limit that nobody has published find their share of it.
"""

RATE_MIN_PER_S = 1.0
PAUSE_BASE_S = 0.5
PAUSE_MAX_S = 30.0
RETRY_AFTER_MAX_S = 300.0
"""A longer pause is not believed: the answer may have come from a broken proxy."""


class Pace:
    """
    Permission to send requests: at most `rate_per_s` of them, in bursts of at most *burst*.

    In any second there are no more than the rate and one burst.
    """

    __slots__ = ("_burst", "_errors", "_growth_per_s", "_paused_until", "_rate_max", "_since",
                 "_tokens", "rate_per_s")  # fmt: skip

    def __init__(self, rate_max_per_s: float, burst: float) -> None:
        assert rate_max_per_s >= RATE_MIN_PER_S, rate_max_per_s
        assert burst >= 1.0, burst
        self._rate_max = rate_max_per_s
        self._burst = burst
        self._growth_per_s = rate_max_per_s / 60.0
        self.rate_per_s = rate_max_per_s
        self._tokens = burst
        self._since = float("-inf")
        self._paused_until = float("-inf")
        self._errors = 0

    def __repr__(self) -> str:
        return f"<Pace {self.rate_per_s:.1f}/s, {self._tokens:.1f} saved up, {self._errors} errors>"

    def ready_at(self, now: float) -> float:
        """Return when the next request may go: *now*, or later."""
        self._advance(now)
        missing = 0.0 if self._tokens >= _NEARLY_ONE else 1.0 - self._tokens
        return max(now, self._paused_until, now + missing / self.rate_per_s)

    def take(self, now: float) -> None:
        """Send a request; only when `ready_at` is *now*."""
        self._advance(now)
        assert self._tokens >= _NEARLY_ONE, self
        assert self._paused_until <= now, self
        self._tokens = max(0.0, self._tokens - 1.0)

    def answered(self) -> None:
        """Take note that a request was answered as it should be."""
        self._errors = 0

    def throttled(self, now: float, retry_after_s: float | None) -> None:
        """Take note that a request was refused because there are too many."""
        self._advance(now)
        if self._paused_until <= now:
            # Requests that were on their way at the same time are one piece of news, not many.
            self.rate_per_s = max(RATE_MIN_PER_S, self.rate_per_s / 2.0)
        pause_s = PAUSE_BASE_S if retry_after_s is None else min(retry_after_s, RETRY_AFTER_MAX_S)
        self._pause(now + pause_s)

    def failed(self, now: float) -> None:
        """Take note that a request failed in a way that the next one probably will, too."""
        if self._paused_until > now:
            return
        pause_s = min(PAUSE_MAX_S, PAUSE_BASE_S * 2.0 ** min(self._errors, 16))
        self._errors += 1
        self._pause(now + pause_s)

    def _pause(self, until: float) -> None:
        self._paused_until = max(self._paused_until, until)

    def _advance(self, now: float) -> None:
        elapsed_s = now - self._since
        if elapsed_s <= 0.0:
            return
        if self._since > float("-inf"):
            self._tokens = min(self._burst, self._tokens + elapsed_s * self.rate_per_s)
            self.rate_per_s = min(self._rate_max, self.rate_per_s + elapsed_s * self._growth_per_s)
        self._since = now


_NEARLY_ONE = 1.0 - 1e-6
"""A token that came back in several steps of floating point may miss a hair."""
