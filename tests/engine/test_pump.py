import itertools

import anyio
import anyio.lowlevel
import pytest

from dispatcher.core.model import (
    GateKind,
    State,
)
from dispatcher.engine.pump import DUE_AT_ONCE
from dispatcher.errors import Draining, JournalError
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, hang, rig, settings


async def test_a_slot_is_held_until_the_function_has_ended():
    async with rig() as r:
        tickets = [r.enqueue() for _ in range(10)]
        ends = [await ticket.ended() for ticket in tickets]
        assert r.transport.times == [0] * 4 + [10] * 4 + [20] * 2
        assert anyio.current_time() == 30
        assert {end.state for end in ends} == {State.SUCCEEDED}
        assert all(end.estimated for end in ends)


async def test_no_more_requests_are_in_flight_than_allowed():
    text = settings(account="requests_max = 3")
    async with rig(text, transport=ScriptedTransport(latency_s=1)) as r:
        for _ in range(4):
            r.enqueue()
        await anyio.sleep(0.5)
        assert r.transport.in_flight == 3
        assert r.engine.account("main").in_use == 3


async def test_a_function_at_its_cap_holds_nobody_up():
    more = "[accounts.main.functions.slow]\ninstances_max = 1\n"
    async with rig(settings(more=more)) as r:
        slow = [r.enqueue("slow") for _ in range(3)]
        fast = [r.enqueue("fast") for _ in range(3)]
        await anyio.sleep(1)
        assert [ticket.state for ticket in slow] == ["running", "waiting", "waiting"]
        assert [ticket.state for ticket in fast] == ["running"] * 3
        view = await r.engine.get(slow[2].id)
        assert view.waiting_for is not None
        assert view.waiting_for.gate is GateKind.FUNCTION
        assert (view.waiting_for.limit, view.waiting_for.in_use, view.waiting_for.ahead) == (
            1,
            1,
            1,
        )


async def test_a_delay_is_exact_and_an_expiry_ends_what_was_not_sent():
    async with rig() as r:
        later = r.enqueue(delay_s=3600)
        for _ in range(4):
            r.enqueue()
        expiring = r.enqueue(expires_s=5)
        end = await expiring.ended()
        assert (end.state, anyio.current_time()) == (State.EXPIRED, 5)
        view = await r.engine.get(later.id)
        assert view.waiting_for is not None
        assert (view.waiting_for.gate, view.waiting_for.until_s) == (GateKind.DELAY, 3595)
        await later.ended()
        assert r.transport.times[-1] == 3600


async def test_the_drain_lets_requests_come_back_and_leaves_the_rest_in_the_journal():
    journal = MemoryJournal(retention_s=86400)
    transport = ScriptedTransport(latency_s=5)
    async with rig(transport=transport, journal=journal) as r:
        tickets = [r.enqueue() for _ in range(6)]
        await anyio.sleep(1)
        r.engine.stop()
        with pytest.raises(Draining):
            r.enqueue()
    assert anyio.current_time() == 5
    states = [(await journal.get(ticket.id)).state for ticket in tickets]  # type: ignore[union-attr]
    assert states == ["running"] * 4 + ["waiting"] * 2


async def test_a_drain_does_not_wait_longer_than_it_may_for_a_cloud_that_hangs():
    journal = MemoryJournal(retention_s=86400)
    transport = ScriptedTransport()
    transport.script = [hang]
    async with rig(transport=transport, journal=journal) as r:
        ticket = r.enqueue()
        await anyio.sleep(1)
    assert anyio.current_time() == 26
    record = await journal.get(ticket.id)
    assert record is not None
    assert record.state is State.SENDING, "it may have been sent, and the journal says so"


class FailingJournal(MemoryJournal):
    broken = False

    def record(self, changes, done=None):
        if self.broken and done is not None:
            done(JournalError("input/output error"))
        else:
            super().record(changes, done)


async def test_a_journal_that_fails_ends_the_engine_before_anything_is_sent():
    journal = FailingJournal(retention_s=10)
    transport = ScriptedTransport()
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 -- a context within
        async with rig(transport=transport, journal=journal) as r:
            journal.broken = True
            r.enqueue()
            await anyio.sleep(10)
    assert caught.group_contains(JournalError)
    assert transport.calls == []


async def test_the_wall_clock_may_jump_without_moving_anything():
    offset = [0.0]
    async with rig(wall_s=lambda: 1_700_000_000 + anyio.current_time() + offset[0]) as r:
        ticket = r.enqueue(delay_s=100)
        await anyio.sleep(1)
        offset[0] = 3600.0
        await anyio.sleep(1)
        offset[0] = -3600.0
        await ticket.ended()
        assert r.transport.times == [100]


async def test_new_settings_take_hold_at_once_and_a_lower_limit_drains():
    async with rig() as r:
        for _ in range(12):
            r.enqueue()
        await anyio.sleep(1)
        r.engine.reconfigure(settings(account="headroom = 2\nrequests_max = 9"))
        assert r.transport.requests_max == 9
        assert (r.engine.account("main").in_use, r.engine.account("main").limit) == (4, 2)
        await anyio.sleep(10)
        assert r.engine.account("main").in_use == 2
        r.engine.reconfigure(settings())
        await anyio.sleep(0.001)
        assert r.engine.account("main").in_use == 4


async def test_what_ends_at_one_moment_ends_in_many_turns_and_at_that_moment():
    wide = settings(account="requests_max = 1000", function="instance_concurrency = 200")
    async with rig(wide) as r:
        count = 5 * DUE_AT_ONCE
        tickets = [r.enqueue() for _ in range(count)]
        for ticket in tickets:
            await ticket.accepted()
        await anyio.sleep(9.9)
        assert sum(r.engine.statistics().in_flight.values()) == count
        left = []
        await anyio.sleep_until(10)
        while r.engine.machine.jobs:
            left.append(len(r.engine.machine.jobs))
            await anyio.lowlevel.checkpoint()
        assert anyio.current_time() == 10
        assert max(before - after for before, after in itertools.pairwise(left)) <= DUE_AT_ONCE
        assert {(await ticket.ended()).state for ticket in tickets} == {State.SUCCEEDED}
