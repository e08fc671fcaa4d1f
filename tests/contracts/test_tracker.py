"""
What every tracker promises the engine.

On virtual time against a cloud and a queue in memory; on the wall clock against the emulator,
through the transports that the dispatcher uses, with functions that run for a fraction of a
second.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import anyio
import pytest
from msgspec.structs import replace

from dispatcher.config import AccountSettings, StaticCredentials
from dispatcher.core.model import Accepted, Call, CallType, Completion, Provider, Verdict, Watched
from dispatcher.emulator import Account, Emulator, Function, Records, Settings
from dispatcher.ports import Tracker
from dispatcher.trackers.fc_tasks import FcTasks
from dispatcher.trackers.sqs_destinations import SqsDestinations
from dispatcher.transports import open_transport
from tests.trackers.fake_fc import FakeFc, watched
from tests.trackers.fake_sqs import FakeSqs, record

RUN_S = 0.4
FUNCTIONS = ("f", "failing", "mute")


class World(Protocol):
    """A cloud in which functions run, and trackers for it."""

    patience_s: float
    """Within which all news has come, on the loop's clock."""
    doubled_s: float
    """Within which news that is doubled or late comes after the first."""

    async def begin(self, run: Watched) -> Watched:
        """
        Begin a run, and return it with the request id and the time of its 202.

        `f` succeeds after `RUN_S`, `failing` fails, and of `mute` no news ever comes.
        """
        ...

    def tracker(self) -> Tracker:
        """Return a new tracker, as after a restart."""
        ...


class MemoryFc:
    patience_s = 30.0
    doubled_s = 6.0

    def __init__(self) -> None:
        self.fc = FakeFc()
        # A task that is not known but was accepted, and will never be.
        self.fc.registered_s = 0.05

    async def begin(self, run: Watched) -> Watched:
        task = self.fc.submit(run.function, run.task_id, RUN_S)
        if run.function == "failing":
            task.end = "Failed"
        if run.function == "mute":
            task.status = "Running"
        return replace(run, sent_at=anyio.current_time())

    def tracker(self) -> Tracker:
        return FcTasks(self.fc.manage, account="a", on_tracking=unexpected)


class MemorySqs:
    """Each record comes twice, and the second one late."""

    patience_s = 200.0
    doubled_s = 10.0

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.sqs = FakeSqs()
        self._tasks = tasks

    async def begin(self, run: Watched) -> Watched:
        self._tasks.start_soon(self._run, run)
        return replace(run, sent_at=anyio.current_time())

    async def _run(self, run: Watched) -> None:
        await anyio.sleep(RUN_S)
        condition = "RetriesExhausted" if run.function == "failing" else "Success"
        if run.function != "mute":
            self.sqs.send(record(run.request_id, condition, at=anyio.current_time()))
            await anyio.sleep(7.0)
            self.sqs.send(record(run.request_id, condition, at=anyio.current_time()))

    def tracker(self) -> Tracker:
        self.sqs.closed = False
        return SqsDestinations(ACCOUNT, name="a", clients=self.sqs, uniform=lambda: 0.5)


class Emulated:
    """Either provider at the emulator."""

    patience_s = 60.0
    doubled_s = 1.0

    def __init__(self, account: AccountSettings, transport: Any) -> None:
        self.account = account
        self.transport = transport

    async def begin(self, run: Watched) -> Watched:
        sent_at = anyio.current_time()
        outcome = await self.transport.send(
            Call(
                function=run.function,
                qualifier=run.qualifier,
                type=CallType.ASYNC,
                task_id=run.task_id,
                payload=b'{"a":1}',
            )
        )
        assert isinstance(outcome, Accepted), outcome
        return replace(run, sent_at=sent_at, request_id=outcome.request_id)

    def tracker(self) -> Tracker:
        if self.account.provider is Provider.ALIYUN_FC:
            return FcTasks(self.transport.manage, account="a", on_tracking=unexpected)
        return SqsDestinations(self.account, name="a")


ACCOUNT = AccountSettings(
    provider=Provider.AWS_LAMBDA,
    account_id="123456789012",
    region="eu-west-3",
    quota=10,
    completion_queue="https://sqs.eu-west-3.amazonaws.com/123456789012/ends",
)


