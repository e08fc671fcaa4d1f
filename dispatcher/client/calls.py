"""The client for asyncio code."""

import logging
import random
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import anyio
import msgspec
from anyio.abc import TaskGroup

from dispatcher.client import wire
from dispatcher.client.connection import (
    Connection,
    Problem,
    error_of_problem,
    nothing,
)
from dispatcher.core.lifecycle import ENDED
from dispatcher.core.model import Completion, Invocation, Query, State
from dispatcher.core.views import Acceptance, AccountView, End, View
from dispatcher.errors import DispatcherError, Draining, QueueFull, Unreachable

logger = logging.getLogger("dispatcher.client")

DEFAULT_URL: Final = "http://127.0.0.1:8700"
PAGE: Final = 100
LINES_MAX: Final = 5000
"""Invocations of one request of `enqueue_many`; so many share a commit."""
LINES_BYTES_MAX: Final = 8 * 1024 * 1024
POLL_MIN_S: Final = 0.05
POLL_MAX_S: Final = 2.0
PATIENCE_S: Final = 60.0
"""How long `ended` goes on asking a sidecar that does not answer, such as one that restarts."""


class RemoteTicket:
    """
    An invocation on its way to the sidecar.

    Awaiting the ticket itself waits for `accepted` and gives the ticket back.
    """

    def __init__(self, client: "Client") -> None:
        """Only the client makes tickets."""
        self._client = client
        self._settled = anyio.Event()
        self._verdict: Acceptance | DispatcherError | None = None
        self._id: str | None = None
        self._state = State.WAITING

    def __repr__(self) -> str:
        return f"<RemoteTicket {self._verdict!r}>"

    def __await__(self) -> Generator[object, None, Self]:
        yield from self.accepted().__await__()
        return self

    @property
    def id(self) -> str:
        """Return the id, which the sidecar gives: known once `accepted` has returned."""
        if self._id is None:
            raise RuntimeError("the sidecar gives the id: wait for accepted() first")
        return self._id

    @property
    def state(self) -> State:
        """Return where it stood when last heard of."""
        return self._state

    async def accepted(self) -> Acceptance:
        """
        Return once the invocation is on the sidecar's disk.

        Raises `Rejected` if it never will be, `JournalError` or `Unreachable` if nobody knows.
        """
        await self._settled.wait()
        assert self._verdict is not None
        if isinstance(self._verdict, DispatcherError):
            raise self._verdict
        return self._verdict

    async def ended(self) -> End:
        """
        Return how it ended; `uncertain` is an end too.

        Asks again and again, more and more rarely. Raises like `accepted`.
        """
        await self.accepted()
        return await self._client.end_of(self)

    def heard(self, state: State) -> None:
        """Take note of where it stands."""
        self._state = state

    def settle(self, verdict: Acceptance | DispatcherError) -> None:
        """Tell those who wait."""
        self._verdict = verdict
        if isinstance(verdict, Acceptance):
            self._id, self._state = verdict.id, verdict.state
        self._settled.set()


