import math

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.ages import Ages


@given(st.lists(st.tuples(st.booleans(), st.floats(-5, 5)), max_size=60))
def test_the_oldest_is_known_to_the_second(steps):
    ages, waiting = Ages(), []
    for comes, due_at in steps:
        if comes:
            ages.add(due_at)
            waiting.append(due_at)
        elif waiting:
            ages.remove(waiting.pop(len(waiting) // 2))
        oldest = ages.oldest()
        assert (oldest is None) == (not waiting)
        if oldest is not None:
            assert math.floor(oldest) == math.floor(min(waiting))
            assert oldest <= min(waiting)
        assert len(ages) == len({math.floor(at) for at in waiting})


def test_exact_where_nothing_else_came_in_that_second():
    ages = Ages()
    ages.add(7.25)
    ages.add(9.5)
    assert ages.oldest() == 7.25
    ages.remove(7.25)
    assert ages.oldest() == 9.5


def test_a_second_that_empties_and_fills_leaves_nothing_behind():
    ages = Ages()
    ages.add(0.5)
    for _ in range(1000):
        ages.add(3.5)
        ages.remove(3.5)
    assert len(ages._order.entries()) <= 4
    assert ages.oldest() == 0.5
