import sqlite3
from typing import Any

import pytest

from dispatcher.core.model import Record
from dispatcher.journals import schema
from dispatcher.journals.rows import invocation_row
from dispatcher.journals.statements import ROWS_MAX, Statement, run


class Watched:
    """A connection that remembers its statements."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.executescript(schema.migration(0))
        self.seen: list[str] = []

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        self.seen.append(sql)
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def connection() -> Watched:
    return Watched()


def payloads(count: int) -> list[tuple[Any, ...]]:
    return [(number, b"x") for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 31, 32, 33, 255, 256, 257, 1000])
def test_any_number_of_rows(connection, count):
    run(connection, Statement.ADD_PAYLOADS, payloads(count))
    assert connection.execute("SELECT seq, payload FROM payloads").fetchall() == payloads(count)


def test_many_rows_are_few_calls(connection):
    run(connection, Statement.ADD_PAYLOADS, payloads(ROWS_MAX))
    run(connection, Statement.DROP_PAYLOADS, [(f"i{n}",) for n in range(ROWS_MAX)])
    assert len(connection.seen) == 2


def test_few_different_statements_are_prepared(connection):
    for count in range(1, ROWS_MAX + 1):
        run(connection, Statement.FIND_KEYS, [("a", "k")] * count)
    assert len(set(connection.seen)) <= 16


def test_what_is_found_of_many_is_all_of_it(connection):
    keys = [("a", f"k{n}", f"i{n}", b"d", n) for n in range(600)]
    run(connection, Statement.TAKE_KEYS, keys)
    wanted = [("a", f"k{n}") for n in range(0, 1200, 2)]
    assert run(connection, Statement.FIND_KEYS, wanted) == keys[::2]


def test_what_fills_a_statement_up_is_nobody(connection):
    """Names may look like numbers, and five rows are filled up to six."""
    zero = invocation_row(Record(id="0", account="0", function="0", task_id="0", key="0"), 1)
    run(connection, Statement.ADD_INVOCATIONS, [zero])
    run(connection, Statement.BEGIN_PAUSES, [("0", "0"), ("0", "")])
    run(connection, Statement.TAKE_KEYS, [("0", "0", "0", b"", 1)])
    before = list(connection.iterdump())
    run(connection, Statement.SENDING, [("i", 1, 1)] * 5)
    run(connection, Statement.RUNNING, [("i", 1, "r")] * 5)
    run(connection, Statement.RETURNED, [("i", "waiting", 1, 1, 0)] * 5)
    run(connection, Statement.ADD_RESULTS, [("i", b"")] * 5)
    run(connection, Statement.ENDED, [("i", "dead", 1, 0, 0, 0, "")] * 5)
    run(connection, Statement.END_PAUSES, [("a", "f")] * 5)
    assert run(connection, Statement.FIND_KEYS, [("a", "k")] * 5) == []
    assert list(connection.iterdump()) == before


@pytest.mark.parametrize("count", [1, 3, 16, ROWS_MAX])
@pytest.mark.parametrize("statement", list(Statement))
def test_nothing_is_searched_through(connection, statement, count):
    """However many invocations there are, a row costs steps in indexes and no more."""
    samples = {
        Statement.ADD_INVOCATIONS: (1, "i", "a", "f", *[0] * 14),
        Statement.ADD_PAYLOADS: (1, b""),
        Statement.TAKE_KEYS: ("a", "k", "i", b"", 1),
        Statement.SENDING: ("i", 1, 1),
        Statement.RUNNING: ("i", 1, "r"),
        Statement.ENDED: ("i", "dead", 1, 0, 0, 0, ""),
        Statement.RETURNED: ("i", "waiting", 1, 1, 0),
        Statement.ADD_RESULTS: ("i", b""),
        Statement.DROP_RESULTS: ("i",),
        Statement.DROP_PAYLOADS: ("i",),
        Statement.BEGIN_PAUSES: ("a", "f"),
        Statement.END_PAUSES: ("a", "f"),
        Statement.FIND_KEYS: ("a", "k"),
    }

    class Explained:
        def execute(self, sql: str, parameters: Any, /) -> Any:
            return connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)

    plan = [row[3] for row in run(Explained(), statement, [samples[statement]] * count)]  # type: ignore[arg-type]
    tables = ("invocations", "payloads", "results", "keys")
    assert not [step for step in plan if step.startswith("SCAN") and step.split()[1] in tables]
    # Nor are all that have one state, which may be most of them.
    assert not [step for step in plan if "invocations_by_" in step]
