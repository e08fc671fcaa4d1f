"""What keeps a backlog from being burnt against credentials that the cloud refuses."""

from typing import Final

#: How long sends of an account stop after its credentials or rights were refused, first and
#: at most. Each refusal of the single probe after that doubles the time.
CIRCUIT_FIRST_S: Final = 30.0
CIRCUIT_MAX_S: Final = 300.0


class Circuit:
    """
    Stops the sends of an account whose credentials or rights the cloud refuses.

    When its time is over a single probe may go; what comes of it closes the circuit or
    opens it again for twice as long. Each change begins a new era; what was sent in an
    earlier one proves nothing.
    """

    __slots__ = ("_delay_s", "_open_until", "_probe_at", "era")

    def __init__(self) -> None:
        self.era = 0
        self._open_until: float | None = None
        self._delay_s = CIRCUIT_FIRST_S
        self._probe_at: float | None = None

    def __repr__(self) -> str:
        return f"<Circuit open until {self._open_until}, probed at {self._probe_at}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it is open, or a probe has yet to show that it may close."""
        return self._open_until is not None

    def until(self, now: float) -> float | None:
        """Return until when nothing may be sent; None: something may."""
        until = self._open_until
        if until is not None and self._probe_at is not None:
            # A probe that never comes back must not hold the account for ever.
            until = self._probe_at + CIRCUIT_MAX_S
        return until if until is not None and until > now else None

    def sent(self, now: float) -> int:
        """Note a send, which is the probe while open; return its era."""
        if self.is_open:
            self._probe_at = now
        return self.era

    def denied(self, era: int, now: float) -> bool:
        """Note a refusal of what was sent in *era*; True: the circuit opened for it."""
        if era != self.era:
            return False
        self._delay_s = min(CIRCUIT_MAX_S, self._delay_s * 2) if self.is_open else CIRCUIT_FIRST_S
        self._begin_era(now + self._delay_s)
        return True

    def reached(self, era: int) -> bool:
        """Note that the cloud knew us at a send of *era*; True: that closed the circuit."""
        if era != self.era or not self.is_open:
            return False
        self._begin_era(None)
        return True

    def unanswered(self, era: int) -> None:
        """Note that a send's outcome says nothing about us: another probe may go."""
        if era == self.era:
            self._probe_at = None

    def _begin_era(self, open_until: float | None) -> None:
        self._open_until = open_until
        self._probe_at = None
        self.era += 1
