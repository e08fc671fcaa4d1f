"""What comes by the thousand at once, a part of it in each turn of the loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Step = Callable[..., object]


class Turns:
    """Takes steps in the order in which they come: so many in a turn of the loop, the others later."""

    def __init__(self, at_once: float) -> None:
        """*at_once*: how many in one turn."""
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._taken = 0  #: in this turn of the loop; above 0 `_next_turn` will be called
        self._left: deque[tuple[Step, tuple[Any, ...]]] = deque()

    def __len__(self) -> int:
        """Return how many have their turn later."""
        return len(self._left)

    def take(self, step: Step, *args: Any) -> None:
        """Take a step now, or in a later turn."""
        if self._taken == 0:
            self._loop.call_soon(self._next_turn)
        if self._taken < self._at_once:
            self._taken += 1
            step(*args)
        else:
            self._left.append((step, args))

    def forget(self) -> None:
        """Take none of the steps that were left for later."""
        self._left.clear()

    def hurry(self, at_once: float) -> None:
        """Take *at_once* so many in a turn from now on, and what that allows of the rest now."""
        self._at_once = at_once
        self._next_turn()

    def _next_turn(self) -> None:
        self._taken = 0
        while self._left and self._taken < self._at_once:
            step, args = self._left.popleft()
            self._taken += 1
            step(*args)
        if self._taken:
            self._loop.call_soon(self._next_turn)
