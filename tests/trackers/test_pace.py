import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.trackers.pace import PAUSE_MAX_S, RATE_MIN_PER_S, RETRY_AFTER_MAX_S, Pace


def send_greedily(pace: Pace, since: float, until: float) -> list[float]:
    """Return when requests go out if there is always one more."""
    sent, now = [], since
    while (now := pace.ready_at(now)) < until:
        pace.take(now)
        sent.append(now)
    return sent


@given(st.floats(1.0, 100.0), st.floats(1.0, 20.0), st.floats(0.0, 1e6))
def test_no_second_has_more_than_the_rate_and_one_burst(rate, burst, since):
    sent = send_greedily(Pace(rate, burst), since, since + 3.0)
    for index, at in enumerate(sent):
        in_the_second = sum(1 for other in sent[index:] if other < at + 1.0)
        assert in_the_second <= rate + burst + 1e-3


def test_the_rate_is_used_up():
    assert len(send_greedily(Pace(40.0, 8.0), 0.0, 10.0)) == pytest.approx(408, abs=1)


def test_it_never_asks_to_wait_for_no_time_at_all():
    pace, rng, now = Pace(40.0, 8.0), random.Random(1), 0.0
    for _ in range(10_000):
        at = pace.ready_at(now)
        assert at >= now
        if at == now:
            pace.take(now)
        now = at + rng.choice([0.0, 1e-9, 0.013])
    assert now > 10.0


def test_throttles_halve_the_rate_which_comes_back_slowly():
    pace = Pace(40.0, 1.0)
    pace.ready_at(0.0)
    pace.throttled(0.0, None)
    assert pace.rate_per_s == 20.0
    assert pace.ready_at(0.0) == 0.5
    pace.throttled(0.1, None)  # one that was on its way at the same time
    assert pace.rate_per_s == pytest.approx(20.0, abs=0.1)
    pace.throttled(10.0, None)
    assert 10.0 <= pace.rate_per_s < 14.0
    pace.ready_at(100.0)
    assert pace.rate_per_s == 40.0


def test_the_rate_never_falls_to_nothing():
    pace = Pace(40.0, 1.0)
    for second in range(100):
        pace.throttled(float(second), 0.0)
    assert pace.rate_per_s >= RATE_MIN_PER_S


def test_retry_after_is_kept_to_but_not_for_ever():
    pace = Pace(40.0, 1.0)
    pace.throttled(0.0, 7.0)
    assert pace.ready_at(1.0) == 7.0
    pace.throttled(8.0, 1e9)
    assert pace.ready_at(8.0) == 8.0 + RETRY_AFTER_MAX_S


def test_errors_pause_for_longer_and_longer_until_an_answer_comes():
    pace, now, pauses = Pace(40.0, 1.0), 0.0, []
    for _ in range(10):
        pace.failed(now)
        pauses.append(pace.ready_at(now) - now)
        now = pace.ready_at(now)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == PAUSE_MAX_S
    pace.answered()
    pace.failed(now)
    assert pace.ready_at(now) == now + 0.5


def test_several_failures_at_the_same_time_are_one():
    pace = Pace(40.0, 1.0)
    for _ in range(8):
        pace.failed(0.0)
    assert pace.ready_at(0.0) == 0.5
