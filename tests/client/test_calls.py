"""The same calls as in process, with the same answers and errors."""

import asyncio

import pytest
from msgspec.structs import replace

from dispatcher import errors
from dispatcher.client import Client, RemoteTicket, Unreachable, Unwilling, calls
from dispatcher.core.model import CallType, Completion, Failure, Invocation, Query, State, Verdict
from dispatcher.core.views import Acceptance, End
from dispatcher.web import ndjson
from tests.web.fakes import NOW_MS
from tests.web.test_api import ENDED
from tests.web.wires import serving

JOB = Invocation(account="cn", function="resize", payload=b'{"a":1}')


# -- Enqueue --------------------------------------------------------------------------------------


async def test_enqueue_does_not_wait_and_the_ticket_does(client, engine):
    engine.journal_writes.clear()
    ticket = client.enqueue(JOB)
    assert ticket.state is State.WAITING
    with pytest.raises(RuntimeError, match="accepted"):
        ticket.id  # noqa: B018 -- asking is enough
    await asyncio.sleep(5)
    assert "None" in repr(ticket)
    engine.journal_writes.set()
    assert await ticket.accepted() == Acceptance("i000000", State.WAITING, duplicate=False)
    assert ticket.id == "i000000"
    assert await ticket.accepted() == await ticket.accepted()
    assert engine.invocations == [JOB]


async def test_a_ticket_can_be_awaited_itself(client):
    ticket = await client.enqueue(JOB)
    assert ticket.id == "i000000"


async def test_every_field_arrives(client, engine):
    job = Invocation(
        account="cn",
        function="service$resize",
        payload=b"\x00\xff",
        qualifier="prod",
        tenant="research",
        priority=-1.5,
        delay_s=2.0,
        expires_s=60.0,
        idempotency_key="k",
        type=CallType.SYNC,
    )
    await client.enqueue(job)
    assert engine.invocations == [job]


@pytest.mark.parametrize(
    ("change", "error", "pointer"),
    [
        ({"account": "nobody"}, errors.Invalid, "/account"),
        ({"function": "no name!"}, errors.Invalid, "/function"),
        ({"payload": b"x" * 200_000}, errors.PayloadTooLarge, "/payload"),
        ({"tenant": "no name!"}, errors.Invalid, "/tenant"),
    ],
)
async def test_what_the_sidecar_refuses_is_raised_by_the_ticket(client, change, error, pointer):
    ticket = client.enqueue(replace(JOB, **change))
    with pytest.raises(error) as caught:
        await ticket.accepted()
    assert type(caught.value) is error
    assert caught.value.pointer == pointer
    with pytest.raises(error):
        await ticket.ended()


