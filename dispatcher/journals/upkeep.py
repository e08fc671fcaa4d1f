"""
Keeps the SQLite journal small: checkpoints, pruning, and giving pages back to the disk.

All of it in the thread that writes, since only one connection may ever write or checkpoint:
two at the same moment can corrupt the file (the "WAL-reset bug", fixed in SQLite 3.51.3,
https://sqlite.org/wal.html). And in small steps, between which new work goes first.
"""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from dispatcher.journals.opening import BUSY_MAX_S, Connection, is_full

#: Pages in the write-ahead log after which they are moved into the database.
CHECKPOINT_PAGES = 2000

_PAGE_BYTES = 4096

#: What the number of pages that rows touched is taken for at least, of the most that it can be.
_ROW_PAGES_SHARE_MIN = 1 / 32

#: A log that has grown beyond this is emptied even if readers have to be waited for.
WAL_MAX_BYTES = 32 * 1024 * 1024

#: How long it takes at most to wait for readers, as everything that is to be written does meanwhile.
READERS_WAIT_S = 0.1

#: Rows of each kind that one step of the pruning removes.
PRUNE_ROWS = 500

_PRUNE_PAUSE_S = 0.05  # between two steps while there is other work
_PRUNE_EVERY_S = 1.0

#: Free pages beyond which the file is made smaller, and how many of them in one step.
FREE_PAGES_MAX = 4096
VACUUM_PAGES = 256

#: Without work for so long, the journal is idle.
IDLE_S = 1.0

_OLD_INVOCATIONS = "SELECT seq FROM invocations WHERE ended_ms <= ? ORDER BY ended_ms LIMIT ?"
_OLD_KEYS = "SELECT account, key FROM keys WHERE at_ms <= ? ORDER BY at_ms LIMIT ?"


class Upkeep:
    """What is done to the file besides writing news into it."""

    def __init__(
        self,
        connection: Connection,
        path: Path,
        *,
        retention_ms: int,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._retention_ms = retention_ms
        self._wall_s = wall_s
        # Pages in the log. Rows of one commit mostly share theirs, how much is learned from the log.
        self._body_pages = 0
        self._row_pages_max = 0
        self._row_pages_share = 1.0
        self._wal_bytes_max = WAL_MAX_BYTES
        self._prune_at = self._busy_until = 0.0
        self._shrink = True
        self.size_bytes = 0
        self._measure()

    @property
    def _pages(self) -> float:
        """Estimate how many pages are in the log."""
        return self._body_pages + self._row_pages_max * self._row_pages_share

    def wrote(self, rows: int, body_bytes: int, now: float) -> None:
        """Count what was just committed."""
        # A leaf of each index may be touched by each row, and some inner pages by each commit.
        self._row_pages_max += 4 + 3 * rows
        self._body_pages += body_bytes // _PAGE_BYTES
        self._busy_until = now + IDLE_S
        self._shrink = True

    def between_batches(self, now: float) -> None:
        """Do the most urgent step, if any is urgent."""
        self._measure()
        if self._pages >= CHECKPOINT_PAGES or self._wal_bytes > self._wal_bytes_max:
            self._checkpoint("PASSIVE")
            self._measure()
            if self._wal_bytes > WAL_MAX_BYTES:
                self._empty_log()
            self._wal_bytes_max = WAL_MAX_BYTES
            if self._wal_bytes > WAL_MAX_BYTES:
                # Somebody reads on. To wait for him after each commit would stop everything.
                self._wal_bytes_max = self._wal_bytes + CHECKPOINT_PAGES * _PAGE_BYTES
        elif now >= self._prune_at:
            self._prune(now)

    def move_log(self) -> None:
        """Have the log written from its beginning again, as far as there is room to move it."""
        try:
            self._checkpoint("PASSIVE")
        except sqlite3.Error as error:
            if not is_full(error):
                raise

    def while_idle(self, now: float) -> float:
        """Do one step of what can wait; return in how many seconds to come again."""
        if now >= self._prune_at and self._prune(now):
            return 0.0
        if now < self._busy_until:
            return self._busy_until - now
        if self._shrink and self._vacuum():
            return 0.0
        self._shrink = False
        if self._pages:
            self._empty_log()
        return max(0.0, self._prune_at - now)

    def _empty_log(self) -> None:
        """Move all of the log and cut it off, once nobody reads it any more."""
        execute = self._connection.execute
        execute(f"PRAGMA busy_timeout = {int(READERS_WAIT_S * 1000)}").fetchall()
        try:
            self._checkpoint("TRUNCATE")
        finally:
            execute(f"PRAGMA busy_timeout = {int(BUSY_MAX_S * 1000)}").fetchall()
        self._measure()

    def _checkpoint(self, mode: str) -> None:
        ((_, pages, _),) = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        if pages > 0 and self._row_pages_max:
            share = (pages - self._body_pages) / self._row_pages_max
            self._row_pages_share = min(max(share, _ROW_PAGES_SHARE_MIN), 1.0)
        self._body_pages = self._row_pages_max = 0

    def _prune(self, now: float) -> bool:
        """Remove some of what is older than the retention; tell whether there may be more."""
        before_ms = int(self._wall_s() * 1000) - self._retention_ms
        execute = self._connection.execute
        seqs = [row[0] for row in execute(_OLD_INVOCATIONS, (before_ms, PRUNE_ROWS)).fetchall()]
        keys = execute(_OLD_KEYS, (before_ms, PRUNE_ROWS)).fetchall()
        if seqs or keys:
            execute("BEGIN IMMEDIATE")
            marks = ", ".join("?" * len(seqs))
            for table in ("payloads", "results", "invocations"):
                execute(f"DELETE FROM {table} WHERE seq IN ({marks})", seqs)  # noqa: S608
            if keys:
                execute(
                    f"DELETE FROM keys WHERE (account, key) IN ({_OLD_KEYS})",  # noqa: S608
                    (before_ms, PRUNE_ROWS),
                )
            execute("COMMIT")
            self._row_pages_max += 4 + 4 * len(seqs) + 2 * len(keys)
            self._shrink = True
        more = PRUNE_ROWS in (len(seqs), len(keys))
        self._prune_at = now + (_PRUNE_PAUSE_S if more else _PRUNE_EVERY_S)
        return more

    def _vacuum(self) -> bool:
        """Give some pages back to the disk; tell whether there are more."""
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free <= FREE_PAGES_MAX:
            return False
        # `execute` would stop after the first page: the statement gives a row for each.
        self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        self._body_pages += VACUUM_PAGES
        return True

    def _measure(self) -> None:
        try:
            self._wal_bytes = self._wal.stat().st_size
        except FileNotFoundError:
            self._wal_bytes = 0
        self.size_bytes = self._path.stat().st_size + self._wal_bytes
