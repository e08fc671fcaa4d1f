"""The tables of the SQLite journal, and how older files become newer ones."""

#: "disp", so that no other program's database is taken for a journal.
APPLICATION_ID = 0x64697370

_VERSION_1 = """
CREATE TABLE invocations (
    seq           INTEGER PRIMARY KEY,  -- the order of acceptance
    id            TEXT NOT NULL UNIQUE,
    account       TEXT NOT NULL,
    function      TEXT NOT NULL,
    qualifier     TEXT,
    tenant        TEXT NOT NULL,
    type          TEXT NOT NULL,
    priority      REAL NOT NULL,
    state         TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL,
    accepted_ms   INTEGER NOT NULL,
    due_ms        INTEGER NOT NULL,
    expires_ms    INTEGER,
    first_sent_ms INTEGER,
    sent_ms       INTEGER,
    ended_ms      INTEGER,
    request_id    TEXT,
    task_id       TEXT,
    key           TEXT,
    callback_url  TEXT,
    options       TEXT,  -- JSON
    estimated     INTEGER NOT NULL DEFAULT 0,
    failure       TEXT  -- JSON
);
-- Serves recovery, lists by state and account, and the counts of the dead.
CREATE INDEX invocations_by_state ON invocations (state, account);
CREATE INDEX invocations_by_end ON invocations (ended_ms) WHERE ended_ms IS NOT NULL;
-- Apart from the invocations, so that a change of state never rewrites them.
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE results (seq INTEGER PRIMARY KEY, result BLOB NOT NULL);
-- Apart as well: a key is forgotten by its own age, not by that of its invocation's end.
CREATE TABLE keys (
    account TEXT NOT NULL,
    key     TEXT NOT NULL,
    id      TEXT NOT NULL,
    digest  BLOB NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (at_ms);
"""

_VERSION_2 = """
-- How long the cloud kept the last attempt queued, where that is known.
ALTER TABLE invocations ADD COLUMN start_delay_s REAL;
"""

_VERSION_3 = """
-- What is paused: an account, where the function is empty, or one function of it.
CREATE TABLE pauses (
    account  TEXT NOT NULL,
    function TEXT NOT NULL,
    PRIMARY KEY (account, function)
) WITHOUT ROWID;
"""

#: What makes a file of version n one of version n + 1. Only ever added to.
MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3)


def newest() -> int:
    """Return the version of the files that this program makes."""
    return len(MIGRATIONS)


def migration(version: int) -> str:
    """Return the script that takes a file of *version* to the newest, as one transaction."""
    steps = "\n".join(MIGRATIONS[version:])
    return (
        f"BEGIN IMMEDIATE;\n{steps}\n"
        f"PRAGMA application_id = {APPLICATION_ID};\n"
        f"PRAGMA user_version = {newest()};\n"
        "COMMIT;"
    )
