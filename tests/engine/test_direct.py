"""Calls that are answered with the function's reply, in virtual time."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dispatcher.core.model import (
    Call,
    CallType,
    Denied,
    Failure,
    GateKind,
    Invocation,
    Lost,
    Outcome,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.core.views import Streamed
from dispatcher.engine.direct import _Caller
from dispatcher.errors import Draining, Invalid, QueueFull, WaitedTooLong, Withdrawn
from tests.engine.rig import Rig, ScriptedTransport, hang, rig, settings

FAILURE = Failure("function_error", "boom", "Unhandled", 200)


def takes(seconds: float, **fields: Any) -> Any:
    async def run(call: Call) -> Outcome:
        await anyio.sleep(seconds)
        return Replied(request_id="r", payload=call.payload, **fields)

    return run


async def call(held: Rig, wait_max_s: float = 60.0, **fields: Any) -> Any:
    fields = {"function": "f", "type": CallType.SYNC, **fields}
    invocation = Invocation(account="main", **fields)
    return await held.engine.call(invocation, source="test", wait_max_s=wait_max_s)


async def test_the_reply_comes_back_as_it_is_and_nothing_is_kept():
    async with rig() as held:
        headers = (("X-Fc-Request-Id", "r"),)
        held.transport.script = [takes(3, headers=headers, failure=FAILURE)]
        assert await call(held, payload=b"\0\xff") == Replied(
            request_id="r", payload=b"\0\xff", headers=headers, failure=FAILURE
        )
        assert held.engine.machine.jobs == {}
        assert held.engine.payloads.held_bytes == 0
        assert held.engine.account("main").in_use == 0
        assert held.journal._by_id == {}


async def test_calls_wait_at_the_same_gates_and_share_them_by_tenant():
    async with rig() as held:
        held.transport.script = [takes(10)] * 12
        order: list[str] = []

        async def one(tenant: str) -> None:
            await call(held, tenant=tenant)
            order.append(tenant)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one, "loud")
            await anyio.sleep(1)
            for _ in range(4):
                tasks.start_soon(one, "quiet")
        assert held.transport.times[:4] == [0, 0, 0, 0]
        assert max(held.transport.times) == 20
        assert sorted(order[4:8]) == ["loud", "quiet", "quiet", "quiet"] or (
            order[4:8].count("quiet") >= 2
        )


async def test_whoever_waits_too_long_is_told_what_for():
    async with rig(settings(function="instances_max = 1")) as held:
        held.transport.script = [takes(100)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, held)
            await anyio.sleep(1)
            with pytest.raises(WaitedTooLong) as caught:
                await call(held, wait_max_s=5)
            assert anyio.current_time() == 6
            assert caught.value.gate == GateKind.FUNCTION
            assert (caught.value.retry_after_s or 0) >= 1
        assert len(held.transport.calls) == 1
        assert held.engine.rejected["main", "waited_too_long"] == 1


async def test_a_throttle_is_waited_out_but_not_for_longer_than_the_caller_waits():
    full = Throttled(gate=GateKind.ACCOUNT, reason="ResourceExhausted", retry_after_s=3)
    async with rig() as held:
        held.transport.script = [full, takes(1)]
        assert isinstance(await call(held), Replied)
        assert held.transport.times == [0, 3]
        held.transport.script = [full] * 9
        began = anyio.current_time()
        with pytest.raises(WaitedTooLong):
            await call(held, wait_max_s=10)
        assert anyio.current_time() - began == 10


async def test_a_throttle_that_comes_after_the_callers_time_is_the_end():
    async def late(_: Call) -> Outcome:
        await anyio.sleep(8)
        return Throttled(gate=GateKind.ACCOUNT, reason="ResourceExhausted")

    async with rig() as held:
        held.transport.script = [late]
        with pytest.raises(WaitedTooLong):
            await call(held, wait_max_s=5)
        assert anyio.current_time() == pytest.approx(8)
        assert held.engine.machine.jobs == {}


async def test_who_leaves_while_waiting_is_forgotten():
    async with rig(settings(function="instances_max = 1")) as held:
        held.transport.script = [takes(10)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, held)
            await anyio.sleep(1)
            with anyio.move_on_after(2):
                await call(held)
            assert len(held.engine.machine.jobs) == 1
        assert len(held.transport.calls) == 1


async def test_who_leaves_while_it_runs_keeps_the_slot_taken():
    async with rig() as held:
        held.transport.script = [takes(10)]
        with anyio.move_on_after(2):
            await call(held)
        assert held.engine.account("main").in_use == 1
        await anyio.sleep(9)
        assert held.engine.account("main").in_use == 0


@pytest.mark.parametrize(
    "outcome",
    [
        Refused(Failure("refused", "no such function", "FunctionNotFound", 404)),
        Denied(Failure("denied", "the keys are wrong", "SignatureNotMatch", 403)),
        Lost(Failure("server_error", "oops", "InternalServerError", 500)),
        Lost(Failure("timed_out", "no reply in time"), timed_out=True),
    ],
)
async def test_what_came_of_it_is_told_at_once_and_not_tried_again(outcome: Outcome):
    async with rig(settings(function="attempts_max = 3")) as held:

        async def once(_: Call) -> Outcome:
            return outcome

        held.transport.script = [once]
        assert await call(held) == outcome
        await anyio.sleep(100)
        assert len(held.transport.calls) == 1
        assert held.engine.account("main").in_use == 0


async def test_a_failing_function_is_not_run_again():
    async with rig(settings(function="attempts_max = 3")) as held:
        held.transport.script = [takes(1, failure=FAILURE)]
        assert (await call(held)).failure == FAILURE
        await anyio.sleep(100)
        assert len(held.transport.calls) == 1


async def test_a_lost_connection_holds_the_slot_for_as_long_as_it_may_run():
    async with rig(settings(function="hold_max_s = 30")) as held:

        async def lost(_: Call) -> Outcome:
            await anyio.sleep(2)
            return Lost(Failure("connection_lost", "reset"))

        held.transport.script = [lost]
        assert isinstance(await call(held), Lost)
        assert anyio.current_time() == 2
        await anyio.sleep(19)  # twice its duration is 20
        assert held.engine.account("main").in_use == 1
        await anyio.sleep(2)
        assert held.engine.account("main").in_use == 0
        assert len(held.transport.calls) == 1


async def test_a_full_queue_takes_no_calls_and_bytes_count():
    async with rig(settings(more="[queue]\njobs_max = 1\nbytes_max = 10")) as held:
        with pytest.raises(QueueFull):
            await call(held, payload=bytes(11))
        held.transport.script = [takes(5)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, held)
            await anyio.sleep(1)
            with pytest.raises(QueueFull):
                await call(held)


async def test_only_what_has_a_reply_can_be_waited_for():
    async with rig() as held:
        with pytest.raises(Invalid, match="synchronous"):
            await call(held, type=CallType.ASYNC)
        with pytest.raises(Invalid, match="no account"):
            await held.engine.call(
                Invocation(account="none", function="f"), source="test", wait_max_s=1
            )


async def test_the_end_sends_those_away_who_wait_and_lets_those_finish_who_run():
    async with rig(settings(function="instances_max = 1")) as held:
        held.transport.script = [takes(5)]
        seen: list[Any] = []

        async def one() -> None:
            try:
                seen.append(await call(held))
            except Draining as error:
                seen.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await anyio.sleep(1)
            tasks.start_soon(one)
            await anyio.sleep(1)
            held.engine.stop()
        assert isinstance(seen[0], Draining)
        assert isinstance(seen[1], Replied)
        with pytest.raises(Draining):
            await call(held)


async def test_a_drain_that_takes_too_long_tells_those_whose_calls_were_cut():
    async with rig(
        settings(more="[server]\ndrain_max_s = 3"), transport=ScriptedTransport()
    ) as held:
        held.transport.script = [hang]
        seen: list[Any] = []

        async def one() -> None:
            seen.append(await call(held))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await anyio.sleep(1)
            held.engine.stop()
        assert anyio.current_time() == 4
        assert isinstance(seen[0], Lost)


def callers() -> int:
    gc.collect()
    return sum(isinstance(each, _Caller) for each in gc.get_objects())


@pytest.mark.parametrize("what", ["waits too long", "leaves", "is cancelled"])
async def test_nothing_is_left_of_a_call_that_never_ran(what: str):
    """Nor of its payload, which the frames of a traceback have."""
    before = callers()
    async with rig() as held:
        held.engine.pause("main")

        async def one() -> None:
            with anyio.move_on_after(1 if what == "leaves" else 60):
                try:
                    await call(held, wait_max_s=30)
                except (WaitedTooLong, Withdrawn) as error:
                    seen.append(type(error))

        for _ in range(5):
            seen: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.5)
                if what == "is cancelled":
                    [job] = held.engine.machine.jobs.values()
                    await held.engine.cancel(job.id)
                    del job
            assert seen == {"waits too long": [WaitedTooLong], "is cancelled": [Withdrawn]}.get(
                what, []
            )
        assert callers() == before


async def test_somebody_else_may_cancel_what_waits():
    async with rig(settings(function="instances_max = 1")) as held:
        held.transport.script = [takes(5)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, held)
            await anyio.sleep(1)

            async def cancelled() -> None:
                with pytest.raises(Withdrawn):
                    await call(held)

            tasks.start_soon(cancelled)
            await anyio.sleep(1)
            [waiting] = [job for job in held.engine.machine.jobs.values() if job.slot is None]
            await held.engine.cancel(waiting.id)


async def test_keys_of_different_spaces_are_different_keys():
    async with rig() as held:
        tickets = [
            held.engine.enqueue(
                Invocation(account="main", function="f", idempotency_key="k"), key_space=space
            )
            for space in ("", "sdk", "sdk")
        ]
        ids = [(await ticket.accepted()).id for ticket in tickets]
        assert ids[0] != ids[1] == ids[2]
        found = await held.engine.keyed("main", "k", key_space="sdk")
        assert found is not None
        assert found.record.id == ids[1]
        assert await held.engine.keyed("main", "k", key_space="task") is None


# -- Large replies --------------------------------------------------------------------------------


class LargeReply:
    """A cloud that gives a head, and the rest when it is told to."""

    def __init__(self, held: Rig) -> None:
        self.held = held
        self.ended = anyio.Event()
        self.outcome: Outcome = Replied(request_id="r", payload=b"")
        self.then: Callable[[], object] = lambda: None
        held.transport.script = [self.run]

    async def run(self, _: Call) -> Outcome:
        await anyio.sleep(1)
        begin = self.held.transport.begin
        assert begin is not None
        self.sink = begin(Replied(request_id="r", payload=b""), lambda: None)
        self.then()
        await self.ended.wait()
        return self.outcome

    def end(self, lost: Lost | None = None) -> None:
        if lost is not None:
            self.outcome = lost
        self.sink.end(lost)
        self.ended.set()


async def test_the_head_of_a_large_reply_comes_at_once_and_its_slot_is_held_to_the_end():
    async with rig() as held:
        cloud = LargeReply(held)
        told = await call(held)
        assert isinstance(told, Streamed)
        assert told.reply.request_id == "r"
        assert cloud.sink.feed(b"first")
        assert await anext(told.body) == b"first"
        assert held.engine.account("main").in_use == 1
        cloud.end()
        with pytest.raises(StopAsyncIteration):
            await anext(told.body)
        await anyio.sleep(0.1)
        assert held.engine.account("main").in_use == 0
        assert held.engine.machine.jobs == {}


async def test_a_large_reply_that_breaks_off_is_told_so():
    async with rig() as held:
        cloud = LargeReply(held)
        told = await call(held)
        cloud.end(Lost(Failure("connection_lost", "gone")))
        with pytest.raises(ConnectionError, match="gone"):
            await anext(told.body)


@pytest.mark.parametrize("leaves", ["before the head", "in the very turn in which the head comes"])
async def test_of_a_caller_that_has_left_a_large_reply_is_thrown_away(leaves):
    async with rig() as held:
        cloud = LargeReply(held)
        calling = asyncio.ensure_future(call(held))
        if leaves == "before the head":
            await asyncio.sleep(0.5)
            calling.cancel()
        else:
            cloud.then = calling.cancel
        await asyncio.wait([calling])
        assert calling.cancelled()
        await asyncio.sleep(2)
        assert cloud.sink.feed(b"x" * 10_000_000)
        assert held.engine.account("main").in_use == 1
        cloud.end()
        await asyncio.sleep(0.1)
        assert held.engine.account("main").in_use == 0
