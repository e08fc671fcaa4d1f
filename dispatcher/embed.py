"""
The dispatcher inside another program: no listener, the same engine.

`Dispatcher` is for asyncio code. `Dispatcher.in_thread` runs one on an event loop in a thread
of its own, for code without a loop.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.from_thread
import anyio.to_thread
from anyio.from_thread import BlockingPortal
from prometheus_client import CollectorRegistry

from dispatcher.blocking import BlockingTicket
from dispatcher.config import Settings, check, load
from dispatcher.core.intake import typed
from dispatcher.core.model import Completion, Invocation, Query, State
from dispatcher.core.views import AccountView, Statistics, View
from dispatcher.engine import Engine, Ticket
from dispatcher.errors import Rejected
from dispatcher.metrics import register
from dispatcher.wiring import open_engine, run_engine


class Dispatcher:
    """
    The dispatcher as an asynchronous context manager.

    Leaving it takes nothing more, lets the requests in flight come back for at most
    `server.drain_max_s`, and closes the journal, which keeps what is left.
    """

    def __init__(self, settings: Settings) -> None:
        """Take *settings*, which are judged when the context is entered."""
        self._load: Callable[[], Settings] = partial(check, settings)
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None
        self._is_entered = False

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Take the configuration at *path*, which is read when the context is entered."""
        self = cls(Settings())
        self._load = partial(load, Path(path))
        return self

    @staticmethod
    def in_thread(source: str | Path | Settings) -> "ThreadedDispatcher":
        """Return a dispatcher for code without an event loop; *source*: a file, or settings."""
        if isinstance(source, Settings):
            return ThreadedDispatcher(Dispatcher(source))
        return ThreadedDispatcher(Dispatcher.from_file(source))

    async def __aenter__(self) -> Self:
        """
        Open everything and recover. Raises `ConfigError` and `JournalError`.

        One that was left can be entered again.
        """
        if self._is_entered:
            raise RuntimeError("it runs already: enter it once, and share it among tasks")
        self._is_entered = True
        try:
            settings = await anyio.to_thread.run_sync(self._load)
            async with AsyncExitStack() as stack:
                engine = await stack.enter_async_context(open_engine(settings))
                await stack.enter_async_context(run_engine(engine))
                self._stack = stack.pop_all()
        except BaseException:
            self._is_entered = False
            raise
        self._engine = engine
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Drain and close."""
        try:
            return await self._stack.__aexit__(kind, error, trace)
        finally:
            self._is_entered = False

    @property
    def engine(self) -> Engine:
        """Return the engine, for metrics; only inside the context."""
        if self._engine is None:
            raise RuntimeError("use it as a context manager: async with Dispatcher(...) as d")
        return self._engine

    def enqueue(self, invocation: Invocation) -> Ticket:
        """Take an invocation without ever waiting. Raises `Rejected`, such as `QueueFull`."""
        return self.engine.enqueue(typed(invocation))

    def enqueue_many(self, invocations: Sequence[Invocation]) -> list[Ticket | Rejected]:
        """Take many with one commit; each gets its ticket, or why it has none."""
        taken: list[Ticket | Rejected] = []
        for invocation in invocations:
            try:
                taken.append(self.enqueue(invocation))
            except Rejected as error:
                taken.append(error)
        return taken

    async def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        return await self.engine.get(invocation_id)

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[View], str | None]:
        """Return a page of invocations, newest first, and the cursor of the next page."""
        return await self.engine.find(query, after=after, limit=limit)

    async def cancel(self, invocation_id: str) -> State:
        """Cancel one: CANCELLED, or RUNNING while the cloud stops it. Raises `NotPossible`."""
        return await self.engine.cancel(invocation_id)

    async def complete(self, completion: Completion) -> None:
        """Tell that an invocation has ended."""
        await self.engine.complete(completion)

    async def redrive(self, invocation_id: str) -> None:
        """Let a dead or uncertain one run again. Raises `NotPossible`."""
        await self.engine.redrive(invocation_id)

    async def redrive_dead(self, query: Query) -> int:
        """Redrive every dead one that *query* selects; return how many. Raises `NotFound`."""
        return await self.engine.redrive_dead(query)

    def accounts(self) -> list[AccountView]:
        """Return every account as it stands."""
        return self.engine.accounts()

    def pause(self, account: str, function: str | None = None) -> None:
        """Stop the sends of an account, or of one function."""
        self.engine.pause(account, function)

    def resume(self, account: str, function: str | None = None) -> None:
        """Undo `pause`."""
        self.engine.resume(account, function)

    def adjust(self, account: str, changes: Mapping[str, Any]) -> None:
        """
        Change weights, reservations and limits of an account, until the next `reconfigure`.

        *changes* are a JSON merge patch of its section; all are taken or none. Raises `NotFound`,
        and `Invalid` with the pointer of what a configuration may not say.
        """
        self.engine.adjust(account, changes)

    async def reconfigure(self, settings: Settings) -> None:
        """Take new limits, functions, tenants and retry rules. Raises `ConfigError`."""
        self.engine.reconfigure(await anyio.to_thread.run_sync(check, settings))

    def statistics(self) -> Statistics:
        """Return every number of the metrics."""
        return self.engine.statistics()

    def register_metrics(self, registry: CollectorRegistry) -> None:
        """Add the metrics to the program's own registry. Raises `ValueError` for a second time."""
        collector = register(registry, self.engine.statistics)
        self._stack.callback(registry.unregister, collector)