class Client:
    """
    A sidecar, as an asynchronous context manager.

    Leaving it waits for what is still being enqueued; on an error that is given up.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        requests_max: int = 64,
        pending_max: int = 10_000,
        request_max_s: float = 30.0,
    ) -> None:
        """
        Talk to *url*, `http://HOST:PORT` or `unix:/path`, with the bearer *token* if it asks.

        *requests_max* requests are under way at the same time; beyond *pending_max* tickets
        that wait for theirs `enqueue` raises `QueueFull`. Raises `ValueError` for the URL.
        """
        self._connection = Connection(
            url, token, requests_max=requests_max, request_max_s=request_max_s
        )
        self._pending_max = pending_max
        self._pending = 0
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("it is open already: enter it once, and share it among tasks")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._connection)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        if exc is not None and tasks is not None:
            tasks.cancel_scope.cancel()
            await self._stack.__aexit__(None, None, None)
            return False
        return await self._stack.__aexit__(exc_type, exc, traceback)

    # -- Enqueue -------------------------------------------------------------------------------

    def enqueue(self, invocation: Invocation) -> RemoteTicket:
        """
        Send an invocation on its way, without waiting; its ticket says when it is on disk.

        Raises `Invalid` for what cannot be sent and `QueueFull` when too many are on their way;
        what the sidecar refuses is raised by the ticket.
        """
        if self._tasks is None:
            raise RuntimeError("use it as a context manager: async with Client(...) as client")
        if self._pending >= self._pending_max:
            raise QueueFull(f"{self._pending} wait to be sent already", retry_after_s=1.0)
        body = wire.written(invocation)
        ticket = RemoteTicket(self)
        self._pending += 1
        repeatable = invocation.idempotency_key is not None
        self._tasks.start_soon(self._enqueue, ticket, body, repeatable, name="enqueue")
        return ticket

    async def _enqueue(self, ticket: RemoteTicket, body: bytes, repeatable: bool) -> None:  # noqa: FBT001
        verdict: Acceptance | DispatcherError = Unreachable(
            "the client was closed before an answer came", maybe_done=True
        )
        try:
            verdict = await self._connection.ask(
                "POST", "/v1/invocations", wire.read_acceptance, body, repeatable=repeatable
            )
        except DispatcherError as error:
            verdict = error
            # Whoever holds the ticket is told; this is for those who threw it away.
            logger.info("not_accepted: %s: %s", type(error).__name__, error)
        finally:
            self._pending -= 1
            ticket.settle(verdict)

    async def enqueue_many(
        self, invocations: Sequence[Invocation]
    ) -> list[RemoteTicket | DispatcherError]:
        """
        Enqueue many with few requests; each gets its ticket, or the error that it met.

        The tickets are accepted ones. Raises `Invalid`, before anything is sent, for what
        cannot be sent.
        """
        lines = [wire.written(invocation) for invocation in invocations]
        repeatable = [invocation.idempotency_key is not None for invocation in invocations]
        outcomes: list[RemoteTicket | DispatcherError] = []
        for begin, end in _slices(lines):
            outcomes += await self._enqueue_lines(
                lines[begin:end], repeatable=all(repeatable[begin:end])
            )
        return outcomes

    async def _enqueue_lines(
        self, lines: list[bytes], *, repeatable: bool
    ) -> list[RemoteTicket | DispatcherError]:
        try:
            answers = await self._connection.ask(
                "POST",
                "/v1/invocations",
                partial(wire.read_lines, count=len(lines)),
                b"\n".join(lines),
                media="application/x-ndjson",
                repeatable=repeatable,
            )
        except DispatcherError as error:
            return [error] * len(lines)
        return [
            error_of_problem(one, one.status) if isinstance(one, Problem) else self._ticket(one)
            for one in answers
        ]

    def _ticket(self, acceptance: Acceptance) -> RemoteTicket:
        ticket = RemoteTicket(self)
        ticket.settle(acceptance)
        return ticket

    # -- Look ----------------------------------------------------------------------------------

    async def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        return await self._connection.ask(
            "GET", _path(invocation_id), wire.read_view, repeatable=True
        )

    async def page(
        self, query: Query, *, after: str | None = None, limit: int = PAGE
    ) -> tuple[list[View], str | None]:
        """Return a page of invocations, newest first, and the cursor of the next page."""
        parameters = urlencode(wire.query(query, after=after, limit=limit))
        return await self._connection.ask(
            "GET", f"/v1/invocations?{parameters}", wire.read_page, repeatable=True
        )

    async def find(self, query: Query | None = None) -> AsyncIterator[View]:
        """Give all invocations that *query* selects, newest first, without their results."""
        after = None
        while True:
            views, after = await self.page(query or Query(), after=after)
            for view in views:
                yield view
            if after is None:
                return

    async def end_of(self, ticket: RemoteTicket) -> End:
        """Ask until the invocation of *ticket* has ended."""
        delay_s = POLL_MIN_S
        heard_at = anyio.current_time()
        while True:
            try:
                record = (await self.get(ticket.id)).record
            except (Unreachable, Draining):
                if anyio.current_time() - heard_at > PATIENCE_S:
                    raise
            else:
                heard_at = anyio.current_time()
                ticket.heard(record.state)
                if record.state in ENDED:
                    return End(
                        id=record.id,
                        state=record.state,
                        result=record.result,
                        failure=record.failure,
                        estimated=record.estimated,
                    )
            # Some jitter, or all who began together would go on asking together.
            await anyio.sleep(delay_s * random.uniform(0.8, 1.2))  # noqa: S311
            delay_s = min(delay_s * 1.5, POLL_MAX_S)

    # -- Act -----------------------------------------------------------------------------------

    async def cancel(self, invocation_id: str) -> State:
        """Cancel one: CANCELLED, or RUNNING while the cloud stops it. Raises `NotPossible`."""
        return await self._connection.ask("DELETE", _path(invocation_id), wire.read_state)

    async def complete(self, completion: Completion, *, token: str | None = None) -> None:
        """
        Tell that an invocation has ended. Raises `NotFound`, and `NotAllowed` for the token.

        *token* is the one that the function was offered, where the client has none of its own.
        """
        body = wire.written_completion(completion)
        path = f"{_path(completion.id)}/completion"
        await self._connection.ask("POST", path, nothing, body, token=token, repeatable=True)

    async def redrive(self, invocation_id: str) -> None:
        """Let a dead or uncertain one run again. Raises `NotPossible`."""
        await self._connection.ask("POST", f"{_path(invocation_id)}/redrive", nothing)

    async def redrive_dead(self, query: Query | None = None) -> int:
        """Redrive every dead one that *query* selects; return how many. Raises `NotFound`."""
        wanted = msgspec.structs.replace(query or Query(), state=None)
        parameters = urlencode(wire.query(wanted))
        return await self._connection.ask("POST", f"/v1/dead/redrive?{parameters}", wire.read_count)

    # -- Accounts ------------------------------------------------------------------------------

    async def accounts(self) -> list[AccountView]:
        """Return every account as it stands."""
        return await self._connection.ask(
            "GET", "/v1/accounts", wire.read_accounts, repeatable=True
        )

    async def account(self, name: str) -> AccountView:
        """Return one account as it stands. Raises `NotFound`."""
        return await self._connection.ask(
            "GET", _account_path(name), wire.read_account, repeatable=True
        )

    async def pause(self, account: str, function: str | None = None) -> None:
        """Stop the sends of an account, or of one function. Raises `NotFound`."""
        path = f"{_account_path(account, function)}/pause"
        await self._connection.ask("POST", path, nothing, repeatable=True)

    async def resume(self, account: str, function: str | None = None) -> None:
        """Undo `pause`. Raises `NotFound`."""
        path = f"{_account_path(account, function)}/resume"
        await self._connection.ask("POST", path, nothing, repeatable=True)

    async def adjust(self, account: str, changes: Mapping[str, Any]) -> AccountView:
        """
        Change weights, reservations and limits of an account, until the next reload or restart.

        *changes* are a JSON merge patch of its section in the configuration; all are taken or
        none. Returns the account as it stands then. Raises `NotFound`, and `Invalid` with the
        pointer of what a configuration may not say.
        """
        body = msgspec.json.encode(changes)
        return await self._connection.ask(
            "PATCH", _account_path(account), wire.read_account, body, repeatable=True
        )


def _path(invocation_id: str) -> str:
    return f"/v1/invocations/{quote(invocation_id, safe='')}"


def _account_path(account: str, function: str | None = None) -> str:
    path = f"/v1/accounts/{quote(account, safe='')}"
    return path if function is None else f"{path}/functions/{quote(function, safe='')}"


def _slices(lines: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cut *lines* into requests of bounded size."""
    begin, size = 0, 0
    for index, line in enumerate(lines):
        if index > begin and (size + len(line) > LINES_BYTES_MAX or index - begin == LINES_MAX):
            yield begin, index
            begin, size = index, 0
        size += len(line) + 1
    if begin < len(lines):
        yield begin, len(lines)
