import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatcher.core.model import Change, Completion, Query, Record, State, Verdict
from dispatcher.core.views import End
from dispatcher.engine import Ticket
from dispatcher.engine.waking import WAKE_AT_ONCE
from dispatcher.errors import JournalError
from dispatcher.journals.memory import MemoryJournal
from dispatcher.ports import ChangeDone
from tests.engine.rig import ScriptedTransport, SlowToTell, rig, settings

CALLBACK = '[accounts.main.functions.cb]\ncompletion = "callback"\nhold_max_s = 60\n'


async def test_a_callback_ends_the_slot_and_repeats_do_nothing():
    async with rig(settings(more=CALLBACK)) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(3)
        news = Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b"1")
        await r.engine.complete(news)
        await r.engine.complete(news)
        end = await ticket.ended()
        assert (end.state, end.result, end.estimated) == (State.SUCCEEDED, b"1", False)
        assert r.engine.account("main").in_use == 0
        assert r.engine.statistics().late_completions == {("main",): 0}


async def test_who_waits_for_an_end_when_the_engine_ends_is_told_after_the_last_ends():
    journal = SlowToTell(retention_s=86400)
    heard: list[str] = []

    async def hear(ticket: Ticket) -> None:
        try:
            heard.append((await ticket.ended()).state)
        except JournalError as error:
            heard.append(str(error))

    async with anyio.create_task_group() as tasks, rig(journal=journal) as r:
        r.engine.pause("main")
        cancelled, waiting = r.enqueue(), r.enqueue()
        await waiting.accepted()
        tasks.start_soon(hear, cancelled)
        tasks.start_soon(hear, waiting)
        await anyio.sleep(1)
        untold: list[Any] = []
        journal.untold = untold
        tasks.start_soon(r.engine.cancel, cancelled.id)
        await anyio.sleep(1)
        r.engine.stop()
        await r.engine.stopped()
        await anyio.sleep(1)
        assert heard == [], "the journal has not said yet that the first end is on disk"
        for done in untold:
            done(None)
        await anyio.sleep(1)
        tasks.start_soon(hear, waiting)
    why = "the dispatcher ended before the invocation: the journal keeps it"
    assert heard == [State.CANCELLED, why, why]


async def test_a_completion_may_be_faster_than_the_202():
    transport = ScriptedTransport(latency_s=5)
    async with rig(settings(more=CALLBACK), transport=transport) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(1)
        assert (await r.engine.get(ticket.id)).record.state is State.SENDING
        await r.engine.complete(Completion(id=ticket.id, verdict=Verdict.SUCCEEDED))
        assert (await ticket.ended()).state is State.SUCCEEDED
        await anyio.sleep(5)
        assert (await r.engine.get(ticket.id)).record.state is State.SUCCEEDED
        assert r.engine.statistics().requests_in_flight == {("main",): 0}


async def test_without_news_the_slot_comes_back_by_force_and_late_news_tell_the_true_end():
    async with rig(settings(more=CALLBACK)) as r:
        ticket = r.enqueue("cb")
        end = await ticket.ended()
        assert (end.state, anyio.current_time()) == (State.UNCERTAIN, 60)
        assert r.engine.account("main").in_use == 0
        assert r.engine.statistics().forced_releases == {("main", "cb"): 1}
        for _ in range(2):
            await r.engine.complete(
                Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b"x")
            )
        view = await r.engine.get(ticket.id)
        assert (view.record.state, view.record.result) == (State.SUCCEEDED, b"x")
        assert r.engine.statistics().late_completions == {("main",): 1}


async def test_without_task_mode_the_engine_goes_by_estimates_and_says_so(caplog):
    async with rig(settings(more='[accounts.main.functions.task]\ncompletion = "task"')) as r:
        ticket = r.enqueue("task")
        await anyio.sleep(1)
        for _ in range(2):
            r.engine.tracking_changed("main", "task", None, "task mode is off")
        lost = [one.message for one in caplog.records if "tracking_lost" in one.message]
        assert len(lost) == 1
        assert "main/task" in lost[0]
        assert "task mode is off" in lost[0]
        assert r.engine.account("main").functions["task"].untracked == "task mode is off"
        assert r.engine.statistics().untracked["main", "task"] == 1
        end = await ticket.ended()
        assert (end.state, end.estimated) == (State.SUCCEEDED, True)
        assert anyio.current_time() == 10
        r.engine.tracking_changed("main", "task", None, None)
        assert "tracking_back" in caplog.text
        assert r.engine.statistics().untracked["main", "task"] == 0


class Behind(MemoryJournal):
    """Shows what it was told only once it is asked to be durable, as a disk does."""

    def __init__(self) -> None:
        super().__init__(retention_s=86400)
        self._held: list[tuple[Sequence[Change], ChangeDone | None]] = []
        self.holds = False

    def record(self, changes: Sequence[Change], done: ChangeDone | None = None) -> None:
        self._held.append((changes, done))
        if not self.holds or not changes:
            held, self._held = self._held, []
            for each in held:
                super().record(*each)


