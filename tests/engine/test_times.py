import math
import re

import anyio

from dispatcher.core.account import Account
from dispatcher.core.model import CallType, GateKind, Invocation, Record
from dispatcher.core.rules import AccountRules
from dispatcher.engine.times import Clock, digest, job_of, new_id, new_record


def test_an_id_sorts_by_time_and_can_be_a_task_id():
    ids = [new_id(ms) for ms in (0, 1, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1)]
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", one) and len(one) == 27 for one in ids)
    assert len({new_id(5) for _ in range(10_000)}) == 10_000


def test_the_same_job_has_the_same_digest_and_no_other_has():
    def of(**fields):
        call_type = fields.pop("call_type", CallType.ASYNC)
        return digest(Invocation(**{"account": "a", "function": "f", **fields}), call_type)

    assert of() == of(tenant="another", priority=3)
    different = {
        of(),
        of(payload=b"x"),
        of(function="g"),
        of(qualifier="1"),
        of(call_type=CallType.SYNC),
        of(function="f1", payload=b""),
        of(function="f", qualifier="1", payload=b""),
    }
    assert len(different) == 6, "function and qualifier of the last are those of the fourth"


async def test_what_is_due_later_waits_for_that_time_whatever_the_clocks_say():
    await anyio.sleep(1000)
    clock = Clock(lambda: 5_000_000.0)
    account = Account("a", AccountRules(quota=1))
    later = new_record(
        Invocation(account="a", function="f", delay_s=60, expires_s=90),
        CallType.ASYNC,
        clock.wall_ms(),
    )
    job = job_of(later, b"", account, 1, clock.moment())
    assert (job.due_at, job.wakes_at, job.waits_for) == (1060, 1060, GateKind.DELAY)
    assert job.expires_at == 1090


async def test_what_was_due_before_a_restart_keeps_its_age():
    await anyio.sleep(10)
    clock = Clock(lambda: 5_000_000.0)
    account = Account("a", AccountRules(quota=1))
    record = Record(
        id="i1", account="a", function="f", accepted_ms=4_999_000_000, due_ms=4_999_000_000
    )
    job = job_of(record, None, account, 1, clock.moment())
    assert (job.accepted_at, job.due_at, job.waits_for) == (-990, -990, None)


async def test_what_was_throttled_still_expires_after_a_restart_but_a_retry_does_not():
    clock = Clock(lambda: 100.0)
    account = Account("a", AccountRules(quota=1))

    def expires_at(attempt: int) -> float:
        record = Record(
            id="i1",
            account="a",
            function="f",
            attempt=attempt,
            expires_ms=130_000,
            first_sent_ms=1,
        )
        return job_of(record, None, account, 1, clock.moment()).expires_at

    assert (expires_at(1), expires_at(2)) == (30, math.inf)


async def test_what_came_later_stays_later_in_a_turn_of_the_loop_that_takes_long():
    wall_s = [100.0]
    clock = Clock(lambda: wall_s[0])
    account = Account("a", AccountRules(quota=1))

    def due_at(due_ms: int) -> float:
        record = Record(id="i1", account="a", function="f", accepted_ms=due_ms, due_ms=due_ms)
        return job_of(record, None, account, 1, clock.moment()).due_at

    first = due_at(100_000)
    wall_s[0] += 0.010  # and the loop's time stands still
    assert due_at(100_004) >= first


async def test_a_jump_of_the_wall_clock_moves_nothing_that_is_new():
    wall_s = [10_000.0]
    clock = Clock(lambda: wall_s[0])
    account = Account("a", AccountRules(quota=1))
    for jump_s in (0.0, 3600.0, -7200.0):
        wall_s[0] += jump_s
        new = new_record(
            Invocation(account="a", function="f", delay_s=60), CallType.ASYNC, clock.wall_ms()
        )
        job = job_of(new, b"", account, 1, clock.moment())
        assert abs(job.due_at - clock.now() - 60) < 0.001
