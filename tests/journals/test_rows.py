import sqlite3

import pytest

from dispatcher.core.model import (
    CallType,
    Change,
    Ended,
    Failure,
    Record,
    Returned,
    Running,
    Sending,
    State,
)
from dispatcher.journals import schema
from dispatcher.journals.batch import Note, change_steps
from dispatcher.journals.rows import (
    RECORD_COLUMNS,
    ended_row,
    invocation_row,
    record_of,
    returned_row,
    running_row,
    sending_row,
)
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
        connection,
        Statement.ADD_INVOCATIONS,
        [invocation_row(one, n) for n, one in enumerate(new, start=1)],
    )
    rows = connection.execute(f"SELECT {RECORD_COLUMNS} FROM invocations").fetchall()
    one, other = map(record_of, rows)
    assert one.account is other.account
    assert one.function is other.function
    assert one.tenant is other.tenant
    assert one.qualifier is other.qualifier


ODD = "\udcff\ud800"
"""As a byte that is no UTF-8, in a header, and half of a pair, in JSON, are decoded."""


def stored(connection: sqlite3.Connection, record: Record, *changes: Change) -> Record:
    run(connection, Statement.ADD_INVOCATIONS, [invocation_row(record, 1)])
    for change in changes:
        for statement, rows in change_steps([Note([change], None)]):
            run(connection, statement, rows)
    return record_of(connection.execute(f"SELECT {RECORD_COLUMNS} FROM invocations").fetchone())


@pytest.mark.parametrize("text", ["", "ä\U0001f600", 'quotes " and \\ and \0'])
def test_a_failure_survives_with_all_it_says(connection, text):
    failure = Failure("kind", text, text, 429)
    end = Ended(id="x", state=State.DEAD, at_ms=1, failure=failure, request_id=text)
    found = stored(connection, entry(id="x").record, end)
    assert (found.failure, found.request_id) == (failure, text)


def test_what_odd_peers_say_can_be_stored(connection):
    running = Running("x", ODD, 1)
    returned = Returned("x", 1, 1, Failure(ODD, ODD, ODD))
    end = Ended(id="x", state=State.DEAD, at_ms=1, failure=Failure("k", f"ä {ODD}", None, 500))
    found = stored(connection, entry(id="x").record, running, returned, end)
    assert found.request_id == "\\udcff\\ud800"
    assert found.failure == Failure("k", "ä \\udcff\\ud800", None, 500)


def test_what_odd_callers_say_can_be_stored(connection):
    found = stored(connection, entry(callback_url=ODD, options={"a": ODD, "b": "ä"}).record)
    assert found.callback_url == "\\udcff\\ud800"
    assert found.options == {"a": "\\udcff\\ud800", "b": "ä"}


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
def test_the_state_after_a_change(connection, change, state):
    assert stored(connection, entry(id="x").record, change).state == state


@pytest.mark.parametrize(
    "row",
    [
        invocation_row(entry().record, 1),
        sending_row(Sending("x", 1, 2)),
        running_row(Running("x", "r", 2)),
        ended_row(Ended(id="x", state=State.DEAD, at_ms=2)),
        returned_row(Returned("x", 1, 2)),
    ],
)
def test_what_is_missing_is_no_none(row):
    # Exact types: for others sqlite3 looks for an adapter each time.
    assert {type(value) for value in row} <= {str, int, float}
