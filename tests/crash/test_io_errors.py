"""The journal on a disk that fails once and then goes on as if nothing had happened."""

import random
from pathlib import Path

import apsw
import pytest

from dispatcher.core.model import Sending, State
from dispatcher.errors import JournalError
from dispatcher.journals import SqliteJournal
from dispatcher.journals.disk import Room
from tests.crash.disk import Acknowledged, Disk, cuts
from tests.journals.asking import Once, accept, entry, recovered

pytestmark = pytest.mark.real_time


async def open_on(disk: Disk, folder: Path) -> SqliteJournal:
    return await SqliteJournal.open(
        folder / "journal.db",
        retention_s=1e12,
        bytes_max=10**9,
        room=Room(free_min_bytes=0, ballast_bytes=4096),
        connect=disk.connect,
    )


@pytest.mark.parametrize("code", [apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_WRITE])
async def test_one_error_ends_it_and_the_next_process_has_what_was_acknowledged(tmp_path, code):
    (tmp_path / "first").mkdir()
    disk = Disk({})
    journal = await open_on(disk, tmp_path / "first")
    await accept(journal, before := entry(b"before"))
    disk.events.append(Acknowledged(1))

    disk.failing = code
    dones = [Once() for _ in range(10)]
    for done in dones[:5]:
        journal.accept([entry()], done)
    for done in dones[5:]:
        journal.record([Sending(before.record.id, 1, 1)], done)
    verdicts = [await done.verdict() for done in dones]
    # The disk is fine again: a later commit would succeed, and the earlier one be lost.
    assert disk.failing is None
    assert isinstance(verdicts[0], JournalError)
    assert all(isinstance(verdict, JournalError) for verdict in verdicts)
    assert isinstance(journal.failed(), JournalError)
    with pytest.raises(JournalError):
        await accept(journal, entry())
    await journal.aclose()

    (left,) = cuts({}, disk.events, [len(disk.events)], random.Random(1))
    assert left.acknowledged == 1
    (tmp_path / "second").mkdir()
    for name, data in left.files.items():
        (tmp_path / "second" / name).write_bytes(data)
    again = await SqliteJournal.open(
        tmp_path / "second" / "journal.db", retention_s=1e12, bytes_max=10**9
    )
    found = {record.id: (record.state, payload) for record, payload in await recovered(again)}
    assert found[before.record.id] in [(State.WAITING, b"before"), (State.SENDING, b"before")]
    assert await accept(again, entry()) == [None]
    await again.aclose()