def unexpected(function: str, qualifier: str | None, problem: str | None) -> None:
    raise AssertionError((function, qualifier, problem))


def emulator_settings() -> Settings:
    once = Function(duration_s=RUN_S, max_async_retry_attempts=0)
    queued = replace(once, on_success="ends", on_failure="ends")
    return Settings(
        accounts={
            "fc": Account(
                provider="aliyun-fc",
                account_id="1000000000000000",
                region="cn-shanghai",
                quota=100,
                keys={"AK": "SK"},
                functions={
                    "f": replace(once, task_registration_s=0.1),
                    "failing": replace(once, failure_rate=1.0),
                    "mute": Function(duration_s=3600.0, timeout_s=7200.0),
                },
            ),
            "aws": Account(
                provider="aws-lambda",
                account_id="123456789012",
                region="eu-west-3",
                quota=100,
                keys={"AK": "SK"},
                queues=("ends",),
                functions={
                    "f": queued,
                    "failing": replace(queued, failure_rate=1.0),
                    "mute": once,
                },
            ),
        },
        records=Records(doubled=1.0),
        seed=1,
    )


@asynccontextmanager
async def emulated(provider: Provider, path: Any) -> AsyncIterator[World]:
    secret = path / "secret"
    secret.write_text("SK")
    secret.chmod(0o600)
    async with Emulator(emulator_settings()) as emulator:
        fc = provider is Provider.ALIYUN_FC
        account = AccountSettings(
            provider=provider,
            account_id="1000000000000000" if fc else "123456789012",
            region="cn-shanghai" if fc else "eu-west-3",
            quota=100,
            endpoint=emulator.url,
            completion_queue=None if fc else f"{emulator.url}/123456789012/ends",
            credentials=StaticCredentials(access_key_id="AK", access_key_secret_file=str(secret)),
        )
        transport = await open_transport(account, name="a")
        try:
            yield Emulated(account, transport)
        finally:
            await transport.aclose()


WORLDS = [
    "tasks in memory",
    "queue in memory",
    pytest.param("emulated tasks", marks=pytest.mark.real_time),
    pytest.param("emulated queue", marks=pytest.mark.real_time),
]


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        match request.param:
            case "tasks in memory":
                yield MemoryFc()
            case "queue in memory":
                tasks = await stack.enter_async_context(anyio.create_task_group())
                yield MemorySqs(tasks)
                tasks.cancel_scope.cancel()
            case "emulated tasks":
                yield await stack.enter_async_context(emulated(Provider.ALIYUN_FC, tmp_path))
            case _:
                yield await stack.enter_async_context(emulated(Provider.AWS_LAMBDA, tmp_path))


class News:
    """What a tracker told, with a journal that takes a moment."""

    def __init__(self) -> None:
        self.ends: list[Completion] = []
        self._came = anyio.Event()
        self._done: list[Callable[[], None]] = []

    def report(self, completion: Completion, done: Callable[[], None] | None) -> None:
        self.ends.append(completion)
        self._came.set()
        if done is not None:
            self._done.append(done)

    async def commit(self) -> None:
        while True:
            await anyio.sleep(0.01)
            for done in self._done:
                done()
            self._done.clear()

    def of(self, run: Watched) -> list[Completion]:
        return [end for end in self.ends if (end.id, end.attempt) == (run.id, run.attempt)]

    async def wait_for(self, *runs: Watched, within_s: float) -> None:
        with anyio.move_on_after(within_s):
            while not all(self.of(run) for run in runs):
                self._came = anyio.Event()
                await self._came.wait()
        missing = [run.id for run in runs if not self.of(run)]
        assert not missing, missing


@asynccontextmanager
async def running(tracker: Tracker, news: News | None = None) -> AsyncIterator[News]:
    news = news or News()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run, news.report)
        tasks.start_soon(news.commit)
        yield news
        tasks.cancel_scope.cancel()


