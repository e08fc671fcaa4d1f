"""What every journal promises the engine."""

import itertools
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import asdict

from dispatcher.config import JournalSettings
from dispatcher.core.model import (
    CallType,
    Change,
    Duplicate,
    Ended,
    Entry,
    Failure,
    Pause,
    Query,
    Record,
    Returned,
    Running,
    Sending,
    State,
)
from dispatcher.errors import Invalid, JournalError
from dispatcher.journals import open_journal
from dispatcher.ports import Journal
from tests.journals.asking import NOW_MS, Once, accept, entry, ids, kept, record, recovered

RETENTION_S = 3600
RETENTION_MS = RETENTION_S * 1000

FAILURE = Failure("throttled", "too many: ä \0", "ConcurrentInvocationLimitExceeded", 429)


@pytest.fixture(params=["memory", pytest.param("sqlite", marks=pytest.mark.real_time)])
async def journal(request, tmp_path) -> AsyncIterator[Journal]:
    # A long retention for pruning, which goes by the wall's clock, and NOW_MS does not.
    urls = {"memory": "memory:", "sqlite": f"sqlite://{tmp_path}/journal.db"}
    opened = await open_journal(
        JournalSettings(url=urls[request.param], retention_s=RETENTION_S), bytes_max=1_000_000_000
    )
    yield opened
    await opened.aclose()


# -- Accepting ------------------------------------------------------------------------------------


async def test_what_was_accepted_is_kept_to_the_byte(journal):
    new = entry(
        bytes(range(256)),
        qualifier="live",
        tenant="research",
        type=CallType.SYNC,
        priority=-1.5,
        due_ms=NOW_MS + 5000,
        expires_ms=NOW_MS + 9000,
        task_id="chosen",
        callback_url="https://example.com/ü",
        options={"log_type": "Tail", "client_context": '{"a": "ß"}'},
    )
    assert await accept(journal, new) == [None]
    assert await kept(journal, new.record.id) == new.record
    assert await journal.payload(new.record.id) == bytes(range(256))


@pytest.mark.parametrize("payload", [b"", b"\0", b"x" * 4097, b"\xff" * 1_000_000])
async def test_payloads_of_any_size(journal, payload):
    new = entry(payload)
    await accept(journal, new)
    assert await journal.payload(new.record.id) == payload
    assert (await kept(journal, new.record.id)).payload_bytes == len(payload)


async def test_each_entry_has_its_verdict(journal):
    first = entry(key="k", digest=b"1")
    assert await accept(journal, first) == [None]
    verdicts = await accept(
        journal,
        entry(),
        entry(key="k", digest=b"1"),
        entry(key="other", digest=b"1"),
        entry(key="k", digest=b"2"),
        entry(key="k", digest=b"1", account="another"),
    )
    assert verdicts == [
        None,
        Duplicate(first.record.id, same_job=True),
        None,
        Duplicate(first.record.id, same_job=False),
        None,
    ]


async def test_repeats_within_one_call_are_noticed(journal):
    first, *_ = new = [entry(key="k", digest=b"1") for _ in range(3)]
    again = Duplicate(first.record.id, same_job=True)
    assert await accept(journal, *new) == [None, again, again]
    assert ids((await journal.find(Query()))[0]) == [first.record.id]


async def test_a_repeat_leaves_no_trace(journal):
    first, again = entry(b"1", key="k", digest=b"1"), entry(b"2", key="k", digest=b"1")
    await accept(journal, first)
    await accept(journal, again)
    assert await journal.get(again.record.id) is None
    assert await journal.payload(again.record.id) is None
    assert await journal.payload(first.record.id) == b"1"


async def test_a_key_is_known_until_it_is_as_old_as_the_retention(journal):
    def at(ms: int) -> Entry:
        return entry(key="k", digest=b"1", accepted_ms=NOW_MS + ms)

    first, late, later = at(0), at(RETENTION_MS), at(2 * RETENTION_MS - 1)
    assert await accept(journal, first) == [None]
    assert await accept(journal, at(RETENTION_MS - 1)) == [Duplicate(first.record.id, True)]
    assert await accept(journal, late) == [None]
    assert await accept(journal, later) == [Duplicate(late.record.id, True)]


async def test_a_key_outlives_the_end_of_its_invocation(journal):
    first = entry(key="k", digest=b"1")
    await accept(journal, first)
    await record(journal, Ended(id=first.record.id, state=State.SUCCEEDED, at_ms=NOW_MS))
    assert await accept(journal, entry(key="k", digest=b"1")) == [
        Duplicate(first.record.id, same_job=True)
    ]


