import json
from typing import Any, ClassVar

import anyio
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from dispatcher.config import CallbackSettings
from dispatcher.core.model import (
    Call,
    Completion,
    Failure,
    Notice,
    NotSent,
    Query,
    Refused,
    Returned,
    State,
    Verdict,
)
from dispatcher.errors import (
    Invalid,
    NotAllowed,
    NotFound,
    NotPossible,
    QueueFull,
)
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, SlowToTell, hang, rig, settings

REFUSED = Refused(Failure("refused", "no such function", "FunctionNotFound", 404))


async def test_cancelling():
    async with rig() as r:
        r.engine.pause("main")
        ticket = r.enqueue()
        await ticket.accepted()
        assert await r.engine.cancel(ticket.id) is State.CANCELLED
        assert (await ticket.ended()).state is State.CANCELLED
        with pytest.raises(NotPossible, match="ended: cancelled"):
            await r.engine.cancel(ticket.id)
        with pytest.raises(NotFound):
            await r.engine.cancel("i0")
        r.engine.resume("main")
        running = r.enqueue()
        await anyio.sleep(1)
        with pytest.raises(NotPossible, match="it is running"):
            await r.engine.cancel(running.id)
        assert len(r.transport.calls) == 1


TASK = '[accounts.main.functions.task]\ncompletion = "task"\n'


async def test_a_running_task_is_stopped_in_the_cloud():
    async with rig(settings(more=TASK)) as r:
        ticket = r.enqueue("task")
        await anyio.sleep(1)
        assert await r.engine.cancel(ticket.id) is State.RUNNING
        await anyio.sleep(1)
        assert r.transport.stopped == [ticket.id]
        await r.engine.complete(Completion(id=ticket.id, verdict=Verdict.STOPPED))
        assert (await ticket.ended()).state is State.CANCELLED


async def test_what_is_being_sent_is_stopped_once_the_cloud_has_it():
    async with rig(settings(more=TASK), transport=ScriptedTransport(latency_s=5)) as r:
        ticket = r.enqueue("task")
        await anyio.sleep(1)
        assert await r.engine.cancel(ticket.id) is State.RUNNING
        assert r.transport.stopped == []
        await anyio.sleep(5)
        assert r.transport.stopped == [ticket.id]


async def test_redriving_the_dead():
    async with rig() as r:
        r.transport.script = [REFUSED] * 3
        tickets = [r.enqueue(payload=b"%d" % n) for n in range(3)]
        for ticket in tickets:
            assert (await ticket.ended()).state is State.DEAD
        assert r.engine.statistics().dead_jobs == {("main",): 3}
        await r.engine.redrive(tickets[0].id)
        with pytest.raises(NotPossible):
            await r.engine.redrive(tickets[0].id)
        assert await r.engine.redrive_dead(Query(account="main")) == 2
        assert await r.engine.redrive_dead(Query(account="main")) == 0
        assert await r.engine.redrive_dead(Query(function="nobody", tenant="nobody")) == 0
        with pytest.raises(NotFound, match="nobody"):
            await r.engine.redrive_dead(Query(account="nobody"))
        await anyio.sleep(11)
        for number, ticket in enumerate(tickets):
            view = await r.engine.get(ticket.id)
            assert (view.record.state, view.record.attempt) == (State.SUCCEEDED, 2)
            assert (f"{ticket.id}_2", b"%d" % number) in [
                (call.task_id, call.payload) for _, call in r.transport.calls
            ]
        assert r.engine.statistics().dead_jobs == {("main",): 0}


async def test_many_dead_are_redriven_by_few_commits_as_far_as_there_is_room():
    class Counting(MemoryJournal):
        returned: ClassVar[list[int]] = []

        def record(self, changes, done=None):
            if changes and all(isinstance(change, Returned) for change in changes):
                self.returned.append(len(changes))
            super().record(changes, done)

    journal = Counting(retention_s=86400)
    config = settings(account="requests_max = 1000", more="[queue]\njobs_max = 300")
    async with rig(config, journal=journal) as r:
        r.transport.script = [REFUSED] * 300
        tickets = [r.enqueue() for _ in range(300)]
        for ticket in tickets:
            await ticket.ended()
        r.engine.pause("main")
        for _ in range(50):
            await r.enqueue().accepted()
        with pytest.raises(QueueFull):
            await r.engine.redrive_dead(Query(account="main"))
        assert journal.returned == [200, 50]
        assert len(r.engine.machine.jobs) == 300
        assert r.engine.statistics().dead_jobs == {("main",): 50}


