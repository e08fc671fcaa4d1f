"""The journal on disk: SQLite with a write-ahead log that is synchronised at every commit."""

import asyncio
import logging
import math
import os
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from dispatcher.core.model import Change, Entry, Pause, Query, Record
from dispatcher.errors import JournalError, QueueFull, Rejected
from dispatcher.journals import disk, reading
from dispatcher.journals.batch import Accept, Note, Told, Work
from dispatcher.journals.disk import Lock, Reserve, Room
from dispatcher.journals.opening import (
    Connect,
    Connection,
    close_without_checkpoint,
    connect,
    is_full,
    journal_error,
    open_for_reading,
    open_for_writing,
)
from dispatcher.journals.upkeep import Upkeep
from dispatcher.journals.writer import Writer
from dispatcher.ports import AcceptDone, ChangeDone

logger = logging.getLogger("dispatcher.journal")

T = TypeVar("T")

#: Payload bytes on their way to the disk, beyond which nothing more is taken for a moment.
PENDING_BYTES_MAX = 256 * 1024 * 1024

#: What a new invocation counts for besides its payload.
_ENTRY_BYTES = 1024

TELL_MAX_S = 0.002
"""How long those who wait for commits are told of them in one turn of the loop."""

CLOSE_MAX_S = 30.0
"""How long `aclose` waits for the disk."""


class SqliteJournal:
    """
    Keeps invocations in one SQLite file, for one process at a time.

    What is read may not yet show what was written a moment before, until its *done* was called.
    """

    on_disk = True

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        retention_s: float,
        bytes_max: int,
        on_commit: Callable[[float], None] | None = None,
        network_filesystems: Collection[str] = (),
        room: Room = Room(),  # noqa: B008 -- frozen
        connect: Connect = connect,
        wall_s: Callable[[], float] = time.time,
    ) -> "SqliteJournal":
        """
        Open the journal at *path*, or make one.

        Ended invocations and idempotency keys are kept for *retention_s*. `recover` gives
        payloads of *bytes_max* in all. *on_commit* is told the seconds that each commit took.
        *network_filesystems* are allowed by their names. Raises `JournalLocked`,
        `JournalDamaged` or another `JournalError`.
        """

        def open_file() -> tuple[Writer, Path]:
            # Not by any of its other names, so that all of them lead to the same lock.
            real = path.resolve()
            disk.make_folder(real.parent)
            disk.refuse_network_filesystem(real.parent, network_filesystems)
            return _open_writer(real, int(retention_s * 1000), room, connect, wall_s), real

        try:
            writer, real = await anyio.to_thread.run_sync(open_file)
        except OSError as error:
            raise JournalError(f"cannot open {path}: {error}") from error
        return cls(writer, real, connect, bytes_max, on_commit)

    def __init__(
        self,
        writer: Writer,
        path: Path,
        connect: Connect,
        bytes_max: int,
        on_commit: Callable[[float], None] | None,
    ) -> None:
        """Start *writer*, which is on the file at *path*; `open` is the way to one."""
        self._writer = writer
        self._bytes_max = bytes_max
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        # Two, so that a long list never holds up a payload that is to be sent.
        self._point_reader = Reader(path, connect)
        self._list_reader = Reader(path, connect)
        self._pending_bytes = 0
        self._untold: deque[tuple[Work, Any]] = deque()  #: committed; in that order
        self._failed: JournalError | None = None
        self._closing = False
        self._over = asyncio.Event()
        writer.start(
            deliver=lambda told, took_s: self._to_loop(partial(self._committed, told, took_s)),
            bury=lambda error, works: self._to_loop(partial(self._buried, error, works)),
        )
        _open_journals.add(self)

    # -- Writing

    def accept(self, entries: Sequence[Entry], done: AcceptDone) -> None:
        """Keep new invocations, each unless its key is known already."""
        refusal = self._refusal()
        if refusal is not None:
            done(refusal)
            return
        size_bytes = sum([len(entry.payload) + _ENTRY_BYTES for entry in entries])
        self._pending_bytes += size_bytes
        self._writer.put(Accept(entries, done, size_bytes))

    def record(self, changes: Sequence[Change], done: ChangeDone | None = None) -> None:
        """Keep what became of invocations."""
        self._put(Note(changes, done))

    def pause(self, pause: Pause, done: ChangeDone | None = None) -> None:
        """Keep that an account or a function is paused, or that it is no more."""
        self._put(Note((), done, pause))

    def _put(self, note: Note) -> None:
        if self._failed is None and not self._closing:
            self._writer.put(note)
        elif note.done is not None:
            note.done(self._failed or _closed())

    def _refusal(self) -> JournalError | Rejected | None:
        if self._failed is not None:
            return self._failed
        if self._closing:
            return _closed()
        if self._pending_bytes > PENDING_BYTES_MAX:
            return QueueFull("the journal's disk cannot keep up", retry_after_s=1.0)
        return None

    def _committed(self, told: Told, took_s: float) -> None:
        if self._on_commit is not None:
            self._on_commit(took_s)
        idle = not self._untold
        self._untold.extend(told)
        if idle:
            self._tell_some()

    def _buried(self, error: JournalError | None, works: Sequence[Work]) -> None:
        """Take the end of the writer, and tell all who still wait."""
        self._failed = error
        left = [*works, *self._writer.take_back()]
        self._over.set()
        _open_journals.discard(self)
        self._untold.extend([(work, error or _closed()) for work in left])
        self._tell(math.inf)

    def _tell_some(self) -> None:
        """Tell what has been committed, for as long as one turn of the loop may take."""
        try:
            self._tell(time.perf_counter() + TELL_MAX_S)
        finally:
            if self._untold:
                self._loop.call_soon(self._tell_some)

    def _tell(self, until_s: float) -> None:
        errors = []
        while self._untold:
            work, verdict = self._untold.popleft()
            if isinstance(work, Accept):
                self._pending_bytes -= work.size_bytes
            try:
                if work.done is not None:
                    work.done(verdict)
            except Exception as error:  # noqa: BLE001 -- the others must be told all the same
                errors.append(error)
            if time.perf_counter() >= until_s:
                break
        if errors:
            raise errors[0]

    def _to_loop(self, call: Callable[[], None]) -> None:
        """Have *call* made on the loop; from the writer's thread."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            # The loop was closed without closing the journal: nobody is left to be told.
            logger.debug("the event loop is closed")

    # -- Reading

    async def recover(self) -> AsyncIterator[list[tuple[Record, bytes | None]]]:
        """Give what has not ended, and what is uncertain, without the payloads of the latter."""
        recovery = reading.Recovery(self._bytes_max)
        while batch := await self._list_reader.read(recovery.next_slice):
            yield batch

    async def get(self, invocation_id: str) -> Record | None:
        """Return what is kept of one invocation."""
        return await self._point_reader.read(partial(reading.get, invocation_id=invocation_id))

    async def keyed(self, account: str, key: str) -> str | None:
        """Return the id of the invocation that was accepted with *key*, while it is known."""
        return await self._point_reader.read(partial(reading.keyed, account=account, key=key))

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload, None once it is not needed any more."""
        return await self._point_reader.read(partial(reading.payload, invocation_id=invocation_id))

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[Record], str | None]:
        """Return a page of invocations, newest first; it may be short, and still have a next one."""
        assert limit >= 1
        find = partial(reading.find, query=query, after=after, limit=limit)
        return await self._list_reader.read(find)

    async def paused(self) -> list[Pause]:
        """Return what is paused, in the order of names."""
        return await self._list_reader.read(reading.paused)

    async def dead(self) -> dict[str, int]:
        """Count the dead invocations of each account."""
        return await self._list_reader.read(reading.dead)

    # -- State

    def size_bytes(self) -> int:
        """Return the bytes of the file and its log."""
        return self._writer.size_bytes

    def failed(self) -> JournalError | None:
        """Return the error after which nothing can be kept any more."""
        return self._failed

    def accepting(self) -> bool:
        """Tell whether new invocations can be kept now."""
        return self._failed is None and not self._closing and self._writer.room

    async def aclose(self) -> None:
        """Write all that was given, then close."""
        with anyio.move_on_after(CLOSE_MAX_S, shield=True):
            # The readers first: whoever closes last puts the log into the database.
            if not self._closing:
                self._closing = True
                await self._point_reader.aclose()
                await self._list_reader.aclose()
                self._writer.stop()
            await self._over.wait()
            return
        logger.error(
            "journal_left_open: the journal was not closed within %g s; it will be repaired",
            CLOSE_MAX_S,
        )

    def disown(self) -> None:
        """In a process that was forked off: be of no use, and in nobody's way."""
        self._failed = JournalError("the journal belongs to the process that opened it")
        self._point_reader.closed = self._list_reader.closed = True
        self._writer.disown()