async def test_a_key_leads_to_its_invocation(journal):
    first = entry(key="k", digest=b"1")
    await accept(journal, first, entry(key="k", digest=b"1"), entry(key="k 2", digest=b"1"))
    assert await journal.keyed(first.record.account, "k") == first.record.id
    assert await journal.keyed(first.record.account, "k 3") is None
    assert await journal.keyed("another", "k") is None


async def test_many_at_once(journal):
    new = [entry(str(number).encode(), key=f"k{number % 700}") for number in range(1500)]
    verdicts = await accept(journal, *new)
    firsts = {f"k{number}": new[number].record.id for number in range(700)}
    assert verdicts[:700] == [None] * 700
    assert all(
        verdict is not None and verdict.id == firsts[str(one.record.key)]
        for one, verdict in zip(new[700:], verdicts[700:], strict=True)
    )


# -- Changes --------------------------------------------------------------------------------------


async def test_a_life(journal):
    new = entry()
    key = new.record.id
    await accept(journal, new)
    await record(journal, Sending(key, 1, NOW_MS + 10))
    assert (await kept(journal, key)).state is State.SENDING
    await record(journal, Returned(key, 1, NOW_MS + 500, FAILURE))
    waiting = await kept(journal, key)
    assert (waiting.state, waiting.due_ms, waiting.failure) == (
        State.WAITING,
        NOW_MS + 500,
        FAILURE,
    )
    await record(journal, Sending(key, 2, NOW_MS + 600), Running(key, "req-1", NOW_MS + 601))
    running = await kept(journal, key)
    assert (running.state, running.attempt, running.request_id) == (State.RUNNING, 2, "req-1")
    assert (running.first_sent_ms, running.sent_ms) == (NOW_MS + 10, NOW_MS + 601)
    end = Ended(
        id=key,
        state=State.SUCCEEDED,
        at_ms=NOW_MS + 900,
        result=b"\0r",
        estimated=True,
        start_delay_s=1.25,
    )
    await record(journal, end)
    ended = await kept(journal, key)
    assert (ended.state, ended.ended_ms, ended.result) == (State.SUCCEEDED, NOW_MS + 900, b"\0r")
    assert (ended.request_id, ended.failure, ended.estimated) == ("req-1", None, True)
    assert ended.start_delay_s == 1.25


async def test_a_new_send_has_no_request_id_yet(journal):
    new = entry()
    key = new.record.id
    await accept(journal, new)
    await record(journal, Sending(key, 1, 1), Running(key, "req-1", 2), Returned(key, 2, 3))
    assert (await kept(journal, key)).request_id == "req-1"
    await record(journal, Sending(key, 2, 4))
    assert (await kept(journal, key)).request_id is None


async def test_what_the_cloud_may_have_stays_in_sending(journal):
    new = entry()
    key = new.record.id
    await accept(journal, new)
    await record(journal, Sending(key, 1, 1), Returned(key, 1, NOW_MS + 9, FAILURE, True))
    left = await kept(journal, key)
    assert (left.state, left.due_ms, left.failure) == (State.SENDING, NOW_MS + 9, FAILURE)


CHANGES: dict[str, Change] = {
    "sending": Sending("x", 2, NOW_MS + 1),
    "running": Running("x", "late", NOW_MS + 1),
    "returned": Returned("x", 2, NOW_MS + 1),
    "succeeded": Ended(id="x", state=State.SUCCEEDED, at_ms=NOW_MS + 1),
    "dead": Ended(id="x", state=State.DEAD, at_ms=NOW_MS + 1),
    "uncertain": Ended(id="x", state=State.UNCERTAIN, at_ms=NOW_MS + 1),
}

#: Which changes have an effect once an invocation has ended.
AFTER_THE_END = {
    State.SUCCEEDED: set(),
    State.CANCELLED: set(),
    State.EXPIRED: set(),
    State.DEAD: {"returned"},
    State.UNCERTAIN: {"returned", "succeeded", "dead"},
}


@pytest.mark.parametrize("before", list(AFTER_THE_END))
@pytest.mark.parametrize("name", list(CHANGES))
async def test_what_has_ended_stays_as_it_is(journal, before, name):
    new = entry(id="x")
    await accept(journal, new)
    await record(journal, Ended(id="x", state=before, at_ms=NOW_MS, result=b"first"))
    ended, payload = await kept(journal, "x"), await journal.payload("x")
    # Nobody knows how it ended: then nobody knows the result either.
    assert ended.result == (None if before is State.UNCERTAIN else b"first")
    await record(journal, CHANGES[name])
    if name in AFTER_THE_END[before]:
        state = State.WAITING if name == "returned" else State(name)
        assert (await kept(journal, "x")).state is state
    else:
        assert await kept(journal, "x") == ended
        assert await journal.payload("x") == payload