class ThreadedDispatcher:
    """The dispatcher as a context manager for threads; its loop runs in a thread of its own."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Run *dispatcher* on a loop of its own."""
        self._dispatcher = dispatcher
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        """Start the thread, open everything and recover."""
        if self._portal is not None:
            raise RuntimeError("it runs already: enter it once, and share it among threads")
        options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
        with ExitStack() as stack:
            portal = stack.enter_context(
                anyio.from_thread.start_blocking_portal(backend_options=options)
            )
            stack.enter_context(portal.wrap_async_context_manager(self._dispatcher))
            self._portal, self._stack = portal, stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Drain, close, and end the thread."""
        try:
            return self._stack.__exit__(kind, error, trace)
        finally:
            self._portal = None

    @property
    def _loop(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("use it as a context manager: with Dispatcher.in_thread(...) as d")
        return self._portal

    def enqueue(self, invocation: Invocation) -> BlockingTicket:
        """Take an invocation from any thread, without ever waiting. Raises `Rejected`."""
        return BlockingTicket(self._dispatcher.enqueue(invocation), self._loop)

    def enqueue_many(self, invocations: Sequence[Invocation]) -> list[BlockingTicket | Rejected]:
        """Take many with one commit; each gets its ticket, or why it has none."""
        return [
            BlockingTicket(taken, self._loop) if isinstance(taken, Ticket) else taken
            for taken in self._dispatcher.enqueue_many(invocations)
        ]

    def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        return self._loop.call(self._dispatcher.get, invocation_id)

    def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[View], str | None]:
        """Return a page of invocations, newest first, and the cursor of the next page."""
        return self._loop.call(partial(self._dispatcher.find, query, after=after, limit=limit))

    def cancel(self, invocation_id: str) -> State:
        """Cancel one: CANCELLED, or RUNNING while the cloud stops it. Raises `NotPossible`."""
        return self._loop.call(self._dispatcher.cancel, invocation_id)

    def complete(self, completion: Completion) -> None:
        """Tell that an invocation has ended."""
        self._loop.call(self._dispatcher.complete, completion)

    def redrive(self, invocation_id: str) -> None:
        """Let a dead or uncertain one run again. Raises `NotPossible`."""
        self._loop.call(self._dispatcher.redrive, invocation_id)

    def redrive_dead(self, query: Query) -> int:
        """Redrive every dead one that *query* selects; return how many. Raises `NotFound`."""
        return self._loop.call(self._dispatcher.redrive_dead, query)

    def accounts(self) -> list[AccountView]:
        """Return every account as it stands."""
        return self._loop.call(self._dispatcher.accounts)

    def pause(self, account: str, function: str | None = None) -> None:
        """Stop the sends of an account, or of one function."""
        self._loop.call(self._dispatcher.pause, account, function)

    def resume(self, account: str, function: str | None = None) -> None:
        """Undo `pause`."""
        self._loop.call(self._dispatcher.resume, account, function)

    def adjust(self, account: str, changes: Mapping[str, Any]) -> None:
        """Change rules of an account, until the next `reconfigure`. Raises `NotFound`, `Invalid`."""
        self._loop.call(self._dispatcher.adjust, account, changes)

    def reconfigure(self, settings: Settings) -> None:
        """Take new limits, functions, tenants and retry rules. Raises `ConfigError`."""
        self._loop.call(self._dispatcher.reconfigure, settings)

    def statistics(self) -> Statistics:
        """Return every number of the metrics."""
        return self._loop.call(self._dispatcher.statistics)

    def register_metrics(self, registry: CollectorRegistry) -> None:
        """Add the metrics to the program's own registry. Raises `ValueError` for a second time."""
        self._loop.call(self._dispatcher.register_metrics, registry)
