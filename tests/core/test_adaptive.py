import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.adaptive import BETA, CUTS_MAX, START_DELAY_S, Adaptive
from tests.core.foreign_load import CASES, ForeignLoad

RUN_S = 2.0


def grown(ceiling: int = 800, floor: int = 1) -> Adaptive:
    """Return a limit that has met its first drop at 200."""
    adaptive = Adaptive(floor, ceiling)
    while adaptive.limit < 200:
        adaptive.succeeded(adaptive.limit, RUN_S, 0.0)
    assert adaptive.dropped(0.0, 200, 0.0)
    return adaptive


def pass_time(adaptive: Adaptive, start: float, seconds: float, in_use: int | None = None) -> None:
    """Let runs end well, one each tenth of a second; by default the limit is used."""
    for tenth in range(1, int(seconds * 10) + 1):
        held = adaptive.limit if in_use is None else in_use
        adaptive.succeeded(held, RUN_S, start + tenth / 10)


# -- One rule at a time


def test_slow_start_doubles_with_each_run():
    adaptive = Adaptive(1, 1000)
    first = adaptive.limit
    for _ in range(first):  # all that were held end well
        adaptive.succeeded(adaptive.limit, RUN_S, 1.0)
    assert adaptive.limit == 2 * first
    assert adaptive.slow


def test_a_drop_ends_slow_start_and_cuts():
    adaptive = grown()
    assert not adaptive.slow
    assert adaptive.limit == int(200 * BETA)


def test_drops_of_sends_before_the_last_cut_are_ignored():
    adaptive = grown()
    adaptive.succeeded(180, RUN_S, 10.0)
    limit = adaptive.limit
    assert adaptive.dropped(9.0, limit, 10.0)
    cut = adaptive.limit
    for sent_at in (0.0, 9.5, 10.0):
        assert not adaptive.dropped(sent_at, limit, 10.5)
    assert adaptive.limit == cut < limit
    assert adaptive.dropped(10.1, cut, 10.6)
    assert adaptive.limit < cut


def test_the_cut_is_of_what_is_held_not_of_what_may_be():
    adaptive = Adaptive(1, 1000)
    for _ in range(800):
        adaptive.succeeded(adaptive.limit, RUN_S, 0.0)
    adaptive.dropped(0.0, 100, 0.0)
    assert adaptive.limit == int(100 * BETA)


def test_after_a_cut_it_comes_back_flat_and_then_steep():
    adaptive = grown()
    reach_s = (200 * (1 - BETA) / 0.4) ** (1 / 3)  # a unit is 1 s for runs of 2 s
    pass_time(adaptive, 0.0, reach_s)
    assert adaptive.limit == pytest.approx(200, abs=1)
    pass_time(adaptive, reach_s, 1.0)
    assert adaptive.limit == pytest.approx(200, abs=2)
    pass_time(adaptive, reach_s + 1, 5.0)
    assert adaptive.limit == pytest.approx(200 + 0.4 * 6**3, rel=0.05)


def test_time_is_counted_in_runs():
    """Runs that take ten times as long make everything ten times slower."""
    limits = []
    for run_s in (RUN_S, 10 * RUN_S):
        adaptive = Adaptive(1, 1000)
        while adaptive.limit < 300:
            adaptive.succeeded(adaptive.limit, run_s, 0.0)
        adaptive.dropped(0.0, 300, 0.0)
        for step in range(1, 51):
            adaptive.succeeded(adaptive.limit, run_s, step * run_s / 10)
        limits.append(adaptive.limit)
    assert limits[0] == limits[1] > 270