@pytest.mark.parametrize(
    "error",
    [
        errors.QueueFull("full", retry_after_s=2.0),
        errors.Draining("bye", retry_after_s=3.0),
        errors.DiskFull("no room"),
        errors.KeyReused("other", pointer="/idempotency_key"),
        errors.JournalError("gone"),
        errors.NotFound("none"),
        errors.NotPossible("no"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_each_error_comes_out_as_it_went_in(client, engine, error):
    engine.refuses = error
    with pytest.raises(type(error), match=str(error)) as caught:
        await client.enqueue(JOB)
    assert type(caught.value) is type(error)
    assert getattr(caught.value, "retry_after_s", None) == getattr(error, "retry_after_s", None)
    assert getattr(caught.value, "pointer", None) == getattr(error, "pointer", None)


async def test_a_bug_on_the_other_side_is_no_error_of_ours(client, engine, caplog):
    engine.refuses = ZeroDivisionError()
    with pytest.raises(Unwilling, match="defect") as caught:
        await client.enqueue(JOB)
    assert caught.value.status == 500


async def test_what_http_cannot_carry_is_refused_at_once(client, engine):
    with pytest.raises(errors.Invalid, match="in process"):
        client.enqueue(replace(JOB, options={"log_type": "Tail"}))
    with pytest.raises(errors.Invalid, match="in process"):
        client.enqueue(replace(JOB, task_id="t"))
    assert not engine.invocations


async def test_tickets_that_wait_to_be_sent_are_bounded(listener, engine):
    engine.journal_writes.clear()
    url = f"http://{listener.addresses[0]}"
    async with Client(url, requests_max=2, pending_max=5) as client:
        tickets = [client.enqueue(JOB) for _ in range(5)]
        with pytest.raises(errors.QueueFull):
            client.enqueue(JOB)
        await asyncio.sleep(1)
        assert len(engine.invocations) == 2
        engine.journal_writes.set()
        for ticket in tickets:
            await ticket.accepted()
        await client.enqueue(JOB)


async def test_leaving_waits_for_what_is_under_way(listener, engine):
    engine.journal_writes.clear()
    asyncio.get_running_loop().call_later(3, engine.journal_writes.set)
    async with Client(f"http://{listener.addresses[0]}") as client:
        ticket = client.enqueue(JOB)
    assert (await ticket.accepted()).id == "i000000"


async def test_leaving_on_an_error_gives_up_and_says_that_it_may_have_happened(listener, engine):
    engine.journal_writes.clear()
    tickets = []

    async def work() -> None:
        async with Client(f"http://{listener.addresses[0]}") as client:
            tickets.append(client.enqueue(JOB))
            await asyncio.sleep(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    with pytest.raises(Unreachable) as caught:
        await tickets[0].accepted()
    assert caught.value.maybe_done


async def test_outside_of_its_context_a_client_says_so():
    with pytest.raises(RuntimeError, match="context manager"):
        Client().enqueue(JOB)
    with pytest.raises(RuntimeError, match="context manager"):
        await Client().get("i1")


# -- Many -----------------------------------------------------------------------------------------


async def test_many_share_a_request_and_each_has_its_own_outcome(client, engine):
    jobs = [JOB, replace(JOB, account="nobody"), replace(JOB, payload=b"\xff"), JOB]
    outcomes = await client.enqueue_many(jobs)
    assert [type(one) for one in outcomes] == [
        RemoteTicket,
        errors.Invalid,
        RemoteTicket,
        RemoteTicket,
    ]
    assert engine.commits == [4]
    assert isinstance(outcomes[3], RemoteTicket)
    assert (await outcomes[3].accepted()).id == outcomes[3].id == "i000002"


async def test_more_than_a_request_takes_are_cut_into_several(client, engine, monkeypatch):
    monkeypatch.setattr(calls, "LINES_MAX", 3)
    monkeypatch.setattr(calls, "LINES_BYTES_MAX", 500)
    jobs = [replace(JOB, payload=b'"%b"' % (b"x" * size)) for size in (1, 1, 1, 1, 600, 1, 400, 1)]
    outcomes = await client.enqueue_many(jobs)
    assert len(outcomes) == 8
    assert engine.invocations == jobs
    assert engine.commits == [3, 1, 1, 2, 1]
    assert await client.enqueue_many([]) == []


def test_what_the_client_sends_at_once_the_sidecar_takes():
    assert min(ndjson.LINES_MAX, ndjson.COMMIT_LINES) >= calls.LINES_MAX
    assert ndjson.BODY_MAX_BYTES > calls.LINES_BYTES_MAX


async def test_a_request_that_fails_is_the_outcome_of_each_of_its_lines(client, engine):
    engine.journal_error = errors.JournalError("gone")
    outcomes = await client.enqueue_many([JOB, JOB])
    assert [type(one) for one in outcomes] == [errors.JournalError] * 2


# -- Look -----------------------------------------------------------------------------------------


async def test_an_invocation_reads_as_it_does_in_process(client, engine):
    failure = Failure("FunctionError", "boom", "Unhandled", 200)
    record = replace(ENDED, state=State.DEAD, failure=failure, result=b'{"a": 1}')
    engine.put(record)
    seen = (await client.get("i1")).record
    unseen = {"first_sent_ms": record.first_sent_ms, "due_ms": record.due_ms}
    assert replace(seen, **unseen) == record
    await client.enqueue(JOB)
    reason = (await client.get("i000001")).waiting_for
    assert reason == engine.views["i000001"].waiting_for


@pytest.mark.parametrize("result", [None, b"", b"\xff", b"null", b'{"b": 1.10,"a":"\xc3\xa9"}'])
async def test_results_arrive_to_the_byte(client, engine, result):
    engine.put(replace(ENDED, result=result))
    assert (await client.get("i1")).record.result == result


async def test_unknown_and_impossible_ids_are_not_found(client):
    for nobody in ("nobody", "a/b", "", "ä", "a?b=c", "../accounts"):
        with pytest.raises((errors.NotFound, Unwilling)):
            await client.get(nobody)
    with pytest.raises(errors.NotFound):
        await client.get("../accounts")


async def test_find_goes_through_all_pages(client, engine, monkeypatch):
    for i in range(25):
        engine.put(replace(ENDED, id=f"i{i:02d}", tenant="a b&c" if i % 2 else "b"))
    monkeypatch.setattr(calls, "PAGE", 10)
    found = [view.record.id async for view in client.find()]
    assert found == [f"i{i:02d}" for i in reversed(range(25))]
    found = [view.record.id async for view in client.find(Query(tenant="a b&c"))]
    assert len(found) == 12
    wanted = Query(state=State.DEAD, account="cn", function="resize")
    assert [view async for view in client.find(wanted)] == []


# -- The end --------------------------------------------------------------------------------------


async def test_ended_asks_until_it_has_ended(client, engine):
    ticket = await client.enqueue(JOB)
    waiting = asyncio.ensure_future(ticket.ended())
    await asyncio.sleep(20)
    assert not waiting.done()
    engine.put(replace(engine.views[ticket.id].record, state=State.RUNNING))
    await asyncio.sleep(5)
    assert "running" in ticket.state
    ended = replace(engine.views[ticket.id].record, state=State.SUCCEEDED, result=b"1")
    engine.put(replace(ended, ended_ms=NOW_MS, estimated=True))
    begun = asyncio.get_running_loop().time()
    assert await waiting == End(
        id=ticket.id, state=State.SUCCEEDED, result=b"1", estimated=True, failure=None
    )
    assert asyncio.get_running_loop().time() - begun < 3
    assert ticket.state is State.SUCCEEDED


async def test_ended_asks_more_and_more_rarely(client, engine):
    ticket = await client.enqueue(JOB)
    asked = 0

    async def get(invocation_id: str):
        nonlocal asked
        asked += 1
        return engine.views[invocation_id]

    engine.get = get
    waiting = asyncio.ensure_future(ticket.ended())
    await asyncio.sleep(60)
    waiting.cancel()
    assert 30 <= asked <= 60


async def test_ended_outlasts_a_restart_of_the_sidecar(engine, socket_dir):
    listen = f"unix:{socket_dir}/s"
    async with Client(listen) as client:
        async with serving(engine, listen=listen):
            ticket = await client.enqueue(JOB)
        waiting = asyncio.ensure_future(ticket.ended())
        await asyncio.sleep(20)
        engine.put(replace(engine.views[ticket.id].record, state=State.DEAD))
        async with serving(engine, listen=listen):
            assert (await waiting).state is State.DEAD


async def test_ended_does_not_ask_a_dead_sidecar_for_ever(engine, socket_dir):
    listen = f"unix:{socket_dir}/s"
    async with Client(listen) as client:
        async with serving(engine, listen=listen):
            ticket = await client.enqueue(JOB)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable):
            await ticket.ended()
        assert 60 <= asyncio.get_running_loop().time() - begun <= 70


# -- Act ------------------------------------------------------------------------------------------


async def test_cancel(client, engine):
    ticket = await client.enqueue(JOB)
    assert await client.cancel(ticket.id) is State.CANCELLED
    with pytest.raises(errors.NotPossible):
        await client.cancel(ticket.id)
    engine.put(replace(ENDED, state=State.RUNNING))
    assert await client.cancel("i1") is State.RUNNING


async def test_complete(client, engine):
    engine.put(replace(ENDED, state=State.RUNNING))
    failure = Failure("OOM", "boom", "R", 500)
    told = [
        Completion(id="i1", verdict=Verdict.SUCCEEDED, result=b'{"a":1}'),
        Completion(id="i1", verdict=Verdict.SUCCEEDED, result=b"\xff"),
        Completion(id="i1", verdict=Verdict.FAILED, failure=failure),
    ]
    for completion in told:
        await client.complete(completion)
    assert engine.completions == told
    with pytest.raises(errors.NotFound):
        await client.complete(replace(told[0], id="nobody"))
    with pytest.raises(errors.Invalid):
        await client.complete(replace(told[0], verdict=Verdict.STOPPED))


async def test_redrive(client, engine):
    for i in range(4):
        engine.put(replace(ENDED, id=f"i{i}", state=State.DEAD, tenant="a" if i else "b"))
    await client.redrive("i1")
    with pytest.raises(errors.NotPossible):
        await client.redrive("i1")
    assert await client.redrive_dead(Query(tenant="a", state=State.DEAD)) == 2
    assert await client.redrive_dead() == 1


async def test_accounts(client, engine):
    assert await client.accounts() == engine.accounts()
    assert await client.account("cn") == engine.account("cn")
    with pytest.raises(errors.NotFound):
        await client.account("nobody")


async def test_rules_of_an_account_are_changed(client, engine):
    view = await client.adjust("cn", {"quota": 200, "tenants": {"research": {"limit": 7}}})
    assert view == engine.account("cn")
    assert engine.settings.accounts["cn"].tenants["research"].limit == 7
    with pytest.raises(errors.Invalid) as error:
        await client.adjust("cn", {"quota": 0})
    assert error.value.pointer == "/quota"
    with pytest.raises(errors.NotFound):
        await client.adjust("nobody", {})


async def test_pause_and_resume(client, engine):
    await client.pause("cn")
    await client.resume("cn", "service$resize")
    assert engine.switches == [("pause", "cn", None), ("resume", "cn", "service$resize")]
    with pytest.raises(errors.NotFound):
        await client.pause("nobody")
    with pytest.raises(errors.NotFound):
        await client.pause("cn", "a/b")
