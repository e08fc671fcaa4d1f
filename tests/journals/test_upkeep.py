import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.journals import upkeep
from dispatcher.journals.opening import (
    BUSY_MAX_S,
    Connection,
    connect,
    open_for_reading,
    open_for_writing,
)
from dispatcher.journals.upkeep import PRUNE_ROWS, Upkeep

RETENTION_MS = 60_000
WALL_S = 1_000.0
CUTOFF_MS = int(WALL_S * 1000) - RETENTION_MS


class File:
    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.connection: Connection = open_for_writing(path, connect)
        self.upkeep = self.begin()
        self.now = 0.0

    def begin(self) -> Upkeep:
        return Upkeep(self.connection, self.path, retention_ms=RETENTION_MS, wall_s=lambda: WALL_S)

    @property
    def wal_bytes(self) -> int:
        return Path(f"{self.path}-wal").stat().st_size

    def write(self, megabytes: int = 1) -> None:
        """Commit some pages, as the writer does."""
        for _ in range(megabytes * 16):
            self.connection.execute("INSERT INTO payloads (payload) VALUES (randomblob(65536))")
            self.upkeep.wrote(1, 65536, self.now)

    def ended(self, count: int, ended_ms: int, key: str = "i") -> None:
        self.connection.execute(
            f"""
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count})
            INSERT INTO invocations (id, account, function, tenant, type, priority, state, attempt,
                payload_bytes, accepted_ms, due_ms, ended_ms)
            SELECT '{key}' || n, 'a', 'f', 't', 'async', 0, 'dead', 1, 0, 0, 0, {ended_ms} FROM n
            """
        )
        for table, column in (("payloads", "payload"), ("results", "result")):
            self.connection.execute(
                f"INSERT INTO {table} (seq, {column}) SELECT seq, x'00' FROM invocations"
                f" WHERE seq NOT IN (SELECT seq FROM {table})"
            )

    def keys(self, count: int, at_ms: int) -> None:
        self.connection.execute(
            f"""
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count})
            INSERT INTO keys SELECT 'a', '{at_ms} ' || n, 'i', x'00', {at_ms} FROM n
            """
        )

    def count(self, table: str) -> int:
        (rows,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert isinstance(rows, int)
        return rows

    def idle(self, steps: int = 1000) -> int:
        """Let time pass until there is nothing more to do; return the number of steps."""
        for step in range(steps):
            pause_s = self.upkeep.while_idle(self.now)
            if pause_s >= 0.5:
                return step
            self.now += max(pause_s, 0.001)
        raise AssertionError("it never ends")


@pytest.fixture
def file(tmp_path):
    made = File(tmp_path / "journal.db")
    yield made
    made.connection.close()


# -- The log --------------------------------------------------------------------------------------


def test_the_log_is_bounded_however_much_is_written(file):
    for _ in range(100):
        file.write()
        file.upkeep.between_batches(file.now)
    # The estimate of the pages is an upper one, so checkpoints come early rather than late.
    assert file.wal_bytes < 3 * upkeep.CHECKPOINT_PAGES * 4096
    assert file.path.stat().st_size > 90_000_000


def test_rows_that_share_their_pages_are_not_moved_again_and_again(file):
    """What is moved each time is about what was meant, once the first times have taught it."""
    moved: list[int] = []
    plain = file.connection.execute

    class Watched:
        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            cursor = plain(sql, parameters)
            if "wal_checkpoint" not in sql:
                return cursor
            rows = cursor.fetchall()
            moved.append(rows[0][1])
            return SimpleNamespace(fetchall=lambda: rows)

    file.upkeep._connection = Watched()
    for _ in range(4000):
        file.connection.execute(
            "INSERT INTO payloads (payload) SELECT x'00' FROM (VALUES (1), (2), (3), (4), (5))"
        )
        file.upkeep.wrote(5, 0, file.now)
        file.upkeep.between_batches(file.now)
    assert moved[0] < upkeep.CHECKPOINT_PAGES / 4, "the first estimate is an upper one"
    assert moved[1:]
    assert min(moved[1:]) > upkeep.CHECKPOINT_PAGES / 2
    assert file.wal_bytes < 2 * upkeep.CHECKPOINT_PAGES * 4096


def test_a_log_that_grows_faster_than_it_did_is_still_bounded(file):
    for _ in range(2000):
        file.connection.execute("INSERT INTO payloads (payload) VALUES (x'00')")
        file.upkeep.wrote(50, 0, file.now)
        file.upkeep.between_batches(file.now)
    highest = 0
    for _ in range(100):  # pages that nobody told of
        for _ in range(16):
            file.connection.execute("INSERT INTO payloads (payload) VALUES (randomblob(65536))")
            file.upkeep.wrote(1, 0, file.now)
        file.upkeep.between_batches(file.now)
        highest = max(highest, file.wal_bytes)
    assert highest < 1.1 * upkeep.WAL_MAX_BYTES


def test_readers_that_overlap_do_not_make_the_log_grow_for_ever(file, monkeypatch):
    monkeypatch.setattr(upkeep, "WAL_MAX_BYTES", 16 * 1024 * 1024)
    file.write()
    over = threading.Event()

    def read_on() -> None:
        reader = open_for_reading(file.path, connect)
        while not over.is_set():
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM payloads").fetchall()
            over.wait(0.02)
            reader.execute("COMMIT")
        reader.close()

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    highest = 0
    for _ in range(60):
        file.write()
        file.upkeep.between_batches(file.now)
        highest = max(highest, file.wal_bytes)
    over.set()
    for thread in threads:
        thread.join()
    assert 8 * 1024 * 1024 < highest < 32 * 1024 * 1024


def test_who_reads_on_is_not_waited_for_after_each_commit(file, monkeypatch):
    """With the log as large as it may be, which only he keeps from being emptied."""
    monkeypatch.setattr(upkeep, "WAL_MAX_BYTES", 16 * 1024 * 1024)
    file.upkeep = file.begin()
    file.connection.execute("PRAGMA busy_timeout = 1")
    file.write()
    reader = open_for_reading(file.path, connect)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM payloads").fetchall()
    file.write(17)
    file.upkeep.between_batches(file.now)
    assert file.wal_bytes > upkeep.WAL_MAX_BYTES
    checkpoint = file.upkeep._checkpoint
    modes: list[str] = []

    def watched(mode: str) -> None:
        modes.append(mode)
        checkpoint(mode)

    monkeypatch.setattr(file.upkeep, "_checkpoint", watched)
    file.ended(1, CUTOFF_MS)
    for _ in range(100):
        file.connection.execute("INSERT INTO payloads (payload) VALUES (x'00')")
        file.upkeep.wrote(1, 0, file.now)
        file.upkeep.between_batches(file.now)
        file.now += 0.1
    assert modes == []
    assert file.count("invocations") == 0, "what is due besides is not kept waiting either"
    file.write(9)
    file.upkeep.between_batches(file.now)
    assert modes == ["PASSIVE", "TRUNCATE"], "he is asked for again when much has come"
    reader.close()
    file.write(9)
    file.upkeep.between_batches(file.now)
    assert file.wal_bytes == 0
    file.write(17)
    file.upkeep._body_pages = 0  # as if nobody had told of them
    file.upkeep.between_batches(file.now)
    assert file.wal_bytes == 0, "from then on it is bounded as before"


def test_a_reader_that_reads_on_is_not_waited_for_as_long_as_a_lock(file, monkeypatch):
    monkeypatch.setattr(upkeep, "WAL_MAX_BYTES", 1024 * 1024)
    file.upkeep = file.begin()
    waited_ms: list[int] = []
    plain = file.connection.execute

    class Watched:
        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            if "TRUNCATE" in sql:
                waited_ms.append(plain("PRAGMA busy_timeout").fetchone()[0])
            return plain(sql, parameters)

    file.upkeep._connection = Watched()
    reader = open_for_reading(file.path, connect)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM payloads").fetchall()
    file.write(2)
    file.upkeep.between_batches(file.now)
    reader.execute("COMMIT")
    reader.close()
    assert waited_ms == [upkeep.READERS_WAIT_S * 1000]
    assert plain("PRAGMA busy_timeout").fetchone() == (BUSY_MAX_S * 1000,)


def test_an_idle_journal_has_an_empty_log(file):
    file.write()
    assert file.wal_bytes > 1_000_000
    file.now += 0.5
    assert 0 < file.upkeep.while_idle(file.now) <= 0.5
    assert file.wal_bytes > 1_000_000
    file.now += 1
    file.idle()
    assert file.wal_bytes == 0
    assert file.upkeep.size_bytes == file.path.stat().st_size


def test_an_idle_journal_is_left_in_peace(file):
    file.idle()
    changes = file.connection.execute("PRAGMA data_version").fetchone()
    for _ in range(100):
        file.now += file.upkeep.while_idle(file.now)
    assert file.connection.execute("PRAGMA data_version").fetchone() == changes
    assert file.now > 50


# -- Pruning --------------------------------------------------------------------------------------


def test_what_is_older_than_the_retention_goes_and_nothing_else(file):
    file.ended(3, CUTOFF_MS, "old")
    file.ended(2, CUTOFF_MS + 1, "young")
    file.connection.execute("UPDATE invocations SET ended_ms = NULL WHERE id = 'old3'")
    file.keys(3, CUTOFF_MS)
    file.keys(2, CUTOFF_MS + 1)
    file.idle()
    ids = file.connection.execute("SELECT id FROM invocations ORDER BY seq").fetchall()
    assert ids == [("old3",), ("young1",), ("young2",)]
    assert (file.count("payloads"), file.count("results"), file.count("keys")) == (3, 3, 2)


def test_pruning_goes_in_slices_between_which_work_comes_first(file):
    file.ended(2 * PRUNE_ROWS + 1, CUTOFF_MS)
    file.keys(PRUNE_ROWS + 1, CUTOFF_MS)
    left = []
    for _ in range(40):
        file.upkeep.between_batches(file.now)
        left.append((file.count("invocations"), file.count("keys")))
        file.now += 0.01
    # At most one slice, then a pause, however many batches there are.
    assert left[0] == (PRUNE_ROWS + 1, 1)
    assert left[1:5] == left[:4]
    assert left[5] == (1, 0)
    assert left[11] == (0, 0)


def test_pruning_goes_on_while_idle(file):
    file.ended(5 * PRUNE_ROWS, CUTOFF_MS)
    file.idle()
    assert file.count("invocations") == 0


# -- Pages ----------------------------------------------------------------------------------------


def test_free_pages_go_back_to_the_disk_in_slices(file):
    file.write(20)
    file.connection.execute("DELETE FROM payloads")
    file.upkeep.wrote(1, 0, file.now)
    file.upkeep.while_idle(file.now + 2)
    (free,) = file.connection.execute("PRAGMA freelist_count").fetchone()
    assert free > 4500  # one step does not do it all
    file.now += 3
    assert file.idle() > 2
    (free,) = file.connection.execute("PRAGMA freelist_count").fetchone()
    # Some are kept, since they will be wanted again.
    assert upkeep.FREE_PAGES_MAX - upkeep.VACUUM_PAGES <= free <= upkeep.FREE_PAGES_MAX
    assert file.path.stat().st_size < 18_000_000


def test_errors_are_not_hidden(file):
    file.connection.execute("DROP TABLE results")
    file.connection.execute(
        "INSERT INTO invocations (id, account, function, tenant, type, priority, state, attempt,"
        " payload_bytes, accepted_ms, due_ms, ended_ms)"
        " VALUES ('x', 'a', 'f', 't', 'async', 0, 'dead', 1, 0, 0, 0, 1)"
    )
    with pytest.raises(sqlite3.OperationalError, match="results"):
        file.upkeep.between_batches(file.now)
    assert file.connection.in_transaction
    file.connection.execute("ROLLBACK")
