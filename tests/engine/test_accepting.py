import itertools
import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatcher.core.model import (
    CallType,
    Failure,
    Invocation,
    Refused,
    State,
)
from dispatcher.engine import Ticket, accepting
from dispatcher.engine.accepting import JUDGE_AT_ONCE
from dispatcher.errors import (
    DiskFull,
    Draining,
    Invalid,
    KeyReused,
    PayloadTooLarge,
    QueueFull,
)
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, hang, rig, settings

REFUSED = Refused(Failure("refused", "no such function", "FunctionNotFound", 404))

CALLBACK = """
[accounts.main.functions.f]
completion = "callback"
[callbacks]
url = "https://relay.example/d"
"""
ASKING = b'{"n":1,"done":"$dispatcher.completion"}'


async def test_the_queue_is_full_exactly_at_its_bound_and_the_caller_never_waits():
    jobs_max = 10_000
    transport = ScriptedTransport()
    transport.script = [hang] * 100
    async with rig(settings(more=f"[queue]\njobs_max = {jobs_max}"), transport=transport) as r:
        took_s = []
        for number in range(jobs_max + 1):
            begun = time.perf_counter()
            if number < jobs_max:
                r.enqueue()
            else:
                with pytest.raises(QueueFull, match="10000"):
                    r.enqueue()
            took_s.append(time.perf_counter() - begun)
            if number % 1000 == 0:
                await anyio.sleep(0.01)
        median_us = sorted(took_s)[jobs_max // 2] * 1e6
        print(f"enqueue while the cloud hangs: median {median_us:.1f} us of {jobs_max} calls")
        assert median_us < 50
        assert r.engine.statistics().rejected == {("main", "queue_full"): 1}
        r.engine.settings = settings(more="[server]\ndrain_max_s = 0")


async def test_what_is_accepted_counts_once_at_any_time(monkeypatch):
    """Other threads may look in between, and would be refused where it counted twice."""
    counts: list[int] = []
    settle = Ticket.settle
    async with rig() as r:

        def counted(ticket: Ticket, verdict: Any) -> None:
            counts.append(len(r.engine.machine.jobs) + r.engine._arriving)
            settle(ticket, verdict)

        monkeypatch.setattr(Ticket, "settle", counted)
        r.engine.pause("main")
        tickets = [r.enqueue(payload=b"%d" % number) for number in range(10)]
        for ticket in tickets:
            await ticket.accepted()
    assert counts == [10] * 10


async def test_what_has_ended_makes_room():
    async with rig(settings(more="[queue]\njobs_max = 1")) as r:
        r.transport.script = [REFUSED]
        first = r.enqueue()
        with pytest.raises(QueueFull):
            r.enqueue()
        await first.ended()
        await r.enqueue().accepted()


async def test_payloads_in_memory_are_bounded_where_no_disk_holds_them():
    async with rig(settings(more="[queue]\nbytes_max = 1000")) as r:
        r.engine.pause("main")
        r.enqueue(payload=b"x" * 600)
        with pytest.raises(QueueFull, match="bytes_max"):
            r.enqueue(payload=b"x" * 600)
        await anyio.sleep(0.001)
        r.enqueue(payload=b"x" * 400)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"function": ""}, "/function"),
        ({"function": "a b"}, "/function"),
        ({"tenant": "no spaces"}, "/tenant"),
        ({"qualifier": "a/b"}, "/qualifier"),
        ({"delay_s": -1}, "/delay_s"),
        ({"delay_s": float("nan")}, "/delay_s"),
        ({"priority": float("inf")}, "/priority"),
        ({"expires_s": 5, "delay_s": 10}, "/expires_s"),
        ({"idempotency_key": "a\nb"}, "/idempotency_key"),
        ({"callback_url": "http://169.254.169.254/"}, "/callback_url"),
        ({"options": {"x": "a\r\nb"}}, "/options"),
    ],
)
async def test_what_is_wrong_is_named_by_its_pointer(fields, pointer):
    async with rig() as r:
        with pytest.raises(Invalid) as caught:
            r.enqueue(**fields)
        assert caught.value.pointer == pointer


