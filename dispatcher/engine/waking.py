"""Those who wait, woken a few in each turn of the loop, in which all of them go on at once."""

import asyncio
import math
from typing import Any, Final

from dispatcher.engine.turns import Turns

#: Waiters that are woken in one turn: a caller's next step may take a tenth of a millisecond.
WAKE_AT_ONCE: Final = 50


class Waking:
    """Wakes waiters in the order in which it is told to; each soon, but not thousands at once."""

    def __init__(self) -> None:
        self._turns = Turns(WAKE_AT_ONCE)

    def __len__(self) -> int:
        """Return how many have their turn later."""
        return len(self._turns)

    def wake(self, waiter: asyncio.Future[Any], result: object = None) -> None:
        """Give *waiter* its result, now or in a later turn, unless it waits no more."""
        self._turns.take(_wake, waiter, result)

    def hurry(self) -> None:
        """Wake all now, and from now on at once: the loop may soon be at its end."""
        self._turns.hurry(math.inf)


def _wake(waiter: asyncio.Future[Any], result: object) -> None:
    if not waiter.done():
        waiter.set_result(result)
