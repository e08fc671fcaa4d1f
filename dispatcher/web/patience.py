"""The times of one connection: by when a request must have come, and that its answer is taken."""

import asyncio
import math
from collections.abc import Callable


class Patience:
    """Gives a peer up that lets its connection wait for too long."""

    __slots__ = ("_deadline_s", "_give_up", "_is_over", "_loop", "_stall_timer", "_timer")

    def __init__(self, give_up: Callable[[], None]) -> None:
        """Only in the loop of the connection."""
        self._loop = asyncio.get_running_loop()
        self._give_up = give_up
        self._deadline_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.Handle | None = None
        self._is_over = False

    def end(self) -> None:
        """Wait for nothing any more: the connection is closed."""
        self._is_over = True
        self.look_away()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- Requests

    def expect_within(self, seconds: float) -> None:
        """Give up unless a request comes within so long."""
        if self._is_over:
            return
        self._deadline_s = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline_s:
            self._timer.cancel()
            self._timer = None
        # One that rings too early is set anew then: cheaper than a timer for each request.
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline_s, self._look_at_the_time)

    def expect_nothing(self) -> None:
        """Stop the clock: a request is in the works."""
        self._deadline_s = math.inf

    def _look_at_the_time(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline_s:
            self._give_up()
        elif self._deadline_s < math.inf:
            self._timer = self._loop.call_at(self._deadline_s, self._look_at_the_time)

    # -- Answers

    def watch(self, left: Callable[[], int], stall_max_s: float) -> None:
        """Give up once no byte of what is *left* of an answer was taken for so long."""
        # Not measured now: more of the same answer may be written before the next turn.
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_soon(self._look_at_the_rest, left, stall_max_s)

    def look_away(self) -> None:
        """Stop watching."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _look_at_the_rest(
        self, left: Callable[[], int], stall_max_s: float, before: int | None = None
    ) -> None:
        self._stall_timer = None
        now_left = left()
        # The system takes bytes in lumps of what it buffers, so no rate can be asked for.
        if before is not None and now_left >= before:
            self._give_up()
        else:
            self._stall_timer = self._loop.call_later(
                stall_max_s, self._look_at_the_rest, left, stall_max_s, now_left
            )
