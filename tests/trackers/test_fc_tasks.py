"""The tracker against whole clouds in memory, on virtual time."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from dispatcher.core.model import Completion, Verdict
from dispatcher.trackers.fc_tasks import REQUESTS_IN_FLIGHT_MAX, FcTasks, ManageReply
from dispatcher.trackers.fc_watchlist import PROBE_S, REQUESTS_BURST, REQUESTS_MAX_PER_S
from tests.trackers.fake_fc import FakeFc, denied, lost, not_sent, throttled, watched


class Watching:
    """A tracker that watches tasks of a fake cloud, and the news that it brought."""

    def __init__(self, fc: FakeFc) -> None:
        self.fc = fc
        self.tracking: list[tuple[str, str | None, str | None]] = []
        self.tracker = FcTasks(
            fc.manage, account="a", on_tracking=lambda *news: self.tracking.append(news)
        )
        self.ends: list[tuple[float, Completion]] = []
        self.on_end: Callable[[Completion], None] = lambda _: None

    def report(self, completion: Completion, done: Callable[[], None] | None) -> None:
        assert done is None
        self.ends.append((anyio.current_time(), completion))
        self.on_end(completion)

    def run(self, number: int, run_s: float, *, start_s: float = 0.0, function: str = "f") -> None:
        watch = watched(number, anyio.current_time(), function=function)
        self.fc.submit(function, watch.task_id, run_s, start_s)
        self.tracker.watch(watch)

    def lags(self) -> list[float]:
        """Return how long after its true end each end was told."""
        tasks = {id_: task for of in self.fc.tasks.values() for id_, task in of.items()}
        return sorted(at - tasks[end.id].ended_at for at, end in self.ends)


@asynccontextmanager
async def watching(fc: FakeFc | None = None) -> AsyncIterator[Watching]:
    made = Watching(fc or FakeFc())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.tracker.run, made.report)
        yield made
        tasks.cancel_scope.cancel()


async def test_ends_are_told_with_their_times():
    async with watching() as w:
        # Enough replies that the clocks are known to agree.
        for number in range(40):
            w.run(number, 1.5, start_s=0.25)
            await anyio.sleep(0.613)
        await anyio.sleep(3.0)
    assert len(w.ends) == 40
    assert all(end.verdict is Verdict.SUCCEEDED for _, end in w.ends)
    assert all(end.run_s == 1.5 for _, end in w.ends)
    delays = [end.start_delay_s for _, end in w.ends if end.start_delay_s is not None]
    assert len(delays) > 20
    assert all(delay_s == pytest.approx(0.25, abs=0.3) for delay_s in delays)
    assert w.tracker.snapshot().ends == 40
    assert w.tracker.snapshot().watched == 0


async def test_nothing_is_asked_while_nothing_runs():
    async with watching() as w:
        await anyio.sleep(3600.0)
        w.run(1, 1.0)
        await anyio.sleep(3600.0)
        assert 2 <= len(w.fc.requests) < 20


@pytest.mark.parametrize(
    ("count", "run_s", "share_min"),
    [
        pytest.param(10, (1.0, 2.0), 0.92, id="10 of 1 to 2 s"),
        pytest.param(300, (1.0, 2.0), 0.92, id="300 of 1 to 2 s"),
        pytest.param(300, (30.0, 90.0), 0.92, id="300 of 30 to 90 s"),
    ],
)
async def test_slots_are_held_hardly_longer_than_functions_run(count, run_s, share_min):
    rng = random.Random(1)
    horizon_s = 20.0 * run_s[0]
    async with watching() as w:
        numbers = iter(range(10**6))

        def begin(_: object = None) -> None:
            if anyio.current_time() < horizon_s:
                w.run(next(numbers), rng.uniform(*run_s))

        w.on_end = begin
        for _ in range(count):
            begin()
        await anyio.sleep(horizon_s + 2.0 * run_s[1])
        tasks = w.fc.tasks["f"]
        assert len(w.ends) == len(tasks)  # each exactly once
        ran_s = sum(tasks[end.id].ended_at - tasks[end.id].sent_at for _, end in w.ends)
        held_s = sum(at - tasks[end.id].sent_at for at, end in w.ends)
        print(f"\n{len(tasks)} runs, {len(w.fc.requests) / horizon_s:.1f} requests/s, "
              f"instances used {ran_s / held_s:.3f} of the time held")  # fmt: skip
        assert ran_s / held_s >= share_min
        assert w.fc.busiest_second() <= REQUESTS_MAX_PER_S + REQUESTS_BURST


@pytest.mark.parametrize("ids", ["ours", "strange"])
async def test_watching_thousands_stays_within_the_budget(ids):
    rng = random.Random(1)
    async with watching() as w:
        for number in range(2000):
            watch = watched(number, anyio.current_time())
            if ids == "strange":
                watch = msgspec.structs.replace(watch, task_id=f"x{rng.getrandbits(128):032x}")
            w.fc.submit("f", watch.task_id, rng.uniform(10.0, 30.0))
            w.tracker.watch(watch)
            if number % 100 == 0:
                await anyio.sleep(1.0)
        await anyio.sleep(40.0)
        assert len(w.ends) == 2000
        assert len({end.id for _, end in w.ends}) == 2000
        assert w.fc.busiest_second() <= REQUESTS_MAX_PER_S + REQUESTS_BURST
        # Singly it would have taken several requests for each.
        assert len(w.fc.requests) < 2000


@pytest.mark.parametrize("flaw", ["no filters", "no lists", "clock of the cloud is wrong"])
async def test_an_api_with_a_flaw_costs_requests_but_no_ends(flaw):
    fc = FakeFc(wall_offset_s=12_345.0 if flaw == "clock of the cloud is wrong" else 1.8e9)
    fc.list_filters = flaw != "no filters"
    if flaw == "no lists":
        fc.denied.add("ListAsyncTasks")
    rng = random.Random(1)
    async with watching(fc) as w:
        for number in range(200):
            w.run(number, rng.uniform(5.0, 10.0))
        await anyio.sleep(40.0)
        assert len(w.ends) == 200
        assert w.lags()[-1] < 15.0


async def test_tasks_that_are_registered_late_are_found():
    fc = FakeFc()
    fc.registered_s = 2.0
    async with watching(fc) as w:
        for number in range(5):
            w.run(number, 1.0)
        await anyio.sleep(5.0)
        assert len(w.ends) == 5
        assert w.tracking == []


@pytest.mark.parametrize("status", ["Retrying", "Stopping", "Dequeued", "HeldForReview"])
async def test_a_status_that_is_no_end_is_waited_through(status):
    async with watching() as w:
        w.run(1, 2.0)
        task = w.fc.tasks["f"]["i0000000001"]
        task.status = status
        await anyio.sleep(100.0)
        assert w.ends == []
        task.status, task.end = None, "Stopped"
        await anyio.sleep(60.0)
        ((_, end),) = w.ends
        assert end.verdict is Verdict.STOPPED


async def test_task_mode_that_is_off_is_reported_and_noticed_when_it_is_on():
    fc = FakeFc()
    fc.task_mode["f"] = False
    async with watching(fc) as w:
        w.run(1, 30.0)
        w.run(2, 30.0, function="g")
        await anyio.sleep(60.0)
        function, qualifier, problem = w.tracking[0]
        assert (function, qualifier) == ("f", None)
        assert problem is not None
        assert "task mode is off" in problem
        # The engine goes by estimates now, and forgets the run at its estimated end.
        w.tracker.forget("i0000000001")
        fc.task_mode["f"] = True
        w.run(3, 30.0)
        await anyio.sleep(PROBE_S + 60.0)
        assert w.tracking[-1] == ("f", None, None)
        assert set(w.tracking[:-1]) == {("f", None, problem)}
        assert {end.id for _, end in w.ends} == {"i0000000002", "i0000000003"}


async def test_a_task_that_is_not_found_among_others_is_no_proof_of_anything():
    async with watching() as w:
        w.run(1, 1.0)
        await anyio.sleep(3.0)
        w.tracker.watch(watched(2, anyio.current_time()))  # its submission was lost
        await anyio.sleep(600.0)
        assert len(w.ends) == 1
        assert w.tracking == []


@pytest.mark.parametrize(
    "fault",
    [
        throttled(),
        throttled(5.0),
        denied("InvalidAccessKeyId"),
        lost(),
        not_sent(),
        (500, {}, b'{"Code":"InternalServerError","Message":"oops"}'),
        (502, {}, b"<html>bad gateway</html>"),
        (200, {}, b"<html>welcome to the hotel</html>"),
        (200, {}, b"{}"),
        (200, {}, b'{"status":""}'),
        (301, {}, b""),
    ],
    ids=lambda fault: type(fault).__name__ if not isinstance(fault, tuple) else str(fault[::2]),
)
async def test_no_trouble_loses_an_end(fault: ManageReply):
    fc = FakeFc()
    fc.faults = [fault] * 5
    async with watching(fc) as w:
        for number in range(5):
            w.run(number, 1.0)
        await anyio.sleep(60.0)
        assert len(w.ends) == 5
        assert w.tracking == []
        asked = w.tracker.snapshot()
        # To a listing, an empty object is a page without tasks.
        assert 3 <= asked.failed + asked.throttled <= 5


@pytest.mark.parametrize("seed", range(8))
async def test_no_mixture_of_troubles_loses_or_doubles_an_end(seed):
    rng = random.Random(seed)
    fc = FakeFc(latency_s=rng.choice([0.01, 0.5, 3.0]))
    fc.registered_s = rng.choice([0.0, 2.0])
    fc.list_filters = rng.random() < 0.7
    troubles: list[ManageReply] = [throttled(), lost(), denied("Signature"), (503, {}, b"")]
    fc.spoil = lambda reply: rng.choice(troubles) if rng.random() < 0.15 else reply
    running, forgotten = set(range(200)), set()
    async with watching(fc) as w:
        for number in running:
            w.run(number, rng.lognormvariate(1.0, 1.5), function=f"f{number % 3}")
            await anyio.sleep(rng.expovariate(20.0))
            if rng.random() < 0.1:
                forgotten.add(number)
                w.tracker.forget(f"i0000{number:06d}")
        await anyio.sleep(900.0)
    told = [int(end.id[1:]) for _, end in w.ends]
    assert len(told) == len(set(told))
    assert set(told) == running - forgotten
    assert w.tracking == []


async def test_a_hundred_errors_in_a_row_are_not_a_hundred_requests_a_second():
    fc = FakeFc()
    fc.faults = [lost()] * 1000
    async with watching(fc) as w:
        w.run(1, 1.0)
        await anyio.sleep(600.0)
        assert len(fc.requests) < 40
        fc.faults.clear()
        await anyio.sleep(60.0)
        assert len(w.ends) == 1


async def test_an_api_that_throttles_gets_as_much_as_it_bears():
    fc = FakeFc()
    fc.rate_max = 5
    rng = random.Random(1)
    async with watching(fc) as w:
        for number in range(300):
            w.run(number, rng.uniform(5.0, 20.0), function=f"f{number % 30}")
        await anyio.sleep(120.0)
        assert len(w.ends) == 300
        assert len(fc.requests) / 120.0 < 8.0


async def test_a_slow_api_is_asked_only_so_many_things_at_the_same_time():
    fc = FakeFc(latency_s=5.0)
    async with watching(fc) as w:
        for number in range(20):
            w.run(number, 1.0, function=f"f{number}")
        await anyio.sleep(4.9)
        assert len(fc.requests) == REQUESTS_IN_FLIGHT_MAX
        await anyio.sleep(100.0)
        assert len(w.ends) == 20


async def test_a_run_that_was_asked_to_stop_is_soon_seen_to_have_stopped():
    async with watching() as w:
        for number in range(10):
            w.run(number, 3600.0)
        await anyio.sleep(3700.0)
        w.run(20, 3600.0)
        w.tracker.hurry("never heard of")
        await anyio.sleep(300.0)
        # By what was learned nobody would look for most of an hour.
        asked = len(w.fc.requests)
        w.tracker.hurry("i0000000020")
        await anyio.sleep(8.0)
        assert w.ends[-1][1].id != "i0000000020"
        task = w.fc.tasks["f"]["i0000000020"]
        task.ended_at, task.end = anyio.current_time(), "Stopped"
        await anyio.sleep(1.5)
        assert (w.ends[-1][1].id, w.ends[-1][1].verdict) == ("i0000000020", Verdict.STOPPED)
        assert len(w.fc.requests) - asked < 60


async def test_a_pause_is_ended_by_a_run_that_is_due_earlier():
    async with watching() as w:
        w.run(1, 1000.0)
        await anyio.sleep(900.0)
        w.run(2, 1.0)
        await anyio.sleep(5.0)
        assert [end.id for _, end in w.ends] == ["i0000000002"]


async def test_results_are_told_where_they_are_kept():
    async with watching() as w:
        for number in range(12):
            w.run(number, 2.0)
            w.fc.tasks["f"][f"i0000{number:06d}"].result = f'"{number}"'
        await anyio.sleep(10.0)
        results = {end.result for _, end in w.ends}
        assert results == {f'"{number}"'.encode() for number in range(12)}
