import anyio

from dispatcher.core.model import Pause, State
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, hang, rig


async def test_a_restart_takes_everything_back_to_its_place():
    journal = MemoryJournal(retention_s=86400)
    transport = ScriptedTransport()
    async with rig(transport=transport, journal=journal) as r:
        running = [r.enqueue() for _ in range(3)]
        await anyio.sleep(1)
        transport.script = [hang]
        sending = r.enqueue()
        waiting = [r.enqueue() for _ in range(3)]
        await anyio.sleep(1)
    assert anyio.current_time() == 27
    before = len(transport.calls)
    transport.script = []
    async with rig(transport=transport, journal=journal) as r:
        await anyio.sleep(0.001)
        again = transport.calls[before:]
        assert [call.task_id for _, call in again][:1] == [sending.id]
        stats = r.engine.statistics()
        assert stats.recovered == {("waiting",): 3, ("sending",): 1, ("running",): 3}
        while True:
            records = [await journal.get(t.id) for t in (*running, sending, *waiting)]
            if all(record is not None and record.state is State.SUCCEEDED for record in records):
                break
            await anyio.sleep(1)
        ids = [call.task_id for _, call in transport.calls]
        assert sorted(ids) == sorted([*(t.id for t in (*running, sending, *waiting)), sending.id])


async def test_what_is_paused_stays_so_over_a_restart_until_it_is_resumed(caplog):
    journal, transport = MemoryJournal(retention_s=86400), ScriptedTransport()
    async with rig(transport=transport, journal=journal) as r:
        r.engine.pause("main", "f")
        r.engine.pause("main", "g")
        r.engine.resume("main", "g")
        journal.pause(Pause("gone", None))
        tickets = [r.enqueue("f"), r.enqueue("g")]
        await anyio.sleep(1)
    assert [call.task_id for _, call in transport.calls] == [tickets[1].id]
    async with rig(transport=transport, journal=journal) as r:
        await anyio.sleep(1)
        assert len(transport.calls) == 1
        functions = r.engine.account("main").functions
        assert [name for name, one in functions.items() if one.paused] == ["f"]
        r.engine.resume("main", "f")
        await anyio.sleep(1)
    assert [call.task_id for _, call in transport.calls] == [tickets[1].id, tickets[0].id]
    assert await journal.paused() == [Pause("gone", None)], "its account may come back"
    assert "still_paused: main/f: as it was before the restart" in caplog.messages
