import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.trackers.agenda import Agenda

steps = st.lists(
    st.tuples(st.sampled_from(["put", "strike", "pop"]), st.integers(0, 5), st.integers(0, 20)),
    max_size=200,
)


@given(steps)
def test_it_behaves_like_a_sorted_list_that_is_searched(steps):
    agenda: Agenda[int] = Agenda()
    model: dict[int, tuple[float, int]] = {}
    for count, (step, item, at) in enumerate(steps):
        match step:
            case "put":
                agenda.put(item, at)
                model[item] = (at, count)
            case "strike":
                agenda.strike(item)
                model.pop(item, None)
            case _:
                due = [(entry, each) for each, entry in model.items() if entry[0] <= at]
                expected = min(due)[1] if due else None
                assert agenda.pop(at) == expected
                if expected is not None:
                    del model[expected]
        assert agenda.head() == min((due for due, _ in model.values()), default=None)
        assert len(agenda) == len(model)
        assert (item in agenda) == (item in model)


def test_void_entries_do_not_pile_up():
    agenda: Agenda[str] = Agenda()
    for at in range(10_000):
        agenda.put("the same", 20_000.0 - at)
    assert len(agenda._heap) < 200
    assert agenda.pop(1e9) == "the same"
    assert agenda.pop(1e9) is None


def test_those_that_are_struck_out_together_are_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
):
    agenda: Agenda[int] = Agenda()
    for item in range(10_001):
        agenda.put(item, float(item))
    for item in range(10_000):
        agenda.strike(item)
    pops = 0

    def heappop(heap: list[tuple[float, int, int]]) -> tuple[float, int, int]:
        nonlocal pops
        pops += 1
        return pop(heap)

    pop = heapq.heappop
    monkeypatch.setattr(heapq, "heappop", heappop)
    assert agenda.head() == 10_000.0
    assert pops < 100
