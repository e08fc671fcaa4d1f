"""The journal on a disk that is really full."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from dispatcher.core.model import Change, Ended, Running, Sending, State
from dispatcher.errors import DiskFull
from dispatcher.journals import SqliteJournal
from dispatcher.journals.disk import Room
from tests.journals.asking import NOW_MS, accept, entry, kept, record, recovered

pytestmark = pytest.mark.real_time

MB = 1024 * 1024
ROOM = Room(free_min_bytes=6 * MB, ballast_bytes=4 * MB)

open_at = partial(SqliteJournal.open, retention_s=1e12, bytes_max=0, room=ROOM)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = Path(tmp_path) / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(folder: Path) -> None:
    """Take all the room there is, as somebody else might."""
    with (folder / "somebody-elses").open("ab", buffering=0) as file:
        for size in (MB, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    assert os.statvfs(folder).f_bavail == 0


async def accept_until_full(journal: SqliteJournal) -> list[str]:
    keys: list[str] = []
    while True:
        new = [entry(b"x" * 3000) for _ in range(20)]
        try:
            await accept(journal, *new)
        except DiskFull:
            return keys
        keys += [one.record.id for one in new]


def lives(keys: list[str]) -> list[Change]:
    """Return all that can be said of accepted invocations, with results."""
    changes: list[Change] = [Sending(key, 1, NOW_MS) for key in keys]
    changes += [Running(key, "request", NOW_MS) for key in keys]
    changes += [
        Ended(id=key, state=State.SUCCEEDED, at_ms=NOW_MS, result=b"done" * 5) for key in keys
    ]
    return changes


async def test_what_was_accepted_ends_and_the_journal_comes_back_by_itself(small_disk, capsys):
    journal = await open_at(small_disk / "journal.db")
    keys = await accept_until_full(journal)
    assert len(keys) > 1000
    assert not journal.accepting()
    free = os.statvfs(small_disk).f_bavail * 4096
    assert 0 < free < ROOM.free_min_bytes

    await anyio.to_thread.run_sync(fill_up, small_disk)
    changes = lives(keys)
    for start in range(0, len(changes), 50):
        await record(journal, *changes[start : start + 50])
    assert (await kept(journal, keys[-1])).state is State.SUCCEEDED
    assert await recovered(journal) == []
    with pytest.raises(DiskFull):
        await accept(journal, entry())
    spent = not (small_disk / "journal.db.ballast").exists()
    with capsys.disabled():
        print(
            f"\ndisk full: {len(keys)} invocations had been accepted, all of them ended "
            f"({len(changes)} changes; ballast {'spent' if spent else 'not needed'})"
        )

    (small_disk / "somebody-elses").unlink()
    with anyio.fail_after(60):
        while not journal.accepting():  # noqa: ASYNC110 -- nobody tells
            await anyio.sleep(0.02)
    assert await accept(journal, entry()) == [None]
    await journal.aclose()


async def test_the_journal_opens_on_a_disk_that_has_become_full(small_disk):
    journal = await open_at(small_disk / "journal.db")
    keys = await accept_until_full(journal)
    await journal.aclose()
    await anyio.to_thread.run_sync(fill_up, small_disk)
    journal = await open_at(small_disk / "journal.db")
    assert not journal.accepting()
    assert len(await recovered(journal)) == len(keys)
    for start in range(0, len(keys), 50):
        await record(journal, *lives(keys[start : start + 50]))
    assert await recovered(journal) == []
    await journal.aclose()
