"""What is special about the journal in memory: that it is bounded. The rest: tests/contracts."""

from dispatcher.core.model import Ended, Query, Returned, State
from dispatcher.journals.memory import MemoryJournal
from tests.journals.asking import NOW_MS, accept, entry, ids, record

RETENTION_MS = 60_000


def dead(key: str, after_ms: int = 0) -> Ended:
    return Ended(id=key, state=State.DEAD, at_ms=NOW_MS + after_ms)


async def left(journal: MemoryJournal) -> list[str]:
    return ids((await journal.find(Query(), limit=1000))[0])


async def test_it_is_done_before_the_call_returns():
    journal = MemoryJournal(retention_s=60)
    told: list[object] = []
    journal.accept([entry()], told.append)
    journal.record([], told.append)
    assert told == [[None], None]


async def test_what_has_ended_is_forgotten_after_the_retention():
    journal = MemoryJournal(retention_s=60)
    await accept(journal, entry(id="early"), entry(id="late"), entry(id="open"))
    await record(journal, dead("early"), dead("late", 1))
    await accept(journal, entry(id="next", accepted_ms=NOW_MS + RETENTION_MS))
    assert await left(journal) == ["next", "open", "late"]
    await record(journal, dead("open", RETENTION_MS + 1))
    assert await left(journal) == ["next", "open"]
    assert await journal.dead() == {"prod": 1}


async def test_what_ended_first_goes_when_there_are_too_many():
    journal = MemoryJournal(retention_s=60, ended_max=2)
    await accept(journal, *[entry(id=key) for key in ("a", "b", "c", "open")])
    await record(journal, dead("b"), dead("a"), dead("c"))
    assert await left(journal) == ["open", "c", "a"]
    assert await journal.get("b") is None
    assert await journal.payload("b") is None


async def test_what_ended_first_goes_when_it_takes_too_much():
    journal = MemoryJournal(retention_s=60, ended_bytes_max=1000)
    await accept(journal, *[entry(b"x" * 400, id=key) for key in ("a", "b", "c")])
    await record(journal, dead("a"), dead("b"))
    assert await left(journal) == ["c", "b", "a"]
    end = Ended(id="c", state=State.SUCCEEDED, at_ms=NOW_MS, result=b"x" * 300)
    await record(journal, end)
    assert await left(journal) == ["c", "b"]


async def test_the_oldest_key_goes_when_there_are_too_many():
    journal = MemoryJournal(retention_s=60, keys_max=2)
    await accept(journal, *[entry(key=key, digest=b"1") for key in ("a", "b", "c")])
    again = [entry(key=key, digest=b"1") for key in ("b", "c", "a")]
    verdicts = await accept(journal, *again)
    assert [verdict is None for verdict in verdicts] == [False, False, True]


async def test_keys_are_forgotten_by_their_age():
    journal = MemoryJournal(retention_s=60)
    await accept(journal, entry(key="a"), entry(key="b"))
    assert await accept(journal, entry(key="a", accepted_ms=NOW_MS + RETENTION_MS)) == [None]
    assert [key for _, key in journal._keys] == ["a"]


async def test_the_bytes_are_counted_through_a_whole_life():
    journal = MemoryJournal(retention_s=60)
    await accept(journal, entry(b"x" * 400, id="a"), entry(b"x" * 50, id="b"))
    assert journal.size_bytes() == 450
    end = Ended(id="b", state=State.DEAD, at_ms=NOW_MS, result=b"xyz")
    await record(journal, Ended(id="a", state=State.UNCERTAIN, at_ms=NOW_MS), end)
    assert journal.size_bytes() == 453
    await record(journal, Returned("a", 2, 1), Returned("b", 2, 1))
    assert journal.size_bytes() == 450
    for key in ("a", "b"):
        await record(journal, Ended(id=key, state=State.SUCCEEDED, at_ms=NOW_MS + 9))
    assert journal.size_bytes() == 0
    await accept(journal, entry(b"", accepted_ms=NOW_MS + 2 * RETENTION_MS))
    assert journal.size_bytes() == 0
    assert len(await left(journal)) == 1


async def test_a_page_looks_at_so_many_and_no_more():
    # Others wait for the loop meanwhile.
    journal = MemoryJournal(retention_s=60)
    await accept(journal, entry(function="rare"), *[entry() for _ in range(50_000)])
    looks, after = 1, None
    page, after = await journal.find(Query(function="rare"))
    while after is not None:
        assert page == []
        page, after = await journal.find(Query(function="rare"), after=after)
        looks += 1
    assert [one.function for one in page] == ["rare"]
    assert looks == 3
