"""What is read from the SQLite journal: short statements, all rows fetched at once."""

import heapq
import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Final

from dispatcher.core.model import (
    Pause,
    Query,
    Record,
    State,
)
from dispatcher.errors import JournalError
from dispatcher.journals.opening import Connection, primary_code
from dispatcher.journals.pages import cursor_of, position_of
from dispatcher.journals.rows import RECORD_COLUMNS, Row, record_of

FIND_MAX_S = 0.25
"""How long `find` may look before it answers with what it has."""

SLICE = 1000
"""Invocations in one step of the recovery."""

_ALL: Final = (
    f"{RECORD_COLUMNS}, iif(ended_ms IS NULL, NULL,"  # noqa: S608 -- constants only
    " (SELECT result FROM results WHERE results.seq = invocations.seq))"
)

#: States of what is taken up again after a restart.
_LEFT: Final = (State.WAITING, State.SENDING, State.RUNNING, State.UNCERTAIN)


def get(connection: Connection, invocation_id: str) -> Record | None:
    """Return the record of one invocation."""
    row = connection.execute(
        f"SELECT {_ALL} FROM invocations WHERE id = ?",  # noqa: S608 -- constants only
        (invocation_id,),
    ).fetchone()
    return None if row is None else record_of(row)


def keyed(connection: Connection, account: str, key: str) -> str | None:
    """Return the id that a key stands for."""
    row = connection.execute(
        "SELECT id FROM keys WHERE account = ? AND key = ?", (account, key)
    ).fetchone()
    return None if row is None else row[0]


def payload(connection: Connection, invocation_id: str) -> bytes | None:
    """Return the payload of one invocation while it is kept."""
    row = connection.execute(
        "SELECT payload FROM payloads WHERE seq = (SELECT seq FROM invocations WHERE id = ?)",
        (invocation_id,),
    ).fetchone()
    return None if row is None else row[0]


def paused(connection: Connection) -> list[Pause]:
    """Return what is paused."""
    rows = connection.execute("SELECT account, function FROM pauses ORDER BY account, function")
    return [Pause(account, function or None) for account, function in rows.fetchall()]


def dead(connection: Connection) -> dict[str, int]:
    """Count the dead of each account."""
    rows = connection.execute(
        "SELECT account, count(*) FROM invocations WHERE state = 'dead' GROUP BY account"
    ).fetchall()
    return dict(rows)


# -- Lists ----------------------------------------------------------------------------------------

#: Numbers that are looked at in one statement, to begin with and at most.
_WINDOW, _WINDOW_MAX = 4096, 1_048_576


def find(
    connection: Connection, query: Query, *, after: str | None, limit: int
) -> tuple[list[Record], str | None]:
    """
    Return a page of invocations, newest first.

    What an index leads to is found at once. Other filters look through the invocations in
    windows, for as long as they may: then a page is shorter than asked for, even empty, and
    its cursor goes on from there.
    """
    deadline = time.monotonic() + FIND_MAX_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        return _find(connection, query, after, limit, deadline)
    finally:
        connection.set_progress_handler(None, 0)


def _find(
    connection: Connection, query: Query, after: str | None, limit: int, deadline: float
) -> tuple[list[Record], str | None]:
    newest, oldest = connection.execute(
        "SELECT (SELECT max(seq) FROM invocations), (SELECT min(seq) FROM invocations)"
    ).fetchone()
    if newest is None:
        return [], None
    start = top = newest if after is None else min(newest, position_of(after) - 1)
    looks_through = query.function or query.tenant or (query.account and not query.state)
    width = _WINDOW if looks_through else newest + 1
    page: list[Row] = []
    while top >= oldest:
        began = time.monotonic()
        # One more than asked for tells whether there is a next page.
        wanted = limit + 1 - len(page)
        try:
            page += _window(connection, query, max(top - width + 1, oldest), top, wanted)
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_INTERRUPT:
                raise
            if top == start:
                raise JournalError(f"the journal gave no answer in {FIND_MAX_S:g} s") from error
            break
        if len(page) > limit:
            del page[limit:]
            top = page[-1][0] - 1
            break
        top -= width
        now = time.monotonic()
        if now > deadline:
            break
        if now - began < FIND_MAX_S / 20:
            width = min(width * 4, _WINDOW_MAX)
    return [record_of(row) for row in page], cursor_of(top + 1) if top >= oldest else None