def _open_writer(
    path: Path, retention_ms: int, room: Room, connect: Connect, wall_s: Callable[[], float]
) -> Writer:
    with ExitStack() as undo:
        lock = Lock(Path(f"{path}.lock"))
        undo.callback(lock.release)
        if not path.exists():
            disk.make_file(path)
        reserve = Reserve(Path(f"{path}.ballast"), room)
        connection = _open_connection(path, connect, reserve)
        undo.callback(connection.close)
        disk.sync_folder(path.parent)
        try:
            writer = Writer(
                connection,
                lock=lock,
                reserve=reserve,
                upkeep=Upkeep(connection, path, retention_ms=retention_ms, wall_s=wall_s),
                retention_ms=retention_ms,
                abandon=partial(close_without_checkpoint, path=path, connect=connect),
            )
        except sqlite3.Error as error:
            raise journal_error(error, f"cannot open {path}") from error
        undo.pop_all()
    return writer


def _open_connection(path: Path, connect: Connect, reserve: Reserve) -> Connection:
    try:
        return open_for_writing(path, connect)
    except JournalError as error:
        # The log's shared index wants some room even where nothing is written.
        if not is_full(error.__cause__) or not reserve.spend():
            raise
    return open_for_writing(path, connect)


class Reader:
    """One connection that reads, for one thread at a time, opened when it is first needed."""

    def __init__(self, path: Path, connect: Connect) -> None:
        self._path = path
        self._connect = connect
        self._connection: Connection | None = None
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self.closed = False

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Return what *function* makes of the connection. Raises `JournalError`."""
        return await anyio.to_thread.run_sync(self._read, function, limiter=self._one_at_a_time)

    def _read(self, function: Callable[[Connection], T]) -> T:
        if self.closed:
            raise _closed()
        try:
            if self._connection is None:
                self._connection = open_for_reading(self._path, self._connect)
            return function(self._connection)
        except sqlite3.Error as error:
            raise journal_error(error, f"cannot read {self._path}") from error

    async def aclose(self) -> None:
        """Close the connection once nobody uses it."""
        await anyio.to_thread.run_sync(self._close, limiter=self._one_at_a_time)

    def _close(self) -> None:
        self.closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _closed() -> JournalError:
    return JournalError("the journal is closed")


# -- Processes that are forked off ----------------------------------------------------------------

_open_journals: "weakref.WeakSet[SqliteJournal]" = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: an SQLite connection must not be used across a fork."""
    for journal in _open_journals:
        journal.disown()


os.register_at_fork(after_in_child=_after_fork)