@pytest.mark.parametrize("state", list(AFTER_THE_END))
async def test_the_payload_is_kept_for_what_can_be_redriven(journal, state):
    new = entry(b"wanted?")
    key = new.record.id
    await accept(journal, new)
    await record(journal, Sending(key, 1, 1), Ended(id=key, state=state, at_ms=NOW_MS))
    redrivable = state in (State.DEAD, State.UNCERTAIN)
    assert await journal.payload(key) == (b"wanted?" if redrivable else None)


async def test_a_redrive_begins_anew(journal):
    new = entry(b"again")
    key = new.record.id
    await accept(journal, new)
    end = Ended(
        id=key,
        state=State.DEAD,
        at_ms=NOW_MS,
        result=b"trace",
        failure=FAILURE,
        start_delay_s=0.5,
    )
    await record(journal, end)
    assert (await kept(journal, key)).result == b"trace"
    await record(journal, Returned(key, 2, NOW_MS + 1))
    left = await kept(journal, key)
    assert (left.state, left.attempt, left.due_ms) == (State.WAITING, 2, NOW_MS + 1)
    assert (left.ended_ms, left.result, left.failure) == (None, None, None)
    assert left.start_delay_s is None
    assert await journal.payload(key) == b"again"
    assert await journal.dead() == {}
    await record(journal, Sending(key, 2, 3), Ended(id=key, state=State.SUCCEEDED, at_ms=NOW_MS))
    assert (await kept(journal, key)).result is None
    assert await journal.payload(key) is None


async def test_a_true_end_replaces_uncertainty(journal):
    new = entry()
    key = new.record.id
    await accept(journal, new)
    await record(journal, Ended(id=key, state=State.UNCERTAIN, at_ms=NOW_MS, failure=FAILURE))
    await record(journal, Ended(id=key, state=State.SUCCEEDED, at_ms=NOW_MS + 7, result=b"r"))
    ended = await kept(journal, key)
    assert (ended.state, ended.ended_ms) == (State.SUCCEEDED, NOW_MS + 7)
    assert (ended.result, ended.failure) == (b"r", None)
    assert await journal.payload(key) is None


async def test_changes_of_strangers_are_passed_over(journal):
    await record(journal, *CHANGES.values())
    assert await journal.get("x") is None
    assert (await journal.find(Query()))[0] == []


async def test_many_changes_in_one_call_keep_their_order(journal):
    new = [entry() for _ in range(600)]
    await accept(journal, *new)
    changes: list[Change] = []
    for number, one in enumerate(new):
        key = one.record.id
        changes += [Sending(key, 1, 1), Running(key, "r", 2)]
        if number % 3 == 1:
            changes += [Returned(key, 2, 3), Sending(key, 2, 4)]
        if number % 3 == 2:
            changes += [Ended(id=key, state=State.DEAD, at_ms=NOW_MS, result=b"no")]
    await record(journal, *changes)
    states = [(await kept(journal, one.record.id)).state for one in new]
    assert states == [State.RUNNING, State.SENDING, State.DEAD] * 200


async def test_all_is_told_in_the_order_in_which_it_was_given(journal):
    told: list[int] = []
    dones = [Once(partial(told.append, number)) for number in range(30)]
    new = [entry() for _ in range(10)]
    for number, one in enumerate(new):
        journal.accept([one], dones[3 * number])
        journal.record([Sending(one.record.id, 1, 1)], dones[3 * number + 1])
        journal.record((), dones[3 * number + 2])
    for done in dones:
        await done.verdict()
    assert told == list(range(30))
    assert {(await kept(journal, one.record.id)).state for one in new} == {State.SENDING}


async def test_nobody_needs_to_be_told(journal):
    new = entry()
    await accept(journal, new)
    journal.record([Sending(new.record.id, 1, 1)])
    await record(journal)
    assert (await kept(journal, new.record.id)).state is State.SENDING


# -- Recovery -------------------------------------------------------------------------------------


