"""Tasks with one owner, who waits for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

CLOSE_MAX_S = 5.0
"""How long tasks that were cancelled may take to end."""


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
        self.open = True

    def __len__(self) -> int:
        """Return how many have not ended."""
        return len(self._tasks)

    def start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Begin a task; once closed, nothing is begun any more."""
        if self.open:
            task = self._loop.create_task(function(*args))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended(None if task.cancelled() else task.exception())

    async def aclose(self) -> None:
        """Cancel what has not ended, and wait for it."""
        self.open = False
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        with anyio.move_on_after(CLOSE_MAX_S, shield=True):
            await asyncio.wait(self._tasks)
