"""
An event loop whose clock jumps: a test of an hour takes milliseconds and is exact.

While anything can run, it runs. Once every task waits, the clock is set to the next timer.
What waits for no timer at all is a deadlock, and is reported as one.

Loopback sockets within the loop work. What the loop cannot see takes no time on this clock:
other processes, and threads other than those of `loop.run_in_executor` (so neither those of
`anyio.to_thread`). Tests in which such take part are marked `real_time` and get a plain loop.
"""

import asyncio
import fcntl
import math
import selectors
import sys
import termios
from asyncio import Future
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE_S = 5.0
"""How long, in real seconds, news from outside may take before nothing is expected any more."""

UNDER_WAY_S = 0.003
"""How long, in real seconds, the kernel may take to bring bytes from one socket to another."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0 and never waits for a timer."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._now_s = 0.0
        self._in_threads = 0
        self._watchers: list[Future[None]] = []
        super().__init__(_JumpingSelector(self, patience_s))
        self._exactly_on_time()

    def time(self) -> float:
        return self._now_s

    async def settled(self) -> None:
        """Wait until everything else waits; unlike a short sleep it takes no time."""
        watcher = self.create_future()
        self._watchers.append(watcher)
        await watcher

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> Future[T]:
        """Run *func* in a thread; the clock stands still until it has returned."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._left_thread)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the executor; the clock stands still until they have ended."""
        self._in_threads += 1
        try:
            await super().shutdown_default_executor()  # a time-out would be a timer to jump to
        finally:
            self._in_threads -= 1

    # -- What the selector asks for -----------------------------------------------------------

    def wake_watchers(self) -> bool:
        """Wake those who wait for everybody else to wait; tell whether there were any."""
        woken = [watcher for watcher in self._watchers if not watcher.done()]
        self._watchers.clear()
        for watcher in woken:
            watcher.set_result(None)
        return bool(woken)

    def jump(self) -> bool:
        """Go to the next timer; tell whether there is one that will ever come."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        when_s = timers[0].when() if timers else math.inf
        # sleep_forever() is a timer at infinity, where no clock ever arrives.
        if self._in_threads or when_s == math.inf:
            return False
        assert when_s >= self._now_s, (when_s, self._now_s)
        self._now_s = when_s
        self._exactly_on_time()
        return True

    def deadlock(self) -> str:
        """Say who waits, and where."""
        stuck = "\n".join(
            f"  {task.get_name()}: {_where(task)}" for task in asyncio.all_tasks(self)
        )
        return f"deadlock at {self._now_s:g} s: every task waits, and for no timer:\n{stuck}"

    def _exactly_on_time(self) -> None:
        # asyncio runs timers up to one resolution early. The smallest step of the clock is
        # just enough to run those of this very moment, and no other.
        self._clock_resolution = math.ulp(self._now_s)

    def _left_thread(self, _: Future[Any]) -> None:
        self._in_threads -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """Jumps where another selector would wait."""

    def __init__(self, loop: VirtualClockLoop, patience_s: float) -> None:
        super().__init__()
        self._loop = loop
        self._patience_s = patience_s
        self._has_closed = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self._is_under_way():
            ready = super().select(UNDER_WAY_S)
        if ready or self._loop.wake_watchers() or self._loop.jump():
            return ready
        ready = super().select(self._patience_s)
        assert ready, self._loop.deadlock()
        return ready

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        self._has_closed = True
        return super().unregister(fileobj)

    def _is_under_way(self) -> bool:
        """Tell whether the kernel may still have bytes, which no timer must overtake."""
        if self._has_closed:
            self._has_closed = False
            return True
        return any(
            key.events & selectors.EVENT_WRITE or _unacknowledged_bytes(key.fd)
            for key in self.get_map().values()
        )


def _unacknowledged_bytes(fd: int) -> int:
    """Return what the other end has not got yet (SIOCOUTQ, tcp(7)); 0 where nobody knows."""
    try:
        answer = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    except OSError:  # a listener, a pipe
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _where(task: asyncio.Task[Any]) -> str:
    """Name the functions that *task* is in, the innermost last."""
    return " > ".join(
        f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{line})"
        for frame, line in _frames(task)
    )


def _frames(task: asyncio.Task[Any]) -> Iterator[tuple[Any, int]]:
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is None:
            return
        yield frame, frame.f_lineno
        coroutine = getattr(coroutine, "cr_await", None)