async def test_all_that_has_not_ended_is_recovered_in_order(journal):
    new = [entry(str(n).encode(), account=f"a{n % 3}") for n in range(2500)]
    await accept(journal, *new)
    changes: list[Change] = []
    for number, one in enumerate(new):
        key = one.record.id
        if number % 5 == 1:
            changes.append(Sending(key, 1, 1))
        elif number % 5 == 2:
            changes += [Sending(key, 1, 1), Running(key, "r", 2)]
        elif number % 5 == 3:
            changes.append(Ended(id=key, state=State.UNCERTAIN, at_ms=NOW_MS))
        elif number % 5 == 4:
            changes.append(Ended(id=key, state=State.DEAD, at_ms=NOW_MS))
    await record(journal, *changes)
    slices = [batch async for batch in journal.recover()]
    assert max(map(len, slices)) <= 1000
    assert all(slices)
    left = [one for batch in slices for one in batch]
    expected = [one for number, one in enumerate(new) if number % 5 != 4]
    assert ids([one for one, _ in left]) == ids([one.record for one in expected])
    states = [State.WAITING, State.SENDING, State.RUNNING, State.UNCERTAIN]
    assert [one.state for one, _ in left] == states * 500
    assert [payload for _, payload in left] == [
        None if number % 4 == 3 else one.payload for number, one in enumerate(expected)
    ]


async def test_nothing_to_recover(journal):
    assert await recovered(journal) == []


# -- Lists ----------------------------------------------------------------------------------------


async def pages(journal: Journal, query: Query, limit: int) -> list[list[str]]:
    """Return the ids of all pages."""
    found: list[list[str]] = []
    after = None
    for _ in range(1000):
        page, after = await journal.find(query, after=after, limit=limit)
        found.append(ids(page))
        if after is None:
            return found
    raise AssertionError("there is no end")


async def crowd(journal: Journal) -> dict[str, Record]:
    """Put in some of everything; return what is kept, newest first."""
    new = []
    for account, function, tenant in itertools.product(("a", "b"), ("f", "g"), ("t", "u")):
        new += [entry(account=account, function=function, tenant=tenant) for _ in range(len(State))]
    await accept(journal, *new)
    for one, state in zip(new, itertools.cycle(State), strict=False):
        key = one.record.id
        if state in (State.SENDING, State.RUNNING):
            await record(journal, Sending(key, 1, 1))
        if state is State.RUNNING:
            await record(journal, Running(key, "r", 2))
        if state not in (State.WAITING, State.SENDING, State.RUNNING):
            await record(journal, Ended(id=key, state=state, at_ms=NOW_MS, result=b"r"))
    return {one.record.id: await kept(journal, one.record.id) for one in reversed(new)}


async def test_lists_are_filtered_and_newest_first(journal):
    everything = await crowd(journal)
    choices: list[tuple[Any, ...]] = [(None, *State), (None, "a"), (None, "f"), (None, "u")]
    for state, account, function, tenant in itertools.product(*choices):
        query = Query(state=state, account=account, function=function, tenant=tenant)
        expected = [
            one
            for one in everything.values()
            if state in (None, one.state)
            and account in (None, one.account)
            and function in (None, one.function)
            and tenant in (None, one.tenant)
        ]
        found, after = await journal.find(query, limit=100)
        assert found == expected
        assert after is None


@pytest.mark.parametrize("query", [Query(), Query(state=State.DEAD), Query(function="f")])
@pytest.mark.parametrize("limit", [1, 3, 4, 8, 64, 65])
async def test_pages_together_are_the_whole_list(journal, query, limit):
    await crowd(journal)
    whole, _ = await journal.find(query, limit=1000)
    found = await pages(journal, query, limit)
    assert [one for page in found for one in page] == ids(whole)
    assert all(len(page) <= limit for page in found)


async def test_what_is_new_does_not_disturb_the_pages(journal):
    new = [entry() for _ in range(6)]
    await accept(journal, *new)
    first, after = await journal.find(Query(), limit=3)
    await accept(journal, entry())
    second, after = await journal.find(Query(), after=after, limit=3)
    assert ids(first + second) == ids([one.record for one in reversed(new)])
    assert after is None


@pytest.mark.parametrize("cursor", ["", "0", "-1", "1.5", "x", "9" * 30, "¹", "1 ", "1;DROP"])
async def test_what_is_no_cursor_is_refused(journal, cursor):
    await accept(journal, entry())
    with pytest.raises(Invalid, match="cursor"):
        await journal.find(Query(), after=cursor)


async def test_names_are_only_names(journal):
    odd = "x' OR 1=1 --"
    await accept(journal, entry(), entry(function=odd, account=odd, tenant=odd))
    for query in (Query(function=odd), Query(account=odd, state=State.WAITING), Query(tenant=odd)):
        found, _ = await journal.find(query)
        assert [one.function for one in found] == [odd]
    assert await journal.get(odd) is None