def test_it_does_not_grow_while_unused():
    adaptive = grown()
    pass_time(adaptive, 0.0, 100.0, in_use=100)
    assert adaptive.limit == int(200 * BETA)
    slow = Adaptive(1, 1000)
    pass_time(slow, 0.0, 100.0, in_use=slow.limit // 2)
    assert slow.limit == Adaptive(1, 1000).limit


def test_a_lull_is_no_time_to_grow_in():
    adaptive = grown()
    pass_time(adaptive, 0.0, 1.0)
    limit = adaptive.limit
    adaptive.succeeded(limit, RUN_S, 3600.0)
    assert adaptive.limit <= limit + 20


def test_cuts_in_a_row_are_deeper():
    """When others take much at once, nine cuts of a tenth would be nine bursts of drops."""
    adaptive = grown()
    limits = [adaptive.limit]
    for now in (1.0, 2.0, 3.0, 4.0):
        assert adaptive.dropped(now - 0.5, adaptive.limit, now)
        limits.append(adaptive.limit)
    shares = [after / before for before, after in itertools.pairwise(limits)]
    for share, power in zip(shares, (2, 3, CUTS_MAX, CUTS_MAX), strict=True):
        assert share == pytest.approx(BETA**power, abs=0.02)


def test_a_cut_after_the_limit_came_back_is_a_plain_one():
    adaptive = grown()
    pass_time(adaptive, 0.0, 5.0)
    limit = adaptive.limit
    adaptive.dropped(4.9, limit, 5.0)
    assert adaptive.limit == pytest.approx(limit * BETA, abs=1)


def test_after_an_outage_it_starts_slowly_up_to_where_it_was():
    adaptive = grown()
    pass_time(adaptive, 0.0, 9.0)
    before = adaptive.limit
    assert before > 210
    adaptive.restart(0)
    assert adaptive.limit == 200  # a quarter of the ceiling
    for _ in range(before):
        adaptive.succeeded(adaptive.limit, RUN_S, 10.0)
    assert adaptive.limit == pytest.approx(before, abs=2)


def test_what_is_held_already_needs_no_slow_start():
    adaptive = grown()
    adaptive.set_bounds(1, 400)
    adaptive.restart(0)
    assert adaptive.limit == 100
    adaptive.restart(170)
    assert adaptive.limit == 170


def test_new_bounds_hold_at_once():
    adaptive = grown()
    adaptive.set_bounds(1, 50)
    assert adaptive.limit == 50
    adaptive.set_bounds(80, 1000)
    assert adaptive.limit == 80


@given(
    bounds=st.tuples(st.integers(1, 400), st.integers(0, 400)),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ran", "dropped", "restart"]),
            st.integers(0, 900),
            st.floats(0, 1e4),
            st.sampled_from([None, 0.0, 1e-9, 0.5, 900.0]),
        ),
        max_size=60,
    ),
)
def test_it_stays_between_its_bounds(bounds, steps):
    floor, ceiling = bounds[0], bounds[0] + bounds[1]
    adaptive = Adaptive(floor, ceiling)
    now = 0.0
    for what, in_use, later_s, run_s in steps:
        now += later_s
        before = adaptive.limit
        if what == "ran":
            adaptive.succeeded(in_use, run_s, now)
            assert adaptive.limit >= before
        elif what == "dropped":
            assert adaptive.dropped(now - later_s / 2, in_use, now) in (True, False)
            assert adaptive.limit <= before
        else:
            adaptive.restart(in_use)
        assert floor <= adaptive.limit <= ceiling
        assert math.isfinite(adaptive._limit)


# -- Against the emulator's own cloud, which others use, too


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_most_of_what_others_leave_is_used_and_few_calls_are_refused(name):
    result = ForeignLoad(CASES[name]).run()
    print(f"{name}: {result.throttled:.2%} throttled, {result.used:.1%} used, {result.sends} sends")
    assert result.sends > 10_000
    assert result.throttled <= 0.01
    assert result.used >= 0.92


def test_the_foreign_load_is_estimated():
    load = ForeignLoad(CASES["A"])
    load.run(55.0)
    assert load.account.gate.foreign == pytest.approx(50, abs=15)
    load.run(115.0)
    assert load.account.gate.foreign == pytest.approx(200, abs=15)


def test_late_starts_of_asynchronous_calls_lower_the_limit():
    """The 202 hides the refusals: only the completions tell."""
    load = ForeignLoad(CASES["A"], asynchronous=True)
    load.run(60.0)
    before = load.account.gate.limit
    result = load.run(110.0)
    assert before > 200
    assert load.account.gate.limit < before
    assert result.used >= 0.92
    starts = load.function.counts.start_delays
    # Fixed at the quota, each would wait for as long as all the others that are too many.
    assert sorted(starts)[len(starts) // 2] < START_DELAY_S
