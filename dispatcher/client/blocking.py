"""The client for code without an event loop: each call blocks the thread that makes it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from dispatcher.blocking import BlockingTicket
from dispatcher.client.calls import DEFAULT_URL, Client, RemoteTicket
from dispatcher.core.model import Completion, Invocation, Query, State
from dispatcher.core.views import AccountView, View
from dispatcher.errors import DispatcherError


class BlockingClient:
    """A sidecar, as a context manager for threads; any number of them may use it."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, **options: Any) -> None:
        """Take what `Client` takes. Raises `ValueError` for the URL."""
        self._client = Client(url, token, **options)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        if self._portal is not None:
            raise RuntimeError("it is open already: enter it once, and share it among threads")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._portal, self._stack = portal, stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return self._stack.__exit__(exc_type, exc, traceback)
        finally:
            self._portal = None

    @property
    def _loop(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("use it as a context manager: with BlockingClient(...) as client")
        return self._portal

    def enqueue(self, invocation: Invocation) -> BlockingTicket:
        """Send an invocation on its way; its ticket says when it is on disk."""
        (ticket,) = self._loop.call(self._enqueue, invocation)
        return BlockingTicket(ticket, self._loop)

    def enqueue_many(
        self, invocations: Sequence[Invocation]
    ) -> list[BlockingTicket | DispatcherError]:
        """Enqueue many with few requests; each gets its ticket, or the error that it met."""
        return [
            BlockingTicket(one, self._loop) if isinstance(one, RemoteTicket) else one
            for one in self._loop.call(self._client.enqueue_many, invocations)
        ]

    def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        return self._loop.call(self._client.get, invocation_id)

    def find(self, query: Query | None = None) -> Iterator[View]:
        """Give all invocations that *query* selects, newest first, without their results."""
        after = None
        while True:
            views, after = self._loop.call(self._page, query or Query(), after)
            yield from views
            if after is None:
                return

    def _enqueue(self, invocation: Invocation) -> tuple[RemoteTicket]:
        # Not the ticket itself: the portal would await what can be awaited.
        return (self._client.enqueue(invocation),)

    async def _page(self, query: Query, after: str | None) -> tuple[list[View], str | None]:
        return await self._client.page(query, after=after)

    def cancel(self, invocation_id: str) -> State:
        """Cancel one: CANCELLED, or RUNNING while the cloud stops it. Raises `NotPossible`."""
        return self._loop.call(self._client.cancel, invocation_id)

    def complete(self, completion: Completion, *, token: str | None = None) -> None:
        """Tell that an invocation has ended. Raises `NotFound`, and `NotAllowed` for the token."""
        self._loop.call(partial(self._client.complete, completion, token=token))

    def redrive(self, invocation_id: str) -> None:
        """Let a dead or uncertain one run again. Raises `NotPossible`."""
        self._loop.call(self._client.redrive, invocation_id)

    def redrive_dead(self, query: Query | None = None) -> int:
        """Redrive every dead one that *query* selects; return how many. Raises `NotFound`."""
        return self._loop.call(self._client.redrive_dead, query)

    def accounts(self) -> list[AccountView]:
        """Return every account as it stands."""
        return self._loop.call(self._client.accounts)

    def account(self, name: str) -> AccountView:
        """Return one account as it stands. Raises `NotFound`."""
        return self._loop.call(self._client.account, name)

    def pause(self, account: str, function: str | None = None) -> None:
        """Stop the sends of an account, or of one function. Raises `NotFound`."""
        self._loop.call(self._client.pause, account, function)

    def resume(self, account: str, function: str | None = None) -> None:
        """Undo `pause`. Raises `NotFound`."""
        self._loop.call(self._client.resume, account, function)

    def adjust(self, account: str, changes: Mapping[str, Any]) -> AccountView:
        """Change rules of an account until the next reload. Raises `NotFound`, `Invalid`."""
        return self._loop.call(partial(self._client.adjust, account, changes))
