"""The thread that writes: what it commits together, and what it does when it cannot."""

import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import pytest

from dispatcher import failpoints
from dispatcher.core.model import Duplicate, Ended, Sending, State
from dispatcher.errors import DiskFull, JournalDamaged, JournalError
from dispatcher.journals import writer
from dispatcher.journals.disk import Reserve, Room
from dispatcher.journals.sqlite import SqliteJournal
from tests.journals.asking import NOW_MS, Once, accept, entry, kept, record, recovered
from tests.journals.faults import CORRUPT, FULL, IO_ERROR, Faults

pytestmark = pytest.mark.real_time


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def commits() -> list[float]:
    return []


@pytest.fixture
async def journal(tmp_path, faults, commits) -> AsyncIterator[SqliteJournal]:
    opened = await SqliteJournal.open(
        tmp_path / "journal.db",
        retention_s=1e12,
        bytes_max=10**9,
        connect=faults,
        on_commit=commits.append,
        room=Room(free_min_bytes=0, ballast_bytes=65536),
    )
    yield opened
    await opened.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(writer, "_NO_ROOM_PAUSE_S", 0.01)


class Held:
    """Keeps the writer at a fail point until `release`."""

    def __init__(self, point: str) -> None:
        self._point = point
        self._arrived = threading.Event()
        self._go_on = threading.Event()

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._arrived.set()
            assert self._go_on.wait(20)

    async def arrived(self) -> None:
        assert await anyio.to_thread.run_sync(self._arrived.wait, 20)

    def release(self) -> None:
        failpoints.hook = None
        self._go_on.set()


@pytest.fixture
def held(monkeypatch) -> Iterator[Held]:
    made = Held("journal.before_begin")
    monkeypatch.setattr(failpoints, "hook", made)
    yield made
    made.release()


async def until(condition) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 -- nobody tells
            await anyio.sleep(0.005)


# -- Batches --------------------------------------------------------------------------------------


async def test_what_comes_alone_is_committed_at_once_and_a_crowd_is_waited_for(
    journal, commits, held, monkeypatch
):
    monkeypatch.setattr(writer, "GATHER_S", 1000.0)

    async def told(dones: list[Once], commit: int) -> None:
        for done in dones:
            await done.verdict()
        assert len(commits) == commit

    def accept_all(dones: list[Once]) -> None:
        for done in dones:
            journal.accept([entry()], done)

    alone, *crowd = [Once() for _ in range(11)]
    accept_all([alone])
    await held.arrived()
    accept_all(crowd)  # while the first is written
    held.release()
    await told([alone, *crowd], 2)
    *few, last = [Once() for _ in crowd]
    accept_all(few)
    await anyio.sleep(0.1)
    assert len(commits) == 2  # one more is waited for
    accept_all([last])
    await told([*few, last], 3)


async def test_those_who_waited_at_the_end_of_a_commit_are_of_the_crowd(
    journal, commits, held, monkeypatch
):
    monkeypatch.setattr(writer, "GATHER_S", 1000.0)
    first, second, later = ([Once() for _ in range(count)] for count in (2, 3, 2))
    for done in first[:1]:
        journal.accept([entry()], done)
    await held.arrived()
    again = Held("journal.before_callback")
    monkeypatch.setattr(failpoints, "hook", again)
    journal.accept([entry()], first[1])
    journal.record([Sending("x", 1, 1)])
    held._go_on.set()
    await again.arrived()  # the first alone is written
    monkeypatch.setattr(failpoints, "hook", third := Held("journal.before_begin"))
    again._go_on.set()
    await third.arrived()  # the other two are being written
    for done in second:
        journal.accept([entry()], done)
    third.release()
    for done in first:
        await done.verdict()
    await anyio.sleep(0.1)
    assert len(commits) == 2  # two that were taken and three that waited: two more are waited for
    for done in later:
        journal.accept([entry()], done)
    for done in (*second, *later):
        await done.verdict()
    assert len(commits) == 3


