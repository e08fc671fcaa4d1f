import sqlite3

import pytest

from dispatcher.core.model import CallType, Ended, Failure, Returned, Running, Sending, State
from dispatcher.journals import schema
from dispatcher.journals.rows import RECORD_COLUMNS, change_row, invocation_row, record_of
from dispatcher.journals.statements import Statement, run
from tests.journals.asking import entry


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(schema.migration(0))
    return connection


def test_a_record_comes_back_without_its_digest(connection):
    record = entry(
        qualifier="q", type=CallType.SYNC, key="k", digest=b"d", options={"a": "1"}
    ).record
    run(connection, Statement.ADD_INVOCATIONS, [invocation_row(record, 7)])
    row = connection.execute(f"SELECT {RECORD_COLUMNS} FROM invocations").fetchone()
    assert row[0] == 7
    found = record_of(row)
    assert found.digest == b""
    found.digest = record.digest
    assert found == record


def test_names_are_shared_among_records(connection):
    new = [entry(qualifier="q", tenant="t", id=key).record for key in "ab"]
    run(
        connection, Statement.ADD_INVOCATIONS, [invocation_row(one, n) for n, one in enumerate(new)]
    )
    rows = connection.execute(f"SELECT {RECORD_COLUMNS} FROM invocations").fetchall()
    one, other = map(record_of, rows)
    assert one.account is other.account
    assert one.function is other.function
    assert one.tenant is other.tenant
    assert one.qualifier is other.qualifier


def test_a_failure_survives_with_all_it_says(connection):
    record = entry(id="x").record
    failure = Failure(
        "kind", "message \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    )
    run(connection, Statement.ADD_INVOCATIONS, [invocation_row(record, 1)])
    end = Ended(id="x", state=State.DEAD, at_ms=1, failure=failure)
    run(connection, Statement.CHANGE, [change_row(end)])
    row = connection.execute(f"SELECT {RECORD_COLUMNS} FROM invocations").fetchone()
    assert record_of(row).failure == failure


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (Sending("x", 1, 2), "sending"),
        (Running("x", "r", 2), "running"),
        (Returned("x", 1, 2), "waiting"),
        (Returned("x", 1, 2, maybe_sent=True), "sending"),
        *[(Ended(id="x", state=state, at_ms=2), state.value) for state in State],
    ],
)
def test_the_row_of_a_change(change, state):
    row = change_row(change)
    assert row[:2] == ("x", state)
    # Exact types: for others sqlite3 takes a detour.
    assert {type(value) for value in row} <= {str, int, type(None)}
