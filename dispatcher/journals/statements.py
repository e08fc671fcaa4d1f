"""
The statements that write the SQLite journal, each for many rows at once.

Many rows to a statement is not for SQLite's sake. The thread that writes gives the interpreter
up around each call into SQLite and has to get it back, which takes as long as the event loop
keeps it: with one call a row, a busy loop would make a batch of 32 rows wait a hundred times.

The number of rows is one of a few, so that all statements stay prepared; empty texts fill them up,
since no id or account is empty. (A 0 would be one: where it meets a column of texts, it is '0'.)

No value is NULL where it is handed over, since the sqlite3 module takes five times as long for
None as for a number or a text (it looks for an adapter): what is missing is a 0 where a text
would be, and an empty text where a number would be.
"""

import functools
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from dispatcher.journals.opening import Connection
from dispatcher.journals.rows import Row

_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

ROWS_MAX: Final = _SIZES[-1]
"""Rows of one statement."""


class Statement(StrEnum):
    """What is written. `{rows}` stands for the rows, of which those of empty texts do nothing."""

    ADD_INVOCATIONS = """
        INSERT INTO invocations (
            seq, id, account, function, qualifier, tenant, type, priority, state, attempt,
            payload_bytes, accepted_ms, due_ms, expires_ms, task_id, key, callback_url, options
        ) SELECT
            column1, column2, column3, column4, nullif(column5, 0), column6, column7, column8,
            column9, column10, column11, column12, column13, nullif(column14, ''),
            nullif(column15, 0), nullif(column16, 0), nullif(column17, 0), nullif(column18, 0)
        FROM ({rows}) WHERE column1"""

    ADD_PAYLOADS = """
        INSERT INTO payloads (seq, payload) SELECT * FROM ({rows}) WHERE column1"""

    TAKE_KEYS = """
        INSERT OR REPLACE INTO keys (account, key, id, digest, at_ms)
        SELECT * FROM ({rows}) WHERE column1 <> ''"""

    # What has ended moves only back to waiting, and from uncertain to its true end.
    SENDING = """
        WITH change (id, attempt, at_ms) AS ({rows})
        UPDATE invocations SET
            state = 'sending',
            attempt = change.attempt,
            sent_ms = change.at_ms,
            first_sent_ms = coalesce(first_sent_ms, change.at_ms),
            request_id = NULL,
            estimated = 0,
            start_delay_s = NULL
        FROM change WHERE invocations.id = change.id AND ended_ms IS NULL"""

    RUNNING = """
        WITH change (id, at_ms, request_id) AS ({rows})
        UPDATE invocations SET
            state = 'running',
            sent_ms = change.at_ms,
            first_sent_ms = coalesce(first_sent_ms, change.at_ms),
            request_id = change.request_id,
            estimated = 0,
            start_delay_s = NULL
        FROM change WHERE invocations.id = change.id AND ended_ms IS NULL"""

    ENDED = """
        WITH change (id, state, at_ms, request_id, failure, estimated, start_delay_s) AS ({rows})
        UPDATE invocations SET
            state = change.state,
            ended_ms = change.at_ms,
            request_id = coalesce(nullif(change.request_id, 0), invocations.request_id),
            failure = nullif(change.failure, 0),
            estimated = change.estimated,
            start_delay_s = nullif(change.start_delay_s, '')
        FROM change WHERE invocations.id = change.id AND (
            ended_ms IS NULL
            OR invocations.state = 'uncertain' AND change.state <> 'uncertain'
        )"""

    RETURNED = """
        WITH change (id, state, attempt, due_ms, failure) AS ({rows})
        UPDATE invocations SET
            state = change.state,
            attempt = change.attempt,
            due_ms = change.due_ms,
            ended_ms = NULL,
            failure = nullif(change.failure, 0),
            estimated = 0,
            start_delay_s = NULL
        FROM change WHERE invocations.id = change.id
            AND (ended_ms IS NULL OR invocations.state IN ('dead', 'uncertain'))"""

    # Before the change itself, and where that will be made.
    ADD_RESULTS = """
        WITH ended (id, result) AS ({rows})
        INSERT OR REPLACE INTO results (seq, result)
        SELECT seq, ended.result FROM ended CROSS JOIN invocations USING (id)
        WHERE invocations.ended_ms IS NULL OR invocations.state = 'uncertain'"""

    # After the change: whatever waits again has no result yet. (The plus signs keep SQLite from
    # looking through all rows of a state instead of for the ids.)
    DROP_RESULTS = """
        DELETE FROM results WHERE seq IN (
            SELECT seq FROM invocations WHERE id IN ({rows}) AND +ended_ms IS NULL
        )"""

    # After the change: the payload of what is dead or uncertain may be wanted once more.
    DROP_PAYLOADS = """
        DELETE FROM payloads WHERE seq IN (
            SELECT seq FROM invocations
            WHERE id IN ({rows}) AND +state IN ('succeeded', 'cancelled', 'expired')
        )"""

    BEGIN_PAUSES = """
        INSERT OR IGNORE INTO pauses (account, function)
        SELECT * FROM ({rows}) WHERE column1 <> ''"""

    END_PAUSES = """
        DELETE FROM pauses WHERE (account, function) IN ({rows})"""

    FIND_KEYS = """
        WITH wanted (account, key) AS ({rows})
        SELECT account, key, id, digest, at_ms FROM wanted CROSS JOIN keys USING (account, key)"""


_COLUMNS: Final = {
    Statement.ADD_INVOCATIONS: 18,
    Statement.ADD_PAYLOADS: 2,
    Statement.TAKE_KEYS: 5,
    Statement.SENDING: 3,
    Statement.RUNNING: 3,
    Statement.ENDED: 7,
    Statement.RETURNED: 5,
    Statement.ADD_RESULTS: 2,
    Statement.DROP_RESULTS: 1,
    Statement.DROP_PAYLOADS: 1,
    Statement.BEGIN_PAUSES: 2,
    Statement.END_PAUSES: 2,
    Statement.FIND_KEYS: 2,
}
assert set(_COLUMNS) == set(Statement), "a statement without its number of columns"


def run(connection: Connection, statement: Statement, rows: Sequence[Row]) -> list[Row]:
    """Run *statement* for *rows*; return what it gives."""
    given: list[Row] = []
    for start in range(0, len(rows), ROWS_MAX):
        some = rows[start : start + ROWS_MAX]
        size = next(size for size in _SIZES if size >= len(some))
        values = [value for row in some for value in row]
        values += [""] * ((size - len(some)) * _COLUMNS[statement])
        given += connection.execute(_text(statement, size), values).fetchall()
    return given


@functools.cache
def _text(statement: Statement, size: int) -> str:
    columns = _COLUMNS[statement]
    if columns == 1:
        return statement.format(rows=", ".join("?" * size))
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=f"VALUES {', '.join([row] * size)}")
