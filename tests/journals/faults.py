"""Connections that fail when a test says so."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dispatcher.journals.opening import Connection, Mode, connect


def sqlite_error(code: int, name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


FULL = sqlite_error(sqlite3.SQLITE_FULL, "SQLITE_FULL")
IO_ERROR = sqlite_error(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC")
CORRUPT = sqlite_error(sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT")


class Faults:
    """A `Connect` whose connections fail as long as `judge` returns an error for a statement."""

    def __init__(self) -> None:
        self.judge: Callable[[str], BaseException | None] = lambda sql: None
        self.statements: list[str] = []

    def __call__(self, path: Path, mode: Mode) -> Connection:
        connection = connect(path, mode)
        return _Faulty(connection, self) if mode == "rw" else connection

    def fail(self, error: BaseException, *, on: str = "") -> None:
        """Let every statement that has *on* in it end with *error*."""
        self.judge = lambda sql: error if on in sql else None

    def heal(self) -> None:
        self.judge = lambda sql: None


class _Faulty:
    def __init__(self, connection: Connection, faults: Faults) -> None:
        self._connection = connection
        self._faults = faults

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        self._faults.statements.append(" ".join(sql.split()[:3]))
        error = self._faults.judge(sql)
        if error is not None and sql != "ROLLBACK":
            raise error
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
