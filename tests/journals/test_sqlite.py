"""The journal on disk as a whole; what every journal promises is in tests/contracts."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from dispatcher import failpoints
from dispatcher.config import JournalSettings
from dispatcher.core.model import Ended, Query, Returned, Running, Sending, State
from dispatcher.errors import JournalDamaged, JournalError, JournalLocked, QueueFull
from dispatcher.journals import disk, open_journal, opening, sqlite
from dispatcher.journals.opening import Connection, Mode, connect
from dispatcher.journals.sqlite import SqliteJournal
from tests.journals.asking import NOW_MS, Once, accept, entry, ids, kept, record, recovered

pytestmark = pytest.mark.real_time

open_at = partial(SqliteJournal.open, retention_s=1e12, bytes_max=10**9)


@pytest.fixture
def path(tmp_path) -> Path:
    return Path(tmp_path) / "deep" / "down" / "journal.db"


@pytest.fixture
async def journal(path) -> AsyncIterator[SqliteJournal]:
    opened = await open_at(path)
    yield opened
    await opened.aclose()


async def test_many_who_wait_are_told_in_their_order_and_not_all_in_one_turn(journal, monkeypatch):
    monkeypatch.setattr(sqlite, "TELL_MAX_S", 0.0)
    told: list[tuple[int, int]] = []
    turn = 0
    done = asyncio.Event()

    def tell(number: int, _: object) -> None:
        told.append((number, turn))
        if number == 99:
            done.set()

    for number in range(100):
        journal.record((), partial(tell, number))
    while not done.is_set():
        turn += 1
        await anyio.lowlevel.checkpoint()
    assert [number for number, _ in told] == list(range(100))
    assert len({at for _, at in told}) == 100


async def test_whoever_waits_is_told_before_it_is_closed(journal, monkeypatch):
    monkeypatch.setattr(sqlite, "TELL_MAX_S", 0.0)
    told: list[int] = []
    for number in range(100):
        journal.record((), lambda _, number=number: told.append(number))
    await journal.aclose()
    assert told == list(range(100))


# -- From one process to the next -----------------------------------------------------------------


async def test_everything_is_there_after_a_restart(journal, path):
    new = [entry(str(n).encode(), key=f"k{n}", digest=b"1") for n in range(5)]
    await accept(journal, *new)
    keys = [one.record.id for one in new]
    await record(journal, *[Sending(key, 1, NOW_MS) for key in keys[1:]])
    await record(journal, *[Running(key, "r", NOW_MS) for key in keys[2:]])
    await record(journal, Ended(id=keys[3], state=State.SUCCEEDED, at_ms=NOW_MS, result=b"r"))
    await record(journal, Ended(id=keys[4], state=State.DEAD, at_ms=NOW_MS))
    before = [await kept(journal, key) for key in keys]
    await journal.aclose()
    assert path.with_name("journal.db-wal") not in set(path.parent.iterdir())

    again = await open_at(path)
    assert [await kept(again, key) for key in keys] == before
    left = await recovered(again)
    assert [(one.id, one.state, payload) for one, payload in left] == [
        (keys[0], State.WAITING, b"0"),
        (keys[1], State.SENDING, b"1"),
        (keys[2], State.RUNNING, b"2"),
    ]
    repeats = await accept(again, *[entry(key=f"k{n}", digest=b"1") for n in range(5)])
    assert [verdict.id for verdict in repeats if verdict is not None] == keys
    # The order of acceptance goes on where it was.
    later = entry()
    await accept(again, later)
    await record(again, Returned(keys[4], 2, NOW_MS))
    assert ids([one for one, _ in await recovered(again)]) == [*keys[:3], keys[4], later.record.id]
    await again.aclose()


async def test_the_settings_name_the_file(tmp_path):
    settings = JournalSettings(url=f"sqlite://{tmp_path}/a/journal.db")
    journal = await open_journal(settings, bytes_max=3)
    assert journal.on_disk
    await accept(journal, entry(b"1234"), entry(b"123"))
    await journal.aclose()
    journal = await open_journal(settings, bytes_max=3)
    assert [payload for _, payload in await recovered(journal)] == [None, b"123"]
    await journal.aclose()


async def test_a_network_file_system_is_allowed_by_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "network_filesystem", lambda folder: "nfs")
    url = f"sqlite://{tmp_path}/journal.db"
    with pytest.raises(JournalError, match="nfs"):
        await open_journal(JournalSettings(url=url), bytes_max=0)
    assert list(tmp_path.iterdir()) == []
    allowed = JournalSettings(url=url, network_filesystems=("nfs",))
    await (await open_journal(allowed, bytes_max=0)).aclose()


# -- Who may open it ------------------------------------------------------------------------------


async def test_one_process_at_a_time(journal, path):
    with pytest.raises(JournalLocked, match=str(os.getpid())):
        await open_at(path)
    assert await accept(journal, entry()) == [None]
    await journal.aclose()
    await (await open_at(path)).aclose()


async def test_another_name_of_the_file_leads_to_the_same_lock(journal, path, tmp_path):
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(JournalLocked):
        await open_at(tmp_path / "link.db")


async def test_a_journal_that_cannot_be_opened_is_not_locked(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(JournalDamaged):
            await open_at(path)
    path.unlink()
    await (await open_at(path)).aclose()


async def test_a_place_that_cannot_be_written_is_a_journal_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open"):
        await open_at(tmp_path / "file" / "journal.db")


async def test_everything_is_for_this_user_alone(journal, path):
    await accept(journal, entry())
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    names = ("", "-wal", "-shm", ".lock", ".ballast")
    assert modes == {f"journal.db{name}": 0o600 for name in names}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# Newer Pythons warn of what this test is about.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_process_that_was_forked_off_cannot_use_it_and_does_not_hold_it(journal, path):
    told: list[object] = []
    until, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        journal.accept([entry()], told.append)
        journal.record([], told.append)
        good = all(isinstance(one, JournalError) for one in told) and len(told) == 2
        os.read(until, 1)
        os._exit(0 if good and not journal.accepting() else 1)
    try:
        assert await accept(journal, entry()) == [None]
        with pytest.raises(JournalLocked):
            await open_at(path)
        await journal.aclose()
        await (await open_at(path)).aclose()
    finally:
        os.write(go_on, b"!")
        _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        os.close(until)
        os.close(go_on)
    assert os.waitstatus_to_exitcode(status) == 0


async def test_the_names_of_the_files_are_durable_before_anything_is_accepted(path, monkeypatch):
    folders: list[Path] = []
    there: list[set[str]] = []

    def sync_folder(folder: Path) -> None:
        folders.append(folder)
        there.append({one.name for one in folder.iterdir()})

    monkeypatch.setattr(disk, "sync_folder", sync_folder)
    journal = await open_at(path)
    assert folders[-1] == path.parent
    assert there[-1] >= {"journal.db", "journal.db-wal"}
    await journal.aclose()


async def test_a_stranger_who_writes_is_waited_for_but_not_for_long(path, monkeypatch):
    """Somebody opened the file with another program, in spite of the lock."""
    monkeypatch.setattr(opening, "BUSY_MAX_S", 0.3)
    journal = await open_at(path)
    stranger = connect(path, "rw")
    stranger.execute("BEGIN IMMEDIATE")
    done = Once()
    journal.accept([entry()], done)
    await anyio.sleep(0.1)
    assert not done.told
    stranger.execute("ROLLBACK")
    assert await done.verdict() == [None]
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="SQLITE_BUSY"):
        await accept(journal, entry())
    stranger.execute("ROLLBACK")
    stranger.close()
    await journal.aclose()


# -- Bounds ---------------------------------------------------------------------------------------


async def test_a_disk_that_cannot_keep_up_is_not_given_ever_more(journal, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(sqlite, "PENDING_BYTES_MAX", 100_000)
    monkeypatch.setattr(failpoints, "hook", lambda point: go_on.wait(20))
    dones = [Once() for _ in range(200)]
    for done in dones:
        journal.accept([entry(b"x" * 1000)], done)
    assert 0 < sum(done.told for done in dones) < 200
    go_on.set()
    verdicts = [await done.verdict() for done in dones]
    refused = [verdict for verdict in verdicts if isinstance(verdict, QueueFull)]
    assert len(refused) + verdicts.count([None]) == 200
    assert 40 < len(refused) < 160
    assert refused[0].retry_after_s is not None
    # What was told makes room again.
    monkeypatch.setattr(failpoints, "hook", None)
    assert await accept(journal, entry(b"x" * 1000)) == [None]


async def test_the_size_is_that_of_the_files(journal, path):
    before = journal.size_bytes()
    for _ in range(30):
        await accept(journal, entry(b"x" * 1_000_000))
    assert 30_000_000 < journal.size_bytes() - before < 70_000_000


# -- Callers that misbehave -----------------------------------------------------------------------


async def test_a_caller_that_fails_does_not_keep_the_others_from_being_told(journal):
    problems: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: problems.append(str(context["exception"])))

    def broken(verdict: object) -> None:
        raise ValueError("a bug")

    last = Once()
    for _ in range(3):
        journal.accept([entry()], broken)
    journal.accept([entry()], last)
    assert await last.verdict() == [None]
    await anyio.lowlevel.checkpoint()
    loop.set_exception_handler(None)
    assert set(problems) == {"a bug"}
    assert await accept(journal, entry()) == [None]


async def test_a_caller_that_is_gone_finds_its_invocation_by_the_key(journal):
    new = entry(key="k", digest=b"1")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await accept(journal, new)
    assert scope.cancelled_caught
    again = await accept(journal, entry(key="k", digest=b"1"))
    assert again[0] is not None
    assert again[0].id == new.record.id


# -- Reading --------------------------------------------------------------------------------------


async def test_payloads_do_not_wait_for_lists(path):
    """The list hangs; a payload that is to be sent is read all the same."""
    hang, hanging = threading.Event(), threading.Event()
    readers = 0

    def slow(path: Path, mode: Mode) -> Connection:
        nonlocal readers
        connection = connect(path, mode)
        readers += mode == "ro"
        if readers == 1 and mode == "ro":
            hanging.set()
            assert hang.wait(20)
        return connection

    journal = await open_at(path, connect=slow)
    await accept(journal, new := entry(b"payload"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.find, Query())
        assert await anyio.to_thread.run_sync(hanging.wait, 20)
        with anyio.fail_after(60):
            assert await journal.payload(new.record.id) == b"payload"
        hang.set()
    await journal.aclose()


async def test_a_file_that_is_damaged_meanwhile_is_said_to_be(journal, path):
    await accept(journal, *[entry() for _ in range(1000)])
    await journal.aclose()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096  # its ends are looked at before it is opened
    content[middle : middle + 40960] = b"\xff" * 40960
    path.write_bytes(content)
    again = await open_at(path)
    with pytest.raises(JournalDamaged):
        await recovered(again)
    await again.aclose()


async def test_nothing_is_read_after_the_close(journal):
    await accept(journal, new := entry())
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.get(new.record.id)
    with pytest.raises(JournalError, match="closed"):
        await recovered(journal)


# -- The close ------------------------------------------------------------------------------------


async def test_a_close_that_is_cancelled_closes_all_the_same(journal, path):
    done = Once()
    journal.accept([entry()], done)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.aclose()
    assert await done.verdict() == [None]
    await (await open_at(path)).aclose()


async def test_a_close_does_not_wait_for_ever(path, monkeypatch, caplog):
    monkeypatch.setattr(sqlite, "CLOSE_MAX_S", 0.05)
    go_on = threading.Event()
    journal = await open_at(path)
    monkeypatch.setattr(failpoints, "hook", lambda point: go_on.wait(20))
    done = Once()
    journal.accept([entry()], done)
    with anyio.fail_after(60):
        await journal.aclose()
    assert "was not closed" in caplog.text
    go_on.set()
    assert await done.verdict() == [None]
    monkeypatch.setattr(sqlite, "CLOSE_MAX_S", 10)
    await journal.aclose()


async def test_two_closes_at_the_same_time(journal):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.aclose)
        tasks.start_soon(journal.aclose)


def test_a_loop_that_ends_without_a_close_leaves_the_file_good(path):
    async def careless() -> str:
        journal = await open_at(path)
        await accept(journal, new := entry())
        journal.accept([entry()], lambda verdict: None)
        return new.record.id

    kept_id = asyncio.run(careless())

    async def later() -> list[str]:
        # The lock is still held by the thread of the first: look without one.
        connection = connect(path, "ro")
        rows = connection.execute("SELECT id FROM invocations").fetchall()
        connection.close()
        return [row[0] for row in rows]

    assert kept_id in asyncio.run(later())
