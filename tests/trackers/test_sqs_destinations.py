"""The tracker against a queue in memory, on virtual time; see tests/real for true ones."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from dispatcher.config import AccountSettings
from dispatcher.core.model import Completion, Provider
from dispatcher.trackers import sqs_destinations
from dispatcher.trackers.sqs_destinations import POLLERS_MAX, VISIBILITY_S, SqsDestinations
from dispatcher.trackers.sqs_inbox import KEEP_S
from tests.trackers.fake_fc import watched
from tests.trackers.fake_sqs import FakeSqs, record

ACCOUNT = AccountSettings(
    provider=Provider.AWS_LAMBDA,
    account_id="123456789012",
    region="eu-west-3",
    quota=10,
    completion_queue="https://sqs.eu-west-3.amazonaws.com/123456789012/ends",
)


class Refusal(Exception):
    """An error as botocore raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class Watching:
    """A tracker, its queue, and the news that it brought."""

    def __init__(self, sqs: FakeSqs, commit_s: float | None) -> None:
        self.sqs = sqs
        self.tracker = SqsDestinations(ACCOUNT, name="a", clients=sqs, uniform=lambda: 1.0)
        self.ends: list[tuple[float, Completion]] = []
        self.commit_s = commit_s
        self.uncommitted: list[Callable[[], None]] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    def report(self, completion: Completion, done: Callable[[], None] | None) -> None:
        assert done is not None
        self.ends.append((anyio.current_time(), completion))
        if self.commit_s is None:
            self.uncommitted.append(done)
        elif self.commit_s == 0.0:
            done()
        else:
            assert self._tasks is not None
            self._tasks.start_soon(self._commit, done)

    async def _commit(self, done: Callable[[], None]) -> None:
        assert self.commit_s is not None
        await anyio.sleep(self.commit_s)
        done()

    async def run(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            await self.tracker.run(self.report)


@asynccontextmanager
async def watching(
    sqs: FakeSqs | None = None, *, commit_s: float | None = 0.001
) -> AsyncIterator[Watching]:
    made = Watching(sqs or FakeSqs(), commit_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        yield made
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("commit_s", [0.0, 0.001, 5.0])
async def test_ends_are_told_at_once_and_deleted_in_batches_after_the_commit(commit_s):
    async with watching(commit_s=commit_s) as w:
        for number in range(50):
            w.tracker.watch(watched(number, 0.0))
        await anyio.sleep(3.0)
        w.sqs.send(*(record(f"r{number}-1") for number in range(50)))
        await anyio.sleep(1.0)
        assert len(w.ends) == 50
        assert all(at < 3.2 for at, _ in w.ends)
        await anyio.sleep(commit_s + 1.0)
        assert w.sqs.messages == {}
        assert len(w.sqs.delete_sizes) <= 8
        assert w.tracker.snapshot().deleted == 50


async def test_a_message_whose_end_is_not_in_the_journal_comes_again():
    async with watching(commit_s=None) as w:
        w.tracker.watch(watched(1, 0.0))
        w.sqs.send(record("r1-1"))
        await anyio.sleep(2 * VISIBILITY_S + 10.0)
        assert len(w.ends) == 1
        assert w.sqs.messages["1"].deliveries == 3
        w.uncommitted.pop()()
        await anyio.sleep(1.0)
        assert w.sqs.messages == {}


async def test_an_idle_queue_is_asked_three_times_a_minute():
    async with watching() as w:
        await anyio.sleep(600.0)
        assert w.sqs.receives == pytest.approx(30, abs=1)


async def test_under_load_there_are_more_pollers_and_later_one_again():
    async with watching(FakeSqs(latency_s=0.05)) as w:
        numbers = range(3000)
        for number in numbers:
            w.tracker.watch(watched(number, 0.0))
        w.sqs.send(*(record(f"r{number}-1") for number in numbers))
        await anyio.sleep(4.0)
        assert len(w.ends) == 3000
        assert w.sqs.receiving_max == POLLERS_MAX
        await anyio.sleep(60.0)
        assert w.tracker.snapshot().pollers == 1
        assert w.sqs.messages == {}
        assert len(w.sqs.delete_sizes) < 320


async def test_a_journal_that_is_slow_stops_the_receiving(monkeypatch):
    monkeypatch.setattr(sqs_destinations, "UNSETTLED_MAX", 100)
    async with watching(commit_s=None) as w:
        for number in range(500):
            w.tracker.watch(watched(number, 0.0))
        w.sqs.send(*(record(f"r{number}-1") for number in range(500)))
        await anyio.sleep(5.0)
        assert 100 <= len(w.ends) < 100 + 10 * POLLERS_MAX
        w.commit_s = 0.0
        for done in w.uncommitted:
            done()
        await anyio.sleep(5.0)
        assert len(w.ends) == 500
        assert w.sqs.messages == {}


async def test_a_record_may_come_before_its_run_is_watched():
    async with watching() as w:
        w.sqs.send(record("r1-1"))
        await anyio.sleep(10.0)
        assert w.ends == []
        assert len(w.sqs.messages) == 1
        w.tracker.watch(watched(1, 0.0))
        ((at, _),) = w.ends
        assert at == 10.0
        await anyio.sleep(1.0)
        assert w.sqs.messages == {}


async def test_records_of_strangers_are_deleted_when_nobody_has_wanted_them():
    async with watching() as w:
        w.sqs.send(record("of somebody else"), "garbage")
        await anyio.sleep(1.0)
        assert len(w.sqs.messages) == 1
        await anyio.sleep(KEEP_S)
        assert w.sqs.messages == {}
        counts = w.tracker.snapshot().counts
        assert (counts.foreign, counts.unreadable, counts.reported) == (1, 1, 0)


@pytest.mark.parametrize(
    "error",
    [
        Refusal("AWS.SimpleQueueService.NonExistentQueue"),
        Refusal("ExpiredToken"),
        ConnectionError("reset"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__ + str(error),
)
async def test_no_error_ends_the_watch(error, caplog):
    sqs = FakeSqs()
    sqs.errors = [error] * 12
    async with watching(sqs) as w:
        w.tracker.watch(watched(1, 0.0))
        w.sqs.send(record("r1-1"))
        await anyio.sleep(300.0)
        assert len(w.ends) == 1
        assert w.tracker.snapshot().failures == 12
        assert sqs.refusals == (12 if "Expired" in str(error) else 0)
    assert (
        "account a: cannot receive from the completion queue (failure 12 in a row)" in caplog.text
    )


async def test_errors_are_not_asked_for_all_the_time():
    sqs = FakeSqs()
    sqs.errors = [ConnectionError("reset")] * 1000
    async with watching(sqs):
        await anyio.sleep(300.0)
        assert sqs.receives < 20


async def test_deletions_that_fail_are_tried_again():
    sqs = FakeSqs()
    sqs.delete_errors = [ConnectionError("reset")] * 2
    sqs.undeletable = 3
    async with watching(sqs) as w:
        for number in range(10):
            w.tracker.watch(watched(number, 0.0))
        w.sqs.send(*(record(f"r{number}-1") for number in range(10)))
        await anyio.sleep(10.0)
        # Three tries were not enough for three of them; they come again as repeats.
        assert len(w.sqs.messages) == 3
        await anyio.sleep(VISIBILITY_S)
        assert w.sqs.messages == {}
        assert len(w.ends) == 10


async def test_deletions_that_are_wrong_in_themselves_are_not_tried_again():
    sqs = FakeSqs()
    sqs.undeletable, sqs.undeletable_by_fault_of_the_sender = 1, True
    async with watching(sqs) as w:
        w.tracker.watch(watched(1, 0.0))
        w.sqs.send(record("r1-1"))
        await anyio.sleep(10.0)
        assert sqs.delete_sizes == [1]
        assert w.tracker.snapshot().deleted == 0


async def test_at_the_end_the_done_are_deleted_and_the_rest_given_back():
    sqs = FakeSqs()
    async with watching(sqs, commit_s=None) as w:
        w.tracker.watch(watched(1, 0.0))
        w.tracker.watch(watched(2, 0.0))
        w.sqs.send(record("r1-1"), record("r2-1"), record("unknown"))
        await anyio.sleep(1.0)
        w.uncommitted.pop(0)()
    assert [each.body for each in sqs.messages.values()] == [record("r2-1"), record("unknown")]
    assert all(each.visible_at <= anyio.current_time() for each in sqs.messages.values())
    assert sqs.closed


async def test_a_queue_that_hangs_does_not_hold_up_the_end():
    sqs = FakeSqs()
    async with watching(sqs, commit_s=None) as w:
        w.sqs.send(record("unknown"))
        await anyio.sleep(1.0)
        sqs.latency_s = 1e6
        begin = anyio.current_time()
    assert anyio.current_time() - begin < 10.0
