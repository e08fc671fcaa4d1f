"""Those who wait, woken a few in each turn of the loop, in which all of them go on at once."""

import asyncio
import math
from collections import deque
from typing import Any, Final

#: Waiters that are woken in one turn: a caller's next step may take a tenth of a millisecond.
WAKE_AT_ONCE: Final = 50


class Waking:
    """Wakes waiters in the order in which it is told to; each soon, but not thousands at once."""

    def __init__(self) -> None:
        self._woken = 0  #: in this turn of the loop; above 0 `_next_turn` will be called
        self._at_once: float = WAKE_AT_ONCE
        self._left: deque[tuple[asyncio.Future[Any], Any]] = deque()

    def __len__(self) -> int:
        """Return how many have their turn later."""
        return len(self._left)

    def wake(self, waiter: asyncio.Future[Any], result: object = None) -> None:
        """Give *waiter* its result, now or in a later turn, unless it waits no more."""
        if self._woken == 0:
            waiter.get_loop().call_soon(self._next_turn)
        if self._woken < self._at_once:
            self._wake(waiter, result)
        else:
            self._left.append((waiter, result))

    def hurry(self) -> None:
        """Wake all now, and from now on at once: the loop may soon be at its end."""
        self._at_once = math.inf
        self._next_turn()

    def _wake(self, waiter: asyncio.Future[Any], result: object) -> None:
        self._woken += 1
        if not waiter.done():
            waiter.set_result(result)

    def _next_turn(self) -> None:
        self._woken = 0
        while self._left and self._woken < self._at_once:
            waiter, result = self._left.popleft()
            if self._woken == 0:
                waiter.get_loop().call_soon(self._next_turn)
            self._wake(waiter, result)