async def test_a_redrive_that_nobody_waits_for_any_more_happens_all_the_same():
    journal = SlowToTell(retention_s=86400)
    async with rig(journal=journal) as r:
        r.transport.script = [REFUSED]
        ticket = r.enqueue()
        assert (await ticket.ended()).state is State.DEAD
        told: list[Any] = []
        journal.untold = told
        with anyio.move_on_after(1) as patience:
            await r.engine.redrive(ticket.id)
        assert patience.cancelled_caught
        journal.untold = None
        for done in told:
            done(None)
        await anyio.sleep(11)
        assert await r.engine.state_of(ticket.id) is State.SUCCEEDED
        assert r.engine.statistics().dead_jobs == {("main",): 0}


async def test_the_dead_are_redriven_also_where_a_recount_has_missed_them():
    async with rig() as r:
        r.transport.script = [REFUSED] * 2
        tickets = [r.enqueue() for _ in range(2)]
        for ticket in tickets:
            assert (await ticket.ended()).state is State.DEAD
        r.engine.dead = {}  # it read the journal before their ends were in it
        assert await r.engine.redrive_dead(Query()) == 2
        await anyio.sleep(11)
        for ticket in tickets:
            assert await r.engine.state_of(ticket.id) is State.SUCCEEDED
        assert r.engine.statistics().dead_jobs == {("main",): 0}


async def test_dismissing_what_is_uncertain():
    async with rig(settings(more='[journal]\nurl = "memory:"\ndelivery = "at_most_once"')) as r:
        r.transport.script = [hang]
        ticket = r.enqueue()
        await anyio.sleep(1)
        journal = r.journal
        r.engine.settings = settings(more="[server]\ndrain_max_s = 0")
    async with rig(
        settings(more='[journal]\nurl = "memory:"\ndelivery = "at_most_once"'), journal=journal
    ) as r:
        await anyio.sleep(1)
        views, _ = await r.engine.find(Query(state=State.UNCERTAIN))
        assert [view.record.id for view in views] == [ticket.id]
        assert await r.engine.cancel(ticket.id) is State.CANCELLED
        with pytest.raises(NotPossible):
            await r.engine.redrive(ticket.id)
        assert r.transport.calls == []


async def test_pausing_an_account_or_a_function():
    async with rig() as r:
        r.engine.pause("main", "f")
        stopped, goes_on = r.enqueue("f"), r.enqueue("g")
        await anyio.sleep(1)
        assert (stopped.state, goes_on.state) == (State.WAITING, State.RUNNING)
        view = await r.engine.get(stopped.id)
        assert view.waiting_for is not None
        assert (view.waiting_for.gate, view.waiting_for.name) == ("paused", "f")
        r.engine.resume("main", "f")
        await anyio.sleep(1)
        assert stopped.state is State.RUNNING
        with pytest.raises(NotFound):
            r.engine.pause("nobody")


async def test_rules_are_adjusted_at_once_and_a_lower_limit_drains(caplog):
    async with rig(settings(account="headroom = 1")) as r:
        for _ in range(12):
            r.enqueue()
        await anyio.sleep(1)
        before = r.engine.account("main")
        assert (before.in_use, before.limit, before.adjusted) == (3, 3, UNSET)
        r.engine.adjust("main", {"headroom": 2, "tenants": {"a": {"weight": 2}}})
        view = r.engine.account("main")
        assert (view.in_use, view.limit, view.tenants["a"].weight) == (3, 2, 2.0)
        assert view.adjusted == ("/headroom", "/tenants/a")
        await anyio.sleep(10)
        assert r.engine.account("main").in_use == 2
        r.engine.adjust("main", {"quota": 9, "headroom": 1})
        await anyio.sleep(0.001)
        assert r.engine.account("main").in_use == 8
        r.engine.reconfigure(settings(account="headroom = 1"))
        assert r.engine.account("main").adjusted is UNSET
        assert r.engine.account("main").limit == 3
        assert [record.message.partition(":")[0] for record in caplog.records] == [
            "adjusted",
            "adjusted",
            "adjustments_dropped",
        ]


async def test_what_a_configuration_may_not_say_adjusts_nothing():
    async with rig() as r:
        for changes, pointer in (
            ({"quota": 9, "tenants": {"a": {"reserved": 10}}}, "/tenants"),
            ({"quota": 9, "provider": "aliyun-fc"}, "/provider"),
        ):
            with pytest.raises(Invalid) as error:
                r.engine.adjust("main", changes)
            assert error.value.pointer == pointer
        with pytest.raises(NotFound):
            r.engine.adjust("nobody", {})
        assert r.engine.account("main").quota == 4


