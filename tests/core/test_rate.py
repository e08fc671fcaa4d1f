import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.rate import BURST_S, Rate


def sends(rate: Rate, start: float, count: int) -> list[float]:
    """Return when so many sends went, each as soon as it might."""
    now, times = start, []
    for _ in range(count):
        now = rate.open_at(now)
        rate.take(now)
        times.append(now)
    return times


def test_no_rate_never_closes():
    assert sends(Rate(0.0), 5.0, 3) == [5.0, 5.0, 5.0]


def test_a_slow_rate_is_even():
    assert sends(Rate(2.0), 10.0, 4) == [10.0, 10.5, 11.0, 11.5]


def test_a_fast_rate_may_bunch_up_by_a_tenth_of_a_second():
    times = sends(Rate(100.0), 0.0, 13)
    assert times[:10] == [0.0] * 10
    assert times[10:] == pytest.approx([0.01, 0.02, 0.03])


def test_what_was_not_used_is_not_saved_up():
    rate = Rate(2.0)
    rate.take(0.0)
    assert sends(rate, 100.0, 3) == [100.0, 100.5, 101.0]


def test_a_faster_rate_does_not_wait_for_the_slower_one():
    rate = Rate(0.001)
    rate.take(0.0)
    assert rate.open_at(1.0) == 1000.0
    rate.set(10.0)
    assert rate.open_at(1.0) == pytest.approx(1.1)
    rate.set(0.0)
    assert rate.open_at(1.0) == 1.0


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_never_more_than_the_rate_and_its_burst(max_per_s, pauses):
    rate, now, times = Rate(max_per_s), 0.0, []
    for pause in pauses:
        now = rate.open_at(now + pause)
        assert rate.open_at(now) == now  # the time it names is late enough
        rate.take(now)
        times.append(now)
    tolerance_s = max(0.0, BURST_S - 1 / max_per_s)
    for i, first in enumerate(times):
        for j in range(i, len(times)):
            assert j - i <= (times[j] - first + tolerance_s) * max_per_s + 1e-6