async def test_those_who_are_back_before_the_next_commit_count_once(journal, held, monkeypatch):
    monkeypatch.setattr(writer, "GATHER_S", 1000.0)
    told, go_on = threading.Event(), threading.Event()
    upkeep = journal._writer._upkeep
    plain, ends = upkeep.between_batches, itertools.count(1)

    def at_the_end(now: float) -> None:
        if next(ends) == 2:
            told.set()
            assert go_on.wait(20)
        plain(now)

    monkeypatch.setattr(upkeep, "between_batches", at_the_end)
    alone, *crowd = [Once() for _ in range(11)]
    journal.accept([entry()], alone)
    await held.arrived()
    for done in crowd:
        journal.accept([entry()], done)
    held.release()
    for done in crowd:
        await done.verdict()
    assert await anyio.to_thread.run_sync(told.wait, 20)
    back = [Once() for _ in crowd]
    for done in back:
        journal.accept([entry()], done)
    go_on.set()
    with anyio.fail_after(20):
        for done in back:
            await done.verdict()


async def test_what_waits_is_committed_at_once(journal, faults, commits, held):
    dones = [Once() for _ in range(201)]
    journal.accept([entry()], dones[0])
    await held.arrived()
    new = [entry() for _ in range(100)]
    for one, done in zip(new, dones[1::2], strict=True):
        journal.accept([one], done)
    for one, done in zip(new, dones[2::2], strict=True):
        journal.record([Sending(one.record.id, 1, 1)], done)
    held.release()
    verdicts = [await done.verdict() for done in dones]
    assert verdicts == [[None], *([[None], None] * 100)]
    assert len(commits) == 2
    assert all(took_s > 0 for took_s in commits)
    # However many they are: one to begin, one to end, and one for each kind of news.
    begin = len(faults.statements) - faults.statements[::-1].index("BEGIN IMMEDIATE") - 1
    assert faults.statements[begin:] == [
        "BEGIN IMMEDIATE",
        "INSERT INTO invocations",
        "INSERT INTO payloads",
        "WITH change (id,",
        "COMMIT",
    ]
    for one in new:
        assert (await kept(journal, one.record.id)).state is State.SENDING


async def test_a_single_statement_needs_no_transaction_around_it(journal, faults):
    new = entry()
    await accept(journal, new)
    faults.statements.clear()
    await record(journal, Sending(new.record.id, 1, 1))
    assert faults.statements[0] == "WITH change (id,"
    assert "COMMIT" not in faults.statements