async def test_an_end_that_is_on_its_way_to_the_journal_is_shown():
    journal = Behind()
    async with rig(settings(more=CALLBACK), journal=journal) as r:
        first, second = [r.enqueue("cb") for _ in range(2)]
        await anyio.sleep(1)
        journal.holds = True

        async def ends(ticket: Ticket) -> None:
            job = r.engine.machine.jobs[ticket.id]
            r.engine.completed(job, Completion(id=job.id, verdict=Verdict.SUCCEEDED))
            kept = await journal.get(ticket.id)
            assert kept is not None
            assert kept.state is State.RUNNING

        await ends(first)
        assert (await r.engine.get(first.id)).record.state is State.SUCCEEDED
        await ends(second)
        views, _ = await r.engine.find(Query())
        assert {view.record.state for view in views} == {State.SUCCEEDED}
        journal.holds = False


class Counted(MemoryJournal):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(retention_s=86400)
        self.asked = 0

    async def get(self, invocation_id: str) -> Record | None:
        self.asked += 1
        return await super().get(invocation_id)


@pytest.mark.parametrize(("size", "asked"), [(0, 0), (4096, 0), (4097, 1)])
async def test_a_ticket_knows_the_end_that_came_before_it_was_asked(size: int, asked: int):
    journal = Counted()
    async with rig(settings(more=CALLBACK), journal=journal) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(1)
        result = b"x" * size
        end = Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=result)
        r.engine.completed(r.engine.machine.jobs[ticket.id], end)
        assert (await ticket.ended()).result == result
        assert journal.asked == asked


class SlowAndCounted(SlowToTell, Counted):
    """Both."""


async def test_who_asks_while_an_end_is_written_is_told_with_it_and_nothing_is_read():
    journal = SlowAndCounted()
    async with rig(settings(more=CALLBACK), journal=journal) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(1)
        untold: list[Any] = []
        journal.untold = untold
        r.engine.completed(
            r.engine.machine.jobs[ticket.id],
            Completion(id=ticket.id, verdict=Verdict.SUCCEEDED),
        )
        told: list[End] = []

        async def wait() -> None:
            told.append(await ticket.ended())

        async with anyio.create_task_group() as waiting:
            waiting.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not told
            journal.untold = None
            for done in untold:
                done(None)
        assert [end.state for end in told] == [State.SUCCEEDED]
    assert journal.asked == 0


class Overtaken(MemoryJournal):
    """Whoever asks hears what was so when it was read, and what came after is told before."""

    def __init__(self) -> None:
        super().__init__(retention_s=86400)
        self.meanwhile: list[Callable[[], Awaitable[Any]]] = []

    async def get(self, invocation_id: str) -> Record | None:
        record = await super().get(invocation_id)
        if self.meanwhile:
            await self.meanwhile.pop(0)()
        return record


async def test_an_end_that_is_told_while_it_is_asked_for_is_not_missed():
    journal = Overtaken()
    async with rig(settings(more=CALLBACK), journal=journal) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(1)

        async def end() -> None:
            job = r.engine.machine.jobs[ticket.id]
            r.engine.completed(job, Completion(id=job.id, verdict=Verdict.SUCCEEDED))
            await anyio.sleep(1)

        async def end_late() -> None:
            r.engine.machine.jobs.add(ticket.id, job)
            await end()

        # As if it were on its way to the machine, after a redrive, when it is asked for.
        job = r.engine.machine.jobs[ticket.id]
        r.engine.machine.jobs.remove(ticket.id)
        journal.meanwhile = [anyio.lowlevel.checkpoint, end_late]
        with anyio.fail_after(60):
            assert (await r.engine.end_of(ticket.id)).state is State.SUCCEEDED


async def test_an_end_that_may_change_is_asked_for_anew():
    async with rig(settings(more=CALLBACK)) as r:
        ticket = r.enqueue("cb")
        await anyio.sleep(100)
        assert (await ticket.ended()).state is State.UNCERTAIN
        await r.engine.complete(Completion(id=ticket.id, verdict=Verdict.SUCCEEDED))
        assert (await ticket.ended()).state is State.SUCCEEDED


@pytest.mark.parametrize("what", ["cancel", "end"])
async def test_a_crowd_that_is_told_at_once_goes_on_a_few_at_a_time(what: str):
    journal = SlowToTell(retention_s=86400)
    went_on = 0

    async def wait(ticket: Ticket) -> None:
        nonlocal went_on
        if what == "cancel":
            await r.engine.cancel(ticket.id)
        else:
            await ticket.ended()
        went_on += 1

    async with anyio.create_task_group() as tasks, rig(journal=journal) as r:
        r.engine.pause("main")
        tickets = [r.enqueue() for _ in range(4 * WAKE_AT_ONCE)]
        await tickets[-1].accepted()
        untold: list[Any] = []
        if what == "cancel":
            journal.untold = untold
        for ticket in tickets:
            tasks.start_soon(wait, ticket)
        await anyio.sleep(1)
        journal.untold = untold
        if what == "end":
            for ticket in tickets:
                tasks.start_soon(r.engine.cancel, ticket.id)
        await anyio.sleep(1)
        for done in untold:
            done(None)
        turns = [went_on]
        while turns[-1] < len(tickets):
            await anyio.lowlevel.checkpoint()
            turns.append(went_on)
        assert max(b - a for a, b in itertools.pairwise(turns)) <= WAKE_AT_ONCE
