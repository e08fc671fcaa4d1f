"""
Opens the journal's file, and first makes sure that it is one and whole.

Whatever is wrong is found through connections that cannot write: a damaged or foreign file is
left as it was, to the byte.
"""

import sqlite3
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

from dispatcher.errors import JournalDamaged, JournalError
from dispatcher.journals import schema

BUSY_MAX_S = 5.0
"""How long a lock of another connection is waited for. Only our own readers can hold one."""

#: The write-ahead log is cut back to this size when it begins anew.
WAL_KEPT_BYTES = 64 * 1024 * 1024

_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_WAL_HEADER_BYTES = 32

Mode = Literal["rw", "ro", "immutable"]


class Cursor(Protocol):
    """What is used of a cursor."""

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""


class Connection(Protocol):
    """What is used of a connection: `sqlite3.Connection` in autocommit, or what acts like one."""

    @property
    def in_transaction(self) -> bool:
        """Tell whether a transaction is open."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""

    def executescript(self, script: str, /) -> object:
        """Run several statements to their ends."""

    def set_progress_handler(
        self, handler: Callable[[], int | None] | None, instructions: int, /
    ) -> None:
        """Have *handler* called now and then; what it returns may interrupt the statement."""

    def close(self) -> None:
        """Close it."""


Connect = Callable[[Path, Mode], Connection]
"""Opens a database file that exists. Errors are `sqlite3.Error` with a `sqlite_errorcode`."""


def connect(path: Path, mode: Mode) -> Connection:
    """Open the file at *path* with the standard library's SQLite."""
    options = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    return sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=BUSY_MAX_S,
        isolation_level=None,
        # It is opened in one thread and used in another, never in two at once.
        check_same_thread=False,
    )


def open_for_writing(path: Path, connect: Connect) -> Connection:
    """
    Open the one connection that writes, with the newest tables.

    The file exists; an empty one becomes a journal. Raises `JournalError`.
    """
    try:
        _examine(path, connect)
        connection = connect(path, "rw")
        try:
            _prepare(connection)
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise journal_error(error, f"cannot open {path}") from error
    return connection


def open_for_reading(path: Path, connect: Connect) -> Connection:
    """Open a connection that can neither write nor checkpoint."""
    connection = connect(path, "ro")
    for pragma in ("query_only = ON", "wal_autocheckpoint = 0", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def close_without_checkpoint(connection: Connection, path: Path, connect: Connect) -> None:
    """
    Close the connection that writes after a failure; the file and its log stay as they are.

    The last connection to close moves the log into the database. After an error the next
    process, which sees what is really on disk, is the better one to do that; so one that
    cannot write is kept open longer.
    """
    try:
        last = open_for_reading(path, connect)
        last.execute("SELECT 1 FROM invocations LIMIT 1").fetchall()
    except sqlite3.Error:
        connection.close()
        return
    connection.close()
    last.close()


def journal_error(error: sqlite3.Error, doing: str) -> JournalError:
    """Return what a caller is told of *error*."""
    damaged = primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    kind = JournalDamaged if damaged else JournalError
    return kind(f"{doing}: {getattr(error, 'sqlite_errorname', 'error')}: {error}")


def is_full(error: BaseException | None) -> bool:
    """Tell whether *error* says that the disk is full."""
    if not isinstance(error, sqlite3.Error):
        return False
    # The shared index of the log grows as well, and says it in another way.
    code = getattr(error, "sqlite_errorcode", None)
    return primary_code(error) == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code of *error*."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


# -- Before anything is written -------------------------------------------------------------------


def _examine(path: Path, connect: Connect) -> None:
    """Raise `JournalError` if the file at *path* is not a whole journal that we can read."""
    wal, rollback = Path(f"{path}-wal"), Path(f"{path}-journal")
    wal_bytes = wal.stat().st_size if wal.exists() else None
    if rollback.exists():
        # It was stopped while it was made. The first commit to the log makes the end of this
        # file durable, too, so nothing was ever accepted; SQLite will clear up.
        return
    if path.stat().st_size == 0:
        if wal_bytes:
            raise JournalDamaged(f"{path} is empty, and {wal} is not: the file has been lost")
        return
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise JournalDamaged(f"{path} is not a SQLite database")
    if wal_bytes is None:
        # Closed properly, so it must have all its pages, and nothing else can be missing.
        _check_length(path, header)
    elif wal_bytes > _WAL_HEADER_BYTES:
        # A header is made durable before anything is written behind it.
        with wal.open("rb") as file:
            if file.read(4) not in _WAL_MAGIC:
                raise JournalDamaged(f"{wal} is not a write-ahead log")
    connection = connect(path, "immutable" if wal_bytes is None else "ro")
    try:
        _check_kind(connection, path)
        if wal_bytes is None:
            _probe(connection)
        else:
            _check_pages(connection, path)
    finally:
        connection.close()


def _check_length(path: Path, header: bytes) -> None:
    page_bytes, pages = (
        struct.unpack_from(">H", header, 16)[0],
        struct.unpack_from(">I", header, 28)[0],
    )
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    size = path.stat().st_size
    if size < pages * page_bytes:
        raise JournalDamaged(f"{path} has {size} bytes of {pages * page_bytes}: it was cut off")


def _check_kind(connection: Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, objects) == (0, 0, 0):
        return  # it was stopped while it was made
    if application != schema.APPLICATION_ID:
        raise JournalDamaged(f"{path} is a database, but not a journal of the dispatcher")
    if version > schema.newest():
        raise JournalError(
            f"{path} was written by a newer version of the dispatcher (format {version}, this one "
            f"knows up to {schema.newest()}); going back is not supported"
        )


def _probe(connection: Connection) -> None:
    """
    Read both ends of every table of a file that was closed properly; raises if one is damaged.

    To read it all, as after a crash, would make every start of a large journal slow.
    """
    keys = connection.execute(
        "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c"
        " WHERE t.type = 'table' AND c.pk = 1"
    ).fetchall()
    for table, key in keys:
        for order in ("ASC", "DESC"):
            sql = f'SELECT * FROM "{table}" ORDER BY "{key}" {order} LIMIT 1'  # noqa: S608
            connection.execute(sql).fetchall()


def _check_pages(connection: Connection, path: Path) -> None:
    """Look for damage after a crash; reads the whole file once."""
    rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    if rows != [("ok",)]:
        found = "; ".join(str(row[0]) for row in rows)
        raise JournalDamaged(f"{path} is damaged: {found}")


# -- The connection that writes -------------------------------------------------------------------


def _prepare(connection: Connection) -> None:
    for pragma in (
        f"busy_timeout = {int(BUSY_MAX_S * 1000)}",
        # Has no effect any more once the file is in WAL mode.
        "auto_vacuum = INCREMENTAL",
        # What happens in the cloud's name must not be lost with the power.
        "synchronous = FULL",
        f"journal_size_limit = {WAL_KEPT_BYTES}",
        # Checkpoints are made by hand, after the waiters have been told.
        "wal_autocheckpoint = 0",
        "mmap_size = 0",
        "temp_store = MEMORY",
        "cache_size = -16384",
        # Payloads may be confidential; not every build does this of its own.
        "secure_delete = ON",
        "cell_size_check = ON",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalError(f"SQLite cannot keep a write-ahead log here (it offers {mode!r})")


def _migrate(connection: Connection, path: Path) -> None:
    _check_kind(connection, path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == schema.newest():
        return
    try:
        connection.executescript(schema.migration(version))
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK").fetchall()
        raise
