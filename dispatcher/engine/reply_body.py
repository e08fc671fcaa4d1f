"""
The body of a large reply, on its way from the cloud to whoever waits for it.

It is held in bounded memory: the cloud is not read any faster than the caller takes it. Of a
caller that has left the rest is thrown away as it comes, since the function runs to its end.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from dispatcher.core.model import Failure, Lost

ROOM_BYTES: Final = 256 * 1024
"""How much may wait to be taken, before the cloud is not read any further."""


class ReplyBroken(ConnectionError):
    """The cloud broke off in the middle of a reply."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure = failure


class ReplyBody:
    """The parts of a body: a sink for those who receive it, an iterator for who waits for it."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        """*go_on* is called whenever there is room again."""
        self._go_on = go_on
        self._parts: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._lost: Lost | None = None
        self._is_left = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def held_bytes(self) -> int:
        """Return how much waits to be taken."""
        return self._held_bytes

    # -- The cloud's side

    def feed(self, part: bytes) -> bool:
        """Take some more of it; False: there is no room for further ones now."""
        assert not self._ended, self
        if self._is_left:
            return True
        self._parts.append(part)
        self._held_bytes += len(part)
        self._wake()
        return self._held_bytes < ROOM_BYTES

    def end(self, lost: Lost | None) -> None:
        """Take the end; *lost*: why it is not whole."""
        self._ended = True
        self._lost = lost
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- The caller's side

    def leave(self) -> None:
        """Want no more of it."""
        self._is_left = True
        self._parts.clear()
        self._held_bytes = 0
        if not self._ended:
            self._go_on()

    def __aiter__(self) -> Self:
        """Give the parts as they come."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next part. Raises `ReplyBroken` where there should have been one."""
        while not self._parts:
            if self._lost is not None:
                raise ReplyBroken(self._lost.failure)
            if self._ended or self._is_left:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        part = self._parts.popleft()
        was_full = self._held_bytes >= ROOM_BYTES
        self._held_bytes -= len(part)
        if was_full and self._held_bytes < ROOM_BYTES and not self._ended:
            self._go_on()
        return part

    async def aclose(self) -> None:
        """Leave, as whoever gives an iterator up does."""
        self.leave()
