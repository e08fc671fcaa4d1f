"""Tasks with one owner, who waits for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from dispatcher.engine.turns import Turns

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
        self._turns = Turns(BEGIN_AT_ONCE)
        self.open = True

    def __len__(self) -> int:
        """Return how many have not ended."""
        return len(self._tasks) + len(self._turns)

    def start(self, function: Function, *args: Any) -> None:
        """Begin a task, in a later turn if there are many; once closed, nothing begins any more."""
        if self.open:
            self._turns.take(self._begin, function, args)

    def _begin(self, function: Function, args: tuple[Any, ...]) -> None:
        task = self._loop.create_task(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended(None if task.cancelled() else task.exception())

    async def aclose(self) -> None:
        """Cancel what has not ended, and wait for it."""
        self.open = False
        self._turns.forget()
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        with anyio.move_on_after(CLOSE_MAX_S, shield=True):
            await asyncio.wait(self._tasks)
