"""Tickets for code without an event loop: each wait blocks the thread that asks."""

import concurrent.futures
from typing import Protocol, TypeVar

from anyio.from_thread import BlockingPortal

from dispatcher.core.model import State
from dispatcher.core.views import Acceptance, End

T = TypeVar("T")


class Awaited(Protocol):
    """A ticket whose waits are awaited."""

    @property
    def id(self) -> str:
        """Return the id; final once `accepted` has returned."""
        ...

    @property
    def state(self) -> State:
        """Return where it stood when last heard of."""
        ...

    async def accepted(self) -> Acceptance:
        """Return once it is on disk."""
        ...

    async def ended(self) -> End:
        """Return how it ended."""
        ...


class BlockingTicket:
    """A ticket whose waits block the calling thread; a wait may be given up and begun again."""

    def __init__(self, ticket: Awaited, portal: BlockingPortal) -> None:
        """Wrap *ticket*, which lives on the loop behind *portal*."""
        self._ticket = ticket
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._ticket)

    @property
    def id(self) -> str:
        """Return the id; final, and at a client known, once `accepted` has returned."""
        return self._ticket.id

    @property
    def state(self) -> State:
        """Return where it stood when last heard of."""
        return self._ticket.state

    def accepted(self, timeout_s: float | None = None) -> Acceptance:
        """Wait until it is on disk. Raises `Rejected`, `JournalError` and `TimeoutError`."""
        return _wait(self._portal.start_task_soon(self._ticket.accepted), timeout_s)

    def ended(self, timeout_s: float | None = None) -> End:
        """Wait until it has ended. Raises like `accepted`, also where the dispatcher ends before."""
        return _wait(self._portal.start_task_soon(self._ticket.ended), timeout_s)


def _wait(future: "concurrent.futures.Future[T]", timeout_s: float | None) -> T:
    """Wait for a call on the loop; give it up there too when the time is over."""
    try:
        return future.result(timeout_s)
    except TimeoutError:
        future.cancel()
        raise
