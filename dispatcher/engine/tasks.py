"""Tasks with one owner, who waits for all of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

BEGIN_AT_ONCE = 25
"""Tasks that begin in one turn of the loop: a send's first step takes a tenth of a millisecond."""
CLOSE_MAX_S = 5.0
"""How long tasks that were cancelled may take to end."""

Function = Callable[..., Coroutine[Any, Any, None]]


class Tasks:
    """
    The tasks of one owner: none outlives `aclose`.

    A task group of anyio does the same at ten times the price, which every send would pay.
    """

    def __init__(self, ended: Callable[[BaseException | None], None]) -> None:
        """*ended* is told of each task that ends, with its error if it failed."""
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._begun = 0  #: in this turn of the loop; above 0 `_next_turn` will be called
        self._waiting: deque[tuple[Function, tuple[Any, ...]]] = deque()
        self.open = True

    def __len__(self) -> int:
        """Return how many have not ended."""
        return len(self._tasks) + len(self._waiting)

    def start(self, function: Function, *args: Any) -> None:
        """Begin a task, in a later turn if there are many; once closed, nothing begins any more."""
        if not self.open:
            return
        if self._begun == 0:
            self._loop.call_soon(self._next_turn)
        if self._begun < BEGIN_AT_ONCE:
            self._begin(function, args)
        else:
            self._waiting.append((function, args))

    def _begin(self, function: Function, args: tuple[Any, ...]) -> None:
        self._begun += 1
        task = self._loop.create_task(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < BEGIN_AT_ONCE:
            self._begin(*self._waiting.popleft())
        if self._begun:
            self._loop.call_soon(self._next_turn)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended(None if task.cancelled() else task.exception())

    async def aclose(self) -> None:
        """Cancel what has not ended, and wait for it."""
        self.open = False
        self._waiting.clear()
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        with anyio.move_on_after(CLOSE_MAX_S, shield=True):
            await asyncio.wait(self._tasks)
