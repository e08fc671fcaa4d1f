"""How a cloud's wall clock relates to the loop's clock. Free of I/O and clocks."""

from email.utils import parsedate_to_datetime
from typing import Final

OFFSET_ERROR_MAX_S: Final = 0.25
"""An offset that may be wrong by more is of no use for measuring start delays."""

DRIFT: Final = 1e-4
"""Seconds a second by which two clocks may drift apart."""


class CloudClock:
    """
    The offset of the cloud's clock, from the Date headers of its replies.

    A Date is cut to whole seconds and was written somewhere between request and reply, so each
    reply only bounds the offset. All bounds together leave little room: after a few dozen
    replies some hundredths of a second.
    """

    __slots__ = ("_high", "_low", "_since")

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<CloudClock {self._low:.3f} to {self._high:.3f} s ahead>"

    @property
    def known(self) -> bool:
        """Whether any reply had a date."""
        return self._low > float("-inf")

    @property
    def is_good(self) -> bool:
        """Whether the offset is known well enough for a start delay."""
        return self.known and self._high - self._low <= 2.0 * OFFSET_ERROR_MAX_S

    def observe(self, date: str | None, sent_at: float, received_at: float) -> None:
        """Take in the Date header of a reply to a request of that time on the loop's clock."""
        if date is None:
            return
        try:
            wall_s = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        low, high = wall_s - received_at, wall_s + 1.0 - sent_at
        drift_s = DRIFT * max(0.0, received_at - self._since)
        self._since = received_at
        self._low = max(low, self._low - drift_s)
        self._high = min(high, self._high + drift_s)
        if self._low > self._high:  # one of the clocks was set
            self._low, self._high = low, high

    def earliest(self, at: float) -> float:
        """Return the earliest time that the cloud's clock may show at *at* on the loop's."""
        return at + self._low

    def latest(self, at: float) -> float:
        """Return the latest time that the cloud's clock may show at *at* on the loop's."""
        return at + self._high

    def to_loop(self, wall_s: float) -> float:
        """Return the time on the loop's clock at which the cloud's showed *wall_s*."""
        assert self.known, self
        return wall_s - (self._low + self._high) / 2.0
