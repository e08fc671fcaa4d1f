"""
The one thread that writes the SQLite journal.

It takes everything that waits, commits it at once, and tells all waiters with one call into the
event loop. So a slow disk makes batches larger, not the queue longer.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dispatcher import failpoints
from dispatcher.errors import DiskFull, JournalError
from dispatcher.journals.batch import Accept, Arrivals, Note, Told, Work, change_steps
from dispatcher.journals.disk import Lock, Reserve
from dispatcher.journals.opening import Connection, is_full, journal_error
from dispatcher.journals.statements import ROWS_MAX, run
from dispatcher.journals.upkeep import Upkeep

logger = logging.getLogger("dispatcher.journal")

#: How much one commit takes; a single call that has more is never split.
BATCH_ROWS_MAX = 4096
BATCH_BYTES_MAX = 16 * 1024 * 1024

#: A commit costs much the same however much it takes. So under load it waits for those who come
#: back from the one before: until as many rows wait as that one took and left waiting (at most
#: `ROWS_MAX`), but no longer than this after that one began. What comes alone never waits.
GATHER_S = 0.004

#: How often the room on the disk is looked at: while there is enough, and while there is not.
_ROOM_EVERY_S = 0.1
_NO_ROOM_PAUSE_S = 0.25


Deliver = Callable[[Told, float], None]
"""Takes what was committed, and in how many seconds."""

Bury = Callable[[JournalError | None, Sequence[Work]], None]
"""Takes the error that ended it all, if any, and the works that nobody was told about."""


class Writer:
    """Writes what is put in, in that order, from `start` until `stop`."""

    def __init__(
        self,
        connection: Connection,
        *,
        lock: Lock,
        reserve: Reserve,
        upkeep: Upkeep,
        retention_ms: int,
        abandon: Callable[[Connection], None],
    ) -> None:
        """*abandon* closes the connection after an error; *lock* is released after that."""
        self._connection = connection
        self._lock = lock
        self._reserve = reserve
        self._upkeep = upkeep
        self._retention_ms = retention_ms
        (self._last_seq,) = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM invocations"
        ).fetchone()
        self._abandon = abandon
        self._deliver: Deliver
        self._bury: Bury
        self._queue: deque[Work | None] = deque()
        self._news = threading.Event()  #: something was put in
        self._enough = threading.Event()  #: so much that nothing more should be waited for
        self._gather_until = 0.0
        self._gather_rows = 0
        self._rows_last = 0  #: that the last commit took
        # Rows that were put in and taken: two counts, since each is another thread's.
        self._rows_put = self._rows_taken = 0
        self._stopping = False
        self._works: list[Work] = []  #: taken, and nobody told yet
        self._room_known_until = 0.0
        self._unseen_bytes = 0  #: written since the room was looked at
        self._log_moved = False  #: for the sake of what is to be committed now
        self.room = True
        self._set_room(room=reserve.room())
        self.size_bytes = upkeep.size_bytes

    def start(self, deliver: Deliver, bury: Bury) -> None:
        """
        Begin.

        *deliver* is called after each commit, *bury* once at the end, when the file is closed.
        Both are called in the writer's thread and must hand over to the loop.
        """
        self._deliver, self._bury = deliver, bury
        # A daemon: a program that ends without closing the journal is a crash like any other.
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def put(self, work: Work) -> None:
        """Have *work* written; never waits."""
        self._rows_put += work.rows
        self._queue.append(work)
        if not self._news.is_set():
            self._news.set()
        if self._waiting_rows >= self._gather_rows and not self._enough.is_set():
            self._enough.set()

    @property
    def _waiting_rows(self) -> int:
        return self._rows_put - self._rows_taken

    def stop(self) -> None:
        """End after what has been put in so far."""
        self._stopping = True
        self._queue.append(None)
        self._news.set()
        self._enough.set()

    def take_back(self) -> Iterator[Work]:
        """Yield what was put in and never will be taken; only once the thread has ended."""
        while self._queue:
            work = self._queue.popleft()
            if work is not None:
                yield work

    def disown(self) -> None:
        """In a process that was forked off: leave the lock to the one that has the thread."""
        self._lock.release()

    # -- The thread

    def _run(self) -> None:
        error: JournalError | None = None
        try:
            while self._take():
                self._serve()
            self._serve()
            self._connection.close()
        except BaseException as reason:
            # Whatever it was: nobody may wait for ever.
            error = _broken(reason)
            logger.critical("the journal has failed: %s", error, exc_info=reason)
        try:
            if error is not None:
                self._abandon(self._connection)
            self._lock.release()
        finally:
            self._bury(error, self._works)

    def _take(self) -> bool:
        """Wait for work and take what is there; False: there will be no more."""
        assert not self._works
        pause_s = self._keep_up()
        self._news.clear()
        if not self._queue:
            self._news.wait(pause_s)
        self._gather()
        began = time.monotonic()
        rows = size_bytes = 0
        while self._queue:
            work = self._queue.popleft()
            if work is None:
                return False
            self._works.append(work)
            rows += work.rows
            if isinstance(work, Accept):
                size_bytes += work.size_bytes
            if rows >= BATCH_ROWS_MAX or size_bytes >= BATCH_BYTES_MAX:
                break
        self._rows_taken += rows
        self._rows_last = rows
        self._gather_until = began + GATHER_S if len(self._works) > 1 else began
        return True

    def _gather(self) -> None:
        """Wait for more to come, where more than one came to the commit before."""
        self._enough.clear()
        left_s = self._gather_until - time.monotonic()
        few = self._waiting_rows < self._gather_rows
        if left_s > 0 and self._queue and few and not self._stopping:
            self._enough.wait(left_s)

    def _keep_up(self) -> float:
        """Do a step of upkeep; return how many seconds the next one can wait."""
        now = time.monotonic()
        if self._queue:
            return 0.0
        if not self.room:
            self._look_for_room(now)
        try:
            pause_s = self._upkeep.while_idle(now)
        except sqlite3.Error as error:
            self._no_room(error)
            pause_s = _NO_ROOM_PAUSE_S
        self.size_bytes = self._upkeep.size_bytes
        return pause_s if self.room else min(pause_s, _NO_ROOM_PAUSE_S)

    # -- One batch

    def _serve(self) -> None:
        """Commit what was taken and tell."""
        works = self._works
        if not works:
            return
        began = time.perf_counter()
        arrivals = self._commit(works)
        told = [(work, _verdict(work, arrivals)) for work in works]
        took_s = time.perf_counter() - began
        # Before they are told: then some of them may be back, and must not count twice.
        self._gather_rows = min(self._rows_last + self._waiting_rows, ROWS_MAX)
        failpoints.reach("journal.before_callback")
        self._works = []
        self._deliver(told, took_s)
        try:
            self._upkeep.between_batches(time.monotonic())
        except sqlite3.Error as error:
            self._no_room(error)
        self.size_bytes = self._upkeep.size_bytes

    def _commit(self, works: Sequence[Work]) -> Arrivals | None:
        """
        Make *works* durable; return their new invocations, None if there is no room for them.

        Without room on the disk the changes get that of the log and then the ballast, and when all
        that is spent, they wait.
        """
        accepting = self._has_room()
        self._log_moved = False
        while True:
            try:
                arrivals = self._arrivals(works) if accepting else None
                self._write(works, arrivals)
            except sqlite3.Error as error:
                self._no_room(error)
                if accepting:
                    accepting = False
                else:
                    self._make_room(error)
            else:
                return arrivals

    def _arrivals(self, works: Sequence[Work]) -> Arrivals:
        return Arrivals(
            works, self._connection, last_seq=self._last_seq, retention_ms=self._retention_ms
        )

    def _write(self, works: Sequence[Work], arrivals: Arrivals | None) -> None:
        """Write it all in one transaction."""
        # The new first: nothing is told of an invocation before it is accepted.
        steps = [*(arrivals.steps() if arrivals else ()), *change_steps(works)]
        if not steps:
            return
        failpoints.reach("journal.before_begin")
        if len(steps) == 1 and len(steps[0][1]) <= ROWS_MAX and failpoints.hook is None:
            # A single statement is a transaction, and one call instead of three.
            run(self._connection, *steps[0])
        else:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, rows in steps:
                run(self._connection, statement, rows)
            failpoints.reach("journal.after_insert")
            failpoints.reach("journal.before_commit")
            self._connection.execute("COMMIT")
            failpoints.reach("journal.after_commit")
        if arrivals is not None:
            self._last_seq = arrivals.last_seq
        size_bytes = sum(work.size_bytes for work in works if isinstance(work, Accept))
        self._unseen_bytes += size_bytes
        self._upkeep.wrote(sum(len(rows) for _, rows in steps), size_bytes, time.monotonic())

    # -- Room on the disk

    def _has_room(self) -> bool:
        now = time.monotonic()
        if now >= self._room_known_until or self._unseen_bytes > self._reserve.look_after_bytes:
            self._look_for_room(now)
        return self.room

    def _look_for_room(self, now: float) -> None:
        self._set_room(room=self._reserve.room())
        self._room_known_until = now + _ROOM_EVERY_S
        self._unseen_bytes = 0

    def _set_room(self, *, room: bool) -> None:
        if self.room and not room:
            logger.error("disk_full: the journal's disk is full: nothing new is accepted")
        elif room and not self.room:
            logger.warning("disk_has_room: the journal's disk has room again")
        self.room = room

    def _no_room(self, error: sqlite3.Error) -> None:
        """Undo what *error* interrupted, if it was for want of room; raises it if it was not."""
        if not is_full(error):
            raise error
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._set_room(room=False)
        self._room_known_until = time.monotonic() + _NO_ROOM_PAUSE_S

    def _make_room(self, error: sqlite3.Error) -> None:
        """Do the next thing that may give changes room, after the one before did not."""
        if not self._log_moved:
            self._log_moved = True
            self._upkeep.move_log()
        elif not self._reserve.spend():
            self._wait_for_room(error)
            self._log_moved = False  # what kept it from being moved may be over

    def _wait_for_room(self, error: sqlite3.Error) -> None:
        if self._stopping:
            raise error
        time.sleep(_NO_ROOM_PAUSE_S)


def _verdict(work: Work, arrivals: Arrivals | None) -> Any:
    if isinstance(work, Note):
        return None
    if arrivals is None:
        return DiskFull("the journal's disk is full", retry_after_s=5.0)
    return arrivals.verdict(work)


def _broken(reason: BaseException) -> JournalError:
    match reason:
        case JournalError():
            return reason
        case sqlite3.Error():
            return journal_error(reason, "the journal cannot be written")
        case _:
            return JournalError(f"the journal's thread ended: {reason!r}")
