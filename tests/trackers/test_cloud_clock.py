import random
from email.utils import formatdate

import pytest

from dispatcher.trackers.cloud_clock import CloudClock

OFFSET = 1_800_000_000.37


def reply(clock: CloudClock, sent_at: float, latency_s: float, offset: float = OFFSET) -> None:
    written = sent_at + latency_s / 3 + offset
    clock.observe(formatdate(int(written), usegmt=True), sent_at, sent_at + latency_s)


def test_one_reply_bounds_the_offset_to_a_second_and_the_way():
    assert not CloudClock().known
    clock = CloudClock()
    reply(clock, 100.0, 0.05)
    assert clock.known
    assert not clock.is_good
    assert clock.earliest(100.0) <= 100.0 + OFFSET <= clock.latest(100.0)
    assert clock.latest(0.0) - clock.earliest(0.0) == pytest.approx(1.05)


def test_a_few_dozen_replies_give_the_offset_to_some_hundredths():
    clock, rng = CloudClock(), random.Random(1)
    for index in range(60):
        reply(clock, 10.0 + index * 0.9137, rng.uniform(0.005, 0.05))
    assert clock.is_good
    assert clock.to_loop(OFFSET + 50.0) == pytest.approx(50.0, abs=0.06)
    assert clock.earliest(50.0) <= 50.0 + OFFSET <= clock.latest(50.0)


def test_long_polls_do_not_mislead():
    clock, rng = CloudClock(), random.Random(1)
    for index in range(100):
        reply(clock, 10.0 + index * 0.77, rng.choice([0.01, 20.0]))
        assert clock.earliest(0.0) <= OFFSET <= clock.latest(0.0)


@pytest.mark.parametrize("by", [-30.0, 30.0])
def test_a_clock_that_is_set_is_believed(by):
    clock = CloudClock()
    for index in range(50):
        reply(clock, index * 0.913, 0.01)
    for index in range(50, 100):
        reply(clock, index * 0.913, 0.01, OFFSET + by)
    assert clock.to_loop(OFFSET + by) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Foo 2026 25:61:61 GMT"])
def test_a_reply_without_a_date_says_nothing(date):
    clock = CloudClock()
    clock.observe(date, 0.0, 1.0)
    assert not clock.known
    assert not clock.is_good


def test_slow_drift_is_followed():
    clock = CloudClock()
    for index in range(5000):
        at = index * 1.37
        reply(clock, at, 0.01, OFFSET + 3e-5 * at)
    at = 5000 * 1.37
    assert clock.to_loop(at + OFFSET + 3e-5 * at) == pytest.approx(at, abs=0.3)
