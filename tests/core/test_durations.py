from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.durations import RUNS_MIN, Durations

seconds = st.floats(0.0, 1e6)


@given(st.lists(seconds, min_size=1, max_size=60), st.floats(0.0, 1.0), st.integers(1, 20))
def test_quantiles_are_exact_over_the_last_runs(runs, share, runs_max):
    durations = Durations(runs_max)
    for run_s in runs:
        durations.add(run_s)
    last = sorted(runs[-runs_max:])
    value = durations.quantile(share)
    assert len(durations) == len(last)
    # The definition: so many runs ended within it, and it is the shortest such run.
    assert sum(run_s <= value for run_s in last) >= share * len(last)
    assert value == last[0] or sum(run_s < value for run_s in last) < share * len(last)


def test_nothing_is_known_before_the_first_run():
    assert Durations().quantile(0.5) is None


def test_a_function_that_changes_is_believed_after_as_many_runs_as_are_remembered():
    durations = Durations(100)
    for run_s in [60.0] * 1000 + [1.0] * 50:
        durations.add(run_s)
    assert durations.quantile(0.5) == 1.0
    assert durations.quantile(0.51) == 60.0


def durations_of(*runs: float) -> Durations:
    durations = Durations()
    for run_s in runs:
        durations.add(run_s)
    return durations


def test_what_was_declared_holds_until_enough_was_seen():
    assert durations_of().expected_s(30.0) == 30.0
    assert durations_of(*[2.0] * (RUNS_MIN - 1)).expected_s(30.0) == 30.0
    assert durations_of(*[2.0] * RUNS_MIN).expected_s(30.0) == 2.0


def test_where_nothing_was_declared_the_first_run_is_better_than_nothing():
    assert durations_of().expected_s(None) is None
    assert durations_of(2.0).expected_s(None) == 2.0


def test_a_cautious_estimate_is_never_below_what_was_declared():
    durations = durations_of(*map(float, range(1, 101)))
    assert durations.expected_s(10.0) == 50.0
    assert durations.cautious_s(10.0) == 95.0
    assert durations.cautious_s(200.0) == 200.0
    assert durations.cautious_s(None) == 95.0


def test_few_runs_are_not_enough_to_give_a_slot_back_by():
    few = durations_of(*[2.0] * (RUNS_MIN - 1))
    assert few.cautious_s(None) is None
    assert few.cautious_s(1.0) == 1.0
    few.add(2.0)
    assert few.cautious_s(None) == 2.0