async def test_a_payload_above_the_providers_limit_is_refused_at_accept():
    async with rig() as r:
        with pytest.raises(PayloadTooLarge, match=r"at most 131072 bytes .* asynchronous call"):
            r.enqueue(payload=b"x" * (128 * 1024 + 1))
        await r.enqueue(payload=b"x" * (128 * 1024 + 1), type="sync").accepted()


async def test_functions_without_a_section_may_be_forbidden():
    async with rig(
        settings(account="unlisted = false", more="[accounts.main.functions.known]")
    ) as r:
        await r.enqueue("known").accepted()
        with pytest.raises(Invalid, match="'other' is not one of them"):
            r.enqueue("other")
        with pytest.raises(Invalid, match="is not a function's name"):
            r.enqueue("*")


async def test_a_key_names_one_job():
    async with rig() as r:
        first = r.enqueue(payload=b"1", idempotency_key="k")
        again = r.enqueue(payload=b"1", idempotency_key="k")
        assert not (await first.accepted()).duplicate
        accepted = await again.accepted()
        assert (accepted.id, accepted.duplicate, again.id) == (first.id, True, first.id)
        with pytest.raises(KeyReused):
            await r.enqueue(payload=b"2", idempotency_key="k").accepted()
        end = await again.ended()
        assert end.id == first.id
        third = await r.enqueue(payload=b"1", idempotency_key="k").accepted()
        assert (third.id, third.state, third.duplicate) == (first.id, State.SUCCEEDED, True)
        assert (await r.enqueue(payload=b"1", idempotency_key="k").ended()).state is State.SUCCEEDED
        assert len(r.transport.calls) == 1


async def test_nothing_is_taken_while_draining_or_on_a_full_disk():
    class Full(MemoryJournal):
        def accepting(self):
            return False

    async with rig(journal=Full(retention_s=1)) as r:
        with pytest.raises(DiskFull):
            r.enqueue()
        assert r.engine.not_ready() == "the journal's disk is full"
        r.engine.stop()
        with pytest.raises(Draining) as caught:
            r.enqueue()
        assert caught.value.retry_after_s
        assert r.engine.not_ready() == "draining"


async def test_an_arn_or_an_alias_in_the_name_is_taken_apart():
    async with rig() as r:
        ticket = r.enqueue("f:prod")
        await ticket.accepted()
        record = (await r.engine.get(ticket.id)).record
        assert (record.function, record.qualifier) == ("f", "prod")
        with pytest.raises(Invalid, match="another qualifier"):
            r.enqueue("f:prod", qualifier="test")


async def test_many_at_once_each_get_their_answer():
    async with rig() as r:
        good = Invocation(account="main", function="f")
        taken = r.engine.enqueue_many([good, Invocation(account="nobody", function="f"), good])
        assert isinstance(taken[1], Invalid)
        assert taken[1].pointer == "/account"
        for ticket in (taken[0], taken[2]):
            assert isinstance(ticket, Ticket)
            await ticket.accepted()
        assert r.engine.statistics().rejected == {("other", "invalid"): 1}


class Watched(MemoryJournal):
    """A journal that notes how many came in each call."""

    def __init__(self):
        super().__init__(retention_s=86400)
        self.calls: list[tuple[str, int]] = []

    def accept(self, entries, done):
        self.calls.append(("accept", len(entries)))
        super().accept(entries, done)

    def record(self, changes, done=None):
        self.calls.append(("record", len(changes)))
        super().record(changes, done)


