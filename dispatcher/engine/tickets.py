"""What a caller holds of an invocation that it enqueued."""

import asyncio
from typing import Protocol

from dispatcher.core.backlog import Job
from dispatcher.core.model import State
from dispatcher.core.views import Acceptance, End


class Known(Protocol):
    """Whoever knows invocations by their ids."""

    async def state_of(self, invocation_id: str) -> State:
        """Return where an invocation stands."""
        ...

    async def end_of(self, invocation_id: str) -> End:
        """Wait for the end of an invocation."""
        ...


class Ticket:
    """
    An invocation on its way.

    `id` is final once `accepted` has returned: the ticket of a repeat takes the id of the
    first. Waiting may be given up and begun again at any time, by any number of callers.
    """

    __slots__ = ("_job", "_known", "_verdict", "_waiters", "id")

    def __init__(self, invocation_id: str, known: Known) -> None:
        """*known* is who gave it."""
        self.id = invocation_id
        self._job: Job | None = None
        self._known = known
        self._verdict: str | Exception | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {self.state}>"

    @property
    def state(self) -> State:
        """Return where it stands, as far as this process has seen it."""
        return State.WAITING if self._job is None else self._job.state

    async def accepted(self) -> Acceptance:
        """
        Return once the invocation is on disk.

        Raises `Rejected` if it was not accepted after all, `JournalError` if nobody knows.
        """
        if self._verdict is None:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter
        if isinstance(self._verdict, Exception):
            raise self._verdict
        if self._job is None:
            return Acceptance(self.id, await self._known.state_of(self.id), duplicate=True)
        return Acceptance(self.id, self._job.state, duplicate=False)

    async def ended(self) -> End:
        """
        Return how it ended; `uncertain` is an end too.

        Raises like `accepted`, and `JournalError` where the dispatcher ends before.
        """
        await self.accepted()
        if self._job is not None and isinstance(self._job.owner, End):
            return self._job.owner
        return await self._known.end_of(self.id)

    def settle(self, verdict: Job | str | Exception) -> None:
        """Tell those who wait: the accepted job, the id of the first, or why it was refused."""
        assert self._verdict is None, self
        if isinstance(verdict, Exception):
            self._verdict = verdict
        elif isinstance(verdict, str):
            self._verdict = self.id = verdict
        else:
            self._verdict = verdict.id
            self._job = verdict
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = None
