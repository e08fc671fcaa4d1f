"""How fast the number of instances may grow, and how an account or a function starts again."""

import math
from typing import Final

from dispatcher.core.rate import Rate
from dispatcher.core.rules import RampRules

#: How long an instance that runs nothing is thought to be kept by the cloud. Both keep it for
#: minutes; to think too little of it costs a ramp's token, to think too much a throttle.
WARM_S: Final = 60.0

#: After a pause or an outage the limit comes back within this time, from what is held: a
#: burst of cold starts would hit all that the functions use.
RESTART_S: Final = 10.0
#: So many instances may be held at once then.
RESTART_BURST: Final = 10


class Ramp:
    """A bucket of new instances: *burst* at once, then so many a minute."""

    __slots__ = ("_rate", "rules")

    def __init__(self, rules: RampRules) -> None:
        self.rules = rules
        self._rate = Rate(rules.per_minute / 60.0, rules.burst)

    def __repr__(self) -> str:
        return f"<Ramp {self.rules.burst} + {self.rules.per_minute}/min>"

    def open_at(self, now: float) -> float:
        """Return when one more instance may begin: *now*, or later."""
        return self._rate.open_at(now)

    def take(self, now: float) -> None:
        """Count an instance that begins."""
        self._rate.take(now)


def changed(ramp: Ramp | None, rules: RampRules | None) -> Ramp | None:
    """Return the ramp for these rules: the same one where they are the same."""
    if ramp is not None and ramp.rules == rules:
        return ramp
    return None if rules is None else Ramp(rules)


class Warm:
    """The most instances held of late: as many are warm still, and begin without a cold start."""

    __slots__ = ("_before", "_peak", "_turn_at")

    def __init__(self) -> None:
        self._before = 0  #: the peak of the window before this one
        self._peak = 0
        self._turn_at = -math.inf

    def __repr__(self) -> str:
        return f"<Warm {self._before}, {self._peak} until {self._turn_at}>"

    def count(self, in_use: int, now: float) -> None:
        """Note that so many run something now."""
        if now >= self._turn_at:
            self.level(in_use, now)
        elif in_use > self._peak:
            self._peak = in_use

    def level(self, in_use: int, now: float) -> int:
        """Return how many there are, *in_use* of which run something."""
        if now >= self._turn_at:
            fresh = now < self._turn_at + WARM_S
            self._before, self._peak = (self._peak if fresh else in_use), in_use
            self._turn_at = now + WARM_S
        self._peak = max(self._peak, in_use)
        return max(self._before, self._peak)


class Restart:
    """Lets the limit come back little by little, from the first send after a pause."""

    __slots__ = ("_at_once", "_ends_at", "_rate")

    def __init__(self, limit: int) -> None:
        self._at_once = max(RESTART_BURST, limit // 20)
        self._rate = Rate(limit / RESTART_S, self._at_once)
        self._ends_at: float | None = None  #: its time begins when it is first asked

    def __repr__(self) -> str:
        return f"<Restart until {self._ends_at}>"

    def open_at(self, now: float, in_use: int) -> float | None:
        """Return when one more instance may begin: *now*, or later; None: all that fit may."""
        if self._ends_at is None:
            self._ends_at = now + RESTART_S
        if now >= self._ends_at:
            return None
        if in_use < self._at_once:  # few are no burst, however fast they follow one another
            return now
        return min(self._ends_at, self._rate.open_at(now))

    def take(self, now: float) -> None:
        """Count an instance that begins."""
        self._rate.take(now)


def paced(pace: "Pace | None", rules: RampRules | None) -> "Pace | None":
    """Return the pace for these rules; None, which is quick to ask, where there is nothing to it."""
    if pace is None:
        return None if rules is None else Pace(rules)
    pace.set_rules(rules)
    return pace or None


class Pace:
    """A gate's ramp and its restart, whichever of them there is."""

    __slots__ = ("_ramp", "_restart")

    def __init__(self, rules: RampRules | None) -> None:
        self._restart: Restart | None = None
        self._ramp = changed(None, rules)

    def __repr__(self) -> str:
        return f"<Pace {self._ramp} {self._restart}>"

    def __bool__(self) -> bool:
        """Tell whether there is anything to keep to."""
        return self._ramp is not None or self._restart is not None

    def set_rules(self, rules: RampRules | None) -> None:
        """Take new rules; a ramp whose rules are the same goes on."""
        self._ramp = changed(self._ramp, rules)

    def starts_again(self, limit: int) -> None:
        """Have the limit come back little by little, from the next send on."""
        self._restart = Restart(limit)

    def opens_at(self, now: float, in_use: int, *, cold: bool) -> float:
        """
        Return when one more instance than *in_use* may begin: *now*, or later.

        *cold*: it would be a new one.
        """
        opens = now
        if self._restart is not None:
            restarts = self._restart.open_at(now, in_use)
            if restarts is None:
                self._restart = None
            else:
                opens = restarts
        if cold and self._ramp is not None:
            opens = max(opens, self._ramp.open_at(now))
        return opens

    def take(self, now: float, *, cold: bool) -> None:
        """Count an instance that begins."""
        if self._restart is not None:
            self._restart.take(now)
        if cold and self._ramp is not None:
            self._ramp.take(now)
