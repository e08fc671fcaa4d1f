import sqlite3
from collections.abc import Sequence

import pytest

from dispatcher.core.model import Change, Duplicate, Ended, Entry, Returned, Running, Sending, State
from dispatcher.journals import schema
from dispatcher.journals.batch import Accept, Arrivals, Note, Work, change_steps
from dispatcher.journals.statements import Statement, run
from tests.journals.asking import NOW_MS, entry

RETENTION_MS = 1000


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(schema.migration(0))
    return connection


def accepts(*entries: Entry) -> Accept:
    return Accept(entries, lambda verdict: None, 0)


def notes(*changes: Change) -> Note:
    return Note(changes, None)


def arrive(connection: sqlite3.Connection, *works: Work) -> Arrivals:
    return Arrivals(works, connection, last_seq=10, retention_ms=RETENTION_MS)


def rows(steps: Sequence[tuple[Statement, list[tuple[object, ...]]]]) -> dict[Statement, int]:
    return {statement: len(some) for statement, some in steps}


# -- New invocations ------------------------------------------------------------------------------


def test_the_new_get_the_next_numbers_over_all_works(connection):
    first, second = accepts(entry(), entry()), accepts(entry())
    arrivals = arrive(connection, first, notes(), second)
    assert arrivals.verdict(first) == [None, None]
    assert arrivals.verdict(second) == [None]
    ((invocations, added), (payloads, _)) = arrivals.steps()
    assert (invocations, payloads) == (Statement.ADD_INVOCATIONS, Statement.ADD_PAYLOADS)
    assert [row[0] for row in added] == [11, 12, 13]
    assert arrivals.last_seq == 13


def test_nothing_new_is_no_statement(connection):
    assert list(arrive(connection, notes(Sending("x", 1, 1))).steps()) == []


def test_a_repeat_across_the_works_of_one_batch(connection):
    first = accepts(entry(key="k", digest=b"1", id="first"))
    again = accepts(entry(key="k", digest=b"2"))
    arrivals = arrive(connection, first, again)
    assert arrivals.verdict(first) == [None]
    assert arrivals.verdict(again) == [Duplicate("first", same_job=False)]
    assert rows(list(arrivals.steps())) == {
        Statement.ADD_INVOCATIONS: 1,
        Statement.ADD_PAYLOADS: 1,
        Statement.TAKE_KEYS: 1,
    }


def test_keys_in_the_file_are_known_until_they_are_too_old(connection):
    run(connection, Statement.TAKE_KEYS, [("prod", "k", "old", b"1", NOW_MS)])
    young = accepts(entry(key="k", digest=b"1", accepted_ms=NOW_MS + RETENTION_MS - 1))
    late = accepts(entry(key="k", digest=b"1", accepted_ms=NOW_MS + RETENTION_MS, id="late"))
    after = accepts(entry(key="k", digest=b"1", accepted_ms=NOW_MS + RETENTION_MS))
    arrivals = arrive(connection, young, late, after)
    assert arrivals.verdict(young) == [Duplicate("old", same_job=True)]
    assert arrivals.verdict(late) == [None]
    assert arrivals.verdict(after) == [Duplicate("late", same_job=True)]


# -- Changes --------------------------------------------------------------------------------------


def test_changes_of_many_invocations_are_one_statement():
    steps = list(change_steps([notes(*[Sending(f"i{n}", 1, 1) for n in range(50)])]))
    assert rows(steps) == {Statement.SENDING: 50}


def test_a_statement_never_meets_an_invocation_twice():
    works: list[Work] = [
        notes(Sending("a", 1, 1), Sending("b", 1, 1), Running("a", "r", 2)),
        accepts(entry()),
        notes(Running("b", "r", 3), Ended(id="a", state=State.DEAD, at_ms=4), Sending("c", 1, 5)),
        notes(Returned("a", 2, 6)),
        notes(Sending("a", 2, 7)),
    ]
    waves = [
        (statement.name, [row[0] for row in some])
        for statement, some in change_steps(works)
        if statement is not Statement.DROP_RESULTS
    ]
    assert waves == [
        ("SENDING", ["a", "b", "c"]),
        ("RUNNING", ["a", "b"]),
        ("ENDED", ["a"]),
        ("RETURNED", ["a"]),
        ("SENDING", ["a"]),
    ]


def test_only_what_is_needed_is_done_besides():
    works = [
        notes(
            Ended(id="a", state=State.SUCCEEDED, at_ms=1, result=b""),
            Ended(id="b", state=State.DEAD, at_ms=1),
            Ended(id="e", state=State.UNCERTAIN, at_ms=1, result=b"maybe"),
            Ended(id="c", state=State.CANCELLED, at_ms=1),
            Returned("d", 1, 1),
        )
    ]
    steps = list(change_steps(works))
    assert [statement for statement, _ in steps] == [
        Statement.ADD_RESULTS,  # before the change, which it looks forward to
        Statement.ENDED,
        Statement.RETURNED,
        Statement.DROP_PAYLOADS,
        Statement.DROP_RESULTS,
    ]
    assert dict(steps)[Statement.ADD_RESULTS] == [("a", b"")]
    assert dict(steps)[Statement.DROP_PAYLOADS] == [("a",), ("c",)]
    assert dict(steps)[Statement.DROP_RESULTS] == [("d",)]


def test_no_changes_are_no_statement():
    assert list(change_steps([notes(), accepts(entry())])) == []
