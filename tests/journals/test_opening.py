import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.core.model import Query, State
from dispatcher.errors import JournalDamaged, JournalError
from dispatcher.journals import reading, schema
from dispatcher.journals.opening import (
    Connection,
    close_without_checkpoint,
    connect,
    is_full,
    journal_error,
    open_for_reading,
    open_for_writing,
)
from dispatcher.journals.rows import invocation_row
from dispatcher.journals.statements import Statement, run
from tests.journals.asking import entry

INSERT = "INSERT INTO payloads (payload) VALUES (randomblob(3000))"


@pytest.fixture
def path(tmp_path) -> Path:
    path = Path(tmp_path) / "journal.db"
    path.touch()
    return path


def opened(path: Path) -> Connection:
    return open_for_writing(path, connect)


def closed(path: Path, *, pages: int = 20) -> Path:
    """Make a journal that was closed properly."""
    connection = opened(path)
    for _ in range(pages):
        connection.execute(INSERT)
    connection.close()
    assert not wal(path).exists()
    return path


def crashed(path: Path, *, checkpoint: bool = False) -> Path:
    """Make a journal whose process died, and left a log."""
    connection = opened(path)
    for _ in range(20):
        connection.execute(INSERT)
    if checkpoint:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        connection.execute(INSERT)
    close_without_checkpoint(connection, path, connect)
    assert wal(path).stat().st_size > 32
    return path


def wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def pragma(connection: Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def count(connection: Connection) -> int:
    (rows,) = connection.execute("SELECT count(*) FROM payloads").fetchone()
    assert isinstance(rows, int)
    return rows


# -- A good file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto_vacuum", 2),
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("busy_timeout", 5000),
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", 64 * 1024 * 1024),
        ("secure_delete", 1),
        ("temp_store", 2),
        ("mmap_size", 0),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("application_id", schema.APPLICATION_ID),
        ("user_version", schema.newest()),
    ],
)
def test_how_the_file_is_written(path, name, value):
    for _ in range(2):  # a new file, and one that is there
        connection = opened(path)
        assert pragma(connection, name) == value
        connection.close()


def test_what_was_written_is_there_after_a_close_and_after_a_crash(path):
    connection = opened(closed(path))
    assert count(connection) == 20
    connection.close()
    connection = opened(crashed(path))
    assert count(connection) == 40
    connection.close()


def test_a_reader_can_neither_write_nor_checkpoint(path):
    writer = opened(path)
    reader = open_for_reading(path, connect)
    assert pragma(reader, "query_only") == 1
    assert pragma(reader, "wal_autocheckpoint") == 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute(INSERT)
    writer.execute(INSERT)
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert wal(path).stat().st_size > 0
    reader.close()
    writer.close()


def test_only_a_crash_costs_a_look_at_every_page(path):
    seen: list[str] = []

    def watched(path: Path, mode: str) -> Connection:
        connection = connect(path, mode)  # type: ignore[arg-type]
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(seen.append)
        return connection

    open_for_writing(closed(path), watched).close()
    assert not [statement for statement in seen if "quick_check" in statement]
    open_for_writing(crashed(path), watched).close()
    assert [statement for statement in seen if "quick_check" in statement]


def test_a_path_may_have_any_name(tmp_path):
    path = tmp_path / "a ?b#c%20ü.db"
    path.touch()
    closed(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name]


# -- Files that are not what was written ----------------------------------------------------------


def not_a_database(path: Path) -> None:
    path.write_bytes(b"# Notes\n" * 1000)


def almost_empty(path: Path) -> None:
    path.write_bytes(b"SQLite")


