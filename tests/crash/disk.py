"""
A disk in memory that can lose its power.

SQLite writes to it through a VFS of apsw, and everything is kept in the order in which it came.
Afterwards the power can be cut at any moment: what a file was when it was last synchronised is
there, and of what was written since, any part may be there, in any order, torn at sectors of
512 bytes.
"""

import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from dispatcher.journals.opening import Mode

SECTOR_BYTES = 512

_names = itertools.count()

_WITH_FOLDER = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Write(Struct, frozen=True):
    name: str
    offset: int
    data: bytes


class Truncate(Struct, frozen=True):
    name: str
    size: int


class Sync(Struct, frozen=True):
    name: str
    folder: bool
    """With the first synchronisation of a new file SQLite synchronises its folder."""


class Delete(Struct, frozen=True):
    name: str
    durably: bool


class Acknowledged(Struct, frozen=True):
    number: int
    """Everything up to here was said to be durable."""


Event = Write | Truncate | Sync | Delete | Acknowledged


class Disk(apsw.VFS):
    """The files, as a process that is still alive sees them, and how they came to be."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.vfs_name = f"disk{next(_names)}"
        self.files = {name: bytearray(data) for name, data in files.items()}
        self.events: list[Event] = []
        self.failing: int | None = None
        """The code of the error that the next write or synchronisation fails with, once."""
        super().__init__(self.vfs_name, base="")

    def connect(self, path: Path, mode: Mode) -> "ApswConnection":
        """Open a file of this disk; a `Connect` of the journal."""
        if mode != "rw":
            raise sqlite3.OperationalError("this disk allows one connection")
        return ApswConnection(path, self.vfs_name)

    def may_fail(self, *codes: int) -> None:
        """Fail if the next error is one of *codes*."""
        if self.failing in codes:
            error = apsw.IOError("the disk failed")
            error.extendedresult = self.failing  # type: ignore[attr-defined]
            self.failing = None
            raise error

    # -- apsw.VFS

    def xOpen(self, name: Any, flags: list[int]) -> "_File":  # type: ignore[override]  # noqa: N802
        flags[1] = flags[0]
        if isinstance(name, apsw.URIFilename):
            name = name.filename()
        return _File(self, Path(name).name if name else f"temporary{next(_names)}", flags[0])

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        self.files.pop(Path(name).name, None)
        self.events.append(Delete(Path(name).name, syncdir))

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return Path(name).name in self.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


class _File:
    """One open file."""

    def __init__(self, disk: Disk, name: str, flags: int) -> None:
        self._disk = disk
        self._name = name
        self._is_new = bool(flags & _WITH_FOLDER) and name not in disk.files
        self._data = disk.files.setdefault(name, bytearray())

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.may_fail(apsw.SQLITE_IOERR_WRITE)
        event = Write(self._name, offset, bytes(data))
        _apply(self._data, event)
        self._disk.events.append(event)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        event = Truncate(self._name, size)
        _apply(self._data, event)
        self._disk.events.append(event)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.may_fail(apsw.SQLITE_IOERR_FSYNC)
        self._disk.events.append(Sync(self._name, self._is_new))
        self._is_new = False

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._data)

    def xLock(self, level: int) -> None: ...  # noqa: N802
    def xUnlock(self, level: int) -> None: ...  # noqa: N802
    def xClose(self) -> None: ...  # noqa: N802

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        # As SQLite assumes of every disk: a torn write harms nothing but what it writes to.
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)


class ApswConnection:
    """Makes a connection of apsw look like one of the standard library."""

    def __init__(self, path: Path, vfs: str) -> None:
        self._connection = apsw.Connection(
            str(path), vfs=vfs, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        # Without it the log needs memory that processes share, which a VFS in Python has not.
        self.execute("PRAGMA locking_mode = EXCLUSIVE")

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        try:
            return _Rows(self._connection.execute(sql, parameters).fetchall())
        except apsw.Error as error:
            translated = sqlite3.OperationalError(str(error))
            translated.sqlite_errorcode = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
            raise translated from error

    def executescript(self, script: str, /) -> object:
        return self.execute(script)

    def set_progress_handler(
        self, handler: Callable[[], int | None] | None, instructions: int, /
    ) -> None:
        raise AssertionError("nothing is read through this connection")

    def close(self) -> None:
        self._connection.close()


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows


# -- Power cuts -----------------------------------------------------------------------------------


class Survivors(Struct, frozen=True):
    """What is left after a power cut."""

    files: dict[str, bytes]
    acknowledged: int


def cuts(
    before: dict[str, bytes], events: Sequence[Event], moments: Sequence[int], chance: random.Random
) -> Iterator[Survivors]:
    """Yield what a cut at each of the *moments*, in rising order, leaves of *events*."""
    durable = {name: bytearray(data) for name, data in before.items()}
    pending: dict[str, list[Write | Truncate | Delete]] = {}
    acknowledged = 0
    at = 0
    for moment in moments:
        for event in events[at:moment]:
            match event:
                case Acknowledged(number=number):
                    acknowledged = number
                case Sync(name=name, folder=folder):
                    _settle(durable, pending, name)
                    for other in list(pending) if folder else ():
                        _settle_delete(durable, pending, other)
                case Delete(name=name, durably=True):
                    durable.pop(name, None)
                    pending.pop(name, None)
                case Write(name=name) | Truncate(name=name) | Delete(name=name):
                    pending.setdefault(name, []).append(event)
        at = moment
        left = {name: bytearray(data) for name, data in durable.items()}
        for name, changes in pending.items():
            _tear(left, name, changes, chance)
        yield Survivors({name: bytes(data) for name, data in left.items()}, acknowledged)


def _settle(
    durable: dict[str, bytearray], pending: dict[str, list[Write | Truncate | Delete]], name: str
) -> None:
    for change in pending.pop(name, ()):
        if isinstance(change, Delete):
            durable.pop(name, None)
        else:
            _apply(durable.setdefault(name, bytearray()), change)
    durable.setdefault(name, bytearray())


def _settle_delete(
    durable: dict[str, bytearray], pending: dict[str, list[Write | Truncate | Delete]], name: str
) -> None:
    """Make the end of a file durable, but nothing of a later one of that name."""
    changes = pending[name]
    ends = [at for at, change in enumerate(changes) if isinstance(change, Delete)]
    if ends:
        durable.pop(name, None)
        del changes[: ends[-1] + 1]


def _tear(
    left: dict[str, bytearray],
    name: str,
    changes: Sequence[Write | Truncate | Delete],
    chance: random.Random,
) -> None:
    """Let some parts of *changes* reach the file, in any order."""
    share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    parts: list[Write | Truncate | Delete] = []
    for change in changes:
        parts += _sectors(change) if isinstance(change, Write) else [change]
    parts = [part for part in parts if chance.random() < share]
    if chance.random() < 0.5:
        chance.shuffle(parts)
    for part in parts:
        if isinstance(part, Delete):
            left.pop(name, None)
        else:
            _apply(left.setdefault(name, bytearray()), part)


def _sectors(write: Write) -> Iterator[Write]:
    end = write.offset + len(write.data)
    start = write.offset
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(write.name, start, write.data[start - write.offset : stop - write.offset])
        start = stop


def _apply(data: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del data[change.size :]
        data.extend(bytes(max(0, change.size - len(data))))
    else:
        data.extend(bytes(max(0, change.offset - len(data))))
        data[change.offset : change.offset + len(change.data)] = change.data