def _window(connection: Connection, query: Query, bottom: int, top: int, limit: int) -> list[Row]:
    """Return what matches between two numbers, newest first."""
    given: dict[str, str] = {}
    if query.function is not None:
        given["function"] = query.function
    if query.tenant is not None:
        given["tenant"] = query.tenant
    if query.state is None:
        if query.account is not None:
            given["account"] = query.account
        return _select(connection, given, bottom, top, limit)
    accounts = (
        _accounts(connection, query.state) if query.account is None else iter([query.account])
    )
    # The index on states has the accounts in between, so each account is asked by itself.
    parts = [
        _select(
            connection, {"state": query.state.value, "account": one, **given}, bottom, top, limit
        )
        for one in accounts
    ]
    return list(heapq.merge(*parts, key=lambda row: -row[0]))[:limit]


def _select(
    connection: Connection, given: dict[str, str], bottom: int, top: int, limit: int
) -> list[Row]:
    conditions = "".join(f" AND {column} = ?" for column in given)
    return connection.execute(
        f"SELECT {_ALL} FROM invocations WHERE seq BETWEEN ? AND ?{conditions}"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?",
        (bottom, top, *given.values(), limit),
    ).fetchall()


def _accounts(connection: Connection, state: State) -> Iterator[str]:
    """Yield the accounts that have invocations in *state*, by one step in the index each."""
    account = ""
    while True:
        (account,) = connection.execute(
            "SELECT min(account) FROM invocations WHERE state = ? AND account > ?",
            (state.value, account),
        ).fetchone()
        if account is None:
            return
        yield account


# -- Recovery -------------------------------------------------------------------------------------


class Recovery:
    """What has not ended, slice by slice; holds no transaction open between two of them."""

    def __init__(self, bytes_max: int) -> None:
        """Payloads come along while their sum is within *bytes_max*."""
        self._bytes_left = bytes_max
        self._rows: Iterator[Row] | None = None

    def next_slice(self, connection: Connection) -> list[tuple[Record, bytes | None]]:
        """Return the next invocations in the order of acceptance; none at the end."""
        if self._rows is None:
            parts = [
                _part(connection, state, account)
                for state in _LEFT
                for account in list(_accounts(connection, state))
            ]
            self._rows = heapq.merge(*parts, key=lambda row: row[0])
        rows = list(itertools.islice(self._rows, SLICE))
        kept = self._payloads(connection, rows)
        return [(record_of(row), kept.get(row[0])) for row in rows]

    def _payloads(self, connection: Connection, rows: Sequence[Row]) -> dict[int, bytes]:
        wanted = []
        for row in rows:
            size = row[_PAYLOAD_BYTES]
            if row[_STATE] != State.UNCERTAIN and size <= self._bytes_left:
                self._bytes_left -= size
                wanted.append(row[0])
        return dict(
            connection.execute(
                f"SELECT seq, payload FROM payloads WHERE seq IN ({', '.join('?' * len(wanted))})",  # noqa: S608
                wanted,
            ).fetchall()
        )


_COLUMNS = RECORD_COLUMNS.split(", ")
_STATE, _PAYLOAD_BYTES = _COLUMNS.index("state"), _COLUMNS.index("payload_bytes")


def _part(connection: Connection, state: State, account: str) -> Iterator[Row]:
    """Yield what is in *state* in *account*, by the order of acceptance."""
    last = 0
    while True:
        rows = connection.execute(
            f"SELECT {_ALL} FROM invocations"  # noqa: S608 -- constants only
            " WHERE state = ? AND account = ? AND seq > ? ORDER BY seq LIMIT ?",
            (state.value, account, last, SLICE),
        ).fetchall()
        yield from rows
        if len(rows) < SLICE:
            return
        last = rows[-1][0]
