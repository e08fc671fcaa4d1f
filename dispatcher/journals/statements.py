"""
The statements that write the SQLite journal, each for many rows at once.

Many rows to a statement is not for SQLite's sake. The thread that writes gives the interpreter
up around each call into SQLite and has to get it back, which takes as long as the event loop
keeps it: with one call a row, a busy loop would make a batch of 32 rows wait a hundred times.

The number of rows is one of a few, so that all statements stay prepared; zeros fill them up.

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
    """What is written. `{rows}` stands for the rows, of which those that are zeros do nothing."""

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
        SELECT * FROM ({rows}) WHERE column1 <> 0"""

    # What has ended moves only back to waiting, and from uncertain to its true end.
    CHANGE = """
        WITH given AS ({rows}),
        change AS (
            SELECT
                column1 AS id, column2 AS state, nullif(column3, '') AS attempt,
                nullif(column4, '') AS sent_ms, nullif(column5, '') AS due_ms,
                nullif(column6, '') AS ended_ms, nullif(column7, 0) AS request_id,
                nullif(column8, 0) AS failure, column9 AS estimated,
                nullif(column10, '') AS start_delay_s
            FROM given
        )
        UPDATE invocations SET
            state = change.state,
            attempt = coalesce(change.attempt, invocations.attempt),
            sent_ms = coalesce(change.sent_ms, invocations.sent_ms),
            first_sent_ms = coalesce(invocations.first_sent_ms, change.sent_ms),
            due_ms = coalesce(change.due_ms, invocations.due_ms),
            ended_ms = change.ended_ms,
            request_id = iif(
                change.state = 'sending' AND change.sent_ms IS NOT NULL,
                NULL, coalesce(change.request_id, invocations.request_id)
            ),
            failure = iif(change.sent_ms IS NULL, change.failure, invocations.failure),
            estimated = change.estimated,
            start_delay_s = change.start_delay_s
        FROM change
        WHERE invocations.id = change.id AND (
            invocations.ended_ms IS NULL
            OR invocations.state IN ('dead', 'uncertain') AND change.due_ms IS NOT NULL
            OR invocations.state = 'uncertain' AND change.ended_ms IS NOT NULL
                AND change.state <> 'uncertain'
        )"""

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
        SELECT * FROM ({rows}) WHERE column1 <> 0"""

    END_PAUSES = """
        DELETE FROM pauses WHERE (account, function) IN ({rows})"""

    FIND_KEYS = """
        WITH wanted (account, key) AS ({rows})
        SELECT account, key, id, digest, at_ms FROM wanted CROSS JOIN keys USING (account, key)"""


_COLUMNS: Final = {
    Statement.ADD_INVOCATIONS: 18,
    Statement.ADD_PAYLOADS: 2,
    Statement.TAKE_KEYS: 5,
    Statement.CHANGE: 10,
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
        values += [0] * ((size - len(some)) * _COLUMNS[statement])
        given += connection.execute(_text(statement, size), values).fetchall()
    return given


@functools.cache
def _text(statement: Statement, size: int) -> str:
    columns = _COLUMNS[statement]
    if columns == 1:
        return statement.format(rows=", ".join("?" * size))
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=f"VALUES {', '.join([row] * size)}")