def cut_off(path: Path) -> None:
    closed(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


def cut_off_within_a_page(path: Path) -> None:
    closed(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def emptied_beside_its_log(path: Path) -> None:
    crashed(path)
    path.write_bytes(b"")


def cut_off_beside_its_log(path: Path) -> None:
    crashed(path, checkpoint=True)
    with path.open("r+b") as file:
        file.truncate(8192)


def log_of_garbage(path: Path) -> None:
    crashed(path)
    wal(path).write_bytes(b"garbage!" * 1000)


def log_of_zeros(path: Path) -> None:
    crashed(path)
    wal(path).write_bytes(bytes(wal(path).stat().st_size))


def overwritten_pages(path: Path) -> None:
    crashed(path, checkpoint=True)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 200)


def somebody_elses_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()


def from_the_future(path: Path) -> None:
    connection = opened(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def from_the_future_with_a_log(path: Path) -> None:
    connection = opened(path)
    connection.execute("PRAGMA user_version = 99")
    close_without_checkpoint(connection, path, connect)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (not_a_database, JournalDamaged, "not a SQLite database"),
        (almost_empty, JournalDamaged, "not a SQLite database"),
        (cut_off, JournalDamaged, "cut off"),
        (cut_off_within_a_page, JournalDamaged, "cut off"),
        (emptied_beside_its_log, JournalDamaged, "has been lost"),
        (cut_off_beside_its_log, JournalDamaged, "malformed|damaged"),
        (log_of_garbage, JournalDamaged, "not a write-ahead log"),
        (log_of_zeros, JournalDamaged, "not a write-ahead log"),
        (overwritten_pages, JournalDamaged, "malformed|damaged"),
        (somebody_elses_database, JournalDamaged, "not a journal"),
        (from_the_future, JournalError, "newer version"),
        (from_the_future_with_a_log, JournalError, "newer version"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_touched(
    path: Path, spoil: Callable[[Path], None], kind: type[JournalError], words: str
):
    spoil(path)
    before = {one: one.read_bytes() for one in (path, wal(path)) if one.exists()}
    with pytest.raises(kind, match=words) as caught:
        opened(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert {one: one.read_bytes() for one in (path, wal(path)) if one.exists()} == before | (
        {wal(path): b""} if wal(path) not in before and wal(path).exists() else {}
    )


def test_a_log_that_was_just_begun_is_no_damage(path):
    # The header may be torn: it is made durable before anything is written behind it.
    closed(path)
    wal(path).write_bytes(b"torn")
    connection = opened(path)
    assert count(connection) == 20
    connection.close()


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 20_000])
def test_a_file_that_was_being_made_is_made_anew(path, size):
    """A rollback journal is only ever there while the file is made."""
    closed(path, pages=0)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    # A rollback journal that says: the file was empty.
    header = struct.pack(">8sIIIII", bytes.fromhex("d9d505f920a163d7"), 0, 0, 0, 512, 4096)
    Path(f"{path}-journal").write_bytes(header.ljust(512, b"\0"))
    connection = opened(path)
    assert count(connection) == 0
    assert pragma(connection, "auto_vacuum") == 2
    connection.close()


# -- Versions -------------------------------------------------------------------------------------


def test_an_older_file_is_taken_forward(path, monkeypatch):
    closed(path)
    more = "ALTER TABLE payloads ADD COLUMN note TEXT DEFAULT 'new';"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, more))
    connection = opened(path)
    assert connection.execute("SELECT DISTINCT note FROM payloads").fetchall() == [("new",)]
    assert pragma(connection, "user_version") == schema.newest()
    connection.close()
    monkeypatch.undo()
    with pytest.raises(JournalError, match="newer version"):
        opened(path)


def test_a_file_of_the_first_version_is_taken_forward_with_all_that_is_in_it(path, monkeypatch):
    with monkeypatch.context() as past:
        past.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        closed(path)
        connection = opened(path)
        run(connection, Statement.ADD_INVOCATIONS, [invocation_row(entry().record, 1)])
        connection.close()
    connection = opened(path)
    assert pragma(connection, "user_version") == schema.newest()
    assert count(connection) == 20
    (kept,), _ = reading.find(connection, Query(), after=None, limit=10)
    assert (kept.state, kept.start_delay_s) == (State.WAITING, None)
    connection.close()


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    closed(path)
    broken = "ALTER TABLE payloads ADD COLUMN note TEXT; INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(JournalError, match="nowhere"):
        opened(path)
    monkeypatch.undo()
    connection = opened(path)
    assert count(connection) == 20
    connection.close()


# -- Errors ---------------------------------------------------------------------------------------


def test_a_folder_where_sqlite_cannot_work(tmp_path):
    with pytest.raises(JournalError, match="SQLITE_CANTOPEN"):
        open_for_writing_missing(tmp_path)


def open_for_writing_missing(folder: Path) -> None:
    path = folder / "journal.db"
    path.write_bytes(b"")

    def missing(path: Path, mode: str) -> Connection:
        return connect(path.with_name("missing"), mode)  # type: ignore[arg-type]

    open_for_writing(path, missing)


def error(code: int) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError("because")
    made.sqlite_errorcode = code
    made.sqlite_errorname = "SQLITE_X"
    return made


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_CORRUPT, JournalDamaged),
        (sqlite3.SQLITE_CORRUPT_INDEX, JournalDamaged),
        (sqlite3.SQLITE_NOTADB, JournalDamaged),
        (sqlite3.SQLITE_IOERR_FSYNC, JournalError),
        (sqlite3.SQLITE_BUSY, JournalError),
    ],
)
def test_errors_have_their_kinds(code, kind):
    made = journal_error(error(code), "cannot")
    assert type(made) is kind
    assert str(made) == "cannot: SQLITE_X: because"


@pytest.mark.parametrize(
    ("code", "full"),
    [
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_IOERR_SHMSIZE, True),
        (sqlite3.SQLITE_IOERR_FSYNC, False),
        (sqlite3.SQLITE_CORRUPT, False),
    ],
)
def test_a_full_disk_is_told_from_a_broken_one(code, full):
    assert is_full(error(code)) is full
    assert not is_full(None)
    assert not is_full(sqlite3.InterfaceError("no code"))