async def test_ends_are_told_once_and_with_how_they_were(world: World):
    tracker = world.tracker()
    async with running(tracker) as news:
        good = [await world.begin(watched(n, 0.0)) for n in range(1, 12)]
        bad = await world.begin(watched(50, 0.0, function="failing"))
        for run in (*good, bad):
            tracker.watch(run)
        await news.wait_for(*good, bad, within_s=world.patience_s)
        await anyio.sleep(world.doubled_s)
    assert len(news.ends) == 12
    assert {news.of(run)[0].verdict for run in good} == {Verdict.SUCCEEDED}
    (failed,) = news.of(bad)
    assert failed.verdict is Verdict.FAILED
    assert failed.failure is not None
    assert failed.failure.kind == "function_error"


async def test_an_end_that_comes_before_its_run_is_watched_is_told(world: World):
    tracker = world.tracker()
    async with running(tracker) as news:
        run = await world.begin(watched(1, 0.0))
        await anyio.sleep(RUN_S + 0.5)
        assert news.ends == []
        tracker.watch(run)
        await news.wait_for(run, within_s=world.patience_s)


async def test_what_is_not_watched_is_not_told(world: World):
    tracker = world.tracker()
    async with running(tracker) as news:
        await world.begin(watched(1, 0.0))
        run = await world.begin(watched(2, 0.0))
        tracker.watch(run)
        await news.wait_for(run, within_s=world.patience_s)
        await anyio.sleep(1.0)
    assert [end.id for end in news.ends] == [run.id]


async def test_a_run_without_news_holds_up_nobody(world: World):
    tracker = world.tracker()
    async with running(tracker) as news:
        mute = await world.begin(watched(1, 0.0, function="mute"))
        tracker.watch(mute)
        runs = [await world.begin(watched(n, 0.0)) for n in range(2, 6)]
        for run in runs:
            tracker.watch(run)
        await news.wait_for(*runs, within_s=world.patience_s)
        assert news.of(mute) == []
        tracker.forget(mute.id)
        await anyio.sleep(0.5)
    assert len(news.ends) == 4


async def test_forgetting_is_harmless_to_others_and_to_nobody(world: World):
    tracker = world.tracker()
    tracker.forget("never heard of")
    async with running(tracker) as news:
        first = await world.begin(watched(1, 0.0))
        second = await world.begin(watched(2, 0.0))
        tracker.watch(first)
        tracker.watch(second)
        tracker.forget(first.id)
        tracker.forget(first.id)
        await news.wait_for(second, within_s=world.patience_s)
        # It may be told all the same, or is once it is watched again; never twice.
        tracker.watch(first)
        await news.wait_for(first, within_s=world.patience_s)
    assert len(news.of(first)) == 1


async def test_the_next_attempt_has_an_end_of_its_own(world: World):
    tracker = world.tracker()
    async with running(tracker) as news:
        first = await world.begin(watched(1, 0.0, function="failing"))
        tracker.watch(first)
        await news.wait_for(first, within_s=world.patience_s)
        second = await world.begin(
            replace(watched(1, 0.0, attempt=2), request_id=f"{first.request_id}-second")
        )
        tracker.watch(second)
        await news.wait_for(second, within_s=world.patience_s)
    assert [end.verdict for end in news.of(first)] == [Verdict.FAILED]
    assert [end.verdict for end in news.of(second)] == [Verdict.SUCCEEDED]


async def test_after_a_restart_ends_from_before_and_meanwhile_are_told(world: World):
    before = world.tracker()
    async with running(before):
        runs = [await world.begin(watched(n, 0.0)) for n in range(1, 6)]
        for run in runs[:3]:
            before.watch(run)
    # What ends now ends while nobody watches.
    await anyio.sleep(RUN_S + 0.2)
    after = world.tracker()
    for run in runs:
        after.watch(replace(run, sent_at=run.sent_at - 1000.0))
    async with running(after) as news:
        await news.wait_for(*runs, within_s=world.patience_s)


async def test_a_watch_that_is_cancelled_can_be_taken_up_again(world: World):
    tracker, news = world.tracker(), News()
    runs = [await world.begin(watched(n, 0.0)) for n in range(1, 6)]
    for run in runs:
        tracker.watch(run)
    for _ in range(5):
        async with running(tracker, news):
            await anyio.sleep(0.05)
        if isinstance(world, MemorySqs):
            world.sqs.closed = False
    async with running(tracker, news):
        await news.wait_for(*runs, within_s=world.patience_s)