async def test_the_dead_are_counted_by_account(journal):
    await crowd(journal)
    await accept(journal, entry(account="c"))
    assert await journal.dead() == {"a": 4, "b": 4}


async def test_what_is_paused_is_kept_and_the_latest_word_counts(journal):
    assert await journal.paused() == []
    odd = "x' OR 1=1 --"
    told = Once()
    for pause in (
        Pause("b", None),
        Pause("a", "f"),
        Pause("a", None),
        Pause("a", None),
        Pause("b", None, paused=False),
        Pause("c", "f"),
        Pause("c", "g", paused=False),
        Pause(odd, odd),
    ):
        journal.pause(pause)
    journal.pause(Pause("c", "f", paused=False), told)
    await told.verdict()
    assert await journal.paused() == [Pause("a", None), Pause("a", "f"), Pause(odd, odd)]
    await record(journal, Sending(entry().record.id, 1, NOW_MS))
    assert len(await journal.paused()) == 3


async def test_who_reads_gets_a_copy(journal):
    new = entry()
    await accept(journal, new)
    (await kept(journal, new.record.id)).state = State.DEAD
    (await journal.find(Query()))[0][0].state = State.DEAD
    (await recovered(journal))[0][0].state = State.DEAD
    assert (await kept(journal, new.record.id)).state is State.WAITING


# -- The end --------------------------------------------------------------------------------------


async def test_a_journal_that_works(journal):
    assert journal.failed() is None
    assert journal.accepting()
    await accept(journal, entry(b"x" * 10_000))
    assert journal.size_bytes() >= 10_000 or journal.on_disk


async def test_everything_given_before_the_close_is_written(journal):
    dones = [Once() for _ in range(50)]
    for done in dones:
        journal.accept([entry()], done)
    await journal.aclose()
    for done in dones:
        assert await done.verdict() == [None]


async def test_a_closed_journal_says_so(journal):
    await journal.aclose()
    await journal.aclose()
    assert not journal.accepting()
    assert journal.failed() is None
    accepted, recorded = Once(), Once()
    journal.accept([entry()], accepted)
    journal.record([], recorded)
    journal.record([])
    assert isinstance(await accepted.verdict(), JournalError)
    assert isinstance(await recorded.verdict(), JournalError)


# -- The same in memory and on disk ---------------------------------------------------------------

_ids = st.sampled_from([f"i{number}" for number in range(12)])
_changes = st.one_of(
    st.builds(Sending, _ids, st.integers(1, 3), st.integers(1, 9)),
    st.builds(Running, _ids, st.sampled_from(["r1", "0", ""]), st.integers(1, 9)),
    st.builds(
        Returned,
        _ids,
        st.integers(1, 3),
        st.integers(1, 9),
        st.sampled_from([None, FAILURE]),
        st.booleans(),
    ),
    st.builds(
        Ended,
        id=_ids,
        state=st.sampled_from(list(AFTER_THE_END)),
        at_ms=st.integers(NOW_MS, NOW_MS + 9),
        request_id=st.sampled_from([None, "r3", "0", ""]),
        result=st.sampled_from([None, b"", b"result"]),
        failure=st.sampled_from([None, FAILURE]),
        estimated=st.booleans(),
        start_delay_s=st.sampled_from([None, 0.0, 2.5]),
    ),
)
_calls = st.lists(st.one_of(_ids, st.lists(_changes, max_size=15)), min_size=1, max_size=60)


async def _history(journal: Journal, calls: list[Any]) -> list[Any]:
    """Return everything that can be seen while *calls* are made."""
    seen: list[Any] = []
    known: set[str] = set()
    for call in calls:
        if isinstance(call, list):
            await record(journal, *call)
        elif call not in known:
            known.add(call)
            await accept(journal, entry(call.encode(), id=call))
        seen += [asdict(await kept(journal, one)) for one in sorted(known)]
    seen += [await journal.payload(one) for one in sorted(known)]
    return [*seen, await journal.dead(), await recovered(journal)]


@pytest.mark.real_time
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=_calls)
async def test_all_journals_tell_the_same_story(tmp_path_factory, calls):
    folder = tmp_path_factory.mktemp("story")
    stories = []
    for url in ("memory:", f"sqlite://{folder}/journal.db"):
        journal = await open_journal(JournalSettings(url=url), bytes_max=1_000_000)
        stories.append(await _history(journal, calls))
        await journal.aclose()
    assert stories[0] == stories[1]
