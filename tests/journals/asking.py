"""A journal as coroutines see it, and invocations to put into it."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.core.model import Change, Duplicate, Entry, Record
from dispatcher.errors import JournalError
from dispatcher.ports import Journal

NOW_MS = 1_800_000_000_000

_numbers = itertools.count(1)


def entry(payload: bytes = b"{}", **fields: Any) -> Entry:
    """Return a new invocation."""
    given: dict[str, Any] = {
        "id": f"i{next(_numbers):012d}",
        "account": "prod",
        "function": "f",
        "accepted_ms": NOW_MS,
        "due_ms": NOW_MS,
    }
    return Entry(Record(payload_bytes=len(payload), **(given | fields)), payload)


class Once:
    """Waits for the one call of a `done`, and notices a second."""

    def __init__(self, note: Callable[[], None] | None = None) -> None:
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._note = note

    def __call__(self, verdict: Any) -> None:
        if self._future.cancelled():
            return  # nobody waits any more
        assert not self._future.done(), "told twice"
        self._future.set_result(verdict)
        if self._note is not None:
            self._note()

    @property
    def told(self) -> bool:
        return self._future.done()

    async def verdict(self) -> Any:
        return await self._future


async def accept(journal: Journal, *entries: Entry) -> list[Duplicate | None]:
    """Return the verdicts; raise what the journal was told instead."""
    done = Once()
    journal.accept(entries, done)
    verdict = await done.verdict()
    if isinstance(verdict, Exception):
        raise verdict
    return list(verdict)


async def record(journal: Journal, *changes: Change) -> None:
    """Return once the changes are durable."""
    done = Once()
    journal.record(changes, done)
    error: JournalError | None = await done.verdict()
    if error is not None:
        raise error


async def kept(journal: Journal, invocation_id: str) -> Record:
    found = await journal.get(invocation_id)
    assert found is not None, invocation_id
    return found


async def recovered(journal: Journal) -> list[tuple[Record, bytes | None]]:
    return [one async for batch in journal.recover() for one in batch]


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]