async def test_a_batch_over_many_turns_is_one_commit():
    journal = Watched()
    async with rig(journal=journal) as r:
        r.engine.pause("main")
        with r.engine.batch(source="http") as take:
            first = take(Invocation(account="main", function="f"))
            await anyio.sleep(1)
            refused = take(Invocation(account="nobody", function="f"))
            other = take(Invocation(account="main", function="f"))
            assert journal.calls == []
        assert journal.calls == [("accept", 2)]
        assert isinstance(refused, Invalid)
        for ticket in (first, other):
            assert isinstance(ticket, Ticket)
            assert not (await ticket.accepted()).duplicate
        with r.engine.batch(source="http"):
            pass
        assert journal.calls == [("accept", 2)]


async def test_of_a_batch_whose_caller_fails_nothing_is_kept_or_counted():
    journal = Watched()
    async with rig(settings(more="[queue]\njobs_max = 2"), journal=journal) as r:
        r.engine.pause("main")
        with suppress(TimeoutError), r.engine.batch(source="http") as take:
            take(Invocation(account="main", function="f"))
            raise TimeoutError
        assert journal.calls == []
        for _ in range(2):
            await r.enqueue().accepted()


async def test_much_that_was_kept_is_admitted_in_many_turns_in_its_order():
    async with rig() as r:
        r.engine.pause("main")
        count = 3 * JUDGE_AT_ONCE + 7
        with r.engine.batch(source="http") as take:
            tickets = [take(Invocation(account="main", function="f")) for _ in range(count)]
        late = r.enqueue()
        seen = [len(r.engine.machine.jobs)]
        while seen[-1] < count + 1:
            await anyio.lowlevel.checkpoint()
            seen.append(len(r.engine.machine.jobs))
        assert max(after - before for before, after in itertools.pairwise(seen)) <= JUDGE_AT_ONCE
        taken = sorted(r.engine.machine.jobs.values(), key=lambda job: job.seq)
        assert [job.id for job in taken] == [ticket.id for ticket in (*tickets, late)]
        assert r.engine.statistics().accepted == {
            ("main", "default", "http"): count,
            ("main", "default", "in_process"): 1,
        }


async def test_what_was_kept_is_told_although_the_end_begins():
    async with rig() as r:
        r.engine.pause("main")
        with r.engine.batch(source="http") as take:
            tickets = [
                take(Invocation(account="main", function="f")) for _ in range(5 * JUDGE_AT_ONCE)
            ]
        r.engine.stop()
        await anyio.lowlevel.checkpoint()
        for ticket in tickets:
            assert isinstance(ticket, Ticket)
            assert (await ticket.accepted()).state is State.WAITING


async def test_a_payload_too_large_with_its_offer_is_refused_at_once():
    async with rig(settings(more=CALLBACK)) as r:
        room = 128 * 1024 - len(ASKING)
        full = ASKING.replace(b"1", b"1" * room, 1)
        assert r.enqueue("by_duration", payload=full)
        with pytest.raises(PayloadTooLarge, match="completion"):
            r.enqueue(payload=full)


async def test_what_names_lead_to_is_asked_once_and_anew_when_the_rules_change():
    asked = 0

    class Counting(ScriptedTransport):
        def payload_max_bytes(self, call_type: CallType) -> int:
            nonlocal asked
            asked += 1
            return super().payload_max_bytes(call_type)

    async with rig(settings(), transport=Counting()) as r:
        for _ in range(3):
            await r.enqueue("f", tenant="t").accepted()
        assert asked == 1
        await r.enqueue("f", tenant="u").accepted()
        assert asked == 2
        r.engine.reconfigure(settings(account="unlisted = false"))
        with pytest.raises(Invalid, match="allows only the functions"):
            r.enqueue("f", tenant="t")


async def test_names_without_end_are_not_remembered_without_end(monkeypatch):
    monkeypatch.setattr(accepting, "TARGETS_KEPT", 5)
    async with rig(settings()) as r:
        tickets = [r.enqueue("f", tenant=f"t{number}") for number in range(20)]
        assert [names[3] for names in r.engine._targets] == [f"t{n}" for n in range(15, 20)]
        assert [(await ticket.accepted()).state for ticket in tickets]
