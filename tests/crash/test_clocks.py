"""The wall clock is set forward and back while invocations wait, run, retry and expire."""

import anyio
import pytest

from dispatcher.core.model import Failure, NotSent, State
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, rig, settings

HOUR_S = 3600.0


class Wall:
    """A clock that can be set."""

    def __init__(self) -> None:
        self.set_by_s = 0.0

    def __call__(self) -> float:
        return 1_700_000_000.0 + anyio.current_time() + self.set_by_s


async def story(jumps):
    """Run the same invocations, with the clock set at some times; return what came of them."""
    wall, ends = Wall(), {}
    transport = ScriptedTransport()
    transport.script = [NotSent(Failure("not_connected", ""))]
    async with rig(settings(), transport=transport, wall_s=wall) as r:
        r.engine.pause("main", "paused")
        begun = anyio.current_time()

        async def watch(name, ticket):
            end = await ticket.ended()
            ends[name] = (end.state, round(anyio.current_time() - begun, 3))

        async with anyio.create_task_group() as tasks:
            for name, fields in (
                ("retried", {}),
                ("runs", {}),
                ("delayed", {"delay_s": 60}),
                ("delayed and expiring", {"delay_s": 30, "expires_s": 45}),
                ("expires", {"function": "paused", "expires_s": 20}),
            ):
                tasks.start_soon(watch, name, r.enqueue(payload=name.encode(), **fields))
                await anyio.sleep(0.001)
            for at_s, by_s in jumps:
                await anyio.sleep_until(begun + at_s)
                wall.set_by_s += by_s
            # What comes after a jump is treated as before it, too.
            await anyio.sleep_until(begun + 12)
            tasks.start_soon(watch, "after", r.enqueue(payload=b"after", delay_s=10))
    return ends, [(round(at - begun, 3), call.payload) for at, call in transport.calls]


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_is_set_changes_nothing_of_what_is_in_memory(by_s):
    usual = await story([])
    assert {state for state, _ in usual[0].values()} == {State.SUCCEEDED, State.EXPIRED}
    assert len(usual[1]) == 6, usual
    assert await story([(0.2, by_s)]) == usual
    assert await story([(0.2, by_s), (5, -by_s), (11, by_s)]) == usual


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_was_set_while_we_were_away_keeps_nothing_waiting(by_s):
    wall, journal = Wall(), MemoryJournal(retention_s=1e9)
    transport = ScriptedTransport()
    async with rig(journal=journal, transport=transport, wall_s=wall) as r:
        r.engine.pause("main")
        for delay_s in (0, 0, 50):
            await r.enqueue(payload=b"%d" % delay_s, delay_s=delay_s).accepted()
        await anyio.sleep(20)
    assert transport.calls == []
    wall.set_by_s += by_s
    begun = anyio.current_time()
    async with rig(journal=journal, transport=transport, wall_s=wall) as r:
        r.engine.resume("main")
        await anyio.sleep(200)
    sent = [(round(at - begun, 1), call.payload) for at, call in transport.calls]
    assert sent[:2] == [(0, b"0"), (0, b"0")]
    # Forward, its time has come; back, nobody knows how much of its delay has passed.
    assert sent[2:] == [(0 if by_s > 0 else 50, b"50")]
