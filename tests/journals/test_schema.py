import sqlite3

import pytest

from dispatcher.journals import schema


@pytest.fixture
def database() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def version(database: sqlite3.Connection) -> tuple[int, int]:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (number,) = database.execute("PRAGMA user_version").fetchone()
    return application, number


def test_a_new_file_gets_everything(database):
    database.executescript(schema.migration(0))
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE sql > ''")}
    assert tables >= {"invocations", "payloads", "results", "keys", "pauses"}
    assert version(database) == (schema.APPLICATION_ID, schema.newest())


def test_an_older_file_gets_only_what_is_new(database, monkeypatch):
    database.executescript(schema.migration(0))
    database.execute("INSERT INTO payloads VALUES (1, x'00')")
    more = "ALTER TABLE payloads ADD COLUMN note TEXT;"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, more))
    database.executescript(schema.migration(schema.newest() - 1))
    assert database.execute("SELECT * FROM payloads").fetchall() == [(1, b"\0", None)]
    assert version(database) == (schema.APPLICATION_ID, schema.newest())


def test_half_a_migration_is_none(database, monkeypatch):
    database.executescript(schema.migration(0))
    broken = "ALTER TABLE payloads ADD COLUMN note TEXT; INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        database.executescript(schema.migration(schema.newest() - 1))
    assert database.in_transaction
    database.execute("ROLLBACK")
    database.execute("INSERT INTO payloads VALUES (1, x'00')")
    assert version(database) == (schema.APPLICATION_ID, schema.newest() - 1)


def test_payloads_and_results_are_apart_from_what_changes_often(database):
    database.executescript(schema.migration(0))
    columns = {row[2] for row in database.execute("PRAGMA table_info(invocations)")}
    assert "BLOB" not in columns
