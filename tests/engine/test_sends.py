import anyio

from dispatcher.core.model import (
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Refused,
    Replied,
    State,
    Throttled,
)
from tests.engine.rig import rig, settings


async def test_a_throttle_waits_and_costs_no_attempt():
    async with rig() as r:
        r.transport.script = [
            Throttled(gate=GateKind.ACCOUNT, reason="ResourceExhausted", retry_after_s=7)
        ]
        ticket = r.enqueue()
        other = r.enqueue()
        await anyio.sleep(1)
        view = await r.engine.get(ticket.id)
        assert view.record.state is State.WAITING
        await ticket.ended()
        assert r.transport.times == [0, 0, 7]
        assert (await r.engine.get(ticket.id)).record.attempt == 1
        assert other.state is State.SUCCEEDED
        assert r.engine.statistics().throttles == {("main", "f", "ResourceExhausted"): 1}


async def test_what_may_be_in_the_cloud_keeps_its_slot_and_its_task_id():
    async with rig(settings(account="headroom = 3")) as r:
        r.transport.script = [Lost(Failure("reset", "connection reset"))]
        first = r.enqueue()
        second = r.enqueue()
        await anyio.sleep(0.1)
        assert first.state is State.WAITING
        assert r.engine.account("main").in_use == 1, "its slot is still held"
        assert second.state is State.WAITING
        await first.ended()
        sent = [call.task_id for _, call in r.transport.calls][:2]
        assert sent == [first.id, first.id], "the resend repeats the task id"
        assert r.transport.times[:2] == [0, 20], "not before it must have ended"


async def test_at_most_once_never_repeats_what_may_have_been_sent():
    async with rig(settings(more='[journal]\nurl = "memory:"\ndelivery = "at_most_once"')) as r:
        r.transport.script = [Lost(Failure("timeout", "no reply"), timed_out=True)]
        end = await r.enqueue().ended()
        assert end.state is State.UNCERTAIN
        assert len(r.transport.calls) == 1


async def test_nothing_sent_is_tried_again_without_a_slot():
    async with rig() as r:
        r.transport.script = [NotSent(Failure("connect", "refused"))] * 3
        end = await r.enqueue().ended()
        assert end.state is State.SUCCEEDED
        assert r.transport.times == [0, 0.5, 1.5, 3.5]


async def test_after_the_longest_age_an_invocation_that_cannot_be_sent_is_dead():
    async with rig(settings(more="[retry]\nage_max_s = 100\ndelay_max_s = 10")) as r:
        r.transport.script = [NotSent(Failure("connect", "refused"))] * 1000
        end = await r.enqueue().ended()
        assert end.state is State.DEAD
        assert end.failure is not None
        assert end.failure.kind == "connect"
        assert 100 < anyio.current_time() <= 111
        assert r.engine.statistics().dead_jobs == {("main",): 1}


async def test_a_refusal_is_final():
    async with rig() as r:
        r.transport.script = [
            Refused(Failure("refused", "no such function", "FunctionNotFound", 404))
        ]
        end = await r.enqueue().ended()
        assert end.state is State.DEAD
        assert end.error == Failure("refused", "no such function", "FunctionNotFound", 404)
        assert r.engine.account("main").in_use == 0


async def test_a_denial_stops_the_account_and_a_single_probe_opens_it_again():
    denied = Denied(Failure("denied", "expired token", "InvalidAccessKeyID", 403))
    async with rig() as r:
        r.transport.script = [denied, denied, denied, denied, denied]
        tickets = [r.enqueue() for _ in range(6)]
        await anyio.sleep(1)
        assert len(r.transport.calls) == 4, "what had been launched already"
        assert r.engine.statistics().circuit_open == {("main",): 1}
        view = await r.engine.get(tickets[0].id)
        assert view.waiting_for is not None
        assert (view.waiting_for.gate, view.waiting_for.until_s) == (GateKind.CIRCUIT, 29)
        for ticket in tickets:
            assert (await ticket.ended()).state is State.SUCCEEDED
        assert r.transport.times[4:6] == [30, 90], "one probe, then one more after twice the time"
        assert r.engine.statistics().circuit_open == {("main",): 0}


async def test_the_reply_of_a_synchronous_call_is_its_end():
    async with rig() as r:
        failed = Failure("function_error", "boom", "HandledInvocationError", 200)
        r.transport.script = [
            Replied(request_id="a", payload=b"42"),
            Replied(request_id="b", payload=b"{}", failure=failed),
        ]
        first = await r.enqueue(type="sync").ended()
        second = await r.enqueue(type="sync").ended()
        assert (first.state, first.result, first.estimated) == (State.SUCCEEDED, b"42", False)
        assert (second.state, second.failure, second.result) == (State.DEAD, failed, b"{}")


async def test_a_failed_function_runs_again_as_a_new_attempt_with_a_new_task_id():
    config = settings(function="attempts_max = 2", more="")
    async with rig(config) as r:
        failed = Failure("function_error", "boom")
        r.transport.script = [Replied(request_id="a", payload=b"", failure=failed)] * 2
        ticket = r.enqueue(type="sync")
        end = await ticket.ended()
        assert end.state is State.DEAD
        assert [call.task_id for _, call in r.transport.calls] == [ticket.id, f"{ticket.id}_2"]
        assert r.transport.times == [0, 0.5]


async def test_a_bug_in_a_transport_costs_one_send_not_the_engine():
    async with rig() as r:
        r.transport.script = [RuntimeError("a bug")]
        assert (await r.enqueue().ended()).state is State.SUCCEEDED
        assert len(r.transport.calls) == 2
