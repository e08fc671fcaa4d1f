import pytest

from dispatcher.core.model import (
    Accepted,
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.core.statistics import (
    COMMIT_BOUNDS_S,
    REASONS_MAX,
    RUN_BOUNDS_S,
    SEND_BOUNDS_S,
    WAIT_BOUNDS_S,
    Counters,
    Histogram,
    Times,
)

FAILURE = Failure("kind", "message")


def throttled(reason: str) -> Throttled:
    return Throttled(gate=GateKind.ACCOUNT, reason=reason)


def counters() -> Counters:
    counters = Counters()
    counters.add_account("main")
    return counters


@pytest.mark.parametrize("bounds", [WAIT_BOUNDS_S, SEND_BOUNDS_S, RUN_BOUNDS_S, COMMIT_BOUNDS_S])
def test_bounds_grow(bounds):
    assert list(bounds) == sorted(set(bounds))


def test_a_bound_belongs_to_its_own_bucket():
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5, 1e9):
        histogram.observe(value)
    view = histogram.view()
    assert (view.bounds, view.counts, view.total) == ((1.0, 2.0), (2, 2, 2), 1000000007.0)
    histogram.observe(1.0)
    assert view.counts == (2, 2, 2), "a view is of its moment"


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Accepted("r"), "ok"),
        (Replied(request_id="r", payload=b"", failure=FAILURE), "ok"),
        (throttled("Busy"), "throttled"),
        (Refused(FAILURE), "refused"),
        (Denied(FAILURE), "refused"),
        (NotSent(FAILURE), "error"),
        (Lost(FAILURE), "error"),
        (Lost(FAILURE, timed_out=True), "timeout"),
    ],
)
def test_what_came_of_a_send_is_one_word(outcome: Outcome, result):
    c = counters()
    c.sent("main", "f", outcome)
    assert dict(c.send_attempts) == {("main", "f", result): 1}
    assert dict(c.throttles) == ({("main", "f", "Busy"): 1} if result == "throttled" else {})


def test_whoever_makes_up_reasons_does_not_fill_the_memory():
    c = counters()
    for i in range(1000):
        c.sent("main", "f", throttled(f"reason {i}"))
    assert len(c.throttles) == REASONS_MAX + 1
    assert c.throttles["main", "f", "other"] == 1000 - REASONS_MAX
    c.sent("main", "f", throttled("reason 0"))
    assert c.throttles["main", "f", "reason 0"] == 2


def test_an_account_that_is_added_again_keeps_its_counts():
    c = counters()
    c.late_completions["main",] += 1
    c.add_account("main")
    assert c.late_completions == {("main",): 1}


def test_times_are_apart():
    times = Times()
    times.run_s.observe(1.0)
    views = {name: getattr(times, name).view() for name in Times.__slots__}
    assert [name for name, view in views.items() if view.total] == ["run_s"]
