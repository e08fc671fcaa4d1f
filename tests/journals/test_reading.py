"""How the file is read: by index, in short statements, within bounds. What is read: contracts."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.model import Ended, Entry, Query, Sending, State
from dispatcher.errors import JournalError
from dispatcher.journals import reading
from dispatcher.journals.batch import Accept, Arrivals, Note, change_steps
from dispatcher.journals.opening import connect, open_for_reading, open_for_writing
from dispatcher.journals.statements import run
from tests.journals.asking import NOW_MS, entry, ids


class File:
    """A journal's file that is written without a thread, and a connection that reads it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self.writer = open_for_writing(path, connect)
        reader = open_for_reading(path, connect)
        assert isinstance(reader, sqlite3.Connection)
        self.reader = reader
        self._last_seq = 0

    def accept(self, *entries: Entry) -> None:
        accept = Accept(entries, lambda verdict: None, 0)
        arrivals = Arrivals([accept], self.writer, last_seq=self._last_seq, retention_ms=1)
        self._last_seq = arrivals.last_seq
        self.writer.execute("BEGIN")
        for statement, rows in arrivals.steps():
            run(self.writer, statement, rows)
        self.writer.execute("COMMIT")

    def record(self, *changes: Any) -> None:
        for statement, rows in change_steps([Note(changes, None)]):
            run(self.writer, statement, rows)

    def plan(self, read: Callable[[sqlite3.Connection], object]) -> list[str]:
        """Return how SQLite goes about the statements of *read*."""
        seen: list[str] = []
        self.reader.set_trace_callback(seen.append)
        read(self.reader)
        self.reader.set_trace_callback(None)
        steps = []
        for statement in seen:
            if statement.startswith("SELECT"):
                rows = self.reader.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                steps += [row[3] for row in rows]
        return steps


@pytest.fixture
def file(tmp_path) -> Iterator[File]:
    made = File(tmp_path / "journal.db")
    yield made
    made.reader.close()
    made.writer.close()


def find(
    file: File, query: Query, after: str | None = None, limit: int = 100
) -> tuple[list[str], str | None]:
    found, cursor = reading.find(file.reader, query, after=after, limit=limit)
    return ids(found), cursor


# -- By index -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda c: reading.get(c, "x"),
        lambda c: reading.payload(c, "x"),
        reading.dead,
        lambda c: reading.find(c, Query(), after=None, limit=9),
        lambda c: reading.find(c, Query(state=State.DEAD), after="5", limit=9),
        lambda c: reading.find(c, Query(state=State.DEAD, account="a"), after="5", limit=9),
        lambda c: reading.find(c, Query(function="f"), after="5", limit=9),
        lambda c: reading.Recovery(9).next_slice(c),
    ],
)
def test_nothing_is_searched_through_or_sorted(file, read):
    file.accept(*[entry(account=account) for account in "abc"])
    plan = file.plan(read)
    assert plan
    assert not [
        step
        for step in plan
        if "TEMP B-TREE" in step or (step.startswith("SCAN") and "CONSTANT ROW" not in step)
    ]


# -- Windows --------------------------------------------------------------------------------------


def test_a_rare_function_is_found_behind_many_others(file, monkeypatch):
    monkeypatch.setattr(reading, "_WINDOW", 10)
    file.accept(entry(function="rare", id="first"), *[entry() for _ in range(500)])
    file.accept(entry(function="rare", id="second"))
    assert find(file, Query(function="rare")) == (["second", "first"], None)
    page, cursor = find(file, Query(function="rare"), limit=1)
    assert page == ["second"]
    assert find(file, Query(function="rare"), cursor) == (["first"], None)


def test_what_takes_too_long_is_continued_by_the_cursor(file, monkeypatch):
    monkeypatch.setattr(reading, "_WINDOW", 10)
    monkeypatch.setattr(reading, "_WINDOW_MAX", 10)
    monkeypatch.setattr(reading, "FIND_MAX_S", 0.0)
    file.accept(entry(function="rare", id="first"), *[entry() for _ in range(100)])
    quiet = Quiet(file.reader)
    pages, cursor = 0, None
    while True:
        found, cursor = reading.find(quiet, Query(function="rare"), after=cursor, limit=9)
        pages += 1
        if cursor is None:
            break
        assert found == []
    assert ids(found) == ["first"]
    assert pages == 11


class Quiet:
    """A connection whose statements are never interrupted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def set_progress_handler(self, handler: object, instructions: int, /) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_a_statement_that_takes_too_long_is_interrupted(file, monkeypatch):
    file.accept(*[entry() for _ in range(5000)])
    monkeypatch.setattr(reading, "FIND_MAX_S", -1.0)
    with pytest.raises(JournalError, match="no answer"):
        find(file, Query(function="rare"))
    # And nothing is left over that would interrupt the next.
    assert file.reader.execute("SELECT sum(due_ms) FROM invocations").fetchone() is not None


def test_other_errors_are_not_taken_for_an_interruption(file):
    file.accept(entry())
    file.writer.execute("DROP TABLE results")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        find(file, Query())


# -- Recovery -------------------------------------------------------------------------------------


def test_payloads_come_along_while_they_fit(file):
    file.accept(*[entry(b"x" * size, id=f"i{n}") for n, size in enumerate((40, 50, 20, 10, 1))])
    left = reading.Recovery(100).next_slice(file.reader)
    # The third does not fit; the one behind it does.
    assert [len(payload or b"") for _, payload in left] == [40, 50, 0, 10, 0]
    assert left[2][1] is None
    assert left[4][1] is None
    assert [record.payload_bytes for record, _ in left] == [40, 50, 20, 10, 1]


def test_what_is_uncertain_takes_no_memory(file):
    file.accept(entry(b"x" * 90, id="a"), entry(b"x" * 90, id="b"))
    file.record(Ended(id="a", state=State.UNCERTAIN, at_ms=NOW_MS))
    left = reading.Recovery(100).next_slice(file.reader)
    assert [payload for _, payload in left] == [None, b"x" * 90]


def test_no_transaction_is_open_between_two_slices(file):
    """An open one would keep the log from being emptied, however large it grows."""
    file.accept(*[entry(account=f"a{n % 3}") for n in range(3000)])
    recovery = reading.Recovery(10**9)
    found = []
    while batch := recovery.next_slice(file.reader):
        found += batch
        assert not file.reader.in_transaction
        file.accept(entry(account="other"))
        assert file.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert len(found) == 3000
    assert [record.id for record, _ in found] == sorted(record.id for record, _ in found)


def test_states_and_accounts_are_merged_by_the_order_of_acceptance(file):
    file.accept(*[entry(account=f"a{n % 7}", id=f"i{n:04d}") for n in range(2500)])
    file.record(*[Sending(f"i{n:04d}", 1, 1) for n in range(0, 2500, 2)])
    recovery = reading.Recovery(0)
    found = []
    while batch := recovery.next_slice(file.reader):
        assert len(batch) <= reading.SLICE
        found += [record.id for record, _ in batch]
    assert found == [f"i{n:04d}" for n in range(2500)]
