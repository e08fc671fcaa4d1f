import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core import lazy_heap
from dispatcher.core.lazy_heap import LazyHeap, Ranking


class Owner:
    def __init__(self, number: int) -> None:
        self.number = number
        self.entry: tuple[Any, ...] | None = None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("made_anew_max", [lazy_heap.MADE_ANEW_MAX, 0])
@given(steps=steps)
def test_a_ranking_is_an_order_that_can_be_changed_anywhere(made_anew_max, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_heap, "MADE_ANEW_MAX", made_anew_max)
        change_anywhere(steps, at_once=made_anew_max > 0)


def change_anywhere(steps, *, at_once):
    owners = [Owner(i) for i in range(10)]
    ranking: Ranking[Owner] = Ranking()
    model: dict[Owner, tuple[float, int]] = {}
    for what, number, key in steps:
        owner = owners[number]
        if what == "place":
            ranking.place((key, number, owner))
            model[owner] = (key, number)
        elif what == "remove":
            ranking.remove(owner)
            model.pop(owner, None)
        elif model:
            first = min(model, key=lambda owner: model[owner])
            assert ranking.pop() is first
            del model[first]
        assert len(ranking) == len(model)
        assert set(ranking) == set(model)
        assert ranking.first() is min(model, key=lambda owner: model[owner], default=None)
        assert len(ranking.entries()) <= 2 * len(model) or not at_once
        assert all((owner.entry is not None) == (owner in model) for owner in owners)


def test_a_million_that_lapse_leave_nothing_behind():
    gone: set[int] = set()
    heap: LazyHeap[tuple[int]] = LazyHeap(lambda entry: entry[0] not in gone)
    for i in range(10_000):
        heap.push((i,))
    for i in reversed(range(1, 10_000)):
        gone.add(i)
        heap.lapse()
    assert (len(heap), len(heap.entries()), heap.first()) == (1, 1, (0,))
    assert heap.pop() == (0,)
    assert heap.first() is None
    assert heap.entries() == []


def test_a_large_heap_is_never_looked_through_at_once():
    looked_at = 0
    gone: set[int] = set()

    def good(entry: tuple[int]) -> bool:
        nonlocal looked_at
        looked_at += 1
        return entry[0] not in gone

    heap = LazyHeap(good)
    numbers = list(range(20_000))
    random.Random(1).shuffle(numbers)
    for i in numbers:
        heap.push((i,))
    kept = set(numbers[15_000:])
    for i in numbers[:15_000]:
        looked_at = 0
        gone.add(i)
        heap.lapse()
        assert looked_at <= lazy_heap.SWEPT_AT_ONCE
        assert len(heap.entries()) <= 2.1 * len(heap)
    assert [heap.pop()[0] for _ in kept] == sorted(kept)


def test_one_that_moves_all_the_time_leaves_nothing_behind():
    stays, moves = Owner(0), Owner(1)
    ranking: Ranking[Owner] = Ranking()
    ranking.place((0, 0, stays))
    for i in range(1000):
        ranking.place((1000 - i, 1, moves))
        assert len(ranking.entries()) <= 4
    assert ranking.first() is stays


def test_an_entry_is_its_owners_or_stale():
    owner = Owner(0)
    ranking: Ranking[Owner] = Ranking()
    ranking.place((1.0, owner))
    entry = owner.entry
    ranking.place((1.0, owner))
    assert owner.entry is entry  # nothing to do
    assert ranking.entries() == [(1.0, owner)]
    ranking.remove(owner)
    ranking.remove(owner)  # harmless
    assert len(ranking) == 0


def test_a_thousand_stale_ones_at_the_top_are_not_looked_at_at_once():
    looked_at = 0
    gone = set(range(1, 2000))

    def good(entry: tuple[int]) -> bool:
        nonlocal looked_at
        looked_at += 1
        return entry[0] not in gone

    heap = LazyHeap(good)
    for i in range(10_000):
        heap.push((i,))
    for _ in gone:
        heap.lapse()
    assert heap.clear_top(500)
    assert heap.pop() == (0,)
    cleared: list[bool] = []
    while not cleared or not cleared[-1]:
        looked_at = 0
        cleared.append(heap.clear_top(500))
        assert looked_at <= 501
    assert cleared == [False] * 3 + [True]
    looked_at = 0
    assert heap.first() == (2000,)
    assert looked_at == 1
    assert LazyHeap(good).clear_top(500)


def test_the_head_is_told_once_it_is_known(monkeypatch):
    monkeypatch.setattr(lazy_heap, "CLEARED_IN_PASSING", 1)
    owners = [Owner(i) for i in range(10)]
    ranking: Ranking[Owner] = Ranking()
    assert (ranking.head(), ranking.unclear) == (None, False)
    for owner in owners:
        ranking.place((owner.number, owner))
    assert ranking.head() is owners[0]
    for owner in owners[1:5]:
        ranking.remove(owner)
    assert ranking.head() is owners[0]
    ranking.remove(owners[0])
    assert (ranking.head(), ranking.unclear) == (None, True)  # one less
    assert not ranking.clear_top(2)
    assert (ranking.head(), ranking.unclear) == (None, True)
    assert ranking.clear_top(2)
    assert (ranking.head(), ranking.unclear) == (owners[5], False)