async def test_a_backoff_is_named_as_such():
    async with rig() as r:
        r.transport.script = [NotSent(Failure("connect", "refused"))]
        ticket = r.enqueue()
        await anyio.sleep(0.1)
        view = await r.engine.get(ticket.id)
        assert view.waiting_for is not None
        assert view.waiting_for.gate == "retry"
        assert view.waiting_for.until_s == pytest.approx(0.4)


# -- Functions that tell their own ends -----------------------------------------------------------

CALLBACK = """
[accounts.main.functions.f]
completion = "callback"
attempts_max = 2
[callbacks]
url = "https://relay.example/d"
"""
ASKING = b'{"n":1,"done":"$dispatcher.completion"}'


def offered(call: Call) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(call.payload)["done"]
    return done


async def test_a_function_ends_its_own_attempt_and_no_other():
    async with rig(settings(more=CALLBACK)) as r:
        ticket, other = r.enqueue(payload=ASKING), r.enqueue(payload=ASKING)
        await anyio.sleep(1)
        told = offered(r.transport.calls[0][1])
        assert told["url"] == f"https://relay.example/d/v1/invocations/{ticket.id}/completion"
        failed = Completion(id=ticket.id, verdict=Verdict.FAILED)
        for token in (offered(r.transport.calls[1][1])["token"], "c1.2.x", told["token"] + "x"):
            with pytest.raises(NotAllowed):
                await r.engine.complete(failed, token=token, is_known=False)
        assert ticket.state is State.RUNNING
        for _ in range(3):  # as often as it likes
            await r.engine.complete(failed, token=told["token"], is_known=False)
        await anyio.sleep(1)
        again = offered(r.transport.calls[2][1])
        assert (again["id"], again["attempt"]) == (ticket.id, 2)
        assert again["token"] != told["token"]
        # What the first attempt still has to say is about itself.
        end = Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b"1")
        await r.engine.complete(end, token=told["token"], is_known=False)
        assert ticket.state is State.RUNNING
        await r.engine.complete(end, token=again["token"], is_known=False)
        assert (await ticket.ended()).result == b"1"
        assert other.state is State.RUNNING


async def test_whoever_shows_nothing_ends_no_function_that_ends_by_callback():
    async with rig(settings(more=CALLBACK)) as r:
        ticket = r.enqueue(payload=ASKING)
        estimated = r.enqueue("by_duration")
        await anyio.sleep(1)
        for one in (ticket, estimated):
            end = Completion(id=one.id, verdict=Verdict.SUCCEEDED)
            if one is ticket:
                with pytest.raises(NotAllowed):
                    await r.engine.complete(end, is_known=False)
                assert one.state is State.RUNNING
                await r.engine.complete(end)  # an operator may
            else:
                await r.engine.complete(end, is_known=False)
            assert (await one.ended()).state is State.SUCCEEDED


async def test_a_payload_is_changed_only_where_it_asks_and_the_end_is_posted():
    async with rig(settings(more=CALLBACK)) as r:
        payloads = [b'{"done": "no"}', b"\xff$dispatcher.completion", ASKING]
        for payload in payloads:
            r.enqueue(payload=payload)
        r.enqueue("by_duration", payload=ASKING)
        await anyio.sleep(1)
        sent = [call.payload for _, call in r.transport.calls]
        assert sent[:2] == payloads[:2]
        assert sent[2] != ASKING
        assert sent[3] == ASKING


async def test_whoever_asked_is_told_of_the_end_once_it_is_on_disk():
    told: list[Notice] = []
    config = replace(settings(), callbacks=CallbackSettings(hosts=("hooks.example",)))
    async with rig(config, tell=told.append) as r:
        with pytest.raises(Invalid, match="not one of"):
            r.enqueue(callback_url="https://evil.example/")
        ticket = r.enqueue(callback_url="https://hooks.example/x", tenant="shop")
        r.enqueue()
        await ticket.accepted()
        assert told == []
        await ticket.ended()
        await anyio.sleep(1)
        (notice,) = told
        assert (notice.url, notice.id, notice.state) == (
            "https://hooks.example/x",
            ticket.id,
            State.SUCCEEDED,
        )
        assert (notice.tenant, notice.attempt, notice.estimated) == ("shop", 1, True)


async def test_the_true_end_of_what_was_uncertain_is_told_as_well():
    told: list[Notice] = []
    config = replace(
        settings(function="hold_max_s = 12", more=TASK),
        callbacks=CallbackSettings(hosts=("hooks.example",)),
    )
    async with rig(config, tell=told.append) as r:
        ticket = r.enqueue("task", callback_url="https://hooks.example/x")
        assert (await ticket.ended()).state is State.UNCERTAIN
        await r.engine.complete(Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b"1"))
        assert [(each.state, each.result) for each in told] == [
            (State.UNCERTAIN, None),
            (State.SUCCEEDED, b"1"),
        ]
