"""The journal on a disk that loses its power, thousands of times."""

import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from msgspec import Struct

from dispatcher.core.model import Query, State
from dispatcher.errors import JournalDamaged
from dispatcher.journals import SqliteJournal, upkeep
from dispatcher.journals.disk import Room
from dispatcher.journals.opening import Connection, Mode, connect, open_for_writing
from tests.crash.disk import Acknowledged, ApswConnection, Disk, cuts
from tests.crash.story import Loss, Story, everything, found_standing, give
from tests.journals.asking import recovered

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

CUTS = 2000
CUTS_A_RUN = 25

RECOVERED = (State.WAITING, State.SENDING, State.RUNNING, State.UNCERTAIN)


class Tally(Struct):
    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    resurrected: int = 0
    torn: int = 0
    damaged: int = 0

    def add(self, loss: Loss, acknowledged: int) -> None:
        self.acknowledged += acknowledged
        self.lost += loss.news
        self.resurrected += loss.resurrected
        self.torn += loss.torn

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts: {self.lost} of {self.acknowledged} acknowledged news lost, "
            f"{self.resurrected} ended invocations resurrected, {self.torn} mixed-up states, "
            f"{self.damaged} damaged files"
        )


class Careless:
    """A connection that does not have each commit synchronised, whatever it is told."""

    def __init__(self, connection: ApswConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        sql = sql.replace("synchronous = FULL", "synchronous = NORMAL")
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """Give a folder in memory, if there is one: what is on it need not survive anything."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="power-cuts-") as path:
        yield Path(path)


@asynccontextmanager
async def journal_on(
    disk: Disk, folder: Path, *, prunable: int = 0, careless: bool = False
) -> AsyncIterator[SqliteJournal]:
    """
    Open the journal on *disk*; the lock and the like are in *folder*.

    What ended at *prunable*, or earlier, is older than the retention.
    """

    def connect(path: Path, mode: Mode) -> Connection:
        connection = disk.connect(path, mode)
        return Careless(connection) if careless else connection

    opened = await SqliteJournal.open(
        folder / "journal.db",
        retention_s=1,
        bytes_max=0,
        room=Room(free_min_bytes=0, ballast_bytes=4096),
        connect=connect,
        wall_s=lambda: 1 + prunable / 1000,
    )
    try:
        yield opened
    finally:
        await opened.aclose()


async def tell(journal: SqliteJournal, disk: Disk, story: Story, chance: random.Random) -> None:
    """Tell some news, now and then without waiting for the news before."""
    outstanding: list[anyio.Event] = []

    def told(number: int, done: anyio.Event, verdict: Any) -> None:
        assert not isinstance(verdict, Exception), verdict
        disk.events.append(Acknowledged(number))
        done.set()

    for _ in range(chance.randint(20, 60)):
        done = anyio.Event()
        outstanding.append(done)
        news = story.go_on()
        give(journal, news, partial(told, story.number, done))
        if chance.random() < 0.7:
            for one in outstanding:
                await one.wait()
            outstanding.clear()
    for one in outstanding:
        await one.wait()


def write(files: dict[str, bytes], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    path = folder / "journal.db"
    path.touch()
    return path


class Past(Struct, frozen=True):
    """What a process finds: the files, and the news after which they stand."""

    files: dict[str, bytes] = {}
    reached: int = 0


def cut(
    past: Past, disk: Disk, story: Story, folder: Path, chance: random.Random, tally: Tally
) -> Past:
    """Cut the power at some moments, and return what one of the cuts has left."""
    moments = sorted(chance.randint(0, len(disk.events)) for _ in range(CUTS_A_RUN))
    pasts = [past]
    for left in cuts(past.files, disk.events, moments, chance):
        tally.cuts += 1
        # What an earlier cut left has been durable since.
        acknowledged = max(left.acknowledged, past.reached)
        try:
            connection = open_for_writing(write(left.files, folder), connect)
        except JournalDamaged:
            tally.damaged += 1
            continue
        loss, reached = story.judge(found_standing(everything(connection)), acknowledged)
        connection.close()
        tally.add(loss, acknowledged)
        pasts.append(Past(left.files, reached))
    return chance.choice(pasts)


async def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int, count: int, careless: bool = False
) -> Tally:
    """Cut the power *count* times in the lives of several journals."""
    chance = random.Random(seed)
    tally = Tally()
    story, past = Story(chance), Past()
    while tally.cuts < count:
        monkeypatch.setattr(upkeep, "CHECKPOINT_PAGES", chance.choice((10, 50, 200, 2000)))
        monkeypatch.setattr(upkeep, "IDLE_S", chance.choice((0.0, 1.0)))
        # Half of the runs forget what ended long ago, and give the pages back to the disk.
        story.prunable = max(story.prunable, chance.choice((0, past.reached // 2)))
        monkeypatch.setattr(upkeep, "FREE_PAGES_MAX", chance.choice((0, 4096)))
        monkeypatch.setattr(upkeep, "VACUUM_PAGES", 5)
        disk, beside = Disk(past.files), folder / "beside"
        write({}, beside)
        async with journal_on(disk, beside, prunable=story.prunable, careless=careless) as journal:
            await tell(journal, disk, story, chance)
        after = folder / "after"
        past = await anyio.to_thread.run_sync(cut, past, disk, story, after, chance, tally)
        # The next process goes on from there.
        story.forget_after(past.reached)
        if chance.random() < 0.2 or past.reached > 1000:
            story, past = Story(chance), Past()
    return tally


async def test_no_power_cut_takes_what_was_acknowledged(folder, monkeypatch, capsys):
    tally = await run(folder, monkeypatch, seed=1, count=CUTS)
    with capsys.disabled():
        print(f"\n{tally}")
    assert tally.cuts >= CUTS
    assert tally.acknowledged > 100 * CUTS
    assert (tally.lost, tally.resurrected, tally.torn, tally.damaged) == (0, 0, 0, 0)


async def test_without_synchronous_full_the_cuts_do_take_something(folder, monkeypatch, capsys):
    tally = await run(folder, monkeypatch, seed=2, count=200, careless=True)
    with capsys.disabled():
        print(f"\nwith synchronous = NORMAL: {tally}")
    assert tally.lost > 0
    assert tally.resurrected > 0


async def test_a_journal_that_lost_its_power_recovers_as_a_whole(tmp_path):
    """The whole class, threads and all, on what a cut in the middle of it all has left."""
    chance = random.Random(3)
    disk, story = Disk({}), Story(chance)
    write({}, tmp_path / "beside")
    async with journal_on(disk, tmp_path / "beside") as journal:
        await tell(journal, disk, story, chance)
    moments = [len(disk.events) // 2]
    (left,) = cuts({}, disk.events, moments, chance)
    path = write(left.files, tmp_path / "after")
    journal = await SqliteJournal.open(path, retention_s=1e9, bytes_max=10**9, wall_s=lambda: 0.0)
    records, _ = await journal.find(Query(), limit=10_000)
    found = found_standing([(one, await journal.payload(one.id)) for one in records])
    loss, reached = story.judge(found, left.acknowledged)
    assert loss == Loss()
    again = {one.id for one, _ in await recovered(journal)}
    after = story.standing_after(reached)
    assert again == {key for key, one in after.items() if one.state in RECOVERED}
    await journal.aclose()