async def test_a_batch_is_bounded(journal, commits, held, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_ROWS_MAX", 10)
    dones = [Once() for _ in range(26)]
    journal.accept([entry()], dones[0])
    await held.arrived()
    for done in dones[1:]:
        journal.accept([entry()], done)
    held.release()
    for done in dones:
        await done.verdict()
    assert len(commits) == 1 + 3


async def test_a_batch_is_bounded_in_bytes(journal, commits, held, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_BYTES_MAX", 1_000_000)
    dones = [Once() for _ in range(5)]
    journal.accept([entry()], dones[0])
    await held.arrived()
    for done in dones[1:]:
        journal.accept([entry(b"x" * 600_000)], done)
    held.release()
    for done in dones:
        await done.verdict()
    assert len(commits) == 1 + 2


async def test_one_call_is_one_commit_however_large(journal, commits):
    new = [entry() for _ in range(writer.BATCH_ROWS_MAX + 100)]
    await accept(journal, *new)
    assert len(commits) == 1
    assert len(await recovered(journal)) == len(new)


async def test_every_boundary_is_a_fail_point(journal, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(failpoints, "hook", seen.append)
    new = entry()
    await accept(journal, new)
    await record(journal, Sending(new.record.id, 1, 1))
    points = ["before_begin", "after_insert", "before_commit", "after_commit", "before_callback"]
    assert seen == [f"journal.{point}" for point in points] * 2


# -- A disk that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["BEGIN", "INSERT INTO invocations", "COMMIT", "WITH wanted"])
@pytest.mark.parametrize(
    ("error", "kind"), [(IO_ERROR, JournalError), (CORRUPT, JournalDamaged)], ids=["io", "corrupt"]
)
async def test_the_first_error_is_the_end(journal, faults, on, error, kind, caplog):
    await accept(journal, before := entry())
    faults.fail(error, on=on)
    lost, also_lost, later = Once(), Once(), Once()
    journal.accept([entry(key="k")], lost)
    journal.record([Sending(before.record.id, 1, 1)], also_lost)
    assert type(await lost.verdict()) is kind
    await also_lost.verdict()
    assert type(journal.failed()) is kind
    assert not journal.accepting()
    # SQLite would go on as if nothing had happened; we do not.
    faults.heal()
    journal.accept([entry()], later)
    assert await later.verdict() is journal.failed()
    with pytest.raises(kind):
        await record(journal, Sending(before.record.id, 1, 1))
    assert "the journal has failed" in caplog.text
    # What is on disk can still be read.
    assert (await kept(journal, before.record.id)).id == before.record.id


async def test_after_an_error_the_next_process_finds_what_was_acknowledged(
    journal, faults, tmp_path
):
    await accept(journal, before := entry())
    faults.fail(IO_ERROR, on="COMMIT")
    with pytest.raises(JournalError):
        await accept(journal, entry())
    await journal.aclose()
    # Not moved into the database by a process that does not know what the disk really has.
    assert (tmp_path / "journal.db-wal").stat().st_size > 0
    again = await SqliteJournal.open(tmp_path / "journal.db", retention_s=1e12, bytes_max=1)
    assert before.record.id in [one.id for one, _ in await recovered(again)]
    await again.aclose()


async def test_all_who_wait_are_told_of_the_end(journal, held, monkeypatch, caplog):
    dones = [Once() for _ in range(20)]
    journal.accept([entry()], dones[0])
    await held.arrived()
    for done in dones[1:10]:
        journal.accept([entry()], done)
    for done in dones[10:]:
        journal.record([], done)

    def die(point: str) -> None:
        raise SystemExit("a bug")

    failpoints.hook = die
    held._go_on.set()
    verdicts = [await done.verdict() for done in dones]
    # The first was past the point; all others meet the end.
    assert verdicts[0] == [None] or isinstance(verdicts[0], JournalError)
    assert all(isinstance(verdict, JournalError) for verdict in verdicts[1:])
    assert "SystemExit" in str(journal.failed())
    failpoints.hook = None
    after = Once()
    journal.accept([entry()], after)
    assert await after.verdict() is journal.failed()


async def test_what_is_given_while_the_thread_ends_is_told_too(journal, monkeypatch):
    """Between its last look at the queue and the news of its end on the loop."""
    ended = threading.Event()
    bury = journal._writer._bury

    def slow_bury(error, works) -> None:
        ended.set()
        time.sleep(0.05)
        bury(error, works)

    journal._writer._bury = slow_bury

    def die(point: str) -> None:
        raise SystemExit("a bug")

    monkeypatch.setattr(failpoints, "hook", die)
    first, second = Once(), Once()
    journal.accept([entry()], first)
    await until(ended.is_set)
    assert journal.failed() is None
    journal.accept([entry()], second)
    assert isinstance(await first.verdict(), JournalError)
    assert isinstance(await second.verdict(), JournalError)


async def test_an_error_of_the_upkeep_is_an_error(journal, faults):
    await accept(journal, entry())
    faults.fail(IO_ERROR, on="wal_checkpoint(PASSIVE)")
    journal._writer._upkeep._body_pages = 10**6
    journal.accept([entry()], lambda verdict: None)
    await until(lambda: journal.failed() is not None)
    with pytest.raises(JournalError, match="SQLITE_IOERR_FSYNC"):
        await accept(journal, entry())


async def test_the_same_id_twice_is_a_bug_and_ends_it(journal):
    one = entry()
    await accept(journal, one)
    with pytest.raises(JournalError, match="UNIQUE"):
        await accept(journal, one)
    assert journal.failed() is not None


# -- A disk that is full --------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch):
    """Say whether the disk has room."""

    class Disk:
        has_room = True

    disk = Disk()
    monkeypatch.setattr(Reserve, "_free_bytes", lambda self: 10**9 if disk.has_room else -1)
    return disk


async def test_without_room_the_new_are_refused_and_the_accepted_end(
    journal, faults, room, tmp_path, caplog
):
    ballast = tmp_path / "journal.db.ballast"
    await accept(journal, first := entry(key="k", digest=b"1"))
    assert ballast.exists()
    room.has_room = False
    faults.fail(FULL, on="INSERT INTO invocations")
    refused, recorded = Once(), Once()
    journal.accept([entry()], refused)
    journal.record([Sending(first.record.id, 1, 1)], recorded)
    assert isinstance(await refused.verdict(), DiskFull)
    assert await recorded.verdict() is None
    assert not journal.accepting()
    assert journal.failed() is None
    assert (await kept(journal, first.record.id)).state is State.SENDING

    # Not even the changes fit any more: the ballast goes.
    faults.judge = lambda sql: FULL if ballast.exists() and "UPDATE" in sql else None
    await record(journal, Ended(id=first.record.id, state=State.SUCCEEDED, at_ms=NOW_MS))
    assert not ballast.exists()
    with pytest.raises(DiskFull) as caught:
        await accept(journal, entry())
    assert caught.value.retry_after_s is not None

    # And back, without a restart, even if nobody asks for anything.
    faults.heal()
    room.has_room = True
    await until(journal.accepting)
    assert ballast.exists()
    again = [entry(key="k", digest=b"1"), entry()]
    assert await accept(journal, *again) == [Duplicate(first.record.id, True), None]
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
        "disk_full: the journal's disk is full: nothing new is accepted",
        "disk_has_room: the journal's disk has room again",
    ]


async def test_a_disk_that_is_full_from_the_start_is_said_to_be(tmp_path, room, caplog):
    room.has_room = False
    opened = await SqliteJournal.open(tmp_path / "journal.db", retention_s=1e12, bytes_max=10**9)
    assert not opened.accepting()
    await opened.aclose()
    assert "disk_full: " in caplog.text


async def test_below_the_minimum_nothing_new_is_tried(journal, faults, room):
    room.has_room = False
    await until(lambda: not journal.accepting() or _nudge(journal))
    faults.statements.clear()
    with pytest.raises(DiskFull):
        await accept(journal, entry())
    assert not [one for one in faults.statements if one.startswith("INSERT")]


async def test_the_room_is_looked_at_more_often_the_more_is_written(journal, room, monkeypatch):
    monkeypatch.setattr(writer, "_ROOM_EVERY_S", 3600.0)
    journal._writer._reserve.look_after_bytes = 100_000
    await accept(journal, entry())
    journal._writer._room_known_until = time.monotonic() + 3600
    room.has_room = False
    assert await accept(journal, entry(b"x" * 90_000)) == [None]
    assert await accept(journal, entry(b"x" * 90_000)) == [None]
    with pytest.raises(DiskFull):
        await accept(journal, entry())


def _nudge(journal: SqliteJournal) -> bool:
    journal.accept([entry()], lambda verdict: None)
    return False


async def test_changes_wait_where_nothing_is_left_to_give_up(journal, faults, room, tmp_path):
    await accept(journal, first := entry())
    room.has_room = False
    faults.fail(FULL, on="UPDATE")
    dones = [Once() for _ in range(3)]
    for done, number in zip(dones, range(3), strict=True):
        journal.record([Sending(first.record.id, 1, number)], done)
    await anyio.sleep(0.1)
    assert not any(done.told for done in dones)
    assert journal.failed() is None
    faults.heal()
    room.has_room = True
    assert [await done.verdict() for done in dones] == [None] * 3
    assert (await kept(journal, first.record.id)).sent_ms == 2


async def test_a_close_does_not_wait_for_room(journal, faults, room):
    await accept(journal, first := entry())
    room.has_room = False
    faults.fail(FULL, on="UPDATE")
    dones = [Once(), Once()]
    for done in dones:
        journal.record([Sending(first.record.id, 1, 1)], done)
    await anyio.sleep(0.05)
    await journal.aclose()
    for done in dones:
        assert isinstance(await done.verdict(), JournalError)


async def test_upkeep_without_room_can_wait(journal, faults):
    await accept(journal, entry())
    faults.fail(FULL, on="wal_checkpoint")
    journal._writer._upkeep._body_pages = 10**6
    await accept(journal, entry())
    await until(lambda: not journal.accepting())
    faults.heal()
    await until(journal.accepting)
    assert await accept(journal, entry()) == [None]
